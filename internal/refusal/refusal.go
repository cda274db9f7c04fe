// Package refusal notes what NATS reports later and to nobody who waits: that it dropped a message
// that may not be published, or a subscription, or messages that came too fast.
package refusal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Kind is the kind of a report.
type Kind string

// The kinds of reports.
const (
	Permissions  Kind = "permissions"   // what the program sends or subscribes to by itself
	Answers      Kind = "answers"       // a message on a subject that a requester chose
	SlowConsumer Kind = "slow_consumer" // dropped because they came faster than they were taken
	Other        Kind = "other"
)

// Options say what is done with the reports of a connection.
type Options struct {
	// Own are beginnings of the subjects on which the program has to publish. None of them may be one
	// that a requester can choose for its answer.
	Own []string
	// Extra are beginnings of those on which it publishes and can do without, also among its own.
	Extra []string
	// Heard are beginnings of those that it subscribes to and can do without.
	Heard []string
	// Stands is for how long a refusal counts: longer than the program waits before it does the same
	// again.
	Stands time.Duration
	// Count is told each report.
	Count func(Kind)
	// Set is told the last refusal of what the program needs, and nil when it counts no longer.
	Set func(error)
}

// Watch notes the reports of a connection. NATS never says when something is allowed. So a refusal
// counts until the program had time to do the same again.
type Watch struct {
	nc      *nats.Conn
	log     *slog.Logger
	options Options

	mu     sync.Mutex
	counts standing
	said   map[string]bool // refusals of something extra
}

// NewWatch begins to watch a connection. It adds to the connection's error handler: one that is set
// later has to call [nats.Conn.ErrorHandler]'s.
func NewWatch(nc *nats.Conn, log *slog.Logger, options Options) *Watch {
	w := &Watch{nc: nc, log: log, options: options, counts: standing{stands: options.Stands, pause: options.Stands}, said: map[string]bool{}}
	next := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		w.note(sub, err)
		if next != nil {
			next(nc, sub, err)
		}
	})
	return w
}

func (w *Watch) note(sub *nats.Subscription, err error) {
	_, published, publishing := strings.Cut(err.Error(), `Publish to "`)
	_, subscribed, _ := strings.Cut(err.Error(), `Subscription to "`)
	on := func(named string, subjects []string) bool {
		return slices.ContainsFunc(subjects, func(subject string) bool { return strings.HasPrefix(named, subject) })
	}
	switch refused := errors.Is(err, nats.ErrPermissionViolation); {
	case errors.Is(err, nats.ErrMaxSubscriptionsExceeded):
		w.refused(fmt.Errorf("%w: raise max_subscriptions of the account and the server", err), true)
	case refused && (on(published, w.options.Extra) || on(subscribed, w.options.Heard)):
		w.doWithout(err)
	case refused && (!publishing || on(published, w.options.Own)):
		w.refused(fmt.Errorf("%w: allow it to the service's user", err), !publishing)
	case refused: // the requester chose the subject
		w.options.Count(Answers)
		w.log.Debug("request not answered", "error", err)
	case isOfConnection(err), !w.nc.IsConnected(): // which is not for this part to tell
	case errors.Is(err, nats.ErrSlowConsumer) && sub != nil:
		w.options.Count(SlowConsumer)
		w.log.Warn("NATS dropped messages that came faster than they were taken", "subject", sub.Subject)
	default:
		w.options.Count(Other)
		w.log.Warn("NATS reports an error", "error", err)
	}
}

// isOfConnection reports whether the connection broke. The client may report that while its state
// still says that it is connected.
func isOfConnection(err error) bool {
	_, broken := errors.AsType[net.Error](err)
	return broken || errors.Is(err, io.EOF)
}

// doWithout logs a refusal that nothing depends on, once for each subject.
func (w *Watch) doWithout(err error) {
	w.options.Count(Permissions)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.said[err.Error()] {
		w.said[err.Error()] = true
		w.log.Warn("NATS refused something that the service can do without", "error", err)
	}
}

func (w *Watch) refused(err error, subscription bool) {
	w.options.Count(Permissions)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.refuse(time.Now(), subscription)
	w.options.Set(err)
}

// Look ends a refusal that has counted long enough. A subscription is not made again before the next
// connection, so Look forces that first. It has to be called from time to time.
func (w *Watch) Look(context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.counts.look(time.Now()) {
	case connectAnew:
		if err := w.nc.ForceReconnect(); err != nil {
			w.log.Warn("not connected anew", "error", err)
		}
	case over:
		w.options.Set(nil)
	default: // nothing counts, or not long enough
	}
}

// standing is for how long the last refusal counts.
type standing struct {
	stands time.Duration

	last        time.Time // zero while no refusal counts
	resubscribe bool
	pause       time.Duration // before connecting anew; it grows while that does not help
}

// longestPause bounds the pause between two connections that are made to subscribe again.
const longestPause = 10 * time.Minute

// step is what is done about a refusal.
type step int

const (
	wait step = iota
	connectAnew
	over
)

func (s *standing) refuse(now time.Time, subscription bool) {
	s.last, s.resubscribe = now, s.resubscribe || subscription
}

func (s *standing) look(now time.Time) step {
	counts := s.stands
	if s.resubscribe {
		counts = s.pause
	}
	switch {
	case s.last.IsZero() || now.Sub(s.last) < counts:
		return wait
	case s.resubscribe:
		s.resubscribe, s.last, s.pause = false, now, min(2*s.pause, longestPause)
		return connectAnew
	default:
		s.last, s.pause = time.Time{}, s.stands
		return over
	}
}
