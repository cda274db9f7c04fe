//go:build !unix

package mysqlserver

import (
	"errors"
	"os"
	"syscall"
)

func tryLock(string) (*os.File, error) {
	return nil, errors.New("private servers run on Unix only: name a running server by its DSN")
}

func childAttributes() *syscall.SysProcAttr { return nil }
