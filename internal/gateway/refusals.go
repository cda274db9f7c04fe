package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// refusals ends requests that NATS does not let the gateway's user make. NATS drops such a message
// and tells the connection, not the request, which would wait in vain.
type refusals struct {
	nc *nats.Conn

	mu      sync.Mutex
	waiting map[*waiting]struct{}
	// inbox is why no reply arrives, and connects counts the connections until then: a subscription
	// that was refused is made again only with the next connection.
	inbox    error
	connects uint64
}

// waiting is a request that waits for its answer.
type waiting struct {
	subject string
	refuse  context.CancelCauseFunc
}

// refusedError says which right the gateway's NATS user lacks.
type refusedError struct{ right string }

func (e *refusedError) Error() string { return "the gateway's NATS user may not " + e.right }

// newRefusals begins to hear of refusals. It adds to the connection's error handler: one that is set
// later has to call [nats.Conn.ErrorHandler]'s.
func newRefusals(nc *nats.Conn) *refusals {
	r := &refusals{nc: nc, waiting: map[*waiting]struct{}{}}
	next := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		r.note(err)
		if next != nil {
			next(nc, sub, err)
		}
	})
	return r
}

// note ends the requests that a refusal is about.
func (r *refusals) note(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if subject, ok := quoted(err, `Publish to "`); ok {
		for w := range r.waiting {
			if w.subject == subject {
				w.refuse(&refusedError{"publish to " + subject})
			}
		}
		return
	}
	if subject, ok := quoted(err, `Subscription to "`); ok {
		r.inbox = &refusedError{fmt.Sprintf("subscribe to %s, where replies arrive: set --nats-inbox-prefix to a prefix that it may subscribe to", subject)}
		r.connects = r.nc.Stats().Reconnects
		for w := range r.waiting {
			w.refuse(r.inbox)
		}
	}
}

// quoted returns the text between a beginning, which ends in a quotation mark, and the next mark.
func quoted(err error, beginning string) (string, bool) {
	_, rest, ok := strings.Cut(err.Error(), beginning)
	text, _, closed := strings.Cut(rest, `"`)
	return text, ok && closed
}

// standing returns why no reply can arrive on this connection, nil if that is not known.
func (r *refusals) standing() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inbox != nil && r.nc.Stats().Reconnects == r.connects {
		return r.inbox
	}
	return nil
}

// ask has a request made, whose message goes to subject. The error is a [*refusedError] if NATS does
// not allow that.
func (r *refusals) ask(ctx context.Context, subject string, request func(context.Context) error) error {
	if err := r.standing(); err != nil {
		return err
	}
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	w := &waiting{subject, refuse}
	r.mu.Lock()
	r.waiting[w] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiting, w)
		r.mu.Unlock()
	}()
	err := request(ctx)
	if refused, ok := errors.AsType[*refusedError](context.Cause(ctx)); ok && err != nil {
		return refused
	}
	return err
}
