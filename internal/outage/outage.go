// Package outage logs that something outside is away or refuses what it should not, without repeating
// itself.
package outage

import (
	"log/slog"
	"sync"
	"time"
)

// Log logs the outages of one thing: once with the reason when it goes away, again after a minute and
// in growing intervals of at most ten, and once when it is back. It is safe for concurrent use.
type Log struct {
	log  *slog.Logger
	name string
	now  func() time.Time

	mu          sync.Mutex
	since, next time.Time // zero while it is there
	pause       time.Duration
}

const firstPause, lastPause = time.Minute, 10 * time.Minute

// New returns a Log of the thing with the name, such as MySQL.
func New(log *slog.Logger, name string, now func() time.Time) *Log {
	return &Log{log: log, name: name, now: now}
}

// Away notes that the thing is away, and why.
func (l *Log) Away(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	switch {
	case l.since.IsZero():
		l.since, l.pause = now, firstPause
		l.log.Warn(l.name+" away", "error", reason) //nolint:sloglint // the caller's name is a constant
	case now.Before(l.next):
		return
	default:
		l.pause = min(2*l.pause, lastPause)
		l.log.Warn(l.name+" still away", "error", reason, "for", now.Sub(l.since).Round(time.Second)) //nolint:sloglint // as above
	}
	l.next = now.Add(l.pause)
}

// Back notes that the thing is there. It reports whether it was away before.
func (l *Log) Back() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return false
	}
	l.log.Info(l.name+" back", "after", l.now().Sub(l.since).Round(time.Millisecond)) //nolint:sloglint // as above
	l.since = time.Time{}
	return true
}
