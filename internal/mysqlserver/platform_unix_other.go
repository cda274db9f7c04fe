//go:build unix && !linux

package mysqlserver

import "syscall"

// childAttributes put the server into a process group of its own: it must outlive the service when
// Ctrl-C is pressed.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
