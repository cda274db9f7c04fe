//go:build unix

package mysqlserver

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// tryLock locks the file, made if missing, or returns errLocked.
func tryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = errLocked
	}
	return nil, &os.PathError{Op: "lock", Path: path, Err: err}
}

// shareLock lets the command hold the lock as long as it runs.
func shareLock(command *exec.Cmd, lock *os.File) { command.ExtraFiles = []*os.File{lock} }
