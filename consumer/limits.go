package consumer

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// priority says how much of a component's budget of calls is left to more important ones.
type priority int

const (
	// priorityCurrent: the current code, for a token event or a renewal.
	priorityCurrent priority = iota
	// priorityDemand: the current code, for a look-up that waits for it.
	priorityDemand
	// priorityClaim: a code for a claim that waits for it.
	priorityClaim
	// prioritySpare: a spare, made ahead.
	prioritySpare
)

// reserve is the part of the budget that a call of the priority leaves alone.
func (p priority) reserve() float64 {
	switch p {
	case prioritySpare:
		return 0.5
	case priorityDemand, priorityClaim:
		return 0.1
	default:
		return 0
	}
}

// errLimit: the service's own limits, which keep within WeChat's quota, forbid a call now.
var errLimit = errors.New("the service's own limit of calls is reached")

// limits bound the calls of WeChat by this replica: per second over all components, and per day and
// component.
type limits struct {
	overall *rate.Limiter
	perDay  int

	mu      sync.Mutex
	budgets map[string]*rate.Limiter
	swept   time.Time
}

func newLimits(perSecond, perDay int) *limits {
	return &limits{
		overall: rate.NewLimiter(rate.Limit(perSecond), perSecond),
		perDay:  perDay, budgets: map[string]*rate.Limiter{},
	}
}

// wait returns when a call may be made. It waits for the overall rate, and not for the component's
// budget: errLimit says that it is used up as far as the priority may use it.
func (l *limits) wait(ctx context.Context, appid string, p priority) error {
	budget := l.budget(appid)
	enough := func() bool { return budget.Tokens() >= p.reserve()*float64(budget.Burst())+1 }
	if !enough() {
		return errLimit
	}
	if err := l.overall.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errLimit // its turn would come after the deadline
	}
	// Not before: a call that the rate forbids is not to cost the component anything.
	if !enough() || !budget.Allow() {
		return errLimit
	}
	return nil
}

// budget returns what a component has left of its calls. A tenth of the day's can be used at once;
// the rest comes back evenly over the day.
func (l *limits) budget(appid string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.swept) > time.Minute {
		l.swept = now
		for appid, budget := range l.budgets {
			if budget.Tokens() >= float64(budget.Burst()) {
				delete(l.budgets, appid) // as good as new
			}
		}
	}
	budget := l.budgets[appid]
	if budget == nil {
		budget = rate.NewLimiter(rate.Every(24*time.Hour/time.Duration(l.perDay)), max(10, l.perDay/10))
		l.budgets[appid] = budget
	}
	return budget
}
