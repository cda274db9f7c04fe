package inflight

import (
	"sync"
	"time"
)

// Message is a message whose delivery can be extended, such as a jetstream.Msg.
type Message interface {
	comparable
	// InProgress tells the stream that the message is still worked on.
	InProgress() error
}

// Heartbeats tell a stream from time to time that messages are still worked on, so that it does not
// redeliver them. It is safe for concurrent use.
type Heartbeats[M Message] struct {
	every time.Duration

	mu     sync.Mutex
	timers map[M]*time.Timer
}

// NewHeartbeats returns Heartbeats for messages that the stream redelivers after ackWait without a
// sign of life. It gives three signs in that time.
func NewHeartbeats[M Message](ackWait time.Duration) *Heartbeats[M] {
	return &Heartbeats[M]{every: ackWait / 3, timers: map[M]*time.Timer{}}
}

// Start begins to give signs of life for a message. Call [Heartbeats.Stop] once its work is done.
func (h *Heartbeats[M]) Start(msg M) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var timer *time.Timer
	running := func() bool { return h.timers[msg] == timer }
	timer = time.AfterFunc(h.every, func() {
		h.mu.Lock()
		alive := running()
		h.mu.Unlock()
		if !alive {
			return
		}
		// Without mu, since it blocks while the connection is stalled. If it fails, the next may not.
		_ = msg.InProgress()
		h.mu.Lock()
		defer h.mu.Unlock()
		if running() {
			timer.Reset(h.every)
		}
	})
	h.timers[msg] = timer
}

// Stop ends the signs of life for a message.
func (h *Heartbeats[M]) Stop(msg M) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timers[msg].Stop()
	delete(h.timers, msg)
}

// Len returns the number of messages that are worked on.
func (h *Heartbeats[M]) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.timers)
}
