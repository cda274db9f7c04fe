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

	"github.com/prometheus/client_golang/prometheus"

	"preauth/internal/outage"
)

// lookEvery is how often files are read again. They are small.
const lookEvery = 2 * time.Second

// Reloader has what files say that may change while the gateway runs. It is safe for concurrent use.
type Reloader[T any] struct {
	names    []string
	parse    func(contents [][]byte) (T, error)
	contents [][]byte // which were parsed last
	current  atomic.Pointer[T]
	broken   atomic.Bool
}

// NewReloader reads the files for the first time. parse gets their contents in the order of the
// names. No error names a file: somebody may have given a secret instead.
func NewReloader[T any](parse func(contents [][]byte) (T, error), names ...string) (*Reloader[T], error) {
	r := &Reloader[T]{names: names, parse: parse}
	return r, r.read()
}

// Current returns the last contents that could be parsed.
func (r *Reloader[T]) Current() T { return *r.current.Load() }

// Broken reports whether the files cannot be read or parsed as they are now.
func (r *Reloader[T]) Broken() bool { return r.broken.Load() }

// Gauge is the metric of [Reloader.Broken]. file is the label for the files.
func (r *Reloader[T]) Gauge(file string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "preauth", Subsystem: "gateway", Name: "file_broken", ConstLabels: prometheus.Labels{"file": file},
		Help: "1 if a file cannot be read again, and what it said before still counts.",
	}, func() float64 { return oneIf(r.Broken()) })
}

// Watch reads the files again from time to time, until ctx ends. If they can no longer be read or
// parsed, it logs that, and what they said before stays.
func (r *Reloader[T]) Watch(ctx context.Context, log *slog.Logger, what string) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	defects := outage.NewDefects(log, time.Now)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before := r.current.Load()
		err := r.read()
		was := r.broken.Swap(err != nil)
		defects.Log(ctx, slog.LevelError, what+" not read again: the old one stays", err)
		if err == nil && (was || r.current.Load() != before) {
			log.Info(what + " read again") //nolint:sloglint // the caller's text is a constant
		}
	}
}

// read reads the files, and parses them if they have changed.
func (r *Reloader[T]) read() error {
	contents := make([][]byte, len(r.names))
	for i, name := range r.names {
		var err error
		if contents[i], err = os.ReadFile(name); err != nil {
			if failed, ok := errors.AsType[*fs.PathError](err); ok {
				return failed.Err
			}
			return err
		}
	}
	if r.current.Load() != nil && slices.EqualFunc(contents, r.contents, bytes.Equal) {
		return nil
	}
	parsed, err := r.parse(contents)
	if err != nil {
		return err
	}
	r.contents = contents
	r.current.Store(&parsed)
	return nil
}
