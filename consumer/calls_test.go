package consumer_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// occupied keeps the only call slot of a replica started with oneCall busy until it is released.
func (w *world) occupied() (release func()) {
	w.t.Helper()
	hold := wechattest.NewHold()
	w.t.Cleanup(hold.Release)
	w.wechat.Next("busy", wechattest.Fault{HoldAnswer: hold})
	w.announce("busy", w.token("busy"))
	next(w, hold.Reached())
	return hold.Release
}

func oneCall(s *setup) { s.cfg.Calls, s.cfg.AckWait = 1, time.Minute }

// An event that is superseded while it waits for a call slot costs no call.
func TestEventSupersededBeforeItsTurnCostsNoCall(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(oneCall).ready()
	release := w.occupied()
	w.announce("wx1", w.token("a"))
	w.eventually("the first event is in flight", func() bool { return r.stepsOf(consumer.StepReceived, "wx1") == 1 })
	newest := w.token("b")
	w.announce("wx1", newest)
	w.eventually("the second event's token is in memory", func() bool { return consumer.KnowsToken(r.service, "wx1", newest) })
	release()
	w.settled(r, "wx1")
	if n := w.wechat.Count("wx1"); n != 1 || !w.asked("wx1", newest) {
		t.Errorf("%d calls, want 1 with the newest token", n)
	}
	if strings.Contains(w.log.String(), "event given back") {
		t.Error("the superseded event was given back to the stream")
	}
}

// A renewal whose lease ends while it waits for a call slot makes no call. The replica with the
// next lease does.
func TestRenewalWhoseLeaseEndsMakesNoCall(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	withClock := func(s *setup) { s.cfg.Now = c.Now }
	// It does not extend the lease before the other replica looks for due components.
	extendsLate := func(s *setup) {
		consumer.ShortenIntervals(&s.cfg, 50*time.Millisecond, time.Hour, time.Hour, time.Hour)
	}
	slow := w.start(oneCall, withClock, extendsLate).ready()
	w.announce("wx1", w.token("a"))
	w.settled(slow, "wx1")
	release := w.occupied()
	w.due("wx1", c.Now())
	other := w.start(withClock).ready()
	c.advance(30 * time.Second)
	other.await(consumer.StepCleared, "wx1", 1)
	release()
	slow.stop()
	if n := w.wechat.Count("wx1"); n != 2 {
		t.Errorf("%d calls, want 1 for the token and 1 for the renewal", n)
	}
}

// due makes a component due and waits until a replica has leased it.
func (w *world) due(appid string, now time.Time) {
	w.t.Helper()
	db := w.database
	db.MustExec("UPDATE component SET due_at = ?, lease = NULL WHERE appid = ?", now.UTC(), appid)
	w.eventually("leased", func() (leased bool) {
		if err := db.Get(&leased, "SELECT lease IS NOT NULL FROM component WHERE appid = ?", appid); err != nil {
			w.t.Fatal(err)
		}
		return leased
	})
}

// When calls are scarce, renewals that wait longer than a lease for their turn are still made, each
// once.
func TestRenewalsAreMadeWhenCallsAreScarce(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	first := w.start().ready()
	const components = 50 // at one call a second most wait longer than a lease
	for i := range components {
		w.announce(fmt.Sprint("wx", i), w.token(fmt.Sprint(i)))
	}
	first.await(consumer.StepCleared, "", components)
	first.stop()
	w.start(func(s *setup) { s.cfg.CallsPerSecond = 1 }).ready()
	w.database.MustExec("UPDATE component SET due_at = UTC_TIMESTAMP(6)")
	w.eventually("all are renewed", func() (renewed bool) {
		if err := w.database.Get(&renewed, "SELECT COUNT(*) = ? FROM component WHERE revision = 2", components); err != nil {
			t.Fatal(err)
		}
		return renewed
	})
	for i := range components {
		if n := w.wechat.Count(fmt.Sprint("wx", i)); n != 2 {
			t.Errorf("%d calls for wx%d, want 1 for the token and 1 for the renewal", n, i)
		}
	}
}

// A component whose lock is held occupies a renewal slot no longer than its lease.
func TestBlockedComponentDelaysNoOtherRenewal(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	api, err := wechat.New(wechat.Config{BaseURLs: []string{w.wechat.URL()}, Timeout: 2 * patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	r := w.start(func(s *setup) { s.api, s.cfg.Calls, s.cfg.Now = api, 2, c.Now }).ready()
	for _, appid := range []string{"wx1", "wx2"} {
		w.announce(appid, w.token(appid))
		w.settled(r, appid)
	}
	hold := wechattest.NewHold()
	t.Cleanup(hold.Release)
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("next"))
	next(w, hold.Reached())
	for range 2 {
		w.due("wx1", c.Now())
	}
	w.database.MustExec("UPDATE component SET due_at = ? WHERE appid = 'wx2'", c.Now().UTC())
	r.await(consumer.StepCleared, "wx2", 2)
}

// A rejected token is retried exactly once while it is young, whatever failed before.
func TestRejectedTokenIsTriedOnceMore(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	failures := w.failures()
	rejected := wechattest.Error(40001, "")
	faults := make([]wechattest.Fault, 0, 20)
	for range 5 { // as often as an event is tried while it is in flight
		faults = append(faults, wechattest.HTTPStatus(503))
	}
	for range 15 {
		faults = append(faults, rejected)
	}
	w.wechat.Next("wx1", faults...)
	w.announce("wx1", w.token("a"))
	for {
		failure := next(w, failures)
		if failure.Class == preauth.ClassTokenRejected && failure.RetryAt.IsZero() {
			break
		}
	}
	r.stop()
	if n := w.wechat.Count("wx1"); n != 5+2 {
		t.Errorf("%d calls, want 5 transient failures and 2 rejections", n)
	}
}

// A look-up or claim that reaches a replica before it has read the token stream must not record the
// component's token as lost.
func TestRequestsBeforeTheTokensAreReadLoseNoToken(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	first := w.start(func(s *setup) { s.cfg.Now = c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(first, "wx1")
	first.stop()
	// With two streams for the tokens, a replica cannot tell which to read.
	if err := w.js.DeleteStream(w.within(), "COMPONENT_TOKENS"); err != nil {
		t.Fatal(err)
	}
	for name, subject := range map[string]string{"ONE": "component.token.updated", "ALL": "component.token.updated.>"} {
		if _, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
			t.Fatal(err)
		}
	}
	r := w.start(func(s *setup) { s.cfg.Now, s.cfg.RequestTimeout = c.Now, time.Second })
	w.eventually("look-ups are answered from memory", func() bool {
		_, err := w.lookup(preauth.LookupRequest{AppID: "wx1"})
		return err == nil
	})
	c.advance(40 * time.Second)
	for name, ask := range map[string]func() error{
		"look-up": func() error {
			_, err := w.lookup(preauth.LookupRequest{AppID: "wx1", MinTTL: 1770 * time.Second})
			return err
		},
		"claim": func() error {
			_, err := w.claim(preauth.ClaimRequest{AppID: "wx1"})
			return err
		},
	} {
		var err error
		w.eventually("answered", func() bool {
			err = ask()
			return code(err) != preauth.StatusInternal // MySQL is slow when all tests run at once
		})
		if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Code != preauth.StatusUnavailable || e.Class != "" {
			t.Errorf("%s: %v, want 503 and no class", name, err)
		}
	}
	if failure := r.failure("wx1"); failure != nil {
		t.Errorf("recorded: %+v", failure)
	}
}

// Shutdown finishes the call for a spare that is under way and begins no other.
func TestShutdownDoesNotWaitForMissingSpares(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.Spares = 1000 }).ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx1", wechattest.Fault{}, wechattest.Fault{}, wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("a"))
	next(w, hold.Reached())
	r.cancel()
	w.eventually("begins no more spares", func() bool { return consumer.SparesStop(r.service) })
	hold.Release()
	r.stop()
	if n := w.wechat.Count("wx1"); n != 3 {
		t.Errorf("%d calls, want 3: none after the shutdown has begun", n)
	}
}
