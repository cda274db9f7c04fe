package quota_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"preauth/internal/quota"
)

var china = time.FixedZone("UTC+8", 8*60*60)

// api is an API that may say what is left of a key's quota.
type api struct {
	mu        sync.Mutex
	limit     int // 0: it does not say
	used      int
	uncounted int // calls that it counts only later
	questions int
	takes     time.Duration // to answer a question
}

func (a *api) ask(ctx context.Context) (quota.Answer, error) {
	a.mu.Lock()
	a.questions++
	answer := quota.Answer{Limit: a.limit, Remaining: min(a.limit, max(0, a.limit-a.used+a.uncounted))}
	a.mu.Unlock()
	select {
	case <-time.After(a.takes):
	case <-ctx.Done():
		return quota.Answer{}, ctx.Err()
	}
	if answer.Limit == 0 {
		return quota.Answer{}, errors.New("not said")
	}
	return answer, nil
}

func (a *api) call() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used++
}

func (a *api) asked() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.questions
}

// call makes a call that takes no time, if it is allowed.
func call(ctx context.Context, q *quota.Quota, a *api, key string, reserve float64) error {
	if err := q.Begin(ctx, key, reserve, a.ask); err != nil {
		return err
	}
	defer q.Finish(key)
	a.call()
	return nil
}

// calls returns how many calls for a key are allowed, one after the other, and the error of the first
// that is not.
func calls(t *testing.T, q *quota.Quota, a *api, key string, reserve float64) (n int, err error) {
	t.Helper()
	for ; n < 10_000; n++ {
		if err := call(t.Context(), q, a, key, reserve); err != nil {
			return n, err
		}
	}
	return n, nil
}

// allowed is calls. Each call that is not allowed must have the given error.
func allowed(t *testing.T, q *quota.Quota, a *api, key string, reserve float64, want error) int {
	t.Helper()
	n, err := calls(t, q, a, key, reserve)
	if !errors.Is(err, want) {
		t.Fatalf("after %d calls: %v, want %v", n, err, want)
	}
	return n
}

// near reports whether n is what is wanted. A call that was under way when a question was asked may
// count twice for a while.
func near(n, want int) bool { return n >= want-2 && n <= want+2 }

func newQuota(t *testing.T, perSecond, perDay int) *quota.Quota {
	q := quota.New(perSecond, perDay, china, time.Now)
	t.Cleanup(q.WaitForAnswers)
	return q
}

func TestBudgetOfADayWhereTheAPIDoesNotSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := newQuota(t, 1_000_000, 1000), &api{}
		// A tenth at once, and of that what has to yield leaves the reserve.
		if n := allowed(t, q, a, "a", 0.5, quota.ErrExceeded); n != 50 {
			t.Errorf("%d calls that leave a half, want 50", n)
		}
		if n := allowed(t, q, a, "a", 0.1, quota.ErrExceeded); n != 40 {
			t.Errorf("%d more calls that leave a tenth, want 40", n)
		}
		if n := allowed(t, q, a, "a", 0, quota.ErrExceeded); n != 10 {
			t.Errorf("%d more calls, want the last 10", n)
		}
		if n := allowed(t, q, a, "b", 0, quota.ErrExceeded); n != 100 {
			t.Errorf("%d calls of another key, want 100", n)
		}
		// It comes back evenly: a thousand in a day.
		<-time.After(24 * time.Hour / 100)
		if n := allowed(t, q, a, "a", 0, quota.ErrExceeded); n != 10 {
			t.Errorf("%d calls after a hundredth of a day, want 10", n)
		}
		<-time.After(24 * time.Hour)
		if n := allowed(t, q, a, "a", 0, quota.ErrExceeded); n != 100 {
			t.Errorf("%d calls after a day without any, want 100", n)
		}
		if q.Known() != (quota.Known{}) {
			t.Errorf("%+v is known", q.Known())
		}
	})
}

func TestSmallBudgetHasTenCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if n := allowed(t, newQuota(t, 1000, 24), &api{}, "a", 0, quota.ErrExceeded); n != 10 {
			t.Errorf("%d calls at once, want 10", n)
		}
	})
}

func TestRateOverAllKeysIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := newQuota(t, 10, 1000), &api{}
		begin := time.Now()
		for i := range 30 {
			if err := call(t.Context(), q, a, string(rune('a'+i)), 0); err != nil {
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
	for name, a := range map[string]*api{"its own day": {}, "the API's day": {limit: 1000}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQuota(t, 1, 1000)
				if err := call(t.Context(), q, a, "a", 0.1); err != nil {
					t.Fatal(err)
				}
				for range 50 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
					if err := call(ctx, q, a, "a", 0.1); !errors.Is(err, quota.ErrExceeded) {
						t.Errorf("got %v, want the limit: its turn comes after the deadline", err)
					}
					cancel()
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := call(ctx, q, a, "a", 0); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want the context's error", err)
				}
				want := 99
				if a.limit > 0 {
					want = 1000 - 26 - 1
				}
				n := 0
				for ; call(t.Context(), q, a, "a", 0) == nil; n++ {
					synctest.Wait()
				}
				if n < want || n > want+20 { // some of the budget comes back meanwhile
					t.Errorf("%d calls were left, want %d", n, want)
				}
			})
		})
	}
}

// Of what the API says is left, what has to yield leaves its reserve, and all leave the margin.
func TestPrioritiesGoByWhatTheAPISays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := newQuota(t, 1_000_000, 100), &api{limit: 1000, used: 100}
		if n := allowed(t, q, a, "a", 0.5, quota.ErrSpent); !near(n, 1000-26-100-500) {
			t.Errorf("%d calls that leave a half, want 374", n)
		}
		if n := allowed(t, q, a, "a", 0.1, quota.ErrSpent); !near(n, 400) {
			t.Errorf("%d more calls that leave a tenth, want 400", n)
		}
		a.used += 50 // by others
		if n := allowed(t, q, a, "a", 0, quota.ErrSpent); !near(n, 50) {
			t.Errorf("%d more calls, want the 50 that others left", n)
		}
		if known := q.Known(); known.Keys != 1 || known.Least.Limit != 1000 || known.Least.Remaining > 28 {
			t.Errorf("%+v is known", known)
		}
		a.used = 990 // of another key's day
		if n := allowed(t, q, a, "b", 0, quota.ErrSpent); n > 1 {
			t.Errorf("%d calls of a key that others have used up, want the first at most", n)
		}
	})
}

// Whatever others use between two answers, processes that share a key make no call above the limit,
// though the API counts late.
func TestProcessesMakeNoCallAboveTheLimit(t *testing.T) {
	for _, limit := range []int{32, 100, 900, 1000, 10_000} {
		synctest.Test(t, func(t *testing.T) {
			a := &api{limit: limit, uncounted: limit / 100, takes: 30 * time.Millisecond}
			// rush makes calls until they are forbidden.
			rush := func(q *quota.Quota, workers int, reserve float64) {
				var working sync.WaitGroup
				for range workers {
					working.Go(func() {
						for {
							if err := q.Begin(t.Context(), "a", reserve, a.ask); err != nil {
								if !errors.Is(err, quota.ErrSpent) {
									t.Error(err)
								}
								return
							}
							<-time.After(100 * time.Millisecond)
							a.call()
							q.Finish("a")
						}
					})
				}
				working.Wait()
			}
			var processes []*quota.Quota
			for range 4 {
				processes = append(processes, newQuota(t, 1_000_000, 100))
			}
			var working sync.WaitGroup
			for i, q := range processes {
				// Each process has an answer that says that all is left, and rests until those before have used
				// it up.
				if err := call(t.Context(), q, a, "a", 0.1); err != nil {
					t.Fatal(err)
				}
				working.Go(func() {
					<-time.After(time.Duration(i) * 9 * time.Minute)
					rush(q, 40, 0.1)
				})
			}
			working.Wait()
			if used, most := a.used, limit-limit/20; used > most {
				t.Errorf("%d calls of %d that leave a tenth, want %d at most", used, limit, most)
			}
			used, asked := a.used, a.questions
			for _, q := range processes {
				working.Go(func() { rush(q, 10, 0) })
			}
			working.Wait()
			if least := limit - limit/50 - 18; a.used > limit || a.used < least {
				t.Errorf("%d calls of %d, want at least %d", a.used, limit, least)
			}
			t.Logf("limit %d: %d calls, %d questions, then %d and %d", limit, used, asked, a.used-used, a.questions-asked)
		})
	}
}

func TestQuestionsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := newQuota(t, 1_000_000, 10_000), &api{limit: 10_000}
		again := func(what string, every time.Duration, n, want int) {
			t.Helper()
			before := a.asked()
			for range n {
				<-time.After(every)
				if err := call(t.Context(), q, a, "a", 0); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			if got := a.asked() - before; got < want-want/2 || got > want+want/2 {
				t.Errorf("%s: %d questions after %d calls, want %d", what, got, n, want)
			}
		}
		again("the first call", 0, 1, 1)
		again("the next calls", time.Second, 50, 0)
		again("many calls", time.Second, 1000, 10)
		again("a call now and then", 20*time.Minute, 36, 12)
		a.used = 6000
		again("the first call that learns of it", time.Hour, 1, 1)
		again("a call now and then, and less than half is left", 20*time.Minute, 12, 12)
	})
}

// A question does not hold up a call that leaves nothing to others, and others for a second at most.
func TestQuestionWithoutAnAnswerHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := newQuota(t, 1_000_000, 1000), &api{takes: time.Hour}
		for _, test := range []struct {
			reserve float64
			takes   time.Duration
		}{{0, 0}, {0.1, time.Second}, {0.5, 0}, {0, 0}} {
			begin := time.Now()
			if err := call(t.Context(), q, a, "a", test.reserve); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took != test.takes {
				t.Errorf("a call with the reserve %v took %v, want %v", test.reserve, took, test.takes)
			}
		}
		if a.questions != 1 {
			t.Errorf("%d questions, want 1", a.questions)
		}
	})
}

// An answer holds on while the API does not answer any more. Calls since are counted against it.
func TestLastAnswerHoldsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := newQuota(t, 1_000_000, 100), &api{limit: 1000}
		if err := call(t.Context(), q, a, "a", 0.1); err != nil {
			t.Fatal(err)
		}
		a.limit = 0
		if n := allowed(t, q, a, "a", 0.1, quota.ErrSpent); n != 1000-26-100-1 {
			t.Errorf("%d calls, want 873", n)
		}
	})
}

// The API's day ends at midnight of its zone. What it said before is void then.
func TestAnswerIsVoidOnTheNextDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Date(2026, 3, 1, 15, 59, 0, 0, time.UTC) // 23:59 in China
		clock := func() time.Time { return now }
		q, a := quota.New(1_000_000, 1000, china, clock), &api{limit: 1000, used: 1000}
		if err := call(t.Context(), q, a, "a", 0.1); !errors.Is(err, quota.ErrSpent) {
			t.Fatal(err)
		}
		a.used = 0
		if err := call(t.Context(), q, a, "a", 0); !errors.Is(err, quota.ErrSpent) {
			t.Fatalf("%v, want the answer of a moment ago", err)
		}
		now = now.Add(time.Minute)
		if err := call(t.Context(), q, a, "a", 0); err != nil {
			t.Errorf("on the next day: %v", err)
		}
		synctest.Wait()
		if known := q.Known(); !near(known.Least.Remaining, 999) {
			t.Errorf("%+v is known of the next day", known)
		}
	})
}

// An answer that comes after midnight is of the day before. The next call asks again.
func TestAnswerAfterMidnightIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		<-time.After(time.Until(time.Date(2000, 1, 2, 0, 0, 0, 0, china)) - time.Millisecond) // the clock begins the day before
		q, a := newQuota(t, 1_000_000, 1000), &api{limit: 1000, used: 1000, takes: 2 * time.Millisecond}
		if err := call(t.Context(), q, a, "a", 0); err != nil { // does not wait for the answer
			t.Fatal(err)
		}
		<-time.After(time.Second)
		if known := q.Known(); known.Keys != 0 {
			t.Errorf("%+v is known of yesterday", known)
		}
		a.used = 100
		if err := call(t.Context(), q, a, "a", 0); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		if known := q.Known(); known.Keys != 1 || !near(known.Least.Remaining, 899) {
			t.Errorf("%+v is known of the new day", known)
		}
	})
}

// A raised quota is noticed by the first call after some minutes, and at once where the API refused a
// call.
func TestRaisedQuotaIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := newQuota(t, 1_000_000, 1000), &api{limit: 1000, used: 1000, takes: time.Millisecond}
		if err := call(t.Context(), q, a, "a", 0.5); !errors.Is(err, quota.ErrSpent) {
			t.Fatal(err)
		}
		a.limit = 2000
		<-time.After(9 * time.Minute)
		if err := call(t.Context(), q, a, "a", 0); !errors.Is(err, quota.ErrSpent) {
			t.Errorf("asked again after 9 minutes: %v", err)
		}
		<-time.After(time.Minute)
		if err := call(t.Context(), q, a, "a", 0); err != nil {
			t.Errorf("after 10 minutes: %v", err)
		}
		a.limit = 1000
		q.Doubt(t.Context(), "a", a.ask)
		q.WaitForAnswers()
		if err := call(t.Context(), q, a, "a", 0); !errors.Is(err, quota.ErrSpent) {
			t.Errorf("%v after the API refused a call", err)
		}
	})
}

// At a start with many keys, few questions are under way at once, and no call waits for its turn.
func TestManyKeysAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := newQuota(t, 1_000_000, 1000), &api{limit: 1000, takes: 100 * time.Millisecond}
		begin := time.Now()
		for i := range 1000 {
			if err := call(t.Context(), q, a, string(rune(i)), 0); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took > 0 || a.asked() > 4 {
			t.Errorf("%v for the calls of 1000 keys, with %d questions", took, a.asked())
		}
	})
}

// Calls that were under way when the question was asked are not in the answer for certain.
func TestCallsUnderWayCountBesideTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := newQuota(t, 1_000_000, 1000), &api{limit: 10_000}
		for range 5 {
			if err := q.Begin(t.Context(), "a", 0.1, a.ask); err != nil {
				t.Fatal(err)
			}
		}
		q.Doubt(t.Context(), "a", a.ask)
		q.WaitForAnswers()
		if known := q.Known(); known.Least.Remaining != 10_000-5 {
			t.Errorf("%+v is known while 5 calls are under way", known)
		}
		for range 5 {
			a.call()
			q.Finish("a")
		}
		q.Doubt(t.Context(), "a", a.ask)
		q.WaitForAnswers()
		if known := q.Known(); known.Least.Remaining != 10_000-5 {
			t.Errorf("%+v is known when they are finished", known)
		}
	})
}
