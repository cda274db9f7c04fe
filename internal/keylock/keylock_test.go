package keylock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"preauth/internal/keylock"
)

func TestOneHolderForEachKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locks keylock.Locks
		held := map[string]int{}
		var mu sync.Mutex
		var holders sync.WaitGroup
		for i := range 20 {
			key := string(rune('a' + i%2))
			holders.Go(func() {
				unlock, err := locks.Lock(t.Context(), key)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				held[key]++
				if held[key] > 1 {
					t.Errorf("%d hold the lock of %s", held[key], key)
				}
				mu.Unlock()
				<-time.After(time.Second)
				mu.Lock()
				held[key]--
				mu.Unlock()
				unlock()
			})
		}
		holders.Wait()
		if n := locks.Len(); n != 0 {
			t.Errorf("%d locks are left", n)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locks keylock.Locks
		unlock, err := locks.Lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := locks.Lock(ctx, "a"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		if n := locks.Len(); n != 1 {
			t.Errorf("%d locks, want one with its holder and one that waits", n)
		}
		cancel()
		waiting.Wait()
		unlock()
		if n := locks.Len(); n != 0 {
			t.Errorf("%d locks are left", n)
		}
	})
}
