package docs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// shape is a JSON value with what differs from one time to the next left out: the members of objects with
// their shapes, and of all other values nothing. The error of a failed request has its code, message and class,
// a failure its class and errcode.
func shape(t *testing.T, body []byte) string {
	t.Helper()
	var value map[string]any
	if err := json.Unmarshal(body, &value); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return shapeOf(value)
}

func shapeOf(value any) string {
	object, ok := value.(map[string]any)
	if !ok {
		return "…"
	}
	var members []string
	for _, name := range slices.Sorted(maps.Keys(object)) {
		member := shapeOf(object[name])
		switch name {
		case "component_appid", "code", "message", "class", "errcode", "claim_id", "reference", "revision", "cause":
			member = fmt.Sprint(object[name])
		}
		members = append(members, name+": "+member)
	}
	return "{" + strings.Join(members, ", ") + "}"
}

// ask sends a request as a client and returns the answer.
func (s *service) ask(t *testing.T, subject, body string) *nats.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reply, err := s.connect(t, "client").RequestWithContext(ctx, subject, []byte(body))
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return reply
}

// askPatiently asks again where MySQL took all the time for a request.
func (s *service) askPatiently(t *testing.T, subject, body string) (reply *nats.Msg) {
	t.Helper()
	eventually(t, "answered", func() bool {
		reply = s.ask(t, subject, body)
		e := preauth.ParseError(reply.Header.Get, reply.Data)
		return e == nil || e.Code != preauth.StatusInternal
	})
	return reply
}

// announce announces a token of a component and waits until the outcome is committed.
func (s *service) announce(t *testing.T, appid, token string, life time.Duration) {
	t.Helper()
	client, err := preauth.NewClient(s.connect(t, "tokens"))
	if err != nil {
		t.Fatal(err)
	}
	event := preauth.TokenEvent{AppID: appid, Token: preauth.NewSecret(token), IssuedAt: time.Now(), ExpiresAt: time.Now().Add(life)}
	if err := client.Announce(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	fingerprint := "SELECT COUNT(*) FROM component WHERE appid = ? AND token_fingerprint = UNHEX(SHA2(?, 256))"
	eventually(t, "the token's outcome is committed", func() bool {
		var rows int
		return s.database.QueryRowContext(t.Context(), fingerprint, appid, token).Scan(&rows) == nil && rows == 1
	})
}

// What README shows as answers is what the service answers to what README shows as requests, and the
// commands for the nats CLI are answered.
func TestRequestsOfREADME(t *testing.T) {
	s := start(t)
	// The revision before the one that README shows.
	_, err := s.database.ExecContext(t.Context(),
		"INSERT INTO component (appid, revision, created_at, updated_at) VALUES (?, 41, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))", appID)
	if err != nil {
		t.Fatal(err)
	}
	updates, err := s.connect(t, "subscriber").SubscribeSync("preauth.updated")
	if err != nil {
		t.Fatal(err)
	}
	expect := func(heading, request, reply string, shown []byte) string {
		answer := s.ask(t, request, reply)
		if got, want := shape(t, answer.Data), shape(t, shown); got != want {
			t.Errorf("%s: the service answers\n%s\nREADME shows\n%s", heading, got, want)
		}
		return string(answer.Data)
	}

	s.announce(t, appID, "first", time.Hour)
	update, err := updates.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := shape(t, update.Data), shape(t, messages(t, "Update")[0]); got != want {
		t.Errorf("the service announces\n%s\nREADME shows\n%s", got, want)
	}
	lookup := messages(t, "Look-up")
	expect("Look-up", "preauth.lookup", string(lookup[0]), lookup[1])
	claim := messages(t, "Claim")
	claimed, err := preauth.ParseClaim([]byte(expect("Claim", "preauth.claim", string(claim[0]), claim[1])))
	if err != nil {
		t.Fatal(err)
	}
	resolve := messages(t, "Resolve")
	request, err := preauth.ParseResolveRequest(resolve[0])
	if err != nil {
		t.Fatal(err)
	}
	claimedIn := func(text string) string {
		return strings.ReplaceAll(text, request.PreAuthCode.Reveal(), claimed.PreAuthCode.Reveal())
	}
	expect("Resolve", "preauth.resolve", claimedIn(string(resolve[0])), resolve[1])

	seen := map[string]int{}
	for _, c := range commands(t) {
		switch c.name {
		case "pub":
			appid := preauth.AppIDFromSubject("component.token.updated", c.subject)
			event, err := preauth.ParseTokenEvent(appid, c.header, []byte(c.body), time.Now())
			if err != nil || event.AppID != appID {
				t.Errorf("%s %s: component %q, %v", c.subject, c.body, event.AppID, err)
			}
			if err := s.connect(t, "tokens").PublishMsg(&nats.Msg{Subject: c.subject, Header: c.header, Data: []byte(c.body)}); err != nil {
				t.Error(err)
			}
			seen["token"]++
		case "req":
			answer := s.ask(t, c.subject, claimedIn(c.body))
			if e := preauth.ParseError(answer.Header.Get, answer.Data); e != nil {
				t.Errorf("%s %s: %v", c.subject, c.body, e)
			}
			seen[strings.Join(strings.Split(c.subject, ".")[:2], ".")]++
		}
	}
	want := map[string]int{"token": 4, "preauth.lookup": 3, "preauth.claim": 2, "preauth.resolve": 1}
	if !maps.Equal(seen, want) {
		t.Errorf("README shows %v, want %v", seen, want)
	}
}

// What README shows as failures is what the service announces.
func TestFailuresOfREADME(t *testing.T) {
	s := start(t)
	failures, err := s.connect(t, "admin").SubscribeSync("preauth.failed")
	if err != nil {
		t.Fatal(err)
	}
	fail := map[string]func(){
		"address_not_allowed": func() {
			s.wechat.Next(appID, wechattest.Error(61004, ""))
			s.announce(t, appID, "unlisted", time.Hour)
		},
		"token_rejected": func() {
			s.wechat.Next(appID, wechattest.Error(40001, ""), wechattest.Error(40001, ""))
			s.announce(t, appID, "rejected", time.Hour)
		},
		"bad_event": func() {
			if err := s.connect(t, "tokens").Publish("component.token.updated", []byte("[]")); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, shown := range messages(t, "Failure") {
		f, err := preauth.ParseFailure(shown)
		if err != nil {
			t.Fatal(err)
		}
		provoke := fail[string(f.Class)]
		if provoke == nil {
			t.Errorf("README shows a failure of class %s, which this test does not provoke", f.Class)
			continue
		}
		provoke()
		announced, err := failures.NextMsg(patience)
		if err != nil {
			t.Fatalf("%s: %v", f.Class, err)
		}
		if got, want := shape(t, announced.Data), shape(t, shown); got != want {
			t.Errorf("the service announces\n%s\nREADME shows\n%s", got, want)
		}
	}
}

// What README shows as errors is what the service answers.
func TestErrorsOfREADME(t *testing.T) {
	t.Run("at once", func(t *testing.T) { checkErrors(t, patience/2, false) })
	t.Run("when the time is over", func(t *testing.T) { checkErrors(t, time.Second, true) })
}

// checkErrors provokes the errors that are answered at once, or those that are answered when the time for a request
// is over.
func checkErrors(t *testing.T, timeout time.Duration, late bool) {
	t.Helper()
	var now clock
	s := start(t, func(c *consumer.Config) {
		c.Now, c.Spares, c.Requests, c.RequestTimeout = now.Now, -1, 1, timeout
		c.CallsPerDay = 100                  // of which ten at once, and nine for claims
		c.Delays.Operator = 10 * time.Minute // no request waits for the next try
	})
	hold := func(appid string) *wechattest.Hold {
		h := wechattest.NewHold()
		s.wechat.Next(appid, wechattest.Fault{HoldAnswer: h})
		t.Cleanup(h.Release)
		return h
	}
	for _, appid := range []string{appID, "wx1", "wx2", "wx3", "wx4"} {
		s.announce(t, appid, "token-"+appid, time.Hour)
	}
	s.wechat.Next("wx5", wechattest.Error(61004, ""))
	s.announce(t, "wx5", "token-wx5", time.Hour)

	// In the order of README; what changes the state of the service is about a component of its own.
	provoke := []func() *nats.Msg{
		func() *nats.Msg { return s.ask(t, "preauth.lookup.wx5", "") },
		func() *nats.Msg { return s.ask(t, "preauth.lookup."+appID, `{"min_ttl":"5m"}`) },
		func() *nats.Msg { return s.ask(t, "preauth.lookup."+appID, `{"min_ttl":1800}`) },
		func() *nats.Msg { return s.ask(t, "preauth.claim.wx9", "") },
		func() *nats.Msg { return s.ask(t, "preauth.resolve", `{"pre_auth_code":"preauthcode@@@another"}`) },
		func() *nats.Msg {
			s.ask(t, "preauth.claim."+appID, `{"claim_id":"visitor-4f1c","reference":"order 7"}`)
			return s.ask(t, "preauth.claim."+appID, `{"claim_id":"visitor-4f1c","reference":"order 8"}`)
		},
		func() *nats.Msg {
			held := hold("wx1")
			var asking sync.WaitGroup
			asking.Go(func() { s.ask(t, "preauth.claim.wx1", "") })
			<-held.Reached()
			reply := s.ask(t, "preauth.resolve", `{"pre_auth_code":"preauthcode@@@another"}`)
			held.Release()
			asking.Wait()
			return reply
		},
		nil, // 500: see below
		func() *nats.Msg {
			s.announce(t, "wx6", "token-wx6", 5*time.Minute)
			now.advance(6 * time.Minute)
			return s.ask(t, "preauth.claim.wx6", "")
		},
		func() *nats.Msg {
			for range 20 {
				if reply := s.ask(t, "preauth.claim.wx2", ""); reply.Header.Get("Nats-Service-Error-Code") != "" {
					return reply
				}
			}
			return s.ask(t, "preauth.claim.wx2", "")
		},
		func() *nats.Msg { return s.ask(t, "preauth.lookup."+appID, `{"min_revision":9}`) },
		func() *nats.Msg {
			hold("wx3")
			now.advance(time.Minute)
			return s.askPatiently(t, "preauth.lookup.wx3", `{"min_ttl":1770}`)
		},
		func() *nats.Msg {
			hold("wx4")
			return s.askPatiently(t, "preauth.claim.wx4", "")
		},
	}
	firstLate := len(provoke) - 2
	shown := messages(t, "Errors")
	if len(shown) != len(provoke) {
		t.Fatalf("README shows %d errors, this test provokes %d", len(shown), len(provoke))
	}
	check := func(i int, reply *nats.Msg) {
		t.Helper()
		e := preauth.ParseError(reply.Header.Get, reply.Data)
		if got, want := shape(t, reply.Data), shape(t, shown[i]); e == nil || got != want {
			t.Errorf("the service answers\n%s\nREADME shows\n%s", got, want)
		}
	}
	last := -1
	for i, each := range provoke {
		switch {
		case each == nil:
			last = i
		case late == (i >= firstLate):
			check(i, each())
		}
	}
	if late {
		return
	}
	// At the end the database is away.
	if err := s.repo.Close(); err != nil {
		t.Fatal(err)
	}
	check(last, s.ask(t, "preauth.resolve", `{"pre_auth_code":"preauthcode@@@another"}`))
}

// clock is a clock that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }
