package consumer

import (
	"context"
	"testing"
	"testing/synctest"

	"preauth/repo"
)

// Work is done while the database is ours. When it is given away, the work ends before it may begin
// again, and at the end of the service hold returns after it.
func TestWorkIsDoneWhileTheDatabaseIsOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwnership(Config{}, nil, nil, nil)
		become := func(err error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.err = err
			close(o.changed)
			o.changed = make(chan struct{})
		}
		type state struct {
			begun, ended int
			returned     bool
		}
		var got state
		is := func(when string, want state) {
			t.Helper()
			if synctest.Wait(); got != want {
				t.Errorf("%s: %+v, want %+v", when, got, want)
			}
		}
		finish := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			o.hold(ctx, func(ctx context.Context) {
				got.begun++
				<-ctx.Done()
				<-finish
				got.ended++
			})
			got.returned = true
		}()
		is("before the database has said whose it is", state{})
		become(nil)
		is("ours", state{begun: 1})
		become(repo.ErrOtherStreams)
		become(nil)
		is("ours again before the work has ended", state{begun: 1})
		finish <- struct{}{}
		is("and after that", state{begun: 2, ended: 1})
		become(repo.ErrOtherStreams)
		finish <- struct{}{}
		is("theirs", state{begun: 2, ended: 2})
		become(nil)
		is("ours once more", state{begun: 3, ended: 2})
		cancel()
		is("at the end, before the work has ended", state{begun: 3, ended: 2})
		finish <- struct{}{}
		is("at the end", state{begun: 3, ended: 3, returned: true})
	})
}
