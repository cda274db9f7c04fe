// Package gather has questions that come at the same time answered together.
package batch

import (
	"context"
	"sync"
)

// Batcher answers questions in groups: those that come while as many groups as may be are worked on make up the
// next one. So a lone question waits for nobody, and the more come, the less each of them costs. It is safe for
// concurrent use.
type Batcher[Q, A any] struct {
	answer       func([]Q) ([]A, error)
	groups, most int

	mu       sync.Mutex
	underWay int
	waiting  []*question[Q, A]
}

type question[Q, A any] struct {
	q    Q
	a    A
	err  error
	done chan struct{}
}

// New returns a Batcher that works on so many groups at once, of at most so many questions each. answer returns the
// answers in the order of the questions, or an error that is then everybody's. It runs until it has an answer, whoever
// of those that asked is still there.
func New[Q, A any](groups, most int, answer func([]Q) ([]A, error)) *Batcher[Q, A] {
	return &Batcher[Q, A]{answer: answer, groups: groups, most: most}
}

// Do returns the answer to q. If ctx ends before there is one, it returns the error of ctx, unless it is this
// caller who works on its group: handing that over would cost a lone question time.
func (g *Batcher[Q, A]) Do(ctx context.Context, q Q) (A, error) {
	this := &question[Q, A]{q: q, done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, this)
	free := g.underWay < g.groups
	if free {
		g.underWay++
	}
	g.mu.Unlock()
	if free && g.next() {
		go func() {
			for g.next() {
			}
		}()
	}
	select {
	case <-this.done:
		return this.a, this.err
	case <-ctx.Done():
		var none A
		return none, ctx.Err()
	}
}

// next works on a group of those that wait, and reports whether there are more. If not, the groups under way are one
// less.
func (g *Batcher[Q, A]) next() bool {
	g.mu.Lock()
	n := min(len(g.waiting), g.most)
	group := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	g.mu.Unlock()
	if n > 0 {
		g.work(group)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) > 0 {
		return true
	}
	g.waiting = nil
	g.underWay--
	return false
}

func (g *Batcher[Q, A]) work(group []*question[Q, A]) {
	questions := make([]Q, len(group))
	for i, each := range group {
		questions[i] = each.q
	}
	answers, err := g.answer(questions)
	for i, each := range group {
		if each.err = err; err == nil {
			each.a = answers[i]
		}
		close(each.done)
	}
}
