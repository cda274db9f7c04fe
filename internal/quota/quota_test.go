package quota_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"preauth/internal/quota"
)

// calls returns how many calls for a key are allowed at once.
func calls(t *testing.T, q *quota.Quota, key string, reserve float64) (n int) {
	t.Helper()
	for ; n < 10_000; n++ {
		if err := q.Wait(t.Context(), key, reserve); err != nil {
			if !errors.Is(err, quota.ErrExceeded) {
				t.Fatal(err)
			}
			return n
		}
	}
	return n
}

func TestBudgetOfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := quota.New(1_000_000, 1000)
		// A tenth at once, and of that what has to yield leaves the reserve.
		if n := calls(t, q, "a", 0.5); n != 50 {
			t.Errorf("%d calls that leave a half, want 50", n)
		}
		if n := calls(t, q, "a", 0.1); n != 40 {
			t.Errorf("%d more calls that leave a tenth, want 40", n)
		}
		if n := calls(t, q, "a", 0); n != 10 {
			t.Errorf("%d more calls, want the last 10", n)
		}
		if n := calls(t, q, "b", 0); n != 100 {
			t.Errorf("%d calls of another key, want 100", n)
		}
		// It comes back evenly: a thousand in a day.
		<-time.After(24 * time.Hour / 100)
		if n := calls(t, q, "a", 0); n != 10 {
			t.Errorf("%d calls after a hundredth of a day, want 10", n)
		}
		<-time.After(24 * time.Hour)
		if n := calls(t, q, "a", 0); n != 100 {
			t.Errorf("%d calls after a day without any, want 100", n)
		}
	})
}

func TestSmallBudgetHasTenCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if n := calls(t, quota.New(1000, 24), "a", 0); n != 10 {
			t.Errorf("%d calls at once, want 10", n)
		}
	})
}

func TestRateOverAllKeysIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := quota.New(10, 1000)
		begin := time.Now()
		for i := range 30 {
			if err := q.Wait(t.Context(), string(rune('a'+i)), 0); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("30 calls at 10 a second took %v, want two seconds after the first 10", took)
		}
	})
}

// A call that the rate does not let through costs the key nothing of its day.
func TestCallThatTheRateForbidsCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := quota.New(1, 1000)
		if err := q.Wait(t.Context(), "a", 0.1); err != nil {
			t.Fatal(err)
		}
		before := q.Left("a")
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if err := q.Wait(ctx, "a", 0.1); !errors.Is(err, quota.ErrExceeded) {
				t.Errorf("got %v, want the limit: its turn comes after the deadline", err)
			}
			cancel()
		}
		if spent := before - q.Left("a"); spent > 0 {
			t.Errorf("%.1f calls of the day were spent in vain", spent)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := q.Wait(ctx, "a", 0); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}
