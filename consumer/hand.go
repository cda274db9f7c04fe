package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// places bound how much is worked on at once: one item for each free place.
type places chan struct{}

func newPlaces(n int) places {
	p := make(places, n)
	p.free(n)
	return p
}

// forMoreRoom is how long room waits for more than one place.
const forMoreRoom = 2 * time.Millisecond

// room waits for a free place and takes it with all others that are free, returning their number. Under load,
// when places become free one by one, it waits a moment for more of them, since asking for something to put
// there costs as much for one as for many.
func (p places) room(ctx context.Context) (int, error) {
	select {
	case <-p:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if len(p) < cap(p)/4 && !pause(ctx, forMoreRoom) {
		p.free(1)
		return 0, ctx.Err()
	}
	for taken := 1; ; taken++ {
		select {
		case <-p:
		default:
			return taken, nil
		}
	}
}

// free gives places back.
func (p places) free(n int) {
	for range n {
		p <- struct{}{}
	}
}

// hand is what this replica has in hand: a bounded number of events, each kept from being given to
// another replica for as long as the work on it lasts.
type hand struct {
	places
	working sync.WaitGroup

	ackWait time.Duration
	mu      sync.Mutex
	held    map[jetstream.Msg]*time.Timer
}

func newHand(n int, ackWait time.Duration) *hand {
	return &hand{places: newPlaces(n), ackWait: ackWait, held: map[jetstream.Msg]*time.Timer{}}
}

// hold takes an event and tells the stream from time to time that it is being worked on.
func (h *hand) hold(msg jetstream.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	every := h.ackWait / 3
	var timer *time.Timer
	holds := func() bool { return h.held[msg] == timer }
	timer = time.AfterFunc(every, func() {
		h.mu.Lock()
		held := holds()
		h.mu.Unlock()
		if !held {
			return
		}
		// Without mu: it waits while the line to NATS is stalled. Should it fail, the next one may get through.
		_ = msg.InProgress()
		h.mu.Lock()
		defer h.mu.Unlock()
		if holds() {
			timer.Reset(every)
		}
	})
	h.held[msg] = timer
}

// release lets go of an event and frees its place.
func (h *hand) release(msg jetstream.Msg) {
	h.mu.Lock()
	h.held[msg].Stop()
	delete(h.held, msg)
	h.mu.Unlock()
	h.free(1)
}

// size returns the number of events in hand.
func (h *hand) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held)
}

// lanes let one worker at a time work on a component.
type lanes struct {
	mu      sync.Mutex
	byAppID map[string]*lane
}

type lane struct {
	turn  chan struct{} // holds an item while nobody is in the lane
	users int           // those in the lane or waiting for it
}

// enter waits for the component's lane. leave must be called once, unless there is an error.
func (l *lanes) enter(ctx context.Context, appid string) (leave func(), err error) {
	l.mu.Lock()
	if l.byAppID == nil {
		l.byAppID = map[string]*lane{}
	}
	in := l.byAppID[appid]
	if in == nil {
		in = &lane{turn: make(chan struct{}, 1)}
		in.turn <- struct{}{}
		l.byAppID[appid] = in
	}
	in.users++
	l.mu.Unlock()

	drop := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if in.users--; in.users == 0 {
			delete(l.byAppID, appid)
		}
	}
	select {
	case <-in.turn:
		return func() { in.turn <- struct{}{}; drop() }, nil
	case <-ctx.Done():
		drop()
		return nil, ctx.Err()
	}
}
