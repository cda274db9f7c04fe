package mysqlserver

import "syscall"

// childAttributes keep a Ctrl-C at the terminal from the server, which has to outlive the service
// that stops before it, and kill it when the thread that started it ends.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
