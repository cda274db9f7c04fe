package inflight_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"preauth/internal/inflight"
)

func TestAllFreeSlotsAreTakenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inflight.NewSlots(8)
		begin := time.Now()
		if n, err := s.AcquireAll(t.Context()); n != 8 || err != nil || time.Since(begin) != 0 {
			t.Errorf("got %d, %v after %v", n, err, time.Since(begin))
		}
		if s.TryAcquire() {
			t.Error("there is a ninth slot")
		}
		s.Release(3)
		if n, err := s.AcquireAll(t.Context()); n != 3 || err != nil || time.Since(begin) != 0 {
			t.Errorf("got %d, %v after %v", n, err, time.Since(begin))
		}
	})
}

// Under load slots become free one by one, and AcquireAll collects some.
func TestSlotsAreCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inflight.NewSlots(8)
		if _, err := s.AcquireAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() {
			for range 4 {
				<-time.After(500 * time.Microsecond)
				s.Release(1)
			}
		}()
		n, err := s.AcquireAll(t.Context())
		if n < 2 || n > 4 || err != nil {
			t.Errorf("got %d, %v, want those that became free within two milliseconds of the first", n, err)
		}
		synctest.Wait()
	})
}

func TestWaitForSlotsEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inflight.NewSlots(8)
		if _, err := s.AcquireAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if n, err := s.AcquireAll(ctx); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %d, %v", n, err)
		}
		if err := s.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		// One that ends while it collects gives its slot back.
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		s.Release(1)
		if n, err := s.AcquireAll(ctx); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %d, %v", n, err)
		}
		if !s.TryAcquire() {
			t.Error("the slot is lost")
		}
	})
}

type message struct{ signs atomic.Int32 }

func (m *message) InProgress() error { m.signs.Add(1); return nil }

func TestSignsOfLifeUntilStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inflight.NewHeartbeats[*message](3 * time.Second)
		a, b := new(message), new(message)
		h.Start(a)
		h.Start(b)
		if n := h.Len(); n != 2 {
			t.Errorf("%d messages", n)
		}
		<-time.After(2500 * time.Millisecond)
		h.Stop(b)
		<-time.After(10 * time.Second)
		h.Stop(a)
		if n := b.signs.Load(); n != 2 {
			t.Errorf("%d signs, want one a second until the work was done", n)
		}
		if n := a.signs.Load(); n != 12 {
			t.Errorf("%d signs, want one a second", n)
		}
		<-time.After(10 * time.Second)
		if n := a.signs.Load(); n != 12 || h.Len() != 0 {
			t.Errorf("%d signs after the end, of %d messages", n, h.Len())
		}
	})
}

// stalled is a message whose connection takes nothing for a while.
type stalled struct {
	resume chan struct{}
	signs  atomic.Int32
}

func (m *stalled) InProgress() error { m.signs.Add(1); <-m.resume; return nil }

// A connection that is stalled holds up neither the end of the work nor other messages.
func TestStalledSignHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inflight.NewHeartbeats[*stalled](3 * time.Second)
		a := &stalled{resume: make(chan struct{})}
		h.Start(a)
		<-time.After(1500 * time.Millisecond)
		h.Stop(a)
		h.Start(a) // redelivered
		close(a.resume)
		<-time.After(1500 * time.Millisecond)
		h.Stop(a)
		if n := a.signs.Load(); n != 2 {
			t.Errorf("%d signs, want one of each delivery", n)
		}
	})
}
