#!/bin/sh
# UNITS end with their package, but not with an upgrade. dpkg gives the word "remove", rpm the
# number of packages that stay.
set -e
case "$1" in
remove | 0)
	if [ -d "${DPKG_ROOT:-}/run/systemd/system" ]; then
		systemctl disable --now UNITS
	fi
	;;
esac
