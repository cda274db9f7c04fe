package outage

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Defects logs what fails again and again: each failure when its reason changes, and at most once a
// minute while that stays the same. It is safe for concurrent use.
type Defects struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	said map[string]line // by what failed, and of what
}

// line is what was logged last of something that fails.
type line struct {
	reason string
	at     time.Time
}

// sayAgain is when a reason that stays the same is logged again.
const sayAgain = time.Minute

// NewDefects returns a Defects that has logged nothing yet.
func NewDefects(log *slog.Logger, now func() time.Time) *Defects {
	return &Defects{log: log, now: now, said: map[string]line{}}
}

// Log notes how something went: what says in a constant what did not work, and of says of what, if
// there are several that fail by themselves. A nil error means that it works again. A level below
// that of warnings is for failures that are no defect, which are all logged.
func (d *Defects) Log(ctx context.Context, level slog.Level, what string, err error, of ...slog.Attr) {
	key := fmt.Sprint(what, of)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.said, key)
		return
	}
	now := line{err.Error(), d.now()}
	if level >= slog.LevelWarn {
		if last, ok := d.said[key]; ok && last.reason == now.reason && now.at.Sub(last.at) < sayAgain {
			return
		}
		d.said[key] = now
	}
	d.log.LogAttrs(ctx, level, what, append(of, slog.Any("error", err))...) //nolint:sloglint // the caller's text is a constant
}
