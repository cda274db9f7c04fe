//go:build !unix

package mysqlserver

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
