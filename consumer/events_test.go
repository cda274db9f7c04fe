package consumer_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/consumer"
	"preauth/repo"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

func TestTokenEventBecomesAnUpdateAndALookUp(t *testing.T) {
	w := newWorld(t, wechattest.Options{CodeLife: 10 * time.Minute})
	r := w.start().ready()
	updates := w.updates()
	perComponent, err := w.nc.SubscribeSync("preauth.updated.wx1")
	if err != nil {
		t.Fatal(err)
	}

	// A publisher that uses core NATS and waits for no confirmation.
	token := w.token("a")
	body := fmt.Sprintf(`{"component_appid":"wx1","component_access_token":%q,"expires_in":7200}`, token.Reveal())
	if err := w.nc.Publish("component.token.updated", []byte(body)); err != nil {
		t.Fatal(err)
	}
	update := next(w, updates)
	if update.AppID != "wx1" || update.Revision != 1 || update.Cause != preauth.CauseToken {
		t.Errorf("got %+v", update)
	}
	if issued := w.wechat.Issued("wx1"); len(issued) != 1 || !issued[0].Equal(update.PreAuthCode) {
		t.Error("the announced code is not the one that WeChat issued")
	}
	if life := update.ExpiresAt.Sub(update.IssuedAt); life != 10*time.Minute {
		t.Errorf("the code lives for %v, want 10m", life)
	}
	if calls := w.wechat.Calls("wx1"); len(calls) != 1 || !calls[0].Token.Equal(token) {
		t.Error("WeChat was not called exactly once with the token")
	}
	if got := w.settled(r, "wx1"); got.Revision != 1 {
		t.Errorf("settled at revision %d", got.Revision)
	}
	for _, name := range []consumer.StepName{consumer.StepReceived, consumer.StepIssued, consumer.StepCommitted, consumer.StepAcknowledged} {
		if step := r.await(name, "wx1", 1); step.Sequence != 1 || step.Cause != preauth.CauseToken {
			t.Errorf("the step is %+v", step)
		}
	}

	msg, err := perComponent.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		nats.MsgIdHdr: "wx1.1", "ce-id": "wx1.1", "ce-specversion": "1.0", "ce-type": "preauth.updated",
		"ce-source": "/preauth", "ce-subject": "wx1", "ce-time": update.IssuedAt.Format(time.RFC3339Nano),
		"content-type": "application/json",
	}
	for name, value := range want {
		if got := msg.Header.Get(name); got != value {
			t.Errorf("header %s is %q, want %q", name, got, value)
		}
	}

	// A publisher that waits for the stream's confirmation and uses the component's own subject.
	w.announce("wx1", w.token("b"))
	if update := next(w, updates); update.Revision != 2 {
		t.Errorf("got %+v", update)
	}
	if got := w.settled(r, "wx1"); got.Revision != 2 {
		t.Errorf("settled at revision %d", got.Revision)
	}
	var retired int
	if err := w.database.Get(&retired, "SELECT COUNT(*) FROM pre_auth_code WHERE appid = 'wx1' AND deleted_at IS NOT NULL"); err != nil {
		t.Fatal(err)
	}
	if retired != 1 {
		t.Errorf("%d codes soft-deleted, want 1: the first", retired)
	}
}

// A token that has expired is no failure where a newer event has a living one.
func TestExpiredTokenBeforeALivingOneIsNoFailure(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.createTokenStream()
	w.publish("component.token.updated.wx1", fmt.Appendf(nil, `{"component_access_token":%q,"issued_at":%q,"expires_in":60}`,
		w.token("dead").Reveal(), time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)))
	w.announce("wx1", w.token("a"))
	r := w.start(func(s *setup) { s.cfg.InFlight = 1 })
	r.await(consumer.StepAcknowledged, "wx1", 2)
	w.settled(r, "wx1")
	if superseded, failed := r.count(consumer.StepSuperseded), r.count(consumer.StepFailed); superseded != 1 || failed != 0 {
		t.Errorf("%d events were superseded and %d failed, want 1 and 0", superseded, failed)
	}
}

func TestRepeatedDeliveryMakesNoSecondCall(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	first := w.start().ready()
	w.announce("wx1", w.token("a"))
	w.announce("wx2", w.token("a"))
	first.await(consumer.StepCleared, "", 2)
	first.stop()

	// Another durable redelivers every event of the stream, as if all acknowledgements were lost.
	second := w.start(func(s *setup) { s.cfg.Durable = "another" })
	second.await(consumer.StepAcknowledged, "", 2)
	if n := w.wechat.Count(""); n != 2 {
		t.Errorf("%d calls, want one per event", n)
	}
	if update, _ := w.stored("wx1"); update.Revision != 1 {
		t.Errorf("revision %d", update.Revision)
	}
}

func TestTokenAnnouncedAgainMakesNoSecondCall(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	token := w.token("a")
	w.announce("wx1", token)
	r.await(consumer.StepCleared, "wx1", 1)
	last := w.announce("wx1", token)
	if step := r.await(consumer.StepRepeated, "wx1", 1); step.Sequence != last {
		t.Errorf("the repeated event is %d, want %d", step.Sequence, last)
	}
	r.await(consumer.StepAcknowledged, "wx1", 2)
	if n := w.wechat.Count("wx1"); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

// WeChat counts a code's life from when it issues the code. If the answer is late, that moment lies
// somewhere between the call and the answer, so the service counts from the call.
func TestLifeOfACodeCountsFromTheCall(t *testing.T) {
	const life = 100 * time.Second
	w := newWorld(t, wechattest.Options{CodeLife: life})
	r := w.start().ready()
	hold := wechattest.NewHold()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("a"))
	<-hold.Reached() // the code is issued
	hold.Release()
	update := w.settled(r, "wx1")
	if arrived := w.wechat.Calls("wx1")[0].Time; update.ExpiresAt.After(arrived.Add(life)) {
		t.Errorf("announced expires_at %v, but the code expires at %v at the latest", update.ExpiresAt, arrived.Add(life))
	}
}

func TestOlderEventThatComesLateChangesNothing(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	// The first replica has one event in flight, and WeChat holds back the answer.
	slow := w.start(func(s *setup) { s.cfg.InFlight = 1 }).ready()
	hold := wechattest.NewHold()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	older := w.announce("wx1", w.token("older"))
	<-hold.Reached()

	// Meanwhile a second replica saves the code of a newer token.
	quick := w.start().ready()
	newer := w.token("newer")
	w.announce("wx1", newer)
	quick.await(consumer.StepCleared, "wx1", 1)
	hold.Release()
	if step := slow.await(consumer.StepSuperseded, "wx1", 1); step.Sequence != older {
		t.Errorf("the superseded event is %d, want %d", step.Sequence, older)
	}
	w.settled(quick, "wx1")
	calls := w.wechat.Calls("wx1")
	for _, call := range calls {
		if call.Code.Equal(w.current("wx1")) && !call.Token.Equal(newer) {
			t.Error("the current code was made with the older token")
		}
	}
}

// The backlog is short by default. To run with a long one:
//
//	go test ./consumer -run TestBacklogCostsOneCallPerComponent -backlog 10000 -backlog-components 100 -v
var (
	backlog           = flag.Int("backlog", 1000, "pending token events when a replica starts")
	backlogComponents = flag.Int("backlog-components", 20, "components that the backlog's events name")
)

func TestBacklogCostsOneCallPerComponent(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.createTokenStream()
	all := w.token("backlog") // the common prefix of all tokens, so that one search finds any of them
	newest := map[string]preauth.Secret{}
	for i := range *backlog {
		appid := fmt.Sprintf("wx%d", i%*backlogComponents)
		newest[appid] = preauth.NewSecret(fmt.Sprint(all.Reveal(), i))
		event := preauth.TokenEvent{AppID: appid, Token: newest[appid]}
		subject := preauth.SubjectFor("component.token.updated", appid)
		if _, err := w.js.PublishAsync(subject, event.Encode(), jetstream.WithStallWait(patience)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-w.js.PublishAsyncComplete():
	case <-w.within().Done():
		t.Fatal("not published")
	}
	started := time.Now()
	r := w.start()
	r.await(consumer.StepAcknowledged, "", *backlog)
	t.Logf("%d events of %d components took %v", *backlog, len(newest), time.Since(started))
	for appid, token := range newest {
		w.settled(r, appid)
		if calls := w.wechat.Calls(appid); len(calls) != 1 || !calls[0].Token.Equal(token) {
			t.Errorf("%s: %d calls, want 1 with the newest token", appid, len(calls))
		}
	}
}

// A recreated durable redelivers every event of the stream, with a delivery count of one.
func TestRejectedTokenRedeliveredAsNewMakesNoCall(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCommitted, "wx1", 1)
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(40001, "") })
	w.announce("wx1", w.token("b"))
	r.await(consumer.StepFailed, "wx1", 1)
	w.acknowledged()
	calls, superseded := w.wechat.Count("wx1"), r.stepsOf(consumer.StepSuperseded, "wx1")
	w.deleteDurable()
	r.await(consumer.StepReceived, "wx1", 4)
	w.eventually("both events are finished again", func() bool {
		return r.stepsOf(consumer.StepSuperseded, "wx1")-superseded+r.stepsOf(consumer.StepFailed, "wx1")-1 == 2
	})
	if more := w.wechat.Count("wx1") - calls; more != 0 {
		t.Errorf("%d more calls, want 0", more)
	}
}

// The same holds if the redelivered event reaches a replica that knows the code made before that
// token, but not that another replica had the token rejected.
func TestTokenRejectedInAnotherReplicaAndDeliveredAgainMakesNoCall(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	oneInFlight := func(s *setup) { s.cfg.InFlight = 1 }
	r := w.start(oneInFlight).ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCommitted, "wx1", 1)
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("busy", wechattest.Fault{HoldAnswer: hold})
	w.announce("busy", w.token("busy"))
	next(w, hold.Reached())
	other := w.start(oneInFlight).ready()
	w.wechat.Next("wx1", wechattest.Error(40001, ""), wechattest.Error(40001, ""))
	w.announce("wx1", w.token("b"))
	other.await(consumer.StepFailed, "wx1", 1)
	other.stop()
	calls := w.wechat.Count("wx1")

	hold.Release()
	w.acknowledged()
	w.deleteDurable()
	w.eventually("all events received again", func() bool { return r.stepsOf(consumer.StepReceived, "wx1") == 3 })
	w.acknowledged()
	if more := w.wechat.Count("wx1") - calls; more != 0 {
		t.Errorf("%d more calls, want 0", more)
	}
}

// Careful publishers announce a token twice in a row, for example on both subjects.
func TestTokenAnnouncedTwiceAtOnceMakesOneCall(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	oneInFlight := func(s *setup) { s.cfg.InFlight = 1 }
	a, b := w.start(oneInFlight).ready(), w.start(oneInFlight).ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	token := w.token("twice")
	w.announce("wx1", token)
	next(w, hold.Reached())
	w.announce("wx1", token)
	w.eventually("the other replica has the second event", func() bool {
		return a.count(consumer.StepReceived) > 0 && b.count(consumer.StepReceived) > 0
	})
	hold.Release()
	w.eventually("both events are acknowledged", func() bool {
		return a.count(consumer.StepAcknowledged)+b.count(consumer.StepAcknowledged) == 2
	})
	if calls := w.wechat.Count("wx1"); calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
	if update := w.settled(a, "wx1"); update.Revision != 1 {
		t.Errorf("revision %d", update.Revision)
	}
}

// An event that repeats a token leaves the work to the token's first event, but not for ever: the
// first event may be lost. The replica's clock, an hour slow here, must not prolong the wait.
func TestTokenAnnouncedAgainIsWorkedOnThoughItsFirstEventIsLost(t *testing.T) {
	var c clock
	c.advance(-time.Hour)
	w := newWorld(t, wechattest.Options{Now: c.Now})
	r := w.start(func(s *setup) { s.cfg.InFlight, s.cfg.Now = 1, c.Now }).ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx0", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx0", w.token("busy"))
	next(w, hold.Reached())
	token := w.token("twice")
	first := w.announce("wx1", token)
	w.eventually("the replica has read the first event", func() bool { return strings.Contains(r.metrics(), "preauth_view_tokens 2\n") })
	w.announce("wx1", token)
	if err := w.tokenStream().DeleteMsg(w.within(), first); err != nil {
		t.Fatal(err)
	}
	hold.Release()
	r.await(consumer.StepCommitted, "wx1", 1)
	if calls := w.wechat.Count("wx1"); calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
}

// The replica's own code has been replaced by another replica's. Which token that was made with is
// looked up in MySQL, so the token announced again costs no call.
func TestTokenOfAnotherReplicasCodeIsLookedUp(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	first := w.announce("wx1", w.token("first"))
	r.await(consumer.StepCleared, "wx1", 1)

	now, second := time.Now(), w.token("second")
	results, err := r.db.Save(w.within(), []repo.Outcome{{
		AppID: "wx1", Cause: preauth.CauseRenewal, At: now, DueAt: now.Add(time.Hour),
		Token: repo.Token{
			Position: repo.Position{
				Stream: "COMPONENT_TOKENS", StreamCreated: w.tokenStream().CachedInfo().Created, Sequence: first, Time: now,
			},
			Fingerprint: repo.FingerprintOf(second), ExpiresAt: now.Add(time.Hour),
		},
		Code: &repo.Code{PreAuthCode: preauth.NewSecret("preauthcode@@@of-another"), IssuedAt: now, ExpiresAt: now.Add(time.Hour)},
	}})
	if err != nil || results[0].Status != repo.Saved {
		t.Fatalf("%+v, %v", results, err)
	}
	w.eventually("announced", func() bool { update, ok := w.stored("wx1"); return ok && update.Revision == 2 })
	w.announce("wx1", second)
	r.await(consumer.StepRepeated, "wx1", 1)
	if calls := w.wechat.Count("wx1"); calls != 1 {
		t.Errorf("%d calls for the token that was announced again, want 0", calls-1)
	}
}

func TestBadEventsAreRecordedAndBlockNoOthers(t *testing.T) {
	const secret = "a-token-that-must-not-be-repeated"
	good := func(appid string) string {
		return fmt.Sprintf(`{"component_appid":%q,"component_access_token":%q}`, appid, secret)
	}
	past := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	cases := map[string]struct {
		subject, body string
		appid         string
		class         preauth.Class
		says          string
	}{
		"not JSON":        {"component.token.updated", secret, "", preauth.ClassBadEvent, "JSON object"},
		"empty":           {"component.token.updated", "", "", preauth.ClassBadEvent, "JSON object"},
		"no token":        {"component.token.updated.wx9", `{"x":1}`, "wx9", preauth.ClassBadEvent, "component_access_token is missing"},
		"invalid appid":   {"component.token.updated", good("wx/9 *"), "", preauth.ClassBadEvent, "component_appid must be"},
		"no appid":        {"component.token.updated", good(""), "", preauth.ClassBadEvent, "component_appid is missing"},
		"two-token appid": {"component.token.updated.wx9.more", good(""), "", preauth.ClassBadEvent, "component_appid must be"},
		"appid mismatch":  {"component.token.updated.wx9", good("wx8"), "", preauth.ClassBadEvent, "different components"},
		"too large": {
			"component.token.updated.wx9", good("wx9") + strings.Repeat(" ", preauth.MaxBody), "wx9", preauth.ClassBadEvent, "limit",
		},
		"expired": {
			"component.token.updated.wx9",
			fmt.Sprintf(`{"component_access_token":%q,"issued_at":"2026-01-01T00:00:00Z","expires_at":%q}`, secret, past),
			"wx9", preauth.ClassBadEvent, "expires_at",
		},
		"expired on arrival": {
			"component.token.updated.wx10",
			fmt.Sprintf(`{"component_access_token":%q,"issued_at":%q,"expires_in":60}`, secret, past),
			"wx10", preauth.ClassTokenExpired, "expired",
		},
	}
	w := newWorld(t, wechattest.Options{})
	w.tokens = append(w.tokens, preauth.NewSecret(secret))
	w.start().ready()
	failures, updates := w.failures(), w.updates()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sequence := w.publish(c.subject, []byte(c.body))
			failure := next(w, failures)
			if failure.Class != c.class || failure.AppID != c.appid || !failure.RetryAt.IsZero() {
				t.Errorf("got %+v", failure)
			}
			if failure.Stream != "COMPONENT_TOKENS" || failure.StreamSequence != sequence {
				t.Errorf("the failure names event %s %d, want %d", failure.Stream, failure.StreamSequence, sequence)
			}
			if !strings.Contains(failure.ErrMsg, c.says) {
				t.Errorf("errmsg %q does not say %q", failure.ErrMsg, c.says)
			}
			w.announce("wx1", w.token("good"))
			next(w, updates)
		})
	}
	w.acknowledged()
	if n := w.wechat.Count("wx9") + w.wechat.Count("wx10"); n != 0 {
		t.Errorf("%d calls of WeChat, want 0", n)
	}
	// A bad event does not make its component known; an event with an expired token does.
	if _, err := w.lookup(preauth.LookupRequest{AppID: "wx9"}); code(err) != preauth.StatusNotFound {
		t.Errorf("look-up of wx9: %v", err)
	}
	if _, err := w.lookup(preauth.LookupRequest{AppID: "wx10"}); code(err) != preauth.StatusUnavailable {
		t.Errorf("look-up of wx10: %v", err)
	}
	stream, err := w.js.Stream(w.within(), "PREAUTH_FAILED")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.GetLastMsgForSubject(w.within(), "preauth.failed._"); err != nil {
		t.Errorf("a failure without a valid appid is not on preauth.failed._: %v", err)
	}
}

func code(err error) int {
	if e, ok := errors.AsType[*preauth.Error](err); ok {
		return e.Code
	}
	return 0
}

// Each class of failure is handled in its own way: see [consumer.Delays].
func TestFailuresByClass(t *testing.T) {
	cases := map[string]struct {
		fault    wechattest.Fault
		class    preauth.Class
		errcode  int
		retries  bool // the service retries with this token
		inFlight bool // it first retries in flight, without recording a failure
	}{
		"transient":           {wechattest.Error(-1, ""), preauth.ClassTransient, -1, true, true},
		"gateway":             {wechattest.HTTPStatus(502), preauth.ClassTransient, 0, true, true},
		"bad reply":           {wechattest.HTML(), preauth.ClassBadReply, 0, true, true},
		"throttled":           {wechattest.Error(45011, ""), preauth.ClassThrottled, 45011, true, true},
		"quota":               {wechattest.Error(45009, ""), preauth.ClassQuota, 45009, true, true},
		"token rejected":      {wechattest.Error(40001, ""), preauth.ClassTokenRejected, 40001, false, true},
		"address not allowed": {wechattest.Error(61004, ""), preauth.ClassAddressNotAllowed, 61004, true, true},
		"configuration":       {wechattest.Error(48001, ""), preauth.ClassConfiguration, 48001, true, true},
		"request":             {wechattest.Error(47001, ""), preauth.ClassRequest, 47001, false, false},
		"unknown":             {wechattest.Error(99999, ""), preauth.ClassUnknown, 99999, true, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			r := w.start(waitsBriefly).ready()
			failures, updates := w.failures(), w.updates()

			// While WeChat fails, only failures are announced.
			failing := true
			gate := make(chan bool, 1)
			gate <- failing
			w.wechat.Every(func(wechattest.Call) wechattest.Fault {
				failing := <-gate
				gate <- failing
				if failing {
					return c.fault
				}
				return wechattest.Fault{}
			})
			sequence := w.announce("wx1", w.token("a"))
			failure := next(w, failures)
			if failure.Class != c.class || failure.ErrCode != c.errcode || failure.StreamSequence != sequence {
				t.Errorf("got %+v", failure)
			}
			// WeChat's own words, or else the client's.
			if strings.HasPrefix(failure.ErrMsg, "wechat: no pre_auth_code: ") != (c.errcode == 0) {
				t.Errorf("errmsg %q", failure.ErrMsg)
			}
			if failure.RetryAt.IsZero() == c.retries {
				t.Errorf("retry_at is %v", failure.RetryAt)
			}
			if c.inFlight != (failure.Attempt > 1) {
				t.Errorf("first recorded at attempt %d", failure.Attempt)
			}
			var err error
			w.eventually("look-up answered", func() bool {
				_, err = w.lookup(preauth.LookupRequest{AppID: "wx1"})
				return code(err) != preauth.StatusInternal // MySQL used up the request's time
			})
			if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Code != preauth.StatusUnavailable ||
				e.Class != c.class || e.ErrCode != c.errcode || (e.RID == "") != (c.errcode == 0) {
				t.Errorf("the look-up returned %#v", err)
			}

			// When WeChat recovers, the component does too: by itself, or with a newer token.
			<-gate
			gate <- false
			if !c.retries {
				r.await(consumer.StepAcknowledged, "wx1", 1)
				w.announce("wx1", w.token("b"))
			}
			if update := next(w, updates); update.Revision != 1 || update.Cause != preauth.CauseToken {
				t.Errorf("recovered with %+v", update)
			}
			w.settled(r, "wx1")
			known, err := r.db.Components(w.within(), []string{"wx1"})
			if err != nil || known["wx1"].Failure != nil || known["wx1"].Attempts != 0 {
				t.Errorf("the failure is not cleared: %v %v", known["wx1"].Failure, err)
			}
		})
	}
}

func TestFailureCarriesWhatAnOperatorNeeds(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.start().ready()
	failures := w.failures()
	w.wechat.AllowAddresses(netip.MustParsePrefix("203.0.113.0/24"))
	w.announce("wx1", w.token("a"))
	failure := next(w, failures)
	if failure.Class != preauth.ClassAddressNotAllowed || failure.RequestIP != "127.0.0.1" || failure.RID == "" {
		t.Errorf("got %+v", failure)
	}
	w.wechat.AllowAddresses()
	w.eventually("recovered", func() bool {
		_, err := w.lookup(preauth.LookupRequest{AppID: "wx1"})
		return err == nil
	})
}

func TestRenewalAheadOfExpiry(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{CodeLife: 40 * time.Minute, Now: c.Now})
	r := w.start(func(s *setup) { s.cfg.Now = c.Now }).ready()
	updates := w.updates()
	w.announce("wx1", w.token("a"))
	first := next(w, updates)
	c.advance(31 * time.Minute) // into the last quarter
	second := next(w, updates)
	if second.Cause != preauth.CauseRenewal || second.Revision != first.Revision+1 {
		t.Errorf("got %+v", second)
	}
	if !second.IssuedAt.Before(first.ExpiresAt) {
		t.Errorf("renewed at %v, after the first code expired at %v", second.IssuedAt, first.ExpiresAt)
	}
	r.await(consumer.StepCommitted, "wx1", 2)
	w.settled(r, "wx1")
	if !strings.Contains(r.metrics(), "preauth_end_to_end_duration_seconds_count 1\n") {
		t.Error("the end-to-end duration counts the renewal, which no event waited for")
	}
}

func TestCodeOfAnExpiredTokenIsNotRenewed(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{CodeLife: 40 * time.Minute, Now: c.Now})
	r := w.start(func(s *setup) { s.cfg.Now = c.Now }).ready()
	failures := w.failures()
	token := w.token("a")
	body := fmt.Sprintf(`{"component_access_token":%q,"expires_in":1200}`, token.Reveal())
	w.publish("component.token.updated.wx1", []byte(body))
	r.await(consumer.StepCommitted, "wx1", 1)
	c.advance(31 * time.Minute) // into the last quarter of the code's life
	failure := next(w, failures)
	if failure.Class != preauth.ClassTokenExpired || !failure.RetryAt.IsZero() {
		t.Errorf("got %+v", failure)
	}
	if n := w.wechat.Count("wx1"); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

func TestStreamOfAnotherOwnerIsUsedAsItIs(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	before, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{
		Name: "EVERYTHING", Subjects: []string{"component.>"}, MaxAge: time.Hour, Description: "another team's",
	})
	if err != nil {
		t.Fatal(err)
	}
	r := w.start().ready()
	updates := w.updates()
	w.publish("component.other", []byte("not for us"))
	// The consumer's filter lets this message through.
	w.publish("component.token.revoked.wx1", []byte(`{"component_appid":"wx1"}`))
	sequence := w.announce("wx1", w.token("a"))
	next(w, updates)
	if step := r.await(consumer.StepCommitted, "wx1", 1); step.Sequence != sequence {
		t.Errorf("committed event %d, want %d", step.Sequence, sequence)
	}
	after, err := w.js.Stream(w.within(), "EVERYTHING")
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("all events acknowledged", func() bool {
		cons, err := after.Consumer(w.within(), fmt.Sprintf("preauth-%d", after.CachedInfo().Created.UnixMicro()))
		return err == nil && cons.CachedInfo().NumPending+uint64(cons.CachedInfo().NumAckPending) == 0
	})
	if n := r.count(consumer.StepReceived); n != 1 {
		t.Errorf("%d messages were taken for token events, want 1", n)
	}
	was, _ := json.Marshal(before.CachedInfo().Config)
	is, _ := json.Marshal(after.CachedInfo().Config)
	if string(was) != string(is) {
		t.Errorf("the stream was altered:\n%s\n%s", was, is)
	}
	if _, err := w.js.Stream(w.within(), "COMPONENT_TOKENS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the service created a stream of its own: %v", err)
	}
	if !strings.Contains(w.log.String(), "stream differs from the settings") {
		t.Error("the difference is not logged")
	}
}

func TestLookUps(t *testing.T) {
	w := newWorld(t, wechattest.Options{CodeLife: 20 * time.Minute})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)

	good := map[string]preauth.LookupRequest{
		"plain":        {AppID: "wx1"},
		"min_ttl":      {AppID: "wx1", MinTTL: 10 * time.Minute},
		"min_revision": {AppID: "wx1", MinRevision: 1},
	}
	for name, request := range good {
		t.Run(name, func(t *testing.T) {
			got, err := w.lookup(request)
			if err != nil || got.Revision != 1 || !got.PreAuthCode.Equal(w.current("wx1")) {
				t.Errorf("got %+v, %v", got, err)
			}
			if got.ExpiresIn > 20*time.Minute || got.ExpiresIn < 10*time.Minute || !got.Links.PC.IsZero() {
				t.Errorf("got %+v", got)
			}
		})
	}
	t.Run("links", func(t *testing.T) {
		got, err := w.lookup(preauth.LookupRequest{AppID: "wx1", LinkOptions: preauth.LinkOptions{
			RedirectURI: "https://example.com/back?a=b", AuthType: 3,
		}})
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range []preauth.Secret{got.Links.PC, got.Links.Mobile} {
			u, err := url.Parse(link.Reveal())
			if err != nil || u.Query().Get("pre_auth_code") != got.PreAuthCode.Reveal() ||
				u.Query().Get("redirect_uri") != "https://example.com/back?a=b" || u.Query().Get("auth_type") != "3" {
				t.Error("the link does not match the request")
			}
		}
	})
	bad := map[string]struct {
		subject, body string
		code          int
		says          string
	}{
		"never seen":            {"preauth.lookup.wx2", "", 404, "no token event"},
		"no component":          {"preauth.lookup", "", 400, "component_appid is missing"},
		"invalid component":     {"preauth.lookup.a.b", "", 400, "component_appid must be"},
		"not JSON":              {"preauth.lookup", "wx1", 400, "JSON object"},
		"two components":        {"preauth.lookup.wx1", `{"component_appid":"wx2"}`, 400, "different components"},
		"negative min_ttl":      {"preauth.lookup.wx1", `{"min_ttl":-1}`, 400, "min_ttl"},
		"min_ttl beyond a life": {"preauth.lookup.wx1", `{"min_ttl":1200}`, 400, "min_ttl must be at most 1195 s: a new code lives for 1200 s"},
		"future revision":       {"preauth.lookup.wx1", `{"min_revision":2}`, 503, "not committed yet"},
		"relative redirect_uri": {"preauth.lookup.wx1", `{"redirect_uri":"/back"}`, 400, "redirect_uri"},
		"unknown auth_type":     {"preauth.lookup.wx1", `{"auth_type":7}`, 400, "auth_type"},
	}
	for name, c := range bad {
		t.Run(name, func(t *testing.T) {
			reply, err := w.nc.RequestWithContext(w.within(), c.subject, []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			e := preauth.ParseError(reply.Header.Get, reply.Data)
			if e == nil || e.Code != c.code || !strings.Contains(e.Message, c.says) {
				t.Errorf("got %v, want %d with %q", e, c.code, c.says)
			}
		})
	}
	if n := w.wechat.Count(""); n != 1 {
		t.Errorf("look-ups cost %d calls, want 0", n-1)
	}
}

func TestLookUpsBeyondTheLimitAreRefused(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	w.start(func(s *setup) { s.db, s.cfg.Requests = db, 1 }).ready().holdHealth(faults)
	reached, release := make(chan struct{}), make(chan struct{})
	faults.Script("components", repotest.Fault{Before: func() { close(reached); <-release }})
	first, err := w.nc.SubscribeSync(w.nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.nc.PublishRequest("preauth.lookup.wx1", first.Subject, nil); err != nil {
		t.Fatal(err)
	}
	<-reached
	if _, err := w.lookup(preauth.LookupRequest{AppID: "wx2"}); code(err) != preauth.StatusTooMany {
		t.Errorf("the second look-up returned %v", err)
	}
	close(release)
	reply, err := first.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if e := preauth.ParseError(reply.Header.Get, reply.Data); e == nil || e.Code != preauth.StatusNotFound {
		t.Errorf("the first look-up returned %v", e)
	}
}

// firstRequests are the requests that a client may send for a component whose first code is being
// made.
var firstRequests = map[string]func(w *world, appid string) error{
	"look-up": func(w *world, appid string) error {
		_, err := w.lookup(preauth.LookupRequest{AppID: appid})
		return err
	},
	"claim": func(w *world, appid string) error {
		_, err := w.claim(preauth.ClaimRequest{AppID: appid})
		return err
	},
}

// A component whose first code is being made is not unknown: its requests wait for that code, with
// the usual time-out.
func TestRequestsWaitForTheFirstCode(t *testing.T) {
	for what, ask := range firstRequests {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			db, faults := w.faulty()
			w.start(func(s *setup) { s.db = db }).ready().holdHealth(faults)
			hold := wechattest.NewHold()
			defer hold.Release()
			w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
			w.announce("wx1", w.token("first"))
			next(w, hold.Reached())
			waits := make(chan struct{})
			// The request finds no code and asks MySQL again.
			faults.Script("components", repotest.Fault{}, repotest.Fault{Before: func() { close(waits) }})
			answered := make(chan error, 1)
			go func() { answered <- ask(w, "wx1") }()
			next(w, waits)
			hold.Release()
			if err := next(w, answered); err != nil {
				t.Errorf("got %v", err)
			}
			if err := ask(w, "wx2"); code(err) != preauth.StatusNotFound {
				t.Errorf("request for a component that was never announced: %v", err)
			}
		})
	}
}

func TestRequestsForAFirstCodeThatTakesLongAreRefused(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.start(waitsBriefly).ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("first"))
	next(w, hold.Reached())
	for what, ask := range firstRequests {
		var err error
		w.eventually("answered", func() bool {
			err = ask(w, "wx1")
			return code(err) != preauth.StatusInternal // MySQL used up the request's time
		})
		if code(err) != preauth.StatusUnavailable {
			t.Errorf("the %s returned %v", what, err)
		}
	}
}

// The client chooses the reply subject, and the service has publish permissions that the client
// lacks. So it must not answer on a subject of the contract or of JetStream.
func TestNoAnswerGoesWhereOnlyTheServiceMayPublish(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	before, err := w.js.Stream(w.within(), "PREAUTH")
	if err != nil {
		t.Fatal(err)
	}

	everything, err := w.nc.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	inbox := w.nc.NewInbox()
	for _, subject := range []string{"preauth.lookup.wx1", "preauth.claim.wx1", "preauth.resolve", "preauth.status", "preauth.renew.wx2"} {
		for _, reply := range []string{
			"preauth.updated.wx2", "preauth.updated", "preauth.failed.wx2", "preauth.authorized.wx2",
			"component.token.updated", "component.token.updated.wx2", "component.authorized.wx2",
			"preauth.lookup.wx1", "preauth.claim", "preauth.resolve", "preauth.status", "preauth.renew.wx2", "$JS.API.STREAM.PURGE.PREAUTH", inbox,
		} {
			if err := w.nc.PublishRequest(subject, reply, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The request with the inbox comes last on each subject, so its answer comes after any others.
	for answered := 0; answered < 5; {
		msg, err := everything.NextMsgWithContext(w.within())
		if err != nil {
			t.Fatalf("%d requests answered: %v", answered, err)
		}
		switch {
		case msg.Subject == inbox:
			answered++
		case msg.Reply == "" && !strings.HasPrefix(msg.Subject, "$JS.EVENT.") && !strings.HasPrefix(msg.Subject, "_INBOX."):
			t.Errorf("answered on %s", msg.Subject)
		}
	}
	info, err := before.Info(w.within())
	if err != nil {
		t.Fatal(err)
	}
	if was := before.CachedInfo().State; info.State.LastSeq != was.LastSeq || info.State.Msgs != was.Msgs {
		t.Errorf("the update stream changed from %+v to %+v", was, info.State)
	}
}

// checkMetadata requires that an endpoint names its subject and all members of the contract.
func checkMetadata(t *testing.T, subject string, metadata map[string]string) {
	t.Helper()
	links := preauth.LinkOptions{RedirectURI: "r", AuthType: 1, BizAppID: "b", CategoryIDList: "1"}
	linked := preauth.Links{PC: preauth.NewSecret("p")}
	code, now := preauth.NewSecret("c"), time.Unix(1, 0)
	status := preauth.Status{
		AppID: "wx1", State: preauth.StateFailing, Revision: 1, Cause: preauth.CauseToken, IssuedAt: now, ExpiresAt: now, Spent: true, DueAt: now,
		TokenExpiresAt: now, Attempts: 1, Failure: &preauth.Failure{}, Advice: "a", Quota: &preauth.Quota{},
	}
	appid := "wx1"
	if strings.HasSuffix(subject, ".>") {
		appid = ""
	}
	messages := map[string][2]interface{ Encode() []byte }{
		"preauth.lookup": {
			preauth.LookupRequest{AppID: appid, MinTTL: time.Second, MinRevision: 1, LinkOptions: links},
			preauth.Lookup{AppID: "wx1", PreAuthCode: code, IssuedAt: now, ExpiresAt: now, Revision: 1, Links: linked},
		},
		"preauth.claim": {
			preauth.ClaimRequest{AppID: appid, ClaimID: "c", Reference: "r", MinTTL: time.Second, LinkOptions: links},
			preauth.Claim{AppID: "wx1", PreAuthCode: code, IssuedAt: now, ExpiresAt: now, ClaimID: "c", Reference: "r", ClaimedAt: now, Links: linked},
		},
		"preauth.resolve": {
			preauth.ResolveRequest{PreAuthCode: code},
			preauth.Resolved{
				AppID: "wx1", ClaimID: "c", Reference: "r", ClaimedAt: now, Revision: 1, IssuedAt: now, ExpiresAt: now, AuthorizerAppID: "a", AuthorizedAt: now,
			},
		},
		"preauth.status": {
			preauth.StatusRequest{AppID: "wx1", State: preauth.StateValid, Prefix: "w", After: "w"},
			preauth.StatusPage{Summary: &preauth.Summary{}, Next: "wx1"},
		},
		"preauth.status.>": {preauth.StatusRequest{AppID: appid}, status},
		"preauth.renew":    {preauth.RenewRequest{AppID: appid}, status},
	}
	asked, ok := messages[subject]
	if !ok {
		asked = messages[strings.TrimSuffix(subject, ".>")]
	}
	for i, what := range []string{"request", "answer"} {
		var got, want []string
		for key, text := range metadata {
			if len(text) > 80 {
				t.Errorf("%s: the tools cut %q", subject, text)
			}
			if key == what || strings.HasPrefix(key, what+"-") {
				members, _, _ := strings.Cut(text, " {")
				got = append(got, strings.Split(members, ", ")...)
			}
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(asked[i].Encode(), &members); err != nil {
			t.Fatal(err)
		}
		want = slices.AppendSeq(want, maps.Keys(members))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: the %s has %q, want %q", subject, what, got, want)
		}
	}
	if metadata["subject"] != strings.Replace(subject, ".>", ".<component_appid>", 1) || metadata["description"] == "" {
		t.Errorf("%s: the metadata is %v", subject, metadata)
	}
}

func TestMicroServiceIsListed(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.start().ready()
	reply, err := w.nc.RequestWithContext(w.within(), "$SRV.INFO.preauth", nil)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Name, Version, Description string
		Metadata                   map[string]string
		Endpoints                  []struct {
			Subject  string
			Metadata map[string]string
		}
	}
	if err := json.Unmarshal(reply.Data, &info); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("../" + info.Metadata["contract"]); err != nil || info.Description == "" || info.Metadata["errors"] == "" {
		t.Errorf("the service says %q and %v, %v", info.Description, info.Metadata, err)
	}
	var subjects []string
	for _, endpoint := range info.Endpoints {
		subjects = append(subjects, endpoint.Subject)
		checkMetadata(t, endpoint.Subject, endpoint.Metadata)
	}
	want := []string{
		"preauth.lookup", "preauth.lookup.>", "preauth.claim", "preauth.claim.>", "preauth.resolve",
		"preauth.status", "preauth.status.>", "preauth.renew", "preauth.renew.>",
	}
	if info.Name != "preauth" || info.Version == "" || !slices.Equal(subjects, want) {
		t.Errorf("got %+v", info)
	}
}

// The steps of a failure name its event and its class, also where the event names no component.
func TestStepsOfAFailure(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.Delays.Operator = time.Hour }).ready()
	w.wechat.Next("wx1", wechattest.Error(48001, ""))
	for appid, failed := range map[string]struct {
		sequence uint64
		class    preauth.Class
	}{
		"wx1": {w.announce("wx1", w.token("a")), preauth.ClassConfiguration},
		"":    {w.publish("component.token.updated", []byte("{")), preauth.ClassBadEvent},
	} {
		for _, name := range []consumer.StepName{consumer.StepFailed, consumer.StepAnnounced, consumer.StepCleared} {
			w.eventually(fmt.Sprintf("a step %q of %q", name, appid), func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return slices.ContainsFunc(r.steps, func(s consumer.Step) bool {
					return s.Name == name && s.AppID == appid && s.Sequence == failed.sequence && s.Class == failed.class
				})
			})
		}
	}
}

// A service that cannot answer requests does not run.
func TestMicroServiceThatCannotBeAddedEndsTheService(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	nc := w.connect()
	service, err := consumer.New(consumer.Config{}, nc, w.openRepo(), w.client(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if err := service.Run(w.within()); !errors.Is(err, nats.ErrConnectionClosed) || !strings.Contains(err.Error(), "micro service") {
		t.Errorf("Run: %v, want the reason why there is no micro service", err)
	}
}
