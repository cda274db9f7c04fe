// Package inflight bounds how much is worked on at once, and keeps messages that are worked on from
// being redelivered.
package inflight

import (
	"context"
	"time"
)

// Slots bound how much is worked on at once: one item for each slot. Make them with [NewSlots].
type Slots chan struct{}

// NewSlots returns n free slots.
func NewSlots(n int) Slots {
	s := make(Slots, n)
	s.Release(n)
	return s
}

// collect is how long AcquireAll waits for more than one slot.
const collect = 2 * time.Millisecond

// AcquireAll waits for a free slot, takes it with all others that are free, and returns how many.
// Under load slots become free one by one. Then AcquireAll waits a moment for more of them, since
// one request for many items costs as much as one for a single item. The error is that of ctx.
func (s Slots) AcquireAll(ctx context.Context) (int, error) {
	select {
	case <-s:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if len(s) < cap(s)/4 {
		timer := time.NewTimer(collect)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			s.Release(1)
			return 0, ctx.Err()
		}
	}
	for taken := 1; ; taken++ {
		select {
		case <-s:
		default:
			return taken, nil
		}
	}
}

// TryAcquire takes a free slot, and reports false if there is none.
func (s Slots) TryAcquire() bool {
	select {
	case <-s:
		return true
	default:
		return false
	}
}

// Acquire waits for a free slot and takes it. The error is that of ctx.
func (s Slots) Acquire(ctx context.Context) error {
	select {
	case <-s:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Release gives n slots back.
func (s Slots) Release(n int) {
	for range n {
		s <- struct{}{}
	}
}
