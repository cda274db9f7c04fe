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

// backend answers a batch when it is told to.
type backend struct {
	mu      sync.Mutex
	batches [][]int
	next    chan error
}

func (b *backend) answer(ctx context.Context, questions []int) ([]string, error) {
	b.mu.Lock()
	b.batches = append(b.batches, slices.Sorted(slices.Values(questions)))
	b.mu.Unlock()
	var err error
	select {
	case err = <-b.next:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	answers := make([]string, len(questions))
	for i, q := range questions {
		answers[i] = fmt.Sprint(q)
	}
	return answers, err
}

func TestCallsThatWaitMakeUpTheNextBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{next: make(chan error)}
		batcher := batch.New(1, 3, b.answer)
		broken := errors.New("broken")
		var calls sync.WaitGroup
		call := func(q int, want error) {
			calls.Go(func() {
				answer, err := batcher.Do(t.Context(), q)
				if !errors.Is(err, want) || err == nil && answer != fmt.Sprint(q) {
					t.Errorf("call %d: answer %q, %v", q, answer, err)
				}
			})
			synctest.Wait()
		}
		call(1, nil)
		for q := range 3 {
			call(2+q, broken)
		}
		call(5, nil)
		b.next <- nil
		synctest.Wait()
		b.next <- broken
		synctest.Wait()
		b.next <- nil
		calls.Wait()
		call(6, nil) // nothing is under way any more
		b.next <- nil
		calls.Wait()
		if want := [][]int{{1}, {2, 3, 4}, {5}, {6}}; !slices.EqualFunc(b.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", b.batches, want)
		}
	})
}

func TestBatchesUnderWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{next: make(chan error)}
		batcher := batch.New(2, 10, b.answer)
		var calls sync.WaitGroup
		for q := range 5 {
			calls.Go(func() { _, _ = batcher.Do(t.Context(), q) })
			synctest.Wait()
		}
		if len(b.batches) != 2 {
			t.Errorf("%d batches under way", len(b.batches))
		}
		close(b.next)
		calls.Wait()
		if len(b.batches) != 3 {
			t.Errorf("batches %v: the calls that waited make up one", b.batches)
		}
	})
}

// A caller that gives up leaves, and the others get their answer.
func TestCallThatWaitsMayGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{next: make(chan error)}
		batcher := batch.New(1, 10, b.answer)
		var calls sync.WaitGroup
		calls.Go(func() { _, _ = batcher.Do(t.Context(), 1) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		calls.Go(func() {
			if _, err := batcher.Do(ctx, 2); !errors.Is(err, context.Canceled) {
				t.Errorf("left with %v", err)
			}
		})
		calls.Go(func() {
			if answer, err := batcher.Do(t.Context(), 3); err != nil || answer != "3" {
				t.Errorf("the call that stays gets %q, %v", answer, err)
			}
		})
		synctest.Wait()
		b.next <- nil // the first batch; the second has both calls
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(b.next)
		calls.Wait()
	})
}

// The work on a batch ends early once all of its callers have given up.
func TestBatchThatNobodyWaitsForEnds(t *testing.T) {
	for _, callers := range []int{1, 3} {
		t.Run(fmt.Sprint(callers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &backend{next: make(chan error)}
				batcher := batch.New(1, 10, b.answer)
				var first, calls sync.WaitGroup
				first.Go(func() { _, _ = batcher.Do(t.Context(), 0) })
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				for q := range callers {
					calls.Go(func() {
						if _, err := batcher.Do(ctx, q); !errors.Is(err, context.Canceled) {
							t.Errorf("call %d: %v", q, err)
						}
					})
				}
				synctest.Wait()
				b.next <- nil
				first.Wait()
				synctest.Wait() // their batch is under way
				cancel()
				calls.Wait()
				synctest.Wait()
				// The next call is not held up by it.
				calls.Go(func() {
					if answer, err := batcher.Do(t.Context(), 9); err != nil || answer != "9" {
						t.Errorf("got %q, %v", answer, err)
					}
				})
				b.next <- nil
				calls.Wait()
			})
		})
	}
}
