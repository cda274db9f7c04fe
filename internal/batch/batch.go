// Package batch coalesces concurrent calls into one.
package batch

import (
	"context"
	"sync"
	"sync/atomic"
)

// Batcher hands concurrent calls on in batches. Calls that come while as many batches as allowed are
// under way wait and make up the next one. So a lone call waits for nobody, and the more calls come,
// the less each of them costs. It is safe for concurrent use.
type Batcher[Q, A any] struct {
	answer         func(context.Context, []Q) ([]A, error)
	batches, limit int

	mu       sync.Mutex
	underWay int
	waiting  []*call[Q, A]
}

type call[Q, A any] struct {
	ctx  context.Context
	q    Q
	a    A
	err  error
	done chan struct{}
}

// New returns a Batcher with at most so many batches under way, of at most limit calls each. answer
// returns the answers in the order of the questions, or an error, which every call of the batch
// gets. Its context ends when the contexts of all calls of the batch have ended.
func New[Q, A any](batches, limit int, answer func(context.Context, []Q) ([]A, error)) *Batcher[Q, A] {
	return &Batcher[Q, A]{answer: answer, batches: batches, limit: limit}
}

// Do returns the answer to q. If ctx ends first, Do returns the error of ctx, with one exception:
// the caller that happens to work on its batch returns when the batch is done.
func (b *Batcher[Q, A]) Do(ctx context.Context, q Q) (A, error) {
	c := &call[Q, A]{ctx: ctx, q: q, done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, c)
	free := b.underWay < b.batches
	if free {
		b.underWay++
	}
	b.mu.Unlock()
	// The caller works on its own batch: handing that to a goroutine would cost a lone call time.
	if free && b.next() {
		go func() {
			for b.next() {
			}
		}()
	}
	select {
	case <-c.done:
		return c.a, c.err
	case <-ctx.Done():
		var none A
		return none, ctx.Err()
	}
}

// next works on a batch of the calls that wait, and reports whether more of them wait. If none does,
// the number of batches under way is one less.
func (b *Batcher[Q, A]) next() bool {
	b.mu.Lock()
	n := min(len(b.waiting), b.limit)
	calls := b.waiting[:n:n]
	b.waiting = b.waiting[n:]
	b.mu.Unlock()
	if n > 0 {
		b.work(calls)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) > 0 {
		return true
	}
	b.waiting = nil
	b.underWay--
	return false
}

func (b *Batcher[Q, A]) work(calls []*call[Q, A]) {
	ctx, cancel := common(calls)
	defer cancel()
	questions := make([]Q, len(calls))
	for i, c := range calls {
		questions[i] = c.q
	}
	answers, err := b.answer(ctx, questions)
	for i, c := range calls {
		if c.err = err; err == nil {
			c.a = answers[i]
		}
		close(c.done)
	}
}

// common returns a context that ends when those of all calls have ended.
func common[Q, A any](calls []*call[Q, A]) (context.Context, context.CancelFunc) {
	if len(calls) == 1 {
		return calls[0].ctx, func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(calls[0].ctx))
	left := new(atomic.Int64)
	left.Store(int64(len(calls)))
	stops := make([]func() bool, len(calls))
	for i, c := range calls {
		stops[i] = context.AfterFunc(c.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}
