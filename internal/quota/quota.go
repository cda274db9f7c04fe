// Package quota bounds the calls of an API: per second over all keys, and per day for each key. It
// goes by what the API itself says is left of a key's day. Where the API does not say, a limit of its
// own holds.
package quota

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// ErrExceeded means that the process's own limit forbids the call now.
var ErrExceeded = errors.New("the service's own limit of calls is reached")

// ErrSpent means that the API's quota of the day is used up, down to what other calls need more.
var ErrSpent = errors.New("the day's quota is used up, or what is left of it is kept for calls that matter more")

// Answer is what the API says of the quota of a key.
type Answer struct {
	// Limit is how many calls may be made in a day, 1 at least, and Remaining how many of them nobody
	// has made today. The API may count up to a hundredth of the limit too few.
	Limit, Remaining int
	// Rate is how many calls may be made in a second, 0 if the API does not say.
	Rate float64
}

// Ask asks the API for the quota of a key. It returns when ctx ends at the latest.
type Ask func(ctx context.Context) (Answer, error)

const (
	// patience bounds a question. Calls that need its answer wait for no longer than that.
	patience = time.Second
	// questions are how many questions may be under way at once, over all keys. A further one is not
	// asked before a later call, unless a call waits for it.
	questions = 4
	// An answer holds for an hour, so that quiet keys are seldom asked about. It holds for less where
	// less than half of the day's calls is left, since others may use them up.
	holds, holdsLess = time.Hour, 10 * time.Minute
)

// margin is how many of a day's calls are never made: one hundredth, since the API may have counted
// that much too few; and as many again, but some at least, for calls of other processes that are not
// in the last answer. See [allowance].
func margin(limit int) int { return (limit+99)/100 + unseen(limit) }

func unseen(limit int) int { return max(limit/100, min(16, limit/4)) }

// allowance is how many calls a process may make on an answer by which so many are left, and as
// many again if they leave nothing to others. Meanwhile other processes may use up what was left.
// Calls that leave a tenth take an eightieth at most of that tenth then. Where no more than a tenth
// is left, four processes together take no more than unseen has for them.
func allowance(limit, left int) int {
	return max(1, unseen(limit)/8, min(limit/80, (left-limit/10)/4))
}

// Quota are the limits. Their state is in memory, so each process has its own; what the API says
// counts the calls of all. It is safe for concurrent use.
type Quota struct {
	overall *rate.Limiter
	perDay  int
	now     func() time.Time
	zone    *time.Location
	slots   chan struct{} // one item for each question under way
	asking  sync.WaitGroup

	mu    sync.Mutex
	keys  map[string]*account
	swept time.Time
}

// account is what is known of a key.
type account struct {
	budget *rate.Limiter // the process's own limit
	// begun and finished count the calls of this process.
	begun, finished int

	// answer is the API's last one. It is void from the end of its day.
	answer Answer
	day    time.Time // its end; the zero time if there is no answer
	// base are the calls that were finished when the question was asked: the answer has those alone for
	// certain. Before the first answer, they are those begun.
	base int
	// credit is how many calls may be begun after those before the next answer: the allowance, and as
	// many again for each question that failed.
	credit, allowance int

	asking  bool
	askAt   time.Time     // when the next question is due, whatever the calls
	changed chan struct{} // closed when a question or a call ends; nil if nobody waits
}

// New returns limits of so many calls per second over all keys and, while the API does not say, so
// many per day for each key. Of these a tenth, but ten at least, can be used at once; the rest comes
// back evenly over the day. The API's day begins at midnight in zone. now is the clock of that day.
func New(perSecond, perDay int, zone *time.Location, now func() time.Time) *Quota {
	return &Quota{
		overall: rate.NewLimiter(rate.Limit(perSecond), perSecond),
		perDay:  perDay, now: now, zone: zone, slots: make(chan struct{}, questions), keys: map[string]*account{},
	}
}

// Begin returns nil when a call for the key may be made; call [Quota.Finish] when it is done, or if
// it is not made after all.
//
// reserve is the part of the key's quota, from 0 to 1, that the call must leave to others: of the
// day's calls by what the API says, otherwise of those that can be made at once. If it forbids the
// call, the error is [ErrSpent] or [ErrExceeded]. Begin waits for the rate over all keys; the error
// is ErrExceeded at once if it allows the call only after the deadline of ctx. Otherwise the error is
// that of ctx. A call that is not allowed costs the key nothing.
//
// ask is used from time to time, mostly while the call goes on. A call waits for the answer if it may
// be one too many without it, and if it would be forbidden by an old one, but not for longer than a
// second. The first call for a key that leaves nothing to others never waits.
func (q *Quota) Begin(ctx context.Context, key string, reserve float64, ask Ask) error {
	if err := q.await(ctx, key, reserve, ask, false); err != nil {
		return err
	}
	if err := q.overall.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return ErrExceeded
	}
	return q.await(ctx, key, reserve, ask, true)
}

// Finish ends a call that [Quota.Begin] allowed.
func (q *Quota) Finish(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	a := q.account(key)
	a.finished++
	a.change()
}

// Doubt asks for the quota of a key, in the background: the API refused a call because of it.
func (q *Quota) Doubt(ctx context.Context, key string, ask Ask) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ask(ctx, q.account(key), ask, true)
}

// WaitForAnswers returns when no question is under way, after a second at most. No call may begin
// meanwhile.
func (q *Quota) WaitForAnswers() { q.asking.Wait() }

// await waits until the call is allowed or forbidden. take notes that it begins.
func (q *Quota) await(ctx context.Context, key string, reserve float64, ask Ask, take bool) error {
	for {
		changed, err := q.try(ctx, key, reserve, ask, take)
		if changed == nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try says whether a call is allowed. If that cannot be said yet, changed is closed when to try
// again.
func (q *Quota) try(ctx context.Context, key string, reserve float64, ask Ask, take bool) (changed <-chan struct{}, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	a := q.account(key)
	wait, err := q.judge(ctx, a, reserve, ask)
	switch {
	case wait:
		return a.waiting(), nil
	case err == nil && take:
		a.begun++
		if a.day.IsZero() {
			a.budget.Allow()
		}
	}
	return nil, err
}

// judge says whether a call is allowed, or has to wait. It has questions asked that are due. The
// caller holds mu.
func (q *Quota) judge(ctx context.Context, a *account, reserve float64, ask Ask) (wait bool, err error) {
	now := q.now()
	known := a.known(now)
	due := !now.Before(a.askAt)
	if !known {
		if due {
			q.ask(ctx, a, ask, false)
		}
		if a.asking && (reserve > 0 || a.own() > 0) {
			return true, nil
		}
		if a.budget.Tokens() < reserve*float64(a.budget.Burst())+1 {
			return false, ErrExceeded
		}
		return false, nil
	}

	limit := a.answer.Limit
	left := a.answer.Remaining - a.own() - margin(limit)
	spare := a.credit - a.own()
	// An answer has the calls that are finished, so it is of no use while many are under way.
	useful := 2*a.underWay() <= a.allowance
	switch {
	case float64(left) < reserve*float64(limit)+1:
		if due {
			q.ask(ctx, a, ask, true)
		}
		if a.asking {
			return true, nil
		}
		return false, ErrSpent
	case spare <= 0 && (reserve > 0 || spare <= -a.allowance):
		if useful {
			q.ask(ctx, a, ask, true)
		}
		return true, nil
	case due || useful && spare <= a.allowance/4:
		q.ask(ctx, a, ask, false)
	}
	return false, nil
}

// ask asks for the quota of a key unless it is asked for already. A question that is not urgent is
// left out if many are under way. The caller holds mu.
func (q *Quota) ask(ctx context.Context, a *account, ask Ask, urgent bool) {
	if a.asking || !urgent && !q.tryAcquire() {
		return
	}
	a.asking = true
	if a.day.IsZero() {
		a.base = a.begun
	}
	asked, finished := q.now(), a.finished
	// Other calls may wait for the answer too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	q.asking.Go(func() {
		defer cancel()
		answer, err := Answer{}, error(nil)
		if urgent {
			err = q.acquire(ctx)
		}
		if err == nil {
			answer, err = ask(ctx)
			<-q.slots
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		a.asking = false
		a.take(answer, err == nil, q.midnightAfter(asked), finished, q.now())
		a.change()
	})
}

func (q *Quota) tryAcquire() bool {
	select {
	case q.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (q *Quota) acquire(ctx context.Context) error {
	select {
	case q.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// midnightAfter returns when the day ends that a time belongs to.
func (q *Quota) midnightAfter(t time.Time) time.Time {
	year, month, day := t.In(q.zone).Date()
	return time.Date(year, month, day+1, 0, 0, 0, 0, q.zone)
}

// take takes in the answer to a question. Without an answer, the one before holds on.
func (a *account) take(answer Answer, ok bool, day time.Time, finished int, now time.Time) {
	switch {
	case ok && !now.Before(day): // an answer of yesterday is none, and the next call asks again
		a.askAt = time.Time{}
		return
	case ok:
		a.answer, a.day, a.base = answer, day, finished
		a.allowance = allowance(answer.Limit, answer.Remaining-margin(answer.Limit))
		a.credit = a.allowance
	case a.known(now):
		a.credit = a.own() + a.allowance
	}
	a.askAt = now.Add(holds)
	if a.known(now) && 2*a.answer.Remaining < a.answer.Limit {
		a.askAt = now.Add(holdsLess)
	}
}

// known reports whether the API has said something of this day. What it said of another is forgotten.
func (a *account) known(now time.Time) bool {
	if !a.day.IsZero() && !now.Before(a.day) {
		a.day, a.askAt = time.Time{}, time.Time{}
	}
	return !a.day.IsZero()
}

// own returns the calls of this process that the answer may not have.
func (a *account) own() int { return a.begun - a.base }

// underWay returns the calls that have begun and are not finished.
func (a *account) underWay() int { return a.begun - a.finished }

// waiting returns a channel that is closed when a question or a call has ended.
func (a *account) waiting() <-chan struct{} {
	if a.changed == nil {
		a.changed = make(chan struct{})
	}
	return a.changed
}

func (a *account) change() {
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

// Known is what the API has said today.
type Known struct {
	// Keys is the number of keys that it said something of.
	Keys int
	// Least is the answer about the key that has the smallest part of its day left, less the calls made
	// since.
	Least Answer
}

// Known returns what the API has said today.
func (q *Quota) Known() Known {
	now := q.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	var known Known
	for _, a := range q.keys {
		if !a.known(now) {
			continue
		}
		answer := a.left()
		known.Keys++
		if known.Keys == 1 || answer.Remaining*known.Least.Limit < known.Least.Remaining*answer.Limit {
			known.Least = answer
		}
	}
	return known
}

// Of returns what the API has said today of a key, less the calls made since, and false if it has
// said nothing.
func (q *Quota) Of(key string) (Answer, bool) {
	now := q.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	a := q.keys[key]
	if a == nil || !a.known(now) {
		return Answer{}, false
	}
	return a.left(), true
}

// left returns the answer, less the calls made since.
func (a *account) left() Answer {
	answer := a.answer
	answer.Remaining = max(0, answer.Remaining-a.own())
	return answer
}

// account returns what is known of a key. It forgets keys that a new account would serve as well. The
// caller holds mu.
func (q *Quota) account(key string) *account {
	if now := time.Now(); now.Sub(q.swept) > time.Minute {
		q.swept = now
		for key, a := range q.keys {
			if a.idle(q.now()) {
				delete(q.keys, key)
			}
		}
	}
	a := q.keys[key]
	if a == nil {
		a = &account{budget: rate.NewLimiter(rate.Every(24*time.Hour/time.Duration(q.perDay)), max(10, q.perDay/10))}
		q.keys[key] = a
	}
	return a
}

// idle reports whether a new account would be as good: the budget is full, no call and no question is
// under way, and none waits for its time.
func (a *account) idle(now time.Time) bool {
	return !a.known(now) && !a.asking && a.underWay() == 0 && !now.Before(a.askAt) &&
		a.budget.Tokens() >= float64(a.budget.Burst())
}
