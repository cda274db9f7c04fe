//go:build !unix

package mysqlserver

import (
	"os"
	"os/exec"
	"syscall"
)

// tryLock opens the file, made if missing. There is no lock: here it is for the developer not to run
// two servers on one directory.
func tryLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
}

func childAttributes() *syscall.SysProcAttr { return nil }

func shareLock(*exec.Cmd, *os.File) {}
