package consumer_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

// authorize reports that an account authorized with a code, and returns when the stream has stored
// that.
func (w *world) authorize(appid string, code preauth.Secret, authorizer string) {
	w.t.Helper()
	event := preauth.AuthorizationEvent{AppID: appid, PreAuthCode: code, AuthorizerAppID: authorizer}
	w.publish(preauth.SubjectFor("component.authorized", appid), event.Encode())
}

// authorized subscribes to the announcements of authorizations and returns them as they arrive.
func (w *world) authorized() <-chan preauth.Authorized {
	w.t.Helper()
	announced := make(chan preauth.Authorized, 1000)
	client, err := preauth.NewClient(w.nc)
	if err != nil {
		w.t.Fatal(err)
	}
	sub, err := client.SubscribeAuthorized(func(a preauth.Authorized) { announced <- a }, func(err error) { w.t.Error(err) })
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := w.nc.FlushWithContext(w.within()); err != nil {
		w.t.Fatal(err)
	}
	return announced
}

func (w *world) resolve(code preauth.Secret) (preauth.Resolved, error) {
	w.t.Helper()
	return once(w.within(), w.nc, "preauth.resolve", preauth.ResolveRequest{PreAuthCode: code}.Encode(), preauth.ParseResolved)
}

// A current code that somebody authorized with is announced as spent and replaced at once.
func TestSpentCurrentCodeIsReplaced(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	first := w.settled(r, "wx1")
	updates, authorized := w.updates(), w.authorized()

	w.authorize("wx1", first.PreAuthCode, "wxa")
	spent, second := next(w, updates), next(w, updates)
	if !spent.Spent || !spent.PreAuthCode.Equal(first.PreAuthCode) || spent.Revision != 2 || spent.ExpiresAt.After(time.Now()) {
		t.Errorf("the first announcement, revision %d, does not say that the code is spent", spent.Revision)
	}
	if second.Spent || second.PreAuthCode.Equal(first.PreAuthCode) || second.Revision != 3 || second.Cause != preauth.CauseSpent {
		t.Errorf("revision %d was made for %s", second.Revision, second.Cause)
	}
	if got := next(w, authorized); got.AppID != "wx1" || got.AuthorizerAppID != "wxa" || got.Revision != 2 || got.ClaimID != "" ||
		!got.IssuedAt.Equal(first.IssuedAt) || !got.ExpiresAt.Equal(first.ExpiresAt) || got.AuthorizedAt.IsZero() {
		t.Errorf("announced: %+v", got)
	}
	if last := w.settled(r, "wx1"); last.Revision != 3 {
		t.Errorf("revision %d is current", last.Revision)
	}
	resolved, err := w.resolve(first.PreAuthCode)
	if err != nil || resolved.Revision == 0 || resolved.ClaimID != "" || resolved.AuthorizerAppID != "wxa" || !resolved.ExpiresAt.Equal(first.ExpiresAt) {
		t.Errorf("resolved to %+v, %v", resolved, err)
	}
	if resolved, err := w.resolve(second.PreAuthCode); err != nil || resolved.Revision != 3 || resolved.AuthorizerAppID != "" {
		t.Errorf("the code that nobody used resolved to %+v, %v", resolved, err)
	}
}

// rarelyDue keeps the renewer from looking for due components.
func rarelyDue(s *setup) {
	consumer.ShortenIntervals(&s.cfg, time.Hour, 5*time.Second, time.Second, time.Second)
}

// The replica that takes the authorization replaces the code itself. It does not leave that to the
// next look for due components.
func TestSpentCodeIsReplacedByTheReplicaThatHearsOfIt(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(rarelyDue).ready()
	w.announce("wx1", w.token("a"))
	code := w.settled(r, "wx1").PreAuthCode
	w.authorize("wx1", code, "wxa")
	r.await(consumer.StepSpent, "wx1", 1)
	r.stop() // finishes what was begun
	if current := w.current("wx1"); current.Equal(code) {
		t.Error("the spent code is current")
	}
}

// While another replica makes a code of the component anyway, nobody makes one for the spent code. If
// that replica dies, another one does once the lease is over.
func TestSpentCodeThatIsBeingRenewedCostsNoCall(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	code := w.settled(r, "wx1").PreAuthCode
	now := time.Now()
	if _, leased, err := w.openRepo().Lease(w.within(), "wx1", 1, now, now.Add(time.Hour)); err != nil || !leased {
		t.Fatal(leased, err)
	}
	w.authorize("wx1", code, "wxa")
	r.await(consumer.StepSpent, "wx1", 1)
	r.stop() // finishes what was begun
	if n := w.wechat.Count("wx1"); n != 1 {
		t.Errorf("%d calls, want the one for the token", n)
	}

	w.database.MustExec("UPDATE component SET due_at = UTC_TIMESTAMP(6)") // the lease is over
	r = w.start().ready()
	w.eventually("another code is current", func() bool { current := w.current("wx1"); return !current.Equal(code) })
	if last := w.settled(r, "wx1"); last.Cause != preauth.CauseSpent {
		t.Errorf("the new code was made for %s", last.Cause)
	}
}

// While WeChat is away, a look-up is told why there is no code. Neither another replica nor one that
// has just started gives the spent one.
func TestSpentCodeIsNotGivenWhileWeChatIsAway(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	slow := func(s *setup) { s.cfg.Delays.TransientMax, s.cfg.Delays.Transient = time.Hour, time.Hour }
	one, two := w.start(slow).ready(), w.start(slow).ready()
	w.announce("wx1", w.token("a"))
	code := w.settled(one, "wx1").PreAuthCode
	updates := w.updates()

	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(-1, "") })
	w.authorize("wx1", code, "wxa")
	if update := next(w, updates); !update.Spent {
		t.Fatal("the code is not announced as spent")
	}
	away := func(from string) {
		t.Helper()
		w.eventually(from+" says why there is no code", func() bool {
			found, err := w.lookup(preauth.LookupRequest{AppID: "wx1"})
			refused, ok := errors.AsType[*preauth.Error](err)
			if err == nil && found.PreAuthCode.Equal(code) {
				// The announcement may have yet to reach the other replica's memory.
				return false
			}
			return ok && refused.Code == preauth.StatusUnavailable && refused.Class == preauth.ClassTransient
		})
		for range 20 {
			if found, err := w.lookup(preauth.LookupRequest{AppID: "wx1"}); err == nil {
				t.Fatalf("%s gave revision %d", from, found.Revision)
			}
		}
	}
	away("two replicas")
	two.stop()
	away("the replica that is left")
	one.stop()
	three := w.start(slow).ready()
	for range 20 {
		if found, err := w.lookup(preauth.LookupRequest{AppID: "wx1"}); err == nil {
			t.Fatalf("the new replica gave revision %d", found.Revision)
		}
	}
	w.wechat.Every(nil)
	w.database.MustExec("UPDATE component SET due_at = UTC_TIMESTAMP(6)") // the time of the next try has come
	w.eventually("another code is current", func() bool { current := w.current("wx1"); return !current.Equal(code) })
	if last := w.settled(three, "wx1"); last.Cause != preauth.CauseSpent {
		t.Errorf("the new code was made for %s", last.Cause)
	}
}

// A claim whose code is spent gets another one. The announcement says whose it was.
func TestSpentClaimIsNotGivenAgain(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	current := w.settled(r, "wx1")
	authorized := w.authorized()
	request := preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor", Reference: "order 7"}
	first, err := w.claim(request)
	if err != nil {
		t.Fatal(err)
	}
	w.authorize("wx1", first.PreAuthCode, "wxa")
	got := next(w, authorized)
	if got.ClaimID != "visitor" || got.Reference != "order 7" || !got.ClaimedAt.Equal(first.ClaimedAt) || got.AuthorizerAppID != "wxa" || got.Revision != 0 {
		t.Errorf("announced: %+v", got)
	}
	second, err := w.claim(request)
	if err != nil || second.PreAuthCode.Equal(first.PreAuthCode) {
		t.Fatalf("the spent code was given again, or none: %v", err)
	}
	if again, err := w.claim(request); err != nil || !again.PreAuthCode.Equal(second.PreAuthCode) {
		t.Errorf("a repeated claim got a third code: %v", err)
	}
	request.Reference = "order 8"
	if _, err := w.claim(request); !isStatus(err, preauth.StatusConflict) {
		t.Errorf("another reference: got %v", err)
	}
	if resolved, err := w.resolve(first.PreAuthCode); err != nil || resolved.ClaimID != "visitor" || resolved.AuthorizerAppID != "wxa" {
		t.Errorf("resolved to %+v, %v", resolved, err)
	}
	if last := w.settled(r, "wx1"); last.Revision != current.Revision {
		t.Error("the current code was replaced")
	}
}

func isStatus(err error, code int) bool {
	refused, ok := errors.AsType[*preauth.Error](err)
	return ok && refused.Code == code
}

// A spare that is spent, though it was given to nobody, is given to nobody.
func TestSpentSpareIsNotClaimed(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(oneSpare).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	w.spares(r, "wx1", 1)
	var spare string
	if err := w.database.Get(&spare, "SELECT code FROM pre_auth_code WHERE cause = 'spare'"); err != nil {
		t.Fatal(err)
	}
	authorized := w.authorized()
	w.authorize("wx1", preauth.NewSecret(spare), "wxa")
	if got := next(w, authorized); got.ClaimID != "" || got.Revision != 0 {
		t.Errorf("announced: %+v", got)
	}
	claim, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor"})
	if err != nil || claim.PreAuthCode.Equal(preauth.NewSecret(spare)) {
		t.Errorf("the spent spare was claimed, or nothing: %v", err)
	}
}

// Authorizations come in any order, twice, long after, and for codes that nobody knows.
func TestAuthorizationsInAnyOrder(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	old := w.settled(r, "wx1")
	w.announce("wx1", w.token("b"))
	w.eventually("revision 2 announced", func() bool { u, ok := w.stored("wx1"); return ok && u.Revision == 2 })
	current := w.settled(r, "wx1")
	w.announce("wx2", w.token("c"))
	other := w.settled(r, "wx2")
	authorized, failures := w.authorized(), w.failures()

	w.authorize("wx1", old.PreAuthCode, "wxa") // long after it was replaced
	if got := next(w, authorized); got.Revision != 1 || got.AuthorizerAppID != "wxa" {
		t.Errorf("announced: %+v", got)
	}
	w.authorize("wx1", old.PreAuthCode, "wxa") // again
	w.authorize("wx1", old.PreAuthCode, "wxb")
	if f := next(w, failures); f.AppID != "wx1" || f.Class != preauth.ClassSecondAuthorizer || f.Stream != "COMPONENT_AUTHORIZED" {
		t.Errorf("a second authorizer: %+v", f)
	}
	w.authorize("wx1", preauth.NewSecret("preauthcode@@@unknown"), "wxa")
	if f := next(w, failures); f.AppID != "wx1" || f.Class != preauth.ClassUnknownCode || !f.RetryAt.IsZero() {
		t.Errorf("an unknown code: %+v", f)
	}
	w.authorize("wx1", other.PreAuthCode, "wxa")
	if f := next(w, failures); f.AppID != "wx1" || f.Class != preauth.ClassUnknownCode {
		t.Errorf("another component's code: %+v", f)
	}
	w.publish("component.authorized.wx1", []byte(`{"pre_auth_code":"x"}`))
	if f := next(w, failures); f.AppID != "wx1" || f.Class != preauth.ClassBadEvent {
		t.Errorf("a bad event: %+v", f)
	}
	r.await(consumer.StepAcknowledged, "wx1", 2+6)
	if n := r.stepsOf(consumer.StepSuperseded, "wx1"); n != 1 {
		t.Errorf("%d reports were there before, want 1", n)
	}
	if err := r.service.Ready(); err != nil {
		t.Errorf("events that are refused make the service unready: %v", err)
	}
	if got := w.settled(r, "wx1"); got.Revision != current.Revision {
		t.Error("the current code was replaced")
	}
	if got := w.settled(r, "wx2"); got.Revision != other.Revision {
		t.Error("another component's code was replaced")
	}
	for outcome, want := range map[string]int{"spent": 1, "repeated": 1, "unknown_code": 2, "second_authorizer": 1, "bad_event": 1} {
		if got := r.counted("preauth_authorizations_total")[outcome]; got != want {
			t.Errorf("%d authorizations %s, want %d", got, outcome, want)
		}
	}
}

// A token that is announced again does not bring a spent code back.
func TestSpentCodeIsNotKeptForItsToken(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	slow := func(s *setup) { s.cfg.Delays.TransientMax, s.cfg.Delays.Transient = time.Hour, time.Hour }
	r := w.start(slow).ready()
	token := w.token("a")
	w.announce("wx1", token)
	code := w.settled(r, "wx1").PreAuthCode
	w.wechat.Next("wx1", wechattest.Error(-1, ""))
	w.authorize("wx1", code, "wxa")
	r.await(consumer.StepFailed, "wx1", 1)
	w.announce("wx1", token)
	w.eventually("another code is current", func() bool { current := w.current("wx1"); return !current.Equal(code) })
	w.settled(r, "wx1")
}

// A token that was given up brings no code. A spent code does not cost another call with it.
func TestSpentCodeOfATokenThatWasGivenUp(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	code := w.settled(r, "wx1").PreAuthCode
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(47001, "") })
	w.announce("wx1", w.token("b"))
	r.await(consumer.StepFailed, "wx1", 1)
	calls, updates := w.wechat.Count("wx1"), w.updates()
	w.authorize("wx1", code, "wxa")
	if update := next(w, updates); !update.Spent {
		t.Fatal("the code is not announced as spent")
	}
	_, err := w.lookup(preauth.LookupRequest{AppID: "wx1"})
	if refused, ok := errors.AsType[*preauth.Error](err); !ok || refused.Class != preauth.ClassRequest {
		t.Errorf("look-up: %v, want the reason why there is no code", err)
	}
	r.stop() // finishes what was begun
	if n := w.wechat.Count("wx1"); n != calls {
		t.Errorf("%d calls more", n-calls)
	}
}

// One stream may cover the subjects of both kinds of events.
func TestOneStreamForTokensAndAuthorizations(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	if _, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{Name: "ALL", Subjects: []string{"component.>"}}); err != nil {
		t.Fatal(err)
	}
	r := w.start().ready()
	updates, authorized := w.updates(), w.authorized()
	// Events of one kind come in a row: two readers of one consumer would take turns.
	for _, appid := range []string{"wx1", "wx2", "wx3"} {
		w.announce(appid, w.token(appid))
	}
	var codes []preauth.Update
	for len(codes) < 3 {
		codes = append(codes, next(w, updates))
	}
	for _, code := range codes {
		w.authorize(code.AppID, code.PreAuthCode, "wxa")
	}
	for range codes {
		next(w, authorized)
	}
	r.await(consumer.StepAcknowledged, "", 6)
}

// The service takes authorizations that came while it was down.
func TestAuthorizationsWaitForTheService(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	code := w.settled(r, "wx1").PreAuthCode
	r.stop()
	client, err := preauth.NewClient(w.nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.AnnounceAuthorization(ctx, preauth.AuthorizationEvent{AppID: "wx1", PreAuthCode: code, AuthorizerAppID: "wxa"}); err != nil {
		t.Fatal(err)
	}
	w.start().ready().await(consumer.StepSpent, "wx1", 1)
	w.eventually("another code is current", func() bool { current := w.current("wx1"); return !current.Equal(code) })
}

// The trace context of an authorization goes on with both announcements, that of a token with its
// update, and that of an event that cannot be understood with the failure.
func TestTraceContextIsPassedOn(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	headers := map[string]chan string{"preauth.updated": make(chan string, 10), "preauth.authorized": make(chan string, 10)}
	failed := make(chan string, 10)
	for subject, seen := range map[string]chan string{
		"preauth.updated": headers["preauth.updated"], "preauth.authorized": headers["preauth.authorized"], "preauth.failed": failed,
	} {
		sub, err := w.nc.Subscribe(subject, func(msg *nats.Msg) { seen <- msg.Header.Get("traceparent") })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	publish := func(subject string, body []byte) {
		t.Helper()
		if _, err := w.js.PublishMsg(w.within(), &nats.Msg{Subject: subject, Data: body, Header: nats.Header{"traceparent": {traceparent}}}); err != nil {
			t.Fatal(err)
		}
	}
	publish("component.token.updated", preauth.TokenEvent{AppID: "wx1", Token: w.token("a")}.Encode())
	if got := next(w, headers["preauth.updated"]); got != traceparent {
		t.Errorf("the update has the trace context %q", got)
	}
	code := w.settled(r, "wx1").PreAuthCode
	publish("component.authorized", preauth.AuthorizationEvent{AppID: "wx1", PreAuthCode: code, AuthorizerAppID: "wxa"}.Encode())
	for subject, seen := range headers {
		if got := next(w, seen); got != traceparent {
			t.Errorf("the message on %s has the trace context %q", subject, got)
		}
	}
	publish("component.token.updated", []byte("{"))
	if got := next(w, failed); got != traceparent {
		t.Errorf("the failure has the trace context %q", got)
	}
}

// While MySQL does not say that an update is a foreign one, its revision is what subscribers saw
// last. A code is announced as spent above it, since they would ignore what is below.
func TestSpentCodeIsAnnouncedAboveAForeignRevision(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(func(s *setup) { s.db = db }).ready()
	w.announce("wx1", w.token("a"))
	code := w.settled(r, "wx1").PreAuthCode
	asked, told := make(chan struct{}), make(chan struct{})
	answer := sync.OnceFunc(func() { close(told) })
	defer answer()
	faults.Script("primary_components", repotest.Fault{Before: func() { close(asked); <-told }})
	w.forge("wx1", "FORGED", 5)
	next(w, asked)
	updates := w.updates()
	w.authorize("wx1", code, "wxa")
	if spent := next(w, updates); !spent.Spent || !spent.PreAuthCode.Equal(code) || spent.Revision != 6 {
		t.Errorf("revision %d was announced, spent: %v", spent.Revision, spent.Spent)
	}
	answer()
	w.eventually("another code is announced", func() bool { update, ok := w.stored("wx1"); return ok && update.Revision > 6 })
	w.settled(r, "wx1")
}
