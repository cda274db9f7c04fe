package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// hand is what this replica has in hand: a bounded number of events, each kept from being given to
// another replica for as long as the work on it lasts.
type hand struct {
	working sync.WaitGroup
	places  chan struct{} // one item for each free place

	ackWait time.Duration
	mu      sync.Mutex
	held    map[jetstream.Msg]*time.Timer
}

func newHand(places int, ackWait time.Duration) *hand {
	h := &hand{places: make(chan struct{}, places), ackWait: ackWait, held: map[jetstream.Msg]*time.Timer{}}
	h.free(places)
	return h
}

// room waits for a free place and takes it with all others that are free, returning their number.
func (h *hand) room(ctx context.Context) (int, error) {
	select {
	case <-h.places:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for taken := 1; ; taken++ {
		select {
		case <-h.places:
		default:
			return taken, nil
		}
	}
}

// free gives places back.
func (h *hand) free(places int) {
	for range places {
		h.places <- struct{}{}
	}
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
