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

func (w *world) claim(r preauth.ClaimRequest) (preauth.Claim, error) {
	w.t.Helper()
	return once(w.within(), w.nc, preauth.SubjectFor("preauth.claim", r.AppID), r.Encode(), preauth.ParseClaim)
}

// spares waits until MySQL has exactly n spares of a component.
func (w *world) spares(r *replica, appid string, n int) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%d spares of %s", n, appid), func() bool {
		have, err := r.db.CountSpares(w.within(), []string{appid}, time.Now())
		return err == nil && have[appid] == n
	})
}

// A spare should outlive the wait for the current code's renewal. If the current code lives longer
// than the spares that WeChat issues now, no spare can. One is still made, and only one.
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
				t.Errorf("%d calls, want 1 for the current code and 1 for the spare", calls)
			}
		})
	}
}

// If no spare can last until the renewal, a claim still costs one call, to replace the spare that
// it took. A claim that repeats its claim id costs none.
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
		t.Errorf("%d calls, want 1 for the current code, %d for the spares and 1 to replace the claimed spare", calls, spares)
	}
}

// A code is committed before the replica has read its token into memory, where spares look for it.
func TestSparesWaitForTheirToken(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	var read func(string)
	r := w.start(oneSpare, func(s *setup) {
		s.onNew = func(service *consumer.Service) { read = consumer.DelayTokensOfSpares(service) }
	}).ready()
	w.announce("wx1", w.token("a"))
	w.eventually("the spare has no token", func() bool { return strings.Contains(w.log.String(), `"msg":"spares not made"`) })
	read("wx1")
	w.spares(r, "wx1", 1)
	for _, line := range w.lines(0) {
		if strings.Contains(line, "spares not made") {
			t.Error(line)
		}
	}
}

// After failures, spares are made once WeChat issues codes again, without a claim or a renewal.
func TestSparesAreRetried(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	fault := wechattest.Error(61004, "access clientip is not registered")
	w.wechat.Next("wx1", wechattest.Fault{}, fault, fault, fault)
	r := w.start(oneSpare).ready()
	w.announce("wx1", w.token("a"))
	w.spares(r, "wx1", 1)
	if calls := w.wechat.Count("wx1"); calls != 5 {
		t.Errorf("%d calls, want 1 for the current code, 3 that fail and 1 for the spare", calls)
	}
}

// Claims do not retry a token that WeChat rejected for a claim until a renewal has succeeded with
// it.
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
		t.Errorf("%d calls with a rejected token, want 0", n-calls)
	}
	c.advance(15 * time.Minute)
	r.await(consumer.StepCleared, "wx1", 2)
	if _, err := w.claim(preauth.ClaimRequest{AppID: "wx1"}); err != nil {
		t.Errorf("after the renewal: %v", err)
	}
}

// The claim id's code expires while MySQL is slow to answer. The claim must return a valid code.
func TestClaimReturnsNoCodeThatExpiredWhileMySQLWasSlow(t *testing.T) {
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
	faults.Script("claim", repotest.Fault{After: func() { now.advance(life) }})
	second, err := w.claim(request)
	if err != nil || !second.ExpiresAt.After(now.Now()) || second.PreAuthCode.Equal(first.PreAuthCode) {
		t.Errorf("got a code that expires at %v, now it is %v: %v", second.ExpiresAt, now.Now(), err)
	}
	if faults.Unmet() != 0 {
		t.Error("no operation was slow")
	}
}

// A new code expires while MySQL is slow to save it. The claim says so, and its repetition gets
// another code: with and without the answer that tells that the first one is saved.
func TestClaimReturnsNoNewCodeThatExpiredWhileMySQLWasSlow(t *testing.T) {
	const life = 10 * time.Minute
	for name, fault := range map[string]repotest.Fault{
		"saved":                      {},
		"saved, the answer was lost": repotest.Applied,
	} {
		t.Run(name, func(t *testing.T) {
			now := new(clock)
			w := newWorld(t, wechattest.Options{CodeLife: life, Now: now.Now})
			db, faults := w.faulty()
			r := w.start(func(s *setup) { s.db, s.cfg.Now = db, now.Now }).ready()
			w.announce("wx1", w.token("a"))
			w.settled(r, "wx1")
			request := preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor"}
			fault.After = func() { now.advance(life) }
			faults.Script("claim_new", fault)
			_, err := w.claim(request)
			if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Code != preauth.StatusUnavailable {
				t.Errorf("got %v, want 503", err)
			}
			if faults.Unmet() != 0 {
				t.Error("no operation was slow")
			}
			if claimed, err := w.claim(request); err != nil || !claimed.ExpiresAt.After(now.Now()) {
				t.Errorf("the repetition got a code that expires at %v, now it is %v: %v", claimed.ExpiresAt, now.Now(), err)
			}
		})
	}
}

func TestClaimGivesACodeOfItsOwn(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(oneSpare).ready()
	w.announce("wx1", w.token("a"))
	w.spares(r, "wx1", 1)
	current := w.settled(r, "wx1")

	// The caller does not wait for WeChat.
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

	// A repeated claim gets the same code while the code is valid; another visitor gets another code.
	again, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor 1", Reference: "order 7"})
	if err != nil || !again.PreAuthCode.Equal(first.PreAuthCode) || !again.ClaimedAt.Equal(first.ClaimedAt) {
		t.Errorf("repeated claim: got %+v, %v", again, err)
	}
	other, err := w.claim(preauth.ClaimRequest{AppID: "wx1", LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/"}})
	if err != nil || other.PreAuthCode.Equal(first.PreAuthCode) || other.ClaimID == "" {
		t.Errorf("another visitor's claim: got %+v, %v", other, err)
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
		t.Errorf("resolve: got %+v, %v", resolved, err)
	}
	if resolved, err := client.Resolve(w.within(), current.PreAuthCode); err != nil || resolved.Revision != current.Revision || resolved.ClaimID != "" {
		t.Errorf("resolve of the current code: %+v, %v", resolved, err)
	}
	if _, err := client.Resolve(w.within(), preauth.NewSecret("unknown")); code(err) != preauth.StatusNotFound {
		t.Errorf("resolve of an unknown code: %v, want not found", err)
	}

	// The claimed spare is replaced, and no claimed code was announced or became current.
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
		"never seen":         {"preauth.claim.wx2", "", 404, "no token event"},
		"no component":       {"preauth.claim", "", 400, "component_appid is missing"},
		"invalid component":  {"preauth.claim.a.b", "", 400, "component_appid must be"},
		"claim_id too long":  {"preauth.claim.wx1", `{"claim_id":"` + long + `"}`, 400, "claim_id has 200 characters"},
		"control character":  {"preauth.claim.wx1", `{"reference":"a\u0000b"}`, 400, "reference must be UTF-8 without control characters"},
		"min_ttl":            {"preauth.claim.wx1", `{"min_ttl":1200}`, 400, "min_ttl must be at most 1195 s: a new code lives for 1200 s"},
		"quota":              {"preauth.claim.wx1", `{}`, 503, "no valid code"},
		"no code to resolve": {"preauth.resolve", `{}`, 400, "pre_auth_code must have"},
		"unknown code":       {"preauth.resolve", `{"pre_auth_code":"preauthcode@@@x"}`, 404, "neither announced nor given"},
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
	if n := strings.Count(w.log.String(), `"level":"INFO","msg":"no code for claims","component":"wx1","class":"quota"`); n != 1 {
		t.Errorf("logged %d times that claims get no code, want once", n)
	}
}

// If the current code does not live long enough for a look-up, a new one is made: once for all
// look-ups that wait, in all replicas.
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
	if n := a.counted("preauth_lookups_total")["200"] + b.counted("preauth_lookups_total")["200"]; n != 30 {
		t.Errorf("%d look-ups with a code are counted, want 30", n)
	}
	if n := w.wechat.Count("wx1"); n != 2 {
		t.Errorf("%d calls, want 2: one more than before", n)
	}
	w.eventually("announced", func() bool {
		update, ok := w.stored("wx1")
		return ok && update.Revision == 2 && update.Cause == preauth.CauseDemand
	})
}

func TestLookUpWithAnExpiredToken(t *testing.T) {
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
		t.Errorf("%d calls with an expired token, want 0", n-1)
	}
}

// The last calls of a component's budget are reserved for token events and renewals. Spares leave
// half of the burst, claims leave the last call.
func TestCallLimits(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.CallsPerDay, s.cfg.Spares = 100, 100 }).ready() // a burst of ten
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	w.spares(r, "wx1", 4) // spares leave half of the burst
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

// Where WeChat says what is left of its quota, that holds instead of the service's own budget, and
// the gauges show it.
func TestWeChatsQuotaHoldsInsteadOfTheOwn(t *testing.T) {
	w := newWorld(t, wechattest.Options{DailyQuota: 100, MinuteLimit: 1200})
	r := w.start(func(s *setup) { s.cfg.CallsPerDay = 100 }).ready() // ten at once, if WeChat did not say
	for _, series := range []string{"components", "limit", "remaining", "rate"} {
		if series := "\npreauth_wechat_quota_" + series + " 0\n"; !strings.Contains(r.metrics(), series) {
			t.Errorf("missing series %q", series)
		}
	}
	token := w.token("a")
	w.wechat.SetToken("wx1", token)
	w.announce("wx1", token)
	r.await(consumer.StepCleared, "wx1", 1)
	served := 0
	for ; served < 100; served++ {
		_, err := w.claim(preauth.ClaimRequest{AppID: "wx1"})
		if err == nil {
			continue
		}
		if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Code != preauth.StatusUnavailable || e.Class != preauth.ClassQuota {
			t.Errorf("got %v, want the class quota", err)
		}
		break
	}
	if served < 60 || served > 90 {
		t.Errorf("%d claims served, want most of the quota but a tenth", served)
	}
	w.eventually("the gauges show it", func() bool {
		m := r.metrics()
		_, text, _ := strings.Cut(m, "\npreauth_wechat_quota_remaining ")
		left := 0
		_, err := fmt.Sscan(text, &left)
		return err == nil && left > 10 && left < 40 && strings.Contains(m, "\npreauth_wechat_quota_components 1\n") &&
			strings.Contains(m, "\npreauth_wechat_quota_limit 100\n") && strings.Contains(m, "\npreauth_wechat_quota_rate 20\n")
	})
	next := w.token("b")
	w.wechat.SetToken("wx1", next)
	w.announce("wx1", next)
	r.await(consumer.StepCommitted, "wx1", 2)
}

// A claim skips a spare that would expire before the visitor can open the page. A claim id keeps
// the code that it has until that expires.
func TestClaimSkipsSparesAboutToExpire(t *testing.T) {
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

	// WeChat refuses the renewals, so all existing codes age.
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(48001, "") })
	c.advance(time.Until(first.ExpiresAt) - 55*time.Second)
	again, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "early"})
	if err != nil || !again.PreAuthCode.Equal(first.PreAuthCode) {
		t.Errorf("the claim id lost its code: %v", err)
	}
	late, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "late"})
	if code(err) != preauth.StatusUnavailable {
		t.Errorf("got a code that expires in %v: %v", late.ExpiresIn, err)
	}
	w.wechat.Every(nil)
	w.eventually("a new code", func() bool {
		late, err = w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "late"})
		return err == nil
	})
	if late.PreAuthCode.Equal(spare) || late.ExpiresIn < 25*time.Minute {
		t.Errorf("got a code that expires in %v, want a new one", late.ExpiresIn)
	}
}

// A renewal replaces each spare that would expire before the next renewal.
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
		t.Errorf("%d calls, want 8: a code and a spare for the token and for each renewal", n)
	}
}

// If WeChat answers a claim with a code that it issued before, the claim fails as a bad reply and
// not as an error of the database.
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
		t.Errorf("the next claim: %v", err)
	}
}

// A claim without a valid reply subject costs no call and no code.
func TestClaimWithoutAReplyIsIgnored(t *testing.T) {
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
	// The endpoint handles requests in order: once this one is answered, it has handled the others.
	if _, err := w.claim(preauth.ClaimRequest{AppID: "wx1"}); err != nil {
		t.Fatal(err)
	}
	if n := w.wechat.Count("wx1"); n != 2 {
		t.Errorf("%d calls, want 1 for the token and 1 for the claim with a reply subject", n)
	}
	var claimed int
	if err := w.database.Get(&claimed, "SELECT COUNT(*) FROM pre_auth_code WHERE cause = 'claim'"); err != nil || claimed != 1 {
		t.Errorf("%d codes claimed, want 1: %v", claimed, err)
	}
}
