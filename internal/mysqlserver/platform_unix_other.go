//go:build unix && !linux

package mysqlserver

import "syscall"

// childAttributes keep a Ctrl-C at the terminal from the server, which has to outlive the service
// that stops before it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
