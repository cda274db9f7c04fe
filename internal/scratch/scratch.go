// Package scratch makes temporary directories that a killed process does not leave behind for ever:
// the next process that makes one removes those whose owner is gone.
package scratch

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

// lockName is the file in a directory that its owner keeps locked.
const lockName = "lock"

// ErrLocked means that another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// Dir is a locked directory. A process that inherits Lock holds the lock too.
type Dir struct {
	Path string
	Lock *os.File // nil where files cannot be locked: nothing is removed there then
}

// New returns a new directory in [os.TempDir], whose name begins with prefix. It removes those with
// the prefix whose owners are gone and which are older than a minute.
func New(prefix string) (*Dir, error) {
	removeAbandoned(prefix)
	path, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, err
	}
	lock, err := TryLock(path)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	return &Dir{Path: path, Lock: lock}, nil
}

// TryLock locks a directory, or returns an error that wraps [ErrLocked]. The lock lasts until every
// process that has the file has closed it. Where files cannot be locked, the error wraps
// [errors.ErrUnsupported].
func TryLock(dir string) (*os.File, error) { return tryLock(filepath.Join(dir, lockName)) }

// Remove removes the directory and unlocks it.
func (d *Dir) Remove() error {
	err := os.RemoveAll(d.Path)
	if d.Lock != nil {
		err = errors.Join(err, d.Lock.Close())
	}
	return err
}

// removeAbandoned removes the directories of processes that were killed.
func removeAbandoned(prefix string) {
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, path := range found {
		// The owner of a young one may not have locked it yet.
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		lock, err := TryLock(path)
		if err != nil {
			continue
		}
		_ = (&Dir{path, lock}).Remove()
	}
}
