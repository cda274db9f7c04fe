package repo_test

import (
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"preauth/repo"
)

// lease leases wx1 at its newest revision, and expects whether it succeeds.
func (d *database) lease(t testing.TB, now time.Time, want bool) repo.Component {
	t.Helper()
	c, taken, err := d.Lease(within(t), "wx1", d.component(t, "wx1").Revision, now, now.Add(time.Minute))
	if err != nil || taken != want {
		t.Errorf("taken: %v, wanted %v, %v", taken, want, err)
	}
	if taken && !c.DueAt.Equal(now.Add(time.Minute)) {
		t.Errorf("taken: %+v", c)
	}
	return c
}

// leaseDue leases what is due, and expects how many components that is.
func (d *database) leaseDue(t testing.TB, now time.Time, want int) {
	t.Helper()
	if taken, err := d.LeaseDue(within(t), now, now.Add(time.Minute), 10); err != nil || len(taken) != want {
		t.Errorf("%d are due, wanted %d, %v", len(taken), want, err)
	}
}

func TestLease(t *testing.T) {
	second := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	due := func(n int) func(*repo.Outcome) { return func(o *repo.Outcome) { o.DueAt = second(n) } }
	never := func(o *repo.Outcome) { o.DueAt = time.Time{} }
	tests := map[string]struct {
		given repo.Outcome
		then  func(t *testing.T, d *database)
	}{
		"one that is due later": {succeeded("wx1", at(1), "a", due(900)), func(t *testing.T, d *database) {
			if c := d.lease(t, second(10), true); c.Current == nil || c.Current.PreAuthCode.Reveal() != "a" || c.Revision != 1 {
				t.Errorf("got %+v", c)
			}
		}},
		"one that is due": {succeeded("wx1", at(1), "a", due(5)), func(t *testing.T, d *database) {
			d.lease(t, second(10), true)
		}},
		"one that waits for a newer token": {failed("wx1", at(1), 1, never), func(t *testing.T, d *database) {
			if c := d.lease(t, second(10), true); c.Failure == nil || c.Attempts != 1 {
				t.Errorf("got %+v", c)
			}
		}},
		"one with a lease": {succeeded("wx1", at(1), "a", due(900)), func(t *testing.T, d *database) {
			d.lease(t, second(10), true)
			if c := d.lease(t, second(69), false); !c.DueAt.Equal(second(70)) || c.Current == nil {
				t.Errorf("got %+v", c)
			}
			d.leaseDue(t, second(69), 0)
			// At the end of the lease anybody can have it.
			d.lease(t, second(70), true)
			d.leaseDue(t, second(130), 1)
		}},
		"one that was leased because it was due": {succeeded("wx1", at(1), "a", due(5)), func(t *testing.T, d *database) {
			d.leaseDue(t, second(10), 1)
			d.lease(t, second(69), false)
			d.lease(t, second(70), true)
		}},
		"one whose lease a code has ended": {succeeded("wx1", at(1), "a", due(900)), func(t *testing.T, d *database) {
			d.lease(t, second(10), true)
			d.save(t, renewed("wx1", at(1), "b", due(900)))
			// A replica that has not seen the new code does not lease the component,
			c, taken, err := d.Lease(within(t), "wx1", 1, second(11), second(70))
			if err != nil || taken || c.Revision != 2 || c.Current.PreAuthCode.Reveal() != "b" || !c.DueAt.Equal(second(900)) {
				t.Errorf("%+v, %v, %v", c, taken, err)
			}
			// and one that has can.
			d.lease(t, second(11), true)
		}},
		"one whose lease a newer token has ended": {succeeded("wx1", at(1), "a", due(900)), func(t *testing.T, d *database) {
			d.lease(t, second(10), true)
			d.save(t, succeeded("wx1", at(2), "b", due(900)))
			d.lease(t, second(11), true)
		}},
		"one whose lease outlasts its token, announced again": {succeeded("wx1", at(1), "a", due(900)), func(t *testing.T, d *database) {
			d.lease(t, second(10), true)
			d.save(t, repeated("wx1", at(2), at(1)))
			d.lease(t, second(69), false)
			// The renewal began with the first event. Its code counts, and the newer event stays the newest.
			if results := d.save(t, renewed("wx1", at(1), "b", due(900))); results[0].Status != repo.Saved || results[0].Revision != 2 {
				t.Errorf("got %+v", results)
			}
			if c := d.component(t, "wx1"); c.Token.Position != at(2) || c.Current.PreAuthCode.Reveal() != "b" || !c.DueAt.Equal(second(900)) {
				t.Errorf("got %+v", c)
			}
			d.lease(t, second(69), true)
		}},
		"one whose renewal fails while its token is announced again": {succeeded("wx1", at(1), "a", due(900)), func(t *testing.T, d *database) {
			d.lease(t, second(10), true)
			d.save(t, repeated("wx1", at(2), at(1)),
				failed("wx1", at(1), 1, due(900), func(o *repo.Outcome) { o.Cause = "renewal" }))
			if c := d.component(t, "wx1"); c.Failure == nil || c.Token.Position != at(2) || !c.DueAt.Equal(second(900)) {
				t.Errorf("got %+v", c)
			}
		}},
		"one whose lease a failure has ended": {succeeded("wx1", at(1), "a", due(900)), func(t *testing.T, d *database) {
			d.lease(t, second(10), true)
			d.save(t, failed("wx1", at(1), 1, due(900), func(o *repo.Outcome) { o.Cause = "renewal" }))
			if c := d.component(t, "wx1"); !c.DueAt.Equal(second(900)) {
				t.Errorf("got %+v", c)
			}
			d.lease(t, second(11), true)
		}},
		"one whose lease a late outcome does not end": {succeeded("wx1", at(2), "a", due(900)), func(t *testing.T, d *database) {
			d.lease(t, second(10), true)
			d.save(t, succeeded("wx1", at(1), "late"), failed("wx1", at(1), 1))
			d.lease(t, second(11), false)
		}},
		"one at an older revision than the caller's": {succeeded("wx1", at(1), "a", due(900)), func(t *testing.T, d *database) {
			if c, leased, err := d.Lease(within(t), "wx1", 2, second(10), second(70)); err != nil || leased || c.Revision != 1 {
				t.Errorf("%+v, %v, %v", c, leased, err)
			}
		}},
		"one that nobody knows": {succeeded("wx2", at(1), "a", due(900)), func(t *testing.T, d *database) {
			if c := d.lease(t, second(10), false); c.AppID != "" {
				t.Errorf("got %+v", c)
			}
		}},
		"for no time": {succeeded("wx1", at(1), "a", due(900)), func(t *testing.T, d *database) {
			if _, taken, err := d.Lease(within(t), "wx1", 1, second(10), second(10)); err == nil || taken || errors.Is(err, repo.ErrUnavailable) {
				t.Errorf("%v, %v", taken, err)
			}
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			d.save(t, test.given)
			test.then(t, d)
		})
	}
}

// A lease returns what is known of its component, and its times count to the microsecond.
func TestALeasedComponentIsWhatIsKnown(t *testing.T) {
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "former"), succeeded("wx2", at(2), "other"), failed("wx3", at(3), 1))
	d.save(t, succeeded("wx1", at(4), "current"))
	known, err := d.Components(within(t), []string{"wx1", "wx2", "wx3"})
	if err != nil {
		t.Fatal(err)
	}
	const finer = 999 * time.Nanosecond
	now, until := start.Add(24*time.Hour), start.Add(25*time.Hour)
	leased, err := d.LeaseDue(within(t), now.Add(finer), until.Add(finer), 10)
	if err != nil || len(leased) != len(known) {
		t.Fatalf("%d are leased, wanted %d, %v", len(leased), len(known), err)
	}
	for _, c := range leased {
		want := known[c.AppID]
		want.DueAt = until
		if !reflect.DeepEqual(c, want) {
			t.Errorf("got  %+v\nwant %+v", c, want)
		}
	}
	extended, err := d.Extend(within(t), "wx1", until.Add(finer), until.Add(time.Hour+finer))
	if c := d.component(t, "wx1"); err != nil || !extended || !c.DueAt.Equal(until.Add(time.Hour)) {
		t.Errorf("extended: %v, %v, due at %v", extended, err, c.DueAt)
	}
	c, ok, err := d.Lease(within(t), "wx2", 1, until.Add(finer), until.Add(time.Hour+finer))
	if err != nil || !ok || !c.DueAt.Equal(until.Add(time.Hour)) {
		t.Errorf("leased: %v, %v, due at %v", ok, err, c.DueAt)
	}
	_, err1 := d.LeaseDue(within(t), now, now.Add(finer), 10)
	_, _, err2 := d.Lease(within(t), "wx3", 0, now, now.Add(finer))
	if err1 == nil || err2 == nil {
		t.Error("a lease of less than a microsecond")
	}
}

func TestExtend(t *testing.T) {
	second := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	d := newDatabase(t)
	extend := func(dueAt, until int, want bool) {
		t.Helper()
		if extended, err := d.Extend(within(t), "wx1", second(dueAt), second(until)); err != nil || extended != want {
			t.Errorf("extended: %v, wanted %v, %v", extended, want, err)
		}
	}
	extend(60, 80, false) // unknown component
	d.save(t, succeeded("wx1", at(1), "a", func(o *repo.Outcome) { o.DueAt = start }))
	extend(0, 80, false) // not leased
	d.leaseDue(t, start, 1)
	extend(60, 80, true)
	extend(60, 80, true) // repeated, since its answer was lost
	d.leaseDue(t, second(79), 0)
	extend(80, 100, true)
	extend(100, 140, true) // ran out, and nobody took the component
	d.leaseDue(t, second(140), 1)
	extend(140, 160, false) // another replica has it
	d.save(t, succeeded("wx1", at(2), "b", func(o *repo.Outcome) { o.DueAt = second(900) }))
	extend(200, 220, false) // an outcome ended it
}

func TestOneOfManyTakesAComponent(t *testing.T) {
	d := newDatabase(t)
	other, _ := open(t, d.dsn)
	replicas := []*repo.Repo{d.Repo, other}
	d.save(t, succeeded("wx1", at(1), "a", func(o *repo.Outcome) { o.DueAt = start.Add(time.Minute) }))
	for round := range 10 {
		// Given a component that is due,
		now := start.Add(time.Duration(round+1) * time.Minute)
		// when some want it because it is due, and some because of a look-up,
		var owners atomic.Int64
		var taking sync.WaitGroup
		for i := range 12 {
			taking.Go(func() {
				r := replicas[i%2]
				if i < 6 {
					taken, err := r.LeaseDue(t.Context(), now, now.Add(time.Minute), 10)
					if err != nil {
						t.Error(err)
					}
					owners.Add(int64(len(taken)))
					return
				}
				_, taken, err := r.Lease(t.Context(), "wx1", 1, now, now.Add(time.Minute))
				if err != nil {
					t.Error(err)
				}
				if taken {
					owners.Add(1)
				}
			})
		}
		taking.Wait()
		// then one gets it.
		if n := owners.Load(); n != 1 {
			t.Errorf("round %d: %d have taken it", round, n)
		}
	}
}
