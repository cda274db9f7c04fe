package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"preauth/internal/batch"
)

// desk answers a group when it is told to.
type desk struct {
	mu     sync.Mutex
	groups [][]int
	next   chan error
}

func (d *desk) answer(questions []int) ([]string, error) {
	d.mu.Lock()
	d.groups = append(d.groups, slices.Sorted(slices.Values(questions)))
	d.mu.Unlock()
	err := <-d.next
	answers := make([]string, len(questions))
	for i, q := range questions {
		answers[i] = fmt.Sprint(q)
	}
	return answers, err
}

func TestQuestionsThatWaitMakeUpTheNextGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{next: make(chan error)}
		g := batch.New(1, 3, d.answer)
		broken := errors.New("broken")
		var asked sync.WaitGroup
		ask := func(q int, want error) {
			asked.Go(func() {
				answer, err := g.Do(t.Context(), q)
				if !errors.Is(err, want) || err == nil && answer != fmt.Sprint(q) {
					t.Errorf("question %d: answer %q, %v", q, answer, err)
				}
			})
			synctest.Wait()
		}
		ask(1, nil)
		for q := range 3 {
			ask(2+q, broken)
		}
		ask(5, nil)
		d.next <- nil
		synctest.Wait()
		d.next <- broken
		synctest.Wait()
		d.next <- nil
		asked.Wait()
		ask(6, nil) // nobody is left at the desk
		d.next <- nil
		asked.Wait()
		if want := [][]int{{1}, {2, 3, 4}, {5}, {6}}; !slices.EqualFunc(d.groups, want, slices.Equal) {
			t.Errorf("groups of %v, want %v", d.groups, want)
		}
	})
}

func TestGroupsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{next: make(chan error)}
		g := batch.New(2, 10, d.answer)
		var asked sync.WaitGroup
		for q := range 5 {
			asked.Go(func() { _, _ = g.Do(t.Context(), q) })
			synctest.Wait()
		}
		if len(d.groups) != 2 {
			t.Errorf("%d groups at once", len(d.groups))
		}
		close(d.next)
		asked.Wait()
		if len(d.groups) != 3 {
			t.Errorf("groups of %v: those who waited make up one", d.groups)
		}
	})
}

func TestWhoeverWaitsMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{next: make(chan error)}
		g := batch.New(1, 10, d.answer)
		var asked sync.WaitGroup
		asked.Go(func() { _, _ = g.Do(t.Context(), 1) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		asked.Go(func() {
			if _, err := g.Do(ctx, 2); !errors.Is(err, context.Canceled) {
				t.Errorf("left with %v", err)
			}
		})
		asked.Go(func() {
			if answer, err := g.Do(t.Context(), 3); err != nil || answer != "3" {
				t.Errorf("whoever stays gets %q, %v", answer, err)
			}
		})
		synctest.Wait()
		cancel()
		close(d.next)
		asked.Wait()
	})
}
