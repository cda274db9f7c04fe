package consumer_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/repo/repotest"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// failure returns a component's failure in MySQL, nil for none.
func (r *replica) failure(appid string) *preauth.Failure {
	r.t.Helper()
	known, err := r.db.Components(r.within(), []string{appid})
	if err != nil {
		r.t.Fatal(err)
	}
	return known[appid].Failure
}

// A replica that lost NATS may have an old token in memory. It must leave the component to the
// other replicas.
func TestReplicaWithoutNATSGivesUpNoLivingToken(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	// Given a replica that has missed a component's newest token.
	way := &line{}
	cut := w.start(w.onLine(way)).ready()
	w.announce("wx1", w.token("a"))
	cut.await(consumer.StepCommitted, "wx1", 1)
	way.down()
	w.eventually("disconnected", func() bool { return !cut.nc.IsConnected() })
	other := w.start().ready()
	failures := w.failures()

	// When WeChat fails for a while, so that the component comes due again and again.
	var mended atomic.Bool
	w.wechat.Every(func(wechattest.Call) wechattest.Fault {
		if mended.Load() {
			return wechattest.Fault{}
		}
		return wechattest.Error(-1, "")
	})
	w.announce("wx1", w.token("b"))
	for attempt := 0; attempt < 20; {
		failure := next(w, failures)
		if failure.Class != preauth.ClassTransient || failure.RetryAt.IsZero() {
			t.Fatalf("given up after %d attempts: %+v", attempt, failure)
		}
		attempt = failure.Attempt
	}
	mended.Store(true)

	// Then the component gets its code, and the replica without NATS has not touched it.
	other.await(consumer.StepCommitted, "wx1", 1)
	if n := cut.count(consumer.StepFailed); n != 0 {
		t.Errorf("%d failures recorded by the replica without NATS", n)
	}
	if update := w.settled(other, "wx1"); update.Revision != 2 {
		t.Errorf("revision %d", update.Revision)
	}
}

// A valid token that is gone from the stream may still be in another replica's memory, so the
// failure has a time of the next try and asks to announce the token again.
func TestTokenThatTheStreamLostIsNotGivenUp(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	withClock := func(s *setup) { s.cfg.Now = c.Now }
	first := w.start(withClock).ready()
	token := w.token("a")
	w.announce("wx1", token)
	w.settled(first, "wx1")
	first.stop()
	if err := w.tokenStream().Purge(w.within()); err != nil {
		t.Fatal(err)
	}
	failures := w.failures()
	ignorant := w.start(withClock).ready()
	c.advance(25 * time.Minute) // into the last quarter of the code's life

	failure := next(w, failures)
	if failure.Class != preauth.ClassTokenExpired || failure.RetryAt.IsZero() || !strings.Contains(failure.ErrMsg, "announce it again") {
		t.Errorf("got %+v", failure)
	}
	c.advance(-25 * time.Minute) // back to the stream's clock
	w.announce("wx1", token)
	ignorant.await(consumer.StepRepeated, "wx1", 1)
	c.advance(25 * time.Minute)
	if step := ignorant.await(consumer.StepCommitted, "wx1", 1); step.Cause != preauth.CauseRenewal || step.Revision != 2 {
		t.Errorf("after the token was announced again: got %+v", step)
	}
	w.settled(ignorant, "wx1")
	if failure := ignorant.failure("wx1"); failure != nil {
		t.Errorf("the failure is not cleared: %+v", failure)
	}
}

// WeChat rejects a token, and the one before is announced again. The code made with that one is
// still current, and is renewed like any other.
func TestTokenAnnouncedAgainAfterARejectedOneIsRenewed(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	r := w.start(func(s *setup) { s.cfg.Now = c.Now }).ready()
	a := w.token("a")
	w.announce("wx1", a)
	r.await(consumer.StepCommitted, "wx1", 1)
	w.wechat.Next("wx1", wechattest.Error(40001, ""), wechattest.Error(40001, ""))
	w.announce("wx1", w.token("b"))
	if step := r.await(consumer.StepFailed, "wx1", 1); step.Class != preauth.ClassTokenRejected {
		t.Fatalf("got %+v", step)
	}
	w.announce("wx1", a)
	r.await(consumer.StepRepeated, "wx1", 1)
	if failure := r.failure("wx1"); failure != nil {
		t.Errorf("the failure is not cleared: %+v", failure)
	}
	c.advance(25 * time.Minute)
	if step := r.await(consumer.StepCommitted, "wx1", 2); step.Cause != preauth.CauseRenewal || step.Revision != 2 {
		t.Errorf("renewed with %+v", step)
	}
	w.settled(r, "wx1")
}

// A newer event supersedes the older one. If the newer event is then purged from the stream before
// a replica receives it, its token is still used.
func TestTokenOfAPurgedEventIsUsed(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	r := w.start(func(s *setup) { s.cfg.Now, s.cfg.InFlight = c.Now, 1 }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx2", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx2", w.token("a"))
	next(w, hold.Reached())
	newest := w.token("b")
	w.announce("wx1", newest)
	w.announce("wx3", w.token("a"))
	w.eventually("both tokens are in memory", func() bool { return strings.Contains(r.metrics(), "preauth_view_tokens 3\n") })
	if err := w.tokenStream().Purge(w.within()); err != nil {
		t.Fatal(err)
	}
	hold.Release()
	r.await(consumer.StepCommitted, "wx2", 1)

	c.advance(25 * time.Minute)
	if step := r.await(consumer.StepCommitted, "wx1", 2); step.Cause != preauth.CauseToken || !w.asked("wx1", newest) {
		t.Errorf("got %+v, want a code made with the newest token", step)
	}
	w.settled(r, "wx1")
}

// WeChat accepts connections and never answers. Renewals back off, with a failure announced as the
// attempt count doubles.
func TestRenewalsBackOffWhileWeChatHangs(t *testing.T) {
	const first = 100 * time.Millisecond
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	api, err := wechat.New(wechat.Config{BaseURLs: []string{w.wechat.URL(), w.wechat.URL()}, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	r := w.start(func(s *setup) { s.api, s.cfg.Now, s.cfg.Delays = api, c.Now, consumer.Delays{Transient: first} }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	failures := w.failures()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Fault{Hold: hold} })
	c.advance(25 * time.Minute)
	for _, attempt := range []int{1, 2, 4} { // the attempts that are announced
		failure := next(w, failures)
		wait, want := failure.RetryAt.Sub(failure.OccurredAt), first<<(attempt-1)
		if failure.Class != preauth.ClassTransient || failure.Attempt != attempt || wait < want || wait > want*5/4 {
			t.Errorf("attempt %d: got %+v with a wait of %v, want %v to a quarter more", attempt, failure, wait, want)
		}
	}
	// Look-ups are answered while the code is valid.
	if got, err := w.lookup(preauth.LookupRequest{AppID: "wx1"}); err != nil || got.Revision != 1 {
		t.Errorf("the look-up returned revision %d: %v", got.Revision, err)
	}
	w.wechat.Every(nil)
	hold.Release()
	if step := r.await(consumer.StepCommitted, "wx1", 2); step.Cause != preauth.CauseRenewal {
		t.Errorf("after WeChat recovered: got %+v, want a renewal", step)
	}
	w.settled(r, "wx1")
}

// WeChat answers with a code that another component already has. The database refuses it, so it
// counts as a bad reply: the event is acknowledged, and WeChat is called again at the time of the
// next try.
func TestCodeThatAnotherComponentHasIsABadReply(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	r := w.start(func(s *setup) { s.cfg.Now, s.cfg.Delays.TransientMax = c.Now, 10*time.Minute }).ready()
	w.announce("wx1", w.token("a"))
	held := w.settled(r, "wx1").PreAuthCode
	failures := w.failures()
	w.wechat.Next("wx2", wechattest.Fault{Reply: map[string]any{"pre_auth_code": held.Reveal()}})
	sequence := w.announce("wx2", w.token("a"))

	failure := next(w, failures)
	if failure.AppID != "wx2" || failure.Class != preauth.ClassBadReply || failure.StreamSequence != sequence ||
		failure.RetryAt.Sub(failure.OccurredAt) < 10*time.Minute {
		t.Errorf("got %+v", failure)
	}
	w.acknowledged()
	_, err := w.lookup(preauth.LookupRequest{AppID: "wx2"})
	if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Class != preauth.ClassBadReply {
		t.Errorf("the look-up returned %v", err)
	}
	if n := w.wechat.Count("wx2"); n != 1 {
		t.Errorf("%d calls before the time of the next try, want 1", n)
	}
	c.advance(15 * time.Minute)
	r.await(consumer.StepCommitted, "wx2", 1)
	w.settled(r, "wx2")
	if !w.current("wx1").Equal(held) {
		t.Error("the other component lost its code")
	}
}

// A leased component waits for an event that is in flight. If that event brings a new code, the
// component is no longer due and its renewal makes no call.
func TestComponentThatAnEventServedMeanwhileIsNotRenewed(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	db, faults := w.faulty()
	r := w.start(func(s *setup) { s.db, s.cfg.Now = db, c.Now }).ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCommitted, "wx1", 1)
	w.settled(r, "wx1")
	hold := wechattest.NewHold()
	defer hold.Release()
	// A code's life counts from the call, and this one has to outlive the wait below.
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold, Reply: map[string]any{"expires_in": 3600}})
	w.announce("wx1", w.token("b"))
	next(w, hold.Reached())

	// When its code comes due while the event waits for WeChat.
	leased := make(chan struct{})
	faults.Script("leased", repotest.Fault{After: func() { close(leased) }})
	c.advance(25 * time.Minute)
	next(w, leased)
	// The renewer asks for the next due components after it has dispatched this one.
	asked := make(chan struct{})
	faults.Script("due", repotest.Fault{}, repotest.Fault{Before: func() { close(asked) }})
	next(w, asked)
	hold.Release()

	r.await(consumer.StepCommitted, "wx1", 2)
	r.stop() // waits for the renewal
	if n := w.wechat.Count("wx1"); n != 2 {
		t.Errorf("%d calls, want 2: one for each token", n)
	}
	w.settled(w.start(func(s *setup) { s.cfg.Now = c.Now }), "wx1")
}

// WeChat answers every renewal with the same known code. The attempts are counted, and announced as
// their number doubles.
func TestCodeGivenAgainAndAgainIsCounted(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	r := w.start(func(s *setup) { s.cfg.Now = c.Now }).ready()
	w.announce("wx1", w.token("a"))
	held := w.settled(r, "wx1").PreAuthCode
	w.announce("wx2", w.token("a"))
	w.settled(r, "wx2")
	failures := w.failures()
	w.wechat.Every(func(call wechattest.Call) wechattest.Fault {
		if call.AppID == "wx1" {
			return wechattest.Fault{}
		}
		return wechattest.Fault{Reply: map[string]any{"pre_auth_code": held.Reveal()}}
	})
	c.advance(25 * time.Minute)
	for _, attempt := range []int{1, 2, 4, 8, 16} {
		failure := next(w, failures)
		if failure.AppID != "wx2" || failure.Class != preauth.ClassBadReply || failure.Attempt != attempt || failure.RetryAt.IsZero() {
			t.Fatalf("got %+v, want attempt %d", failure, attempt)
		}
	}
	w.wechat.Every(nil)
	r.await(consumer.StepCommitted, "wx2", 2)
	w.settled(r, "wx2")
}

// During a long outage every attempt is recorded in MySQL, but few are announced: the first, each
// that doubles the attempt count, and each that says something new.
func TestLongOutageAnnouncesFewFailures(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	r := w.start(waitsBriefly, func(s *setup) { s.cfg.Now = c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	failures := w.failures()
	var errCode atomic.Int64
	errCode.Store(-1)
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(int(errCode.Load()), "") })
	c.advance(25 * time.Minute)
	r.await(consumer.StepFailed, "wx1", 40)
	errCode.Store(48001)
	for _, attempt := range []int{1, 2, 4, 8, 16, 32} {
		if failure := next(w, failures); failure.Class != preauth.ClassTransient || failure.Attempt != attempt {
			t.Fatalf("got %+v, want attempt %d", failure, attempt)
		}
	}
	for {
		failure := next(w, failures)
		if failure.Class == preauth.ClassConfiguration {
			break
		}
		if failure.Attempt != 64 && failure.Attempt != 128 { // on a slow machine
			t.Fatalf("got %+v", failure)
		}
	}
	known := r.failure("wx1")
	w.eventually("the next attempt is in MySQL", func() bool { return r.failure("wx1").Attempt > known.Attempt })
	// A look-up without a valid code returns the last failure, whether or not it was announced.
	c.advance(10 * time.Minute)
	var err error
	w.eventually("look-up answered", func() bool {
		_, err = w.lookup(preauth.LookupRequest{AppID: "wx1"})
		return code(err) != preauth.StatusInternal // MySQL used up the request's time
	})
	if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Class != preauth.ClassConfiguration {
		t.Errorf("the look-up returned %v", err)
	}
	w.wechat.Every(nil)
	r.await(consumer.StepCommitted, "wx1", 2)
	w.settled(r, "wx1")
}

// If MySQL refuses a renewed code, for example because a privilege is missing, the replica keeps
// the code. The following attempts to save it cost no call.
func TestRenewedCodeIsKeptWhileMySQLRefusesIt(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	db, faults := w.faulty()
	r := w.start(func(s *setup) { s.db, s.cfg.Now = db, c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	var refused atomic.Int64
	refusal := repotest.Answered(1142, "INSERT command denied")
	refusal.After = func() { refused.Add(1) }
	faults.Script("code", refusal, refusal, refusal)
	c.advance(25 * time.Minute)
	for turn := range int64(3) {
		w.eventually("refused", func() bool { return refused.Load() == turn+1 })
		c.advance(21 * time.Second) // the end of the lease
	}
	r.await(consumer.StepCommitted, "wx1", 2)
	w.settled(r, "wx1")
	r.ready()
	if n := w.wechat.Count("wx1"); n != 2 {
		t.Errorf("%d calls, want 1 for the token and 1 for the renewal", n)
	}
}

// If MySQL refuses the code of an event, for example because a privilege is missing, the replica
// keeps the code until that is repaired.
func TestCodeIsKeptWhileMySQLRefusesIt(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(func(s *setup) { s.db = db }).ready()
	faults.Script("lock", repotest.Answered(1142, "UPDATE command denied"))
	w.announce("wx1", w.token("a"))
	w.eventually("not ready", func() bool { return contains(r.service.Ready(), "UPDATE command denied") })
	r.await(consumer.StepCommitted, "wx1", 1)
	w.settled(r, "wx1")
	r.ready()
	if n := w.wechat.Count("wx1"); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

// heartbeats returns an item for each in-progress message (+WPI) that a replica sends for an event
// in flight.
func (w *world) heartbeats(stream string) <-chan struct{} {
	w.t.Helper()
	beats := make(chan struct{}, 1000)
	sub, err := w.nc.Subscribe("$JS.ACK."+stream+".>", func(msg *nats.Msg) {
		if string(msg.Data) == "+WPI" {
			beats <- struct{}{}
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := w.nc.FlushWithContext(w.within()); err != nil {
		w.t.Fatal(err)
	}
	return beats
}

// An event that is in flight longer than the ack wait is not redelivered to another replica.
func TestEventInFlightForLongIsNotWorkedOnTwice(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	first := w.start().ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("a"))
	next(w, hold.Reached())
	second := w.start().ready()

	beats := w.heartbeats("COMPONENT_TOKENS")
	for range 4 { // the replica sends three per ack wait
		next(w, beats)
	}
	hold.Release()
	first.await(consumer.StepCommitted, "wx1", 1)
	w.settled(first, "wx1")
	if n := second.count(consumer.StepReceived); n != 0 {
		t.Errorf("the second replica got the event %d times", n)
	}
	if n := w.wechat.Count("wx1"); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

// Heartbeats continue after one could not be sent.
func TestHeartbeatsGoOnAfterAnError(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	way := &line{}
	r := w.start(redelivered, w.onLine(way, nats.ReconnectBufSize(-1))).ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("a"))
	next(w, hold.Reached())
	beats := w.heartbeats("COMPONENT_TOKENS")
	next(w, beats)
	// The line stays cut until another replica gets the event.
	way.down()
	other := w.start(redelivered)
	other.await(consumer.StepAcknowledged, "wx1", 1)
	for len(beats) > 0 {
		<-beats
	}
	way.up()
	next(w, beats)
	hold.Release()
	r.await(consumer.StepSuperseded, "wx1", 1)
	w.settled(other, "wx1")
}
