package consumer_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

// clock is a clock that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

func oneSpare(s *setup) { s.cfg.Spares = 1 }

func (w *world) claim(request preauth.ClaimRequest) (preauth.Claim, error) {
	w.t.Helper()
	client, err := preauth.NewClient(w.nc)
	if err != nil {
		w.t.Fatal(err)
	}
	return client.Claim(w.within(), request)
}

// spares waits until MySQL has exactly n spares of a component.
func (w *world) spares(r *replica, appid string, n int) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%d spares of %s", n, appid), func() bool {
		have, err := r.db.CountSpares(w.within(), []string{appid}, time.Now())
		return err == nil && have[appid] == n
	})
}

// A spare lasts until the current code is renewed, if it can. Where the current code lives longer than the spares
// that WeChat gives now, none can, and one is made all the same and no more.
func TestSparesThatCannotLastUntilTheRenewalAreMadeOnce(t *testing.T) {
	const life = 10 * time.Minute
	for name, prepare := range map[string]func(*world, *setup){
		"WeChat has shortened the life of its codes": func(w *world, _ *setup) {
			w.wechat.Next("wx1", wechattest.ExpiresIn("3600"))
		},
		"the clock was fast when the current code was made": func(w *world, s *setup) {
			fast := new(clock)
			fast.advance(life)
			s.cfg.Now = fast.Now
			s.onStep = func(step consumer.Step) {
				if step.Name == consumer.StepIssued {
					fast.ahead.Store(0)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{CodeLife: life})
			r := w.start(oneSpare, func(s *setup) { prepare(w, s) }).ready()
			w.announce("wx1", w.token("a"))
			r.await(consumer.StepCleared, "wx1", 1)
			if err := w.wechat.Wait(w.within(), "wx1", 2); err != nil {
				t.Fatal(err)
			}
			r.stop() // finishes the spares that are being made
			if calls := w.wechat.Count("wx1"); calls != 2 {
				t.Errorf("%d calls, want one for the current code and one for the spare", calls)
			}
		})
	}
}

// Where no spare lasts until the renewal, a claim is made up for by one call all the same, and one that only repeats
// its claim id by none.
func TestClaimsOfSparesThatCannotLastCostOneCallEach(t *testing.T) {
	const spares = 3
	w := newWorld(t, wechattest.Options{CodeLife: 10 * time.Minute})
	w.wechat.Next("wx1", wechattest.ExpiresIn("3600"))
	r := w.start(func(s *setup) { s.cfg.Spares = spares }).ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	w.spares(r, "wx1", spares)
	for range 5 {
		if _, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor"}); err != nil {
			t.Fatal(err)
		}
		w.spares(r, "wx1", spares)
	}
	r.stop() // finishes the spares that are being made
	if calls := w.wechat.Count("wx1"); calls != 1+spares+1 {
		t.Errorf("%d calls, want one for the current code, %d for the spares and one for the claimed one", calls, spares)
	}
}

// Spares are made when WeChat gives codes again, without a claim or a renewal.
func TestSparesAreTriedForAgain(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	fault := wechattest.Error(61004, "access clientip is not registered")
	w.wechat.Next("wx1", wechattest.Fault{}, fault, fault, fault)
	r := w.start(oneSpare).ready()
	w.announce("wx1", w.token("a"))
	w.spares(r, "wx1", 1)
	if calls := w.wechat.Count("wx1"); calls != 5 {
		t.Errorf("%d calls, want one for the current code, three in vain and one for the spare", calls)
	}
}

// A token that WeChat rejected for a claim is not tried again, until the current code could be renewed with it.
func TestClaimsWorkAgainAfterARenewal(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{CodeLife: 20 * time.Minute, Now: c.Now})
	r := w.start(func(s *setup) { s.cfg.Now = c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	c.advance(time.Minute)
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(40001, "") })
	rejected := func() {
		t.Helper()
		_, err := w.claim(preauth.ClaimRequest{AppID: "wx1"})
		if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Class != preauth.ClassTokenRejected {
			t.Fatalf("got %v", err)
		}
	}
	rejected()
	w.wechat.Every(nil)
	calls := w.wechat.Count("wx1")
	rejected()
	if n := w.wechat.Count("wx1"); n != calls {
		t.Errorf("%d calls for a token that was rejected", n-calls)
	}
	c.advance(15 * time.Minute)
	r.await(consumer.StepCleared, "wx1", 2)
	if _, err := w.claim(preauth.ClaimRequest{AppID: "wx1"}); err != nil {
		t.Errorf("after the renewal: %v", err)
	}
}

func TestClaimGivesNoCodeThatDiesWhileMySQLTakesItsTime(t *testing.T) {
	const life = 10 * time.Minute
	w := newWorld(t, wechattest.Options{CodeLife: life})
	db, faults := w.faulty()
	now := new(clock)
	w.start(oneSpare, func(s *setup) { s.db, s.cfg.Now = db, now.Now }).ready()
	w.announce("wx1", w.token("a"))
	request := preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor"}
	var first preauth.Claim
	w.eventually("a claim", func() (ok bool) {
		var err error
		first, err = w.claim(request)
		return err == nil
	})
	faults.Script("claimable", repotest.Fault{After: func() { now.advance(life) }})
	second, err := w.claim(request)
	if err != nil || !second.ExpiresAt.After(now.Now()) || second.PreAuthCode.Equal(first.PreAuthCode) {
		t.Errorf("got a code that lives until %v, and it is %v: %v", second.ExpiresAt, now.Now(), err)
	}
	if faults.Unmet() != 0 {
		t.Error("nothing took its time")
	}
}

func TestClaimGivesACodeOfItsOwn(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(oneSpare).ready()
	w.announce("wx1", w.token("a"))
	w.spares(r, "wx1", 1)
	current := w.settled(r, "wx1")

	// WeChat is not asked while the caller waits.
	hold := wechattest.NewHold()
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Fault{HoldAnswer: hold} })
	first, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor 1", Reference: "order 7"})
	if err != nil {
		t.Fatal(err)
	}
	hold.Release()
	w.wechat.Every(nil)
	if first.PreAuthCode.Equal(current.PreAuthCode) {
		t.Error("the claim got the current code")
	}
	if first.ClaimID != "visitor 1" || first.Reference != "order 7" || first.ClaimedAt.IsZero() || first.ExpiresIn <= 0 {
		t.Errorf("got %+v", first)
	}

	// The same again, as long as the code is valid; another one for another visitor.
	again, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor 1", Reference: "order 7"})
	if err != nil || !again.PreAuthCode.Equal(first.PreAuthCode) || !again.ClaimedAt.Equal(first.ClaimedAt) {
		t.Errorf("again %+v, %v", again, err)
	}
	other, err := w.claim(preauth.ClaimRequest{AppID: "wx1", LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/"}})
	if err != nil || other.PreAuthCode.Equal(first.PreAuthCode) || other.ClaimID == "" {
		t.Errorf("other %+v, %v", other, err)
	}
	link, err := url.Parse(other.Links.Mobile.Reveal())
	if err != nil || link.Query().Get("pre_auth_code") != other.PreAuthCode.Reveal() {
		t.Error("the link has another code")
	}
	if _, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor 1", Reference: "order 8"}); code(err) != preauth.StatusConflict {
		t.Errorf("another reference: %v", err)
	}

	// The code of WeChat's push leads back to the claim.
	client, err := preauth.NewClient(w.nc)
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := client.Resolve(w.within(), first.PreAuthCode)
	if err != nil || resolved.AppID != "wx1" || resolved.ClaimID != "visitor 1" || resolved.Reference != "order 7" ||
		!resolved.ClaimedAt.Equal(first.ClaimedAt) || !resolved.ExpiresAt.Equal(first.ExpiresAt) {
		t.Errorf("resolved %+v, %v", resolved, err)
	}
	if _, err := client.Resolve(w.within(), current.PreAuthCode); code(err) != preauth.StatusNotFound {
		t.Errorf("the current code resolves: %v", err)
	}

	// What was claimed is made up for, and nothing of it was announced or became current.
	w.spares(r, "wx1", 1)
	if after := w.settled(r, "wx1"); after.Revision != current.Revision {
		t.Errorf("claims moved the revision to %d", after.Revision)
	}
}

func TestClaimWithoutSpareWaitsForWeChat(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	var (
		mu    sync.Mutex
		codes = map[string]bool{w.current("wx1").Reveal(): true}
		group sync.WaitGroup
	)
	const claims = 20
	for i := range claims {
		group.Go(func() {
			claim, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: fmt.Sprint(i)})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			codes[claim.PreAuthCode.Reveal()] = true
		})
	}
	group.Wait()
	if len(codes) != claims+1 {
		t.Errorf("%d codes for %d claims", len(codes)-1, claims)
	}
	if n := w.wechat.Count("wx1"); n != claims+1 {
		t.Errorf("%d calls for %d claims", n-1, claims)
	}
}

func TestClaimsThatCannotBeServed(t *testing.T) {
	w := newWorld(t, wechattest.Options{CodeLife: 20 * time.Minute})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(45009, "") })
	long := strings.Repeat("x", 200)
	cases := map[string]struct {
		subject, body string
		code          int
		says          string
	}{
		"never seen":           {"preauth.claim.wx2", "", 404, "no token event"},
		"no component":         {"preauth.claim", "", 400, "component_appid is missing"},
		"impossible component": {"preauth.claim.a.b", "", 400, "component_appid must be"},
		"claim_id too long":    {"preauth.claim.wx1", `{"claim_id":"` + long + `"}`, 400, "claim_id has 200 characters"},
		"control character":    {"preauth.claim.wx1", `{"reference":"a\u0000b"}`, 400, "reference must be UTF-8 without control characters"},
		"min_ttl":              {"preauth.claim.wx1", `{"min_ttl":1200}`, 400, "min_ttl must be at most 1195 s: a new code lives for 1200 s"},
		"quota":                {"preauth.claim.wx1", `{}`, 503, "no valid code"},
		"no code to resolve":   {"preauth.resolve", `{}`, 400, "pre_auth_code must have"},
		"unknown code":         {"preauth.resolve", `{"pre_auth_code":"preauthcode@@@x"}`, 404, "no claim"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			reply, err := w.nc.RequestWithContext(w.within(), c.subject, []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			e := preauth.ParseError(reply.Header.Get, reply.Data)
			if e == nil || e.Code != c.code || !strings.Contains(e.Message, c.says) {
				t.Errorf("got %v, want %d with %q", e, c.code, c.says)
			}
			if name == "quota" && (e.Class != preauth.ClassQuota || e.ErrCode != 45009 || e.RID == "" || e.RetryAt.IsZero()) {
				t.Errorf("got %#v", e)
			}
		})
	}
}

// A look-up that no code has enough life for makes one, once for all who wait in all replicas.
func TestLookUpMakesACodeOnDemand(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{CodeLife: 20 * time.Minute, Now: c.Now})
	withClock := func(s *setup) { s.cfg.Now = c.Now }
	a := w.start(withClock).ready()
	b := w.start(withClock).ready()
	w.announce("wx1", w.token("a"))
	w.eventually("saved", func() bool { return a.count(consumer.StepCleared)+b.count(consumer.StepCleared) == 1 })
	c.advance(10 * time.Minute) // before the renewal is due

	var group sync.WaitGroup
	for range 30 {
		group.Go(func() {
			got, err := w.lookup(preauth.LookupRequest{AppID: "wx1", MinTTL: 15 * time.Minute})
			if err != nil || got.Revision != 2 || got.ExpiresIn < 15*time.Minute {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	group.Wait()
	if n := w.wechat.Count("wx1"); n != 2 {
		t.Errorf("%d calls, want one more than before", n)
	}
	w.eventually("announced", func() bool {
		update, ok := w.stored("wx1")
		return ok && update.Revision == 2 && update.Cause == preauth.CauseDemand
	})
}

func TestLookUpOfADeadToken(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	r := w.start(func(s *setup) { s.cfg.Now = c.Now }).ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	c.advance(3 * time.Hour)
	_, err := w.lookup(preauth.LookupRequest{AppID: "wx1"})
	if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Code != preauth.StatusUnavailable || e.Class != preauth.ClassTokenExpired {
		t.Errorf("got %v", err)
	}
	r.await(consumer.StepFailed, "wx1", 1)
	if n := w.wechat.Count("wx1"); n > 1 {
		t.Errorf("%d calls with a dead token", n-1)
	}
}

// The last of a component's calls are for token events and renewals.
func TestCallLimits(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.CallsPerDay, s.cfg.Spares = 100, 100 }).ready() // ten at once
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	w.spares(r, "wx1", 4) // not below half
	served := 0
	for range 20 {
		_, err := w.claim(preauth.ClaimRequest{AppID: "wx1"})
		if err == nil {
			served++
			continue
		}
		if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Class != preauth.ClassThrottled {
			t.Errorf("got %v", err)
		}
	}
	if served != 8 {
		t.Errorf("%d claims served, want the 4 spares and 4 calls", served)
	}
	w.announce("wx1", w.token("b"))
	r.await(consumer.StepCommitted, "wx1", 2)
	if n := w.wechat.Count("wx1"); n != 10 {
		t.Errorf("%d calls, want 10", n)
	}
}

// A spare that dies before its visitor can have opened the page is passed over, and what a claim id has is its
// own to the end.
func TestNoVisitorGetsASpareThatIsAboutToDie(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{CodeLife: 30 * time.Minute, Now: c.Now})
	r := w.start(oneSpare, func(s *setup) { s.cfg.Now = c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.spares(r, "wx1", 1)
	w.settled(r, "wx1")
	first, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "early"})
	if err != nil {
		t.Fatal(err)
	}
	w.spares(r, "wx1", 1)
	spare := w.wechat.Issued("wx1")[2]

	// WeChat gives nothing to the renewals, so that all that there is gets old.
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(48001, "") })
	c.advance(time.Until(first.ExpiresAt) - 55*time.Second)
	again, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "early"})
	if err != nil || !again.PreAuthCode.Equal(first.PreAuthCode) {
		t.Errorf("a claim id lost the code that it had: %v", err)
	}
	late, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "late"})
	if code(err) != preauth.StatusUnavailable {
		t.Errorf("got a code that lives for %v yet: %v", late.ExpiresIn, err)
	}
	w.wechat.Every(nil)
	w.eventually("a new code", func() bool {
		late, err = w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "late"})
		return err == nil
	})
	if late.PreAuthCode.Equal(spare) || late.ExpiresIn < 25*time.Minute {
		t.Errorf("a code that lives for %v yet", late.ExpiresIn)
	}
}

// A spare that dies before the next renewal is made up for at this one.
func TestSparesLastFromRenewalToRenewal(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{CodeLife: 20 * time.Minute, Now: c.Now})
	r := w.start(oneSpare, func(s *setup) { s.cfg.Now = c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.spares(r, "wx1", 1)
	for renewal := range 3 {
		c.advance(15 * time.Minute) // when a quarter of the current code's life is left
		r.await(consumer.StepCommitted, "wx1", 2+renewal)
		w.eventually("a spare that lives until the next renewal", func() bool {
			have, err := r.db.CountSpares(w.within(), []string{"wx1"}, c.Now().Add(15*time.Minute))
			return err == nil && have["wx1"] == 1
		})
	}
	if n := w.wechat.Count("wx1"); n != 8 {
		t.Errorf("%d calls, want a code and a spare for the token and for each renewal", n)
	}
}

// WeChat's answer with a code that it gave before is no fault of the database.
func TestClaimOfAKnownCodeIsRefused(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	known := w.settled(r, "wx1")
	w.wechat.Next("wx1", wechattest.Fault{Reply: map[string]any{"pre_auth_code": known.PreAuthCode.Reveal()}})
	_, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor"})
	if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Code != preauth.StatusUnavailable || e.Class != preauth.ClassBadReply {
		t.Errorf("got %v, want 503 and %s", err, preauth.ClassBadReply)
	}
	if claimed, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor"}); err != nil || claimed.PreAuthCode.Equal(known.PreAuthCode) {
		t.Errorf("the next try: %v", err)
	}
}

// A claim that nobody can be given the answer to costs no call and no code.
func TestClaimWithoutAReplyIsNotWorkedOn(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	for _, reply := range []string{"", "preauth.updated.wx1", "component.token.updated", "$JS.API.STREAM.PURGE.PREAUTH"} {
		for range 5 {
			if err := w.nc.PublishMsg(&nats.Msg{Subject: "preauth.claim.wx1", Reply: reply, Data: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := w.claim(preauth.ClaimRequest{AppID: "wx1"}); err != nil { // the endpoint has handled those before
		t.Fatal(err)
	}
	if n := w.wechat.Count("wx1"); n != 2 {
		t.Errorf("%d calls, want one for the token and one for the claim that was answered", n)
	}
	var claimed int
	if err := w.database.Get(&claimed, "SELECT COUNT(*) FROM pre_auth_code WHERE cause = 'claim'"); err != nil || claimed != 1 {
		t.Errorf("%d codes claimed, %v", claimed, err)
	}
}
