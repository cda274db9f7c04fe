// Package quota bounds the calls of an API: per second over all keys, and per day for each key.
package quota

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// ErrExceeded means that a limit forbids the call now.
var ErrExceeded = errors.New("the service's own limit of calls is reached")

// Quota are the limits. They live in memory, so each process has its own. It is safe for concurrent
// use.
type Quota struct {
	overall *rate.Limiter
	perDay  int

	mu      sync.Mutex
	budgets map[string]*rate.Limiter
	swept   time.Time
}

// New returns limits of so many calls per second over all keys and so many per day for each key. A
// tenth of a day's calls, but ten at least, can be used at once; the rest comes back evenly over
// the day.
func New(perSecond, perDay int) *Quota {
	return &Quota{
		overall: rate.NewLimiter(rate.Limit(perSecond), perSecond),
		perDay:  perDay, budgets: map[string]*rate.Limiter{},
	}
}

// Wait returns nil when a call for the key may be made. reserve is the part of the key's budget,
// from 0 to 1, that the call must leave to others. Wait waits for the rate over all keys and never
// for the key's budget: the error is [ErrExceeded] at once if the budget is used up down to the
// reserve, or if the rate allows the call only after the deadline of ctx. Otherwise it is the error
// of ctx. A call that is not allowed costs the key nothing.
func (q *Quota) Wait(ctx context.Context, key string, reserve float64) error {
	budget := q.budget(key)
	enough := func() bool { return budget.Tokens() >= reserve*float64(budget.Burst())+1 }
	if !enough() {
		return ErrExceeded
	}
	if err := q.overall.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return ErrExceeded
	}
	if !enough() || !budget.Allow() {
		return ErrExceeded
	}
	return nil
}

// Left returns how many calls for the key can be made at once.
func (q *Quota) Left(key string) float64 { return q.budget(key).Tokens() }

func (q *Quota) budget(key string) *rate.Limiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); now.Sub(q.swept) > time.Minute {
		q.swept = now
		for key, budget := range q.budgets {
			if budget.Tokens() >= float64(budget.Burst()) {
				delete(q.budgets, key) // a full budget is as good as a new one
			}
		}
	}
	budget := q.budgets[key]
	if budget == nil {
		budget = rate.NewLimiter(rate.Every(24*time.Hour/time.Duration(q.perDay)), max(10, q.perDay/10))
		q.budgets[key] = budget
	}
	return budget
}
