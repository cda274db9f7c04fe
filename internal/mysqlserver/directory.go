package mysqlserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"preauth/internal/scratch"
)

const (
	temporaryPrefix = "preauth-mysqlserver-"
	logName         = "server.log"
)

// directory is where a private server keeps its data and its log. The server inherits the lock, so
// the directory stays locked as long as this process or the server uses it.
type directory struct {
	path      string
	temporary bool
	lock      *os.File
}

// openDirectory creates opts.Dir, or a temporary directory if that is empty, and locks it.
func openDirectory(ctx context.Context, opts Options) (_ *directory, err error) {
	d := &directory{path: opts.Dir, temporary: opts.Dir == ""}
	if d.temporary {
		var made *scratch.Dir
		if made, err = scratch.New(temporaryPrefix); err == nil {
			d.path, d.lock = made.Path, made.Lock
		}
	} else {
		err = os.MkdirAll(d.path, 0o700)
	}
	// The path must be the one that the server calls its data directory.
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
	for deadline := time.Now().Add(patience); d.lock == nil; {
		d.lock, err = scratch.TryLock(d.path)
		if err == nil {
			break
		}
		if errors.Is(err, errors.ErrUnsupported) {
			return nil, errors.New("private servers run on Unix only: name a running server by its DSN")
		}
		if !errors.Is(err, scratch.ErrLocked) {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: %s", ErrInUse, d.path)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return d, nil
}

// close unlocks the directory, and removes a temporary one.
func (d *directory) close() error {
	if d.temporary {
		return (&scratch.Dir{Path: d.path, Lock: d.lock}).Remove()
	}
	return d.lock.Close()
}

// data is the directory of an engine's data. It exists only when its system tables are complete.
func (d *directory) data(e *engine) string { return filepath.Join(d.path, string(e.name)) }

// create creates an engine's data directory unless it exists.
func (d *directory) create(ctx context.Context, e *engine, program string, arguments ...string) error {
	data := d.data(e)
	if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Only a complete directory gets the final name.
	unfinished := data + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return err
	}
	if e.initialize != nil {
		if err := e.initialize(ctx, program, unfinished, arguments); err != nil {
			return errors.Join(fmt.Errorf("create the data directory: %w", err), os.RemoveAll(unfinished))
		}
	}
	return os.Rename(unfinished, data)
}
