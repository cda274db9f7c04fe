package docs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

const contract = "docs/contract.md"

// messages returns the messages that the contract shows below a heading, compact. A block has one
// message over several lines, or one in each line.
func messages(t *testing.T, heading string) [][]byte {
	t.Helper()
	var all [][]byte
	for _, text := range shown(t, contract, "json", heading) {
		for decoder := json.NewDecoder(strings.NewReader(text)); decoder.More(); {
			var body json.RawMessage
			if err := decoder.Decode(&body); err != nil {
				t.Fatalf("%s: %v", heading, err)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, body); err != nil {
				t.Fatal(err)
			}
			all = append(all, compact.Bytes())
		}
	}
	return all
}

// The code writes the messages that the contract shows, member for member and in the same order, and
// reads those that other programs write.
func TestMessagesOfTheContract(t *testing.T) {
	type encoder interface{ Encode() []byte }
	parsed := func(e encoder, err error) ([]byte, error) { return e.Encode(), err }
	var (
		lookup preauth.LookupRequest
		claim  preauth.ClaimRequest
	)
	written := map[string][]func(body []byte) ([]byte, error){
		"Token event": slices.Repeat([]func([]byte) ([]byte, error){func(body []byte) ([]byte, error) {
			received := time.Date(2026, time.March, 14, 9, 0, 1, 0, time.UTC)
			_, err := preauth.ParseTokenEvent(appID, nil, body, received)
			return body, err // publishers need not write it as the client does
		}}, 2),
		"Update": slices.Repeat([]func([]byte) ([]byte, error){
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseUpdate(body)) },
		}, 2),
		"Failure": slices.Repeat([]func([]byte) ([]byte, error){
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseFailure(body)) },
		}, 3),
		"Claim": {
			func(body []byte) (_ []byte, err error) {
				claim, err = preauth.ParseClaimRequest("", body)
				return claim.Encode(), err
			},
			func(body []byte) ([]byte, error) {
				c, err := preauth.ParseClaim(body)
				c.Links = wechat.AuthorizationLinks(c.AppID, c.PreAuthCode, claim.LinkOptions)
				return c.Encode(), err
			},
		},
		"Authorization": {func(body []byte) ([]byte, error) {
			e, err := preauth.ParseAuthorizationEvent("", nil, body, time.Date(2026, time.March, 14, 9, 6, 31, 0, time.UTC))
			return parsed(e, err)
		}},
		"Authorized": slices.Repeat([]func([]byte) ([]byte, error){
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseAuthorized(body)) },
		}, 2),
		"Resolve": {
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseResolveRequest(body)) },
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseResolved(body)) },
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseResolved(body)) },
		},
		"Look-up": {
			func(body []byte) (_ []byte, err error) {
				lookup, err = preauth.ParseLookupRequest("", body)
				return lookup.Encode(), err
			},
			func(body []byte) ([]byte, error) {
				l, err := preauth.ParseLookup(body)
				l.Links = wechat.AuthorizationLinks(l.AppID, l.PreAuthCode, lookup.LinkOptions)
				return l.Encode(), err
			},
		},
		"Status": {
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseStatus(body)) },
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseStatusRequest("", body)) },
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseStatusPage(body)) },
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseReplica(body)) },
		},
		"Errors": slices.Repeat([]func([]byte) ([]byte, error){func(body []byte) ([]byte, error) {
			var reply struct{ Error struct{ Code int } }
			if err := json.Unmarshal(body, &reply); err != nil {
				return nil, err
			}
			return preauth.ParseError(func(string) string { return strconv.Itoa(reply.Error.Code) }, body).Encode(), nil
		}}, 14),
	}
	for heading, writers := range written {
		bodies := messages(t, heading)
		if len(bodies) != len(writers) {
			t.Errorf("%s: the contract shows %d messages, want %d", heading, len(bodies), len(writers))
			continue
		}
		for i, body := range bodies {
			if again, err := writers[i](body); err != nil {
				t.Errorf("%s: %v", heading, err)
			} else if !bytes.Equal(again, body) {
				t.Errorf("%s: the contract shows\n%s\nthe code writes\n%s", heading, body, again)
			}
		}
	}
	for _, block := range blocks(t, contract, "json") {
		if written[block.heading] == nil {
			t.Errorf("this test knows no message below the heading %q", block.heading)
		}
	}
}

// The Go code of the contract is that of the examples, which compile.
func TestGoOfTheContract(t *testing.T) {
	examples := strings.ReplaceAll(read(t, "example_test.go"), "\n\t", "\n")
	for _, block := range blocks(t, contract, "go") {
		if !strings.Contains(examples, block.text) {
			t.Errorf("not in example_test.go:\n%s", block.text)
		}
	}
}

// shape describes a JSON object without the values that differ from one run to the next: the names of
// its members, and the values of those that are named in shapeOf.
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

// askPatiently asks again as long as MySQL takes all the time that a request has.
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

// The service gives the answers that the contract shows to the requests that it shows, and serves the
// commands for the nats CLI.
func TestRequestsOfTheContract(t *testing.T) {
	s := start(t)
	// The revision before the one that the contract shows.
	_, err := s.database.ExecContext(t.Context(),
		"INSERT INTO component (appid, revision, created_at, updated_at) VALUES (?, 41, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))", appID)
	if err != nil {
		t.Fatal(err)
	}
	updates, err := s.connect(t, "subscriber").SubscribeSync("preauth.updated")
	if err != nil {
		t.Fatal(err)
	}
	expect := func(heading, subject, request string, want []byte) string {
		answer := s.ask(t, subject, request)
		if got, want := shape(t, answer.Data), shape(t, want); got != want {
			t.Errorf("%s: the service answers\n%s\nthe contract shows\n%s", heading, got, want)
		}
		return string(answer.Data)
	}

	s.announce(t, appID, "first", time.Hour)
	update, err := updates.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := shape(t, update.Data), shape(t, messages(t, "Update")[0]); got != want {
		t.Errorf("the service announces\n%s\nthe contract shows\n%s", got, want)
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
	withClaimed := func(text string) string {
		return strings.ReplaceAll(text, request.PreAuthCode.Reveal(), claimed.PreAuthCode.Reveal())
	}
	expect("Resolve", "preauth.resolve", withClaimed(string(resolve[0])), resolve[1])

	// The commands, with what they publish.
	asAdmin := s.connect(t, "admin")
	flat, err := asAdmin.SubscribeSync("component.token.updated")
	if err != nil {
		t.Fatal(err)
	}
	below, err := asAdmin.SubscribeSync("component.token.updated.*")
	if err != nil {
		t.Fatal(err)
	}
	if err := asAdmin.Flush(); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	linkNATS(t, bin)
	seen := map[string]int{}
	command := regexp.MustCompile(`(?m)^nats (pub|req) (?:--jetstream )?(component\.[a-z]+\S*|preauth\.[a-z]+).*$`)
	for _, block := range blocks(t, contract, "sh") {
		for _, found := range command.FindAllStringSubmatch(block.text, -1) {
			seen[strings.TrimSuffix(found[2], "."+appID)]++
			output := runShell(t, bin, "NATS_URL="+s.nats.ClientURL(), `PATH="$PWD:$PATH"; `+withClaimed(found[0]))
			if strings.Contains(output, `{"error":`) {
				t.Errorf("%s\n%s", found[0], output)
			}
			if found[1] != "pub" || !strings.HasPrefix(found[2], "component.token.updated") {
				continue
			}
			published := flat
			if strings.HasSuffix(found[2], appID) {
				published = below
			}
			msg, err := published.NextMsg(patience)
			if err != nil {
				t.Fatalf("%s: %v", found[0], err)
			}
			appid := preauth.AppIDFromSubject("component.token.updated", msg.Subject)
			if event, err := preauth.ParseTokenEvent(appid, msg.Header, msg.Data, time.Now()); err != nil || event.AppID != appID {
				t.Errorf("%s: component %q, %v", found[0], event.AppID, err)
			}
		}
	}
	want := map[string]int{
		"component.token.updated": 4, "component.authorized": 1, "preauth.lookup": 3, "preauth.claim": 2, "preauth.resolve": 1,
		"preauth.status": 2, "preauth.renew": 1,
	}
	if !maps.Equal(seen, want) {
		t.Errorf("the contract shows %v, want %v", seen, want)
	}
}

// The service answers operators with what the contract shows: of a component, of a page of them,
// and of a replica.
func TestStatusOfTheContract(t *testing.T) {
	s := start(t, func(c *consumer.Config) { c.Delays.Operator = 10 * time.Minute })
	s.wechat.SetToken(appID, preauth.NewSecret("first")) // by which it is known whose quota is asked for
	s.wechat.SetDailyQuota(appID, 10000)
	nc := s.connect(t, "operator")
	client, err := preauth.NewClient(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s.announce(t, appID, "first", time.Hour)
	shown := messages(t, "Status")
	expect := func(what string, want preauth.Status, condition func(preauth.Status) bool) {
		t.Helper()
		var got preauth.Status
		eventually(t, what, func() bool {
			got, err = client.Status(ctx, appID)
			return err == nil && got.Quota != nil && got.Spares > 0 && condition(got)
		})
		if got, want := members(t, got.Encode()), members(t, want.Encode()); !slices.Equal(got, want) {
			t.Errorf("%s: the service answers\n%q\nthe contract shows\n%q", what, got, want)
		}
	}
	page, err := preauth.ParseStatusPage(shown[2])
	if err != nil {
		t.Fatal(err)
	}
	valid := page.Components[0]
	valid.Quota = &preauth.Quota{}
	expect("a valid component", valid, func(s preauth.Status) bool { return s.State == preauth.StateValid })

	renewed, err := client.Renew(ctx, appID)
	if err != nil || renewed.Revision != 2 || renewed.Cause != preauth.CauseDemand {
		t.Errorf("renewed: %+v, %v", renewed, err)
	}
	s.wechat.Next(appID, wechattest.Error(61004, ""))
	var refused *preauth.Error
	if _, err := client.Renew(ctx, appID); !errors.As(err, &refused) || refused.Class != preauth.ClassAddressNotAllowed {
		t.Errorf("not renewed: %v", err)
	}
	failing, err := preauth.ParseStatus(shown[0])
	if err != nil {
		t.Fatal(err)
	}
	expect("a component that fails", failing, func(s preauth.Status) bool { return s.State == preauth.StateFailing })

	got, err := client.StatusPage(ctx, preauth.StatusRequest{})
	if err != nil || len(got.Components) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	got.Summary.Outbox, got.Summary.OutboxSince, got.Next, page.Components = 0, time.Time{}, page.Next, got.Components
	if got, want := members(t, got.Encode()), members(t, page.Encode()); !slices.Equal(got, want) {
		t.Errorf("the service answers\n%q\nthe contract shows\n%q", got, want)
	}
	replicas, err := client.Replicas(ctx)
	if err != nil || len(replicas) != 1 || replicas[0].Codes != 1 || replicas[0].Quota == nil {
		t.Errorf("the replicas are %+v, %v", replicas, err)
	}
}

// members returns the names of all members in a JSON object, in their order.
func members(t *testing.T, body []byte) (names []string) {
	t.Helper()
	for _, member := range regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(string(body), -1) {
		names = append(names, member[1])
	}
	return names
}

// The service does with an authorization what the contract says: of a claim's code, and of the
// current one.
func TestAuthorizationsOfTheContract(t *testing.T) {
	s := start(t)
	// The revision before the one that the contract shows.
	_, err := s.database.ExecContext(t.Context(),
		"INSERT INTO component (appid, revision, created_at, updated_at) VALUES (?, 41, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))", appID)
	if err != nil {
		t.Fatal(err)
	}
	asAdmin := s.connect(t, "admin")
	listen := func(subject string) *nats.Subscription {
		sub, err := asAdmin.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	updates, authorized := listen("preauth.updated"), listen("preauth.authorized")
	if err := asAdmin.Flush(); err != nil {
		t.Fatal(err)
	}
	expect := func(what string, sub *nats.Subscription, want []byte) []byte {
		t.Helper()
		msg, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if want != nil && shape(t, msg.Data) != shape(t, want) {
			t.Errorf("%s: the service announces\n%s\nthe contract shows\n%s", what, shape(t, msg.Data), shape(t, want))
		}
		return msg.Data
	}
	authorize := func(code preauth.Secret, body string) {
		t.Helper()
		shown, err := preauth.ParseAuthorizationEvent("", nil, messages(t, "Authorization")[0], time.Now())
		if err != nil {
			t.Fatal(err)
		}
		body = strings.Replace(body, shown.PreAuthCode.Reveal(), code.Reveal(), 1)
		if _, err := asAdmin.Request("component.authorized", []byte(body), patience); err != nil {
			t.Fatal(err)
		}
	}
	s.announce(t, appID, "first", time.Hour)
	current, err := preauth.ParseUpdate(expect("the first code", updates, messages(t, "Update")[0]))
	if err != nil {
		t.Fatal(err)
	}

	claim, err := preauth.ParseClaim(s.ask(t, "preauth.claim", string(messages(t, "Claim")[0])).Data)
	if err != nil {
		t.Fatal(err)
	}
	event := string(messages(t, "Authorization")[0])
	authorize(claim.PreAuthCode, event)
	expect("a claim's code", authorized, messages(t, "Authorized")[0])

	authorize(current.PreAuthCode, strings.Replace(event, `"info_type":"authorized",`, "", 1))
	expect("the current code", authorized, messages(t, "Authorized")[1])
	expect("the current code", updates, messages(t, "Update")[1])
	next, err := preauth.ParseUpdate(expect("the code after it", updates, nil))
	if err != nil || next.Cause != preauth.CauseSpent || next.Revision != 44 || next.PreAuthCode.Equal(current.PreAuthCode) {
		t.Errorf("after a spent code comes %+v, %v", next, err)
	}
	resolved := s.ask(t, "preauth.resolve", string(preauth.ResolveRequest{PreAuthCode: current.PreAuthCode}.Encode())).Data
	if got, want := shape(t, resolved), shape(t, messages(t, "Resolve")[2]); got != want {
		t.Errorf("the service answers\n%s\nthe contract shows\n%s", got, want)
	}
}

// The service announces the failures that the contract shows.
func TestFailuresOfTheContract(t *testing.T) {
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
	for _, message := range messages(t, "Failure") {
		f, err := preauth.ParseFailure(message)
		if err != nil {
			t.Fatal(err)
		}
		provoke := fail[string(f.Class)]
		if provoke == nil {
			t.Errorf("the contract shows a failure of class %s, which this test does not provoke", f.Class)
			continue
		}
		provoke()
		announced, err := failures.NextMsg(patience)
		if err != nil {
			t.Fatalf("%s: %v", f.Class, err)
		}
		if got, want := shape(t, announced.Data), shape(t, message); got != want {
			t.Errorf("the service announces\n%s\nthe contract shows\n%s", got, want)
		}
	}
}

// The service answers with the errors that the contract shows.
func TestErrorsOfTheContract(t *testing.T) {
	t.Run("at once", func(t *testing.T) { checkErrors(t, patience/2, false) })
	t.Run("when the time is over", func(t *testing.T) { checkErrors(t, time.Second, true) })
}

// checkErrors provokes the errors that are answered at once, or else (late) those that are answered
// when the request's time is over.
func checkErrors(t *testing.T, timeout time.Duration, late bool) {
	t.Helper()
	var now clock
	s := start(t, func(c *consumer.Config) {
		c.Now, c.Spares, c.Requests, c.RequestTimeout = now.Now, -1, 1, timeout
		c.CallsPerDay = 100                  // ten at once, nine of them for claims
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

	// In the contract's order. What changes the service's state uses a component of its own.
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
		func() *nats.Msg {
			s.announce(t, "wx7", "token-wx7", time.Hour)
			known, err := preauth.ParseLookup(s.ask(t, "preauth.lookup.wx7", "").Data)
			if err != nil {
				t.Fatal(err)
			}
			s.wechat.Next("wx7", wechattest.Fault{Reply: map[string]any{"pre_auth_code": known.PreAuthCode.Reveal()}})
			return s.ask(t, "preauth.claim.wx7", "")
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
	answers := messages(t, "Errors")
	if len(answers) != len(provoke) {
		t.Fatalf("the contract shows %d errors, this test provokes %d", len(answers), len(provoke))
	}
	check := func(i int, reply *nats.Msg) {
		t.Helper()
		e := preauth.ParseError(reply.Header.Get, reply.Data)
		if got, want := shape(t, reply.Data), shape(t, answers[i]); e == nil || got != want {
			t.Errorf("the service answers\n%s\nthe contract shows\n%s", got, want)
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
