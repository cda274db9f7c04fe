package mysqlserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	temporaryPrefix = "preauth-mysqlserver-"
	lockName        = "lock"
	logName         = "server.log"
)

// directory is where a private server keeps its data and its log. It is locked as long as this process
// or the server uses it: the server inherits the lock.
type directory struct {
	path      string
	temporary bool
	lock      *os.File
}

// openDirectory makes opts.Dir if it is missing, or a temporary directory if it is empty, and locks it.
func openDirectory(ctx context.Context, opts Options) (_ *directory, err error) {
	d := &directory{path: opts.Dir, temporary: opts.Dir == ""}
	if d.temporary {
		removeAbandoned()
		d.path, err = os.MkdirTemp("", temporaryPrefix)
	} else {
		err = os.MkdirAll(d.path, 0o700)
	}
	// The server says where its data is, which has to be the same text.
	if err == nil {
		d.path, err = filepath.Abs(d.path)
	}
	if err == nil {
		d.path, err = filepath.EvalSymlinks(d.path)
	}
	if err != nil {
		return nil, err
	}
	// The server of a process that was just killed may need a moment to end.
	const patience = 5 * time.Second
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d.lock, err = lockFile(waiting, filepath.Join(d.path, lockName), func() {
		opts.Log("waiting up to %s for another process that uses %s", patience, d.path)
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("%w: %s", ErrInUse, d.path)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// close gives the directory up, and removes a temporary one.
func (d *directory) close() error {
	if d.temporary {
		return errors.Join(os.RemoveAll(d.path), d.lock.Close())
	}
	return d.lock.Close()
}

// data is the directory of an engine's data. It exists only when its system tables are complete.
func (d *directory) data(e *engine) string { return filepath.Join(d.path, string(e.name)) }

// madeBy returns the engine whose data the directory holds, or nil.
func (d *directory) madeBy() *engine {
	for _, name := range order {
		if _, err := os.Stat(d.data(engines[name])); err == nil {
			return engines[name]
		}
	}
	return nil
}

// create makes an engine's data directory unless it exists, and reports whether it did.
func (d *directory) create(ctx context.Context, e *engine, program string) (fresh bool, err error) {
	data := d.data(e)
	if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	// Made under another name, so that one left unfinished is never taken for whole.
	unfinished := data + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return false, err
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return false, err
	}
	if e.initialize != nil {
		if err := e.initialize(ctx, program, unfinished); err != nil {
			return false, errors.Join(fmt.Errorf("create the data directory: %w", err), os.RemoveAll(unfinished))
		}
	}
	return true, os.Rename(unfinished, data)
}

// discard removes an engine's data.
func (d *directory) discard(e *engine) error { return os.RemoveAll(d.data(e)) }

// removeAbandoned removes the temporary directories of processes that were killed.
func removeAbandoned() {
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*"))
	for _, path := range found {
		// A young one may belong to a process that has not locked it yet.
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		lock, err := tryLock(filepath.Join(path, lockName))
		if err != nil {
			continue
		}
		_ = os.RemoveAll(path)
		_ = lock.Close()
	}
}
