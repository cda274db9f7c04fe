package consumer_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"preauth"
	"preauth/consumer"
	"preauth/repo"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

// denied is what MySQL answers to a statement for which the service lacks a right. It is not
// repeated.
var denied = repotest.Answered(1142, "command denied")

// allDue makes all components due, and leases none.
func (w *world) allDue() {
	w.t.Helper()
	w.database.MustExec("UPDATE component SET due_at = UTC_TIMESTAMP(6), lease = NULL")
}

// leases returns how many components are leased.
func (w *world) leases() (n int) {
	w.t.Helper()
	if err := w.database.Get(&n, "SELECT COUNT(*) FROM component WHERE lease IS NOT NULL"); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// notLeased returns how many components are due and wait for a lease.
func (w *world) notLeased() (n int) {
	w.t.Helper()
	if err := w.database.Get(&n, "SELECT COUNT(*) FROM component WHERE lease IS NULL AND due_at <= UTC_TIMESTAMP(6)"); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// A replica leases as many due components as it can renew at once, and each renewal makes room for
// another one. It looks again at once only if there may be more.
func TestDueComponentsAreLeasedAsThereIsRoom(t *testing.T) {
	const room, components = 3, 7
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(rarelyDue, func(s *setup) { s.db, s.cfg.Calls = db, room }).ready()
	for i := range components {
		w.announce(fmt.Sprint("wx", i), w.token(fmt.Sprint(i)))
	}
	w.acknowledged()
	w.allDue()
	lease := func(wantMore bool, leased int) {
		t.Helper()
		before := w.wechat.Count("")
		if more := consumer.LeaseDue(w.within(), r.service); more != wantMore {
			t.Errorf("there may be more: %v, want %v", more, wantMore)
		}
		consumer.AwaitRenewals(r.service)
		if n := w.wechat.Count("") - before; n != leased {
			t.Errorf("%d components leased, want %d", n, leased)
		}
		if n := consumer.Renewable(r.service); n != room {
			t.Errorf("room for %d components afterwards, want %d", n, room)
		}
	}

	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Fault{HoldAnswer: hold} })
	if !consumer.LeaseDue(w.within(), r.service) {
		t.Error("there are no more, where there are four")
	}
	if n := consumer.Renewable(r.service); n != 0 || w.leases() != room {
		t.Errorf("%d components leased and room for %d, want %d and none", w.leases(), n, room)
	}
	hold.Release()
	consumer.AwaitRenewals(r.service)
	w.wechat.Every(nil)
	lease(true, room)
	lease(false, 1)
	lease(false, 0)

	w.allDue()
	for _, statement := range []string{"due", "lease", "leased"} {
		faults.Script(statement, denied)
		lease(false, 0)
		if err := r.service.Ready(); !contains(err, "due components: repo: lease due: ") {
			t.Errorf("%s is denied: not ready: %v", statement, err)
		}
	}
	w.allDue() // those that were leased without an answer
	lease(true, room)
	if err := r.service.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

// However much room there is, one look leases a hundred components at most, and the next one the
// others.
func TestDueComponentsAreLeasedByTheHundred(t *testing.T) {
	const components = 101
	w := newWorld(t, wechattest.Options{})
	r := w.start(rarelyDue, func(s *setup) { s.cfg.Calls = 2 * components }).ready()
	for i := range components {
		w.announce(fmt.Sprint("wx", i), w.token(fmt.Sprint(i)))
	}
	w.acknowledged()
	w.allDue()
	for _, want := range []struct {
		more   bool
		leased int
	}{{true, 100}, {false, 1}} {
		before := w.notLeased()
		more := consumer.LeaseDue(w.within(), r.service)
		consumer.AwaitRenewals(r.service)
		if n := before - w.notLeased(); n != want.leased || more != want.more {
			t.Errorf("%d components leased, and there may be more: %v; want %d, %v", n, more, want.leased, want.more)
		}
		if n := consumer.Renewable(r.service); n != 2*components {
			t.Errorf("room for %d components afterwards, want %d", n, 2*components)
		}
	}
}

// A replica that has yet to read the tokens, or that lost NATS, leases no component: it would take
// the token for lost, or work with an old one.
func TestNothingIsLeasedWithoutTheTokens(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(rarelyDue, func(s *setup) { s.db = db }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	w.allDue()
	w.stopNATS()
	w.eventually("disconnected", func() bool { return !r.nc.IsConnected() })
	faults.Operations()
	if consumer.LeaseDue(w.within(), r.service) || slices.Contains(faults.Operations(), "due") {
		t.Error("it looks for due components without NATS")
	}
	w.restartNATS()
	r.ready().stop()

	unread := w.prepare()
	if consumer.LeaseDue(w.within(), unread.service) || w.leases() != 0 {
		t.Error("it leases due components without their tokens")
	}
	next(w, consumer.RenewNow(w.within(), unread.service, "wx1", 1))
	if failure := unread.failure("wx1"); failure != nil || w.leases() != 0 {
		t.Errorf("on demand, without the token: %d leases, failure %+v", w.leases(), failure)
	}
	if n := w.wechat.Count("wx1"); n != 1 {
		t.Errorf("%d calls, want the one for the token", n)
	}
}

// leased returns a replica that does not run, with a lease of wx1 at the time of a clock that
// stands still.
func leased(t *testing.T) (w *world, r *replica, faults *repotest.Faults, c *simClock, component repo.Component) {
	t.Helper()
	w = newWorld(t, wechattest.Options{})
	first := w.start().ready()
	w.announce("wx1", w.token("a"))
	w.settled(first, "wx1")
	first.stop()
	c = new(simClock)
	c.set(time.Now().Truncate(time.Microsecond))
	db, faults := w.faulty()
	r = w.prepare(func(s *setup) {
		s.db, s.cfg.Now = db, c.Now
		consumer.ShortenIntervals(&s.cfg, time.Hour, 10*time.Millisecond, time.Hour, time.Hour)
	})
	component, ok, err := db.Lease(w.within(), "wx1", 1, c.Now(), c.Now().Add(leaseTime))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	return w, r, faults, c, component
}

// leaseTime is that of a lease.
const leaseTime = 20 * time.Second

// leasedUntil waits until the lease of wx1 ends at a time.
func (w *world) leasedUntil(end time.Time) {
	w.t.Helper()
	w.eventually(fmt.Sprint("the lease ends at ", end), func() bool {
		var dueAt time.Time
		if err := w.database.Get(&dueAt, "SELECT due_at FROM component WHERE appid = 'wx1'"); err != nil {
			w.t.Fatal(err)
		}
		return dueAt.Equal(end)
	})
}

// A lease is renewed for as long as the work on its component takes, and not afterwards.
func TestLeaseIsHeldUntilItIsReleased(t *testing.T) {
	w, r, faults, c, component := leased(t)
	lost, release := consumer.HoldLease(w.within(), r.service, component)
	for range 5 {
		c.advance(leaseTime / 2)
		w.leasedUntil(c.Now().Add(leaseTime))
		if lost() {
			t.Fatal("the lease is said to be lost")
		}
	}
	// The work's outcome is saved before the release, so nothing may be on its way after it.
	reached, released := make(chan struct{}), make(chan struct{})
	early := make(chan bool, 1)
	faults.Script("extend", repotest.Fault{Before: func() {
		close(reached)
		select {
		case <-released:
			early <- true
		case <-time.After(300 * time.Millisecond):
			early <- false
		}
	}})
	next(w, reached)
	release()
	close(released)
	if next(w, early) {
		t.Error("the lease was released while it was being renewed")
	}
	c.advance(leaseTime)
	if !lost() {
		t.Error("a lease that ended is not lost")
	}
}

// MySQL renews a lease and the answer is lost. The lease is held all the same.
func TestLeaseIsHeldThoughAnAnswerIsLost(t *testing.T) {
	w, r, faults, c, component := leased(t)
	answered := make(chan struct{})
	unanswered := denied
	unanswered.Skip = false
	unanswered.After = func() { c.advance(time.Second) }
	last := unanswered
	last.After = func() { c.advance(time.Second); close(answered) }
	faults.Script("extend", unanswered, unanswered, last)
	lost, release := consumer.HoldLease(w.within(), r.service, component)
	defer release()
	next(w, answered)
	w.leasedUntil(c.Now().Add(leaseTime))
	if lost() {
		t.Error("the lease is said to be lost")
	}
}

// While MySQL cannot say whether it renewed a lease, the lease lasts until it would have ended. It
// is held on if MySQL answers again before anybody else has taken the component.
func TestLeaseThatCannotBeRenewedLastsUntilItsEnd(t *testing.T) {
	w, r, faults, c, component := leased(t)
	faults.Script("extend", slices.Repeat([]repotest.Fault{denied}, 10_000)...)
	lost, release := consumer.HoldLease(w.within(), r.service, component)
	defer release()
	tried := func(n int) {
		t.Helper()
		faults.Operations()
		w.eventually("MySQL was asked", func() bool {
			n -= strings.Count(strings.Join(faults.Operations(), " "), "extend")
			return n <= 0
		})
	}
	c.advance(leaseTime - time.Microsecond)
	tried(3)
	if lost() {
		t.Error("the lease is lost before its end")
	}
	c.advance(time.Microsecond)
	tried(3)
	if !lost() {
		t.Error("the lease is not lost at its end")
	}
	faults.Reset()
	w.leasedUntil(c.Now().Add(leaseTime))
	w.eventually("held again", func() bool { return !lost() })
}

// Another replica has the component, or its outcome is saved. Then the lease is lost before its time
// is over.
func TestLeaseThatIsOverIsLost(t *testing.T) {
	for name, end := range map[string]func(w *world, now time.Time){
		"another replica has it": func(w *world, now time.Time) {
			w.database.MustExec("UPDATE component SET due_at = ?, lease = 'another replica' WHERE appid = 'wx1'", now.Add(time.Hour))
		},
		"an outcome is saved": func(w *world, now time.Time) {
			w.database.MustExec("UPDATE component SET due_at = ?, lease = NULL WHERE appid = 'wx1'", now.Add(time.Hour))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, r, faults, c, component := leased(t)
			lost, release := consumer.HoldLease(w.within(), r.service, component)
			defer release()
			end(w, c.Now())
			w.eventually("lost", lost)
			w.leasedUntil(c.Now().Add(time.Hour))
			faults.Operations()
			c.advance(time.Second)
			release()
			if slices.Contains(faults.Operations(), "extend") {
				t.Error("it is still renewed")
			}
		})
	}
}

// refusedRenewal has MySQL refuse the renewed code of wx1, and returns that code and a clock that is
// in the last quarter of the life of the first one.
func refusedRenewal(t *testing.T) (w *world, r *replica, c *clock, refused preauth.Secret) {
	t.Helper()
	c = new(clock)
	w = newWorld(t, wechattest.Options{Now: c.Now})
	db, faults := w.faulty()
	r = w.start(func(s *setup) { s.db, s.cfg.Now = db, c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	done := make(chan struct{})
	refusal := denied
	refusal.After = func() { close(done) }
	faults.Script("code", refusal)
	c.advance(25 * time.Minute)
	next(w, done)
	w.eventually("logged", func() bool { return strings.Contains(w.log.String(), "due component left for later") })
	issued := w.wechat.Issued("wx1")
	if len(issued) != 2 {
		t.Fatalf("%d codes", len(issued))
	}
	return w, r, c, issued[1]
}

// A renewed code that MySQL refused is saved at the component's next turn, and only once: the next
// renewal gets another one.
func TestRefusedCodeIsSavedOnce(t *testing.T) {
	w, r, c, refused := refusedRenewal(t)
	c.advance(leaseTime + time.Second)
	r.await(consumer.StepCommitted, "wx1", 2)
	if update := w.settled(r, "wx1"); !update.PreAuthCode.Equal(refused) {
		t.Error("another code is current")
	}
	w.authorize("wx1", refused, "wxa") // which has it replaced at once
	r.await(consumer.StepCommitted, "wx1", 3)
	w.settled(r, "wx1")
	if n := r.stepsOf(consumer.StepFailed, "wx1"); n != 0 {
		t.Errorf("%d failures recorded", n)
	}
	if n := w.wechat.Count("wx1"); n != 3 {
		t.Errorf("%d calls, want one for each code", n)
	}
}

// A renewed code that MySQL refused is of no use when it is due for renewal itself, or when a newer
// token has brought another one.
func TestRefusedCodeThatIsOfNoUse(t *testing.T) {
	for name, test := range map[string]struct {
		given     func(w *world, r *replica, c *clock)
		committed int // codes, with the renewed one
	}{
		"due itself": {func(_ *world, _ *replica, c *clock) { c.advance(25 * time.Minute) }, 2},
		"made with an older token": {func(w *world, r *replica, c *clock) {
			w.announce("wx1", w.token("b"))
			r.await(consumer.StepCommitted, "wx1", 2)
			w.settled(r, "wx1")
			w.due("wx1", c.Now())
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			w, r, c, refused := refusedRenewal(t)
			test.given(w, r, c)
			r.await(consumer.StepCommitted, "wx1", test.committed)
			if update := w.settled(r, "wx1"); update.PreAuthCode.Equal(refused) {
				t.Error("the refused code is current")
			}
			if n := w.wechat.Count("wx1"); n != test.committed+1 {
				t.Errorf("%d calls, want %d", n, test.committed+1)
			}
			if n := r.stepsOf(consumer.StepSuperseded, "wx1"); n != 0 {
				t.Error("it was saved, and came too late")
			}
		})
	}
}

// MySQL refuses to save that a renewal failed. That is not kept for the next turn, which asks WeChat
// again.
func TestRefusedFailureIsForgotten(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	db, faults := w.faulty()
	r := w.start(unrenewed, func(s *setup) { s.db, s.cfg.Now = db, c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	var refused atomic.Bool
	refusal := denied
	refusal.After = func() { refused.Store(true) }
	faults.Script("lock", refusal)
	w.wechat.Next("wx1", wechattest.Error(-1, ""))
	c.advance(25 * time.Minute)
	w.eventually("refused", refused.Load)
	c.advance(leaseTime + time.Second)
	r.await(consumer.StepCommitted, "wx1", 2)
	w.settled(r, "wx1")
	if n := r.stepsOf(consumer.StepFailed, "wx1"); n != 0 {
		t.Errorf("%d failures recorded", n)
	}
}
