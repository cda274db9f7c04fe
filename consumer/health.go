package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth/repo"
)

// healthCheck is how often MySQL and the progress of events are looked at.
const healthCheck = 2 * time.Second

// health knows why the service is not ready, and what the gauges show.
type health struct {
	*Service

	mu      sync.Mutex
	reasons map[string]error
	gauges  gauges

	progress progress
	lastDone time.Time
}

// gauges are the figures that are asked for from time to time.
type gauges struct {
	outboxRows   int
	outboxOldest time.Time
	pending      uint64
	ackPending   int
}

func newHealth(s *Service) *health {
	starting := errors.New("is not followed yet")
	return &health{Service: s, reasons: map[string]error{
		string(tokenStream) + " stream":   starting,
		string(updateStream) + " stream":  starting,
		string(failureStream) + " stream": starting,
		"MySQL":                           errors.New("was not asked yet"),
	}}
}

// set notes the state of a part; a nil err means that it is well.
func (h *health) set(part string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.reasons, part)
	} else {
		h.reasons[part] = err
	}
}

// setUse notes how a part fares that uses MySQL: that MySQL is away is its state and not the part's, and
// the regular check tells when it is back.
func (h *health) setUse(part string, err error) {
	if errors.Is(err, repo.ErrUnavailable) {
		part = "MySQL"
	}
	h.set(part, err)
}

// Ready returns nil if the service does all its work, and else why not, part by part. A service that
// is not ready still does what it can: it answers look-ups from memory without MySQL, for example.
func (s *Service) Ready() error {
	h := s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	var reasons []error
	if status := s.nc.Status(); status != nats.CONNECTED {
		reasons = append(reasons, fmt.Errorf("NATS: the connection is %s", status))
	}
	for _, part := range slices.Sorted(maps.Keys(h.reasons)) {
		reasons = append(reasons, fmt.Errorf("%s: %w", part, h.reasons[part]))
	}
	return errors.Join(reasons...)
}

// run looks at MySQL and at the progress of events until ctx ends.
func (h *health) run(ctx context.Context) {
	h.lastDone = h.cfg.Now()
	for {
		for _, check := range []func(context.Context){h.checkMySQL, h.checkProgress} {
			checkCtx, cancel := context.WithTimeout(ctx, apiTimeout) // each its own: a part that hangs is no other's fault
			check(checkCtx)
			cancel()
		}
		if !pause(ctx, jittered(healthCheck)) {
			return
		}
	}
}

func (h *health) checkMySQL(ctx context.Context) {
	err := h.db.Check(ctx)
	h.set("MySQL", err)
	if err != nil {
		return
	}
	rows, oldest, err := h.db.OutboxDepth(ctx)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gauges.outboxRows, h.gauges.outboxOldest = rows, oldest
}

// checkProgress finds a service that is up and gets nothing done.
func (h *health) checkProgress(ctx context.Context) {
	state, err := h.progressNow(ctx)
	now := h.cfg.Now()
	h.mu.Lock()
	if err == nil {
		h.gauges.pending, h.gauges.ackPending = state.pending, state.inHand
		if state.waiting() == 0 || state.floor != h.progress.floor || state.waiting() < h.progress.waiting() {
			h.lastDone = now
		}
		h.progress = state
	}
	idle := now.Sub(h.lastDone)
	h.mu.Unlock()
	switch {
	case idle <= h.cfg.Stall:
		err = nil
	case err != nil:
		err = fmt.Errorf("not known for %v: %w", idle.Truncate(time.Second), err)
	default:
		err = fmt.Errorf("%d token events wait and none was finished for %v", state.waiting(), idle.Truncate(time.Second))
	}
	h.set("progress", err)
}

// progress is the state of the shared consumer.
type progress struct {
	floor   uint64 // all up to this sequence is acknowledged
	pending uint64 // in the stream
	inHand  int    // of all replicas
}

func (p progress) waiting() uint64 { return p.pending + uint64(p.inHand) }

func (h *health) progressNow(ctx context.Context) (progress, error) {
	id := h.streams.inUse()
	cons, err := h.js.Consumer(ctx, id.name, id.durable(h.cfg.Durable))
	if err != nil {
		return progress{}, err
	}
	info := cons.CachedInfo()
	return progress{info.AckFloor.Stream, info.NumPending, info.NumAckPending}, nil
}
