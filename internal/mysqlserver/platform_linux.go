package mysqlserver

import "syscall"

// childAttributes put the server into a process group of its own, because it must outlive the
// service when Ctrl-C is pressed, and let it die with the thread that started it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
