#!/bin/sh
# The units are new, or gone.
set -e
if [ -d "${DPKG_ROOT:-}/run/systemd/system" ]; then
	systemctl daemon-reload
fi
