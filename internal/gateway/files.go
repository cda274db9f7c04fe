package gateway

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"preauth/internal/outage"
)

// lookEvery is how often files are read again. They are small.
const lookEvery = 2 * time.Second

// Files are files that may change while the gateway runs. It is safe for concurrent use.
type Files[T any] struct {
	names    []string
	parse    func(contents [][]byte) (T, error)
	contents [][]byte // which were parsed last
	current  atomic.Pointer[T]
	broken   atomic.Bool
}

// ReadFiles reads files for the first time. parse gets their contents in the order of the names. No
// error names a file: somebody may have given a secret instead.
func ReadFiles[T any](parse func(contents [][]byte) (T, error), names ...string) (*Files[T], error) {
	f := &Files[T]{names: names, parse: parse}
	return f, f.read()
}

// Current returns what the files said last when they could be parsed.
func (f *Files[T]) Current() T { return *f.current.Load() }

// Broken reports whether the files cannot be read or parsed as they are now.
func (f *Files[T]) Broken() bool { return f.broken.Load() }

// Watch reads the files again from time to time, until ctx ends. If they can no longer be read or
// parsed, it logs that, and what they said before stays.
func (f *Files[T]) Watch(ctx context.Context, log *slog.Logger, what string) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	defects := outage.NewDefects(log, time.Now)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before := f.current.Load()
		err := f.read()
		f.broken.Store(err != nil)
		defects.Log(ctx, slog.LevelError, what+" not read again: the old one stays", err)
		if err == nil && f.current.Load() != before {
			log.Info(what + " read again") //nolint:sloglint // the caller's text is a constant
		}
	}
}

// read reads the files, and parses them if they have changed.
func (f *Files[T]) read() error {
	contents := make([][]byte, len(f.names))
	for i, name := range f.names {
		var err error
		if contents[i], err = os.ReadFile(name); err != nil {
			if failed, ok := errors.AsType[*fs.PathError](err); ok {
				return failed.Err
			}
			return err
		}
	}
	if f.current.Load() != nil && slices.EqualFunc(contents, f.contents, bytes.Equal) {
		return nil
	}
	parsed, err := f.parse(contents)
	if err != nil {
		return err
	}
	f.contents = contents
	f.current.Store(&parsed)
	return nil
}
