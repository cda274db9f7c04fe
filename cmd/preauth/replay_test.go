package main

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/stream"
	"preauth/wechat/wechattest"
)

// Stored tokens are worked on again where that helps, and cost no call where it does not.
func TestReplay(t *testing.T) {
	t.Parallel()
	server, stand, dsn := newNATS(t), newWeChat(t, ""), apptest.NewDatabase(t)
	here := func(args ...string) []string { return append(args, "--timeout=1m", "--nats-url="+server.URL()) }
	if status, _, stderr := do(t, "replay", "--timeout=1m", "--nats-url="+server.URL()); status != 1 || !strings.Contains(stderr, "nobody answers on preauth.status") {
		t.Errorf("replay without a service: status %d, %q", status, stderr)
	}
	_, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn="+dsn, "--schema-apply", "--wechat-url="+stand.URL(), "--spares=0")
	awaitReady(t, admin)
	if status, _, stderr := do(t, here("replay")...); status != 1 || !strings.Contains(stderr, "COMPONENT_TOKENS has no event from the last 24h0m0s: have the token service announce") {
		t.Errorf("replay of nothing: status %d, %q", status, stderr)
	}

	// Four tokens: one with the subject of its component, one as a CloudEvent on the flat subject, one
	// that WeChat rejects, one that is dead.
	nc := connect(t, server.URL())
	updates, failures := subscribe(t, nc, "preauth.updated"), subscribe(t, nc, "preauth.failed")
	publish := func(msg *nats.Msg) {
		t.Helper()
		if err := nc.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
	}
	publish(&nats.Msg{Subject: "component.token.updated.wx1", Data: fmt.Appendf(nil, `{"component_access_token":"%s-1","expires_in":3600}`, secret)})
	nextUpdate(t, updates, "wx1")
	publish(&nats.Msg{
		Subject: "component.token.updated", Header: nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-type": {"t"}, "ce-source": {"/s"}},
		Data: tokenEvent("wx2", "2"),
	})
	nextUpdate(t, updates, "wx2")
	stand.Next("wx3", wechattest.Error(40001, ""), wechattest.Error(40001, ""))
	publish(&nats.Msg{Subject: "component.token.updated", Data: tokenEvent("wx3", "3")})
	publish(&nats.Msg{Subject: "component.token.updated", Data: fmt.Appendf(nil, `{"component_appid":"wx4","component_access_token":"%s-4","expires_at":"2026-03-14T11:00:00Z"}`, secret)})
	for given := 0; given < 2; {
		msg, err := failures.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := preauth.ParseFailure(msg.Data); err != nil {
			t.Fatal(err)
		} else if f.RetryAt.IsZero() {
			given++
		}
	}

	// A dry run changes nothing.
	const hopeless = `wx3 .* WeChat rejected the token: announce a newer one\nwx4 .* the token has expired: announce a newer one\n$`
	matches(t, `(?s)^COMPONENT .*\nwx1 .* would be replayed\nwx2 .* would be replayed\n`+hopeless, here("replay", "--dry-run")...)

	before := matches(t, `"token_expires_at":"([^"]+)"`, here("status", "wx2", "--json")...)[1]
	calls := func() string {
		return fmt.Sprint(stand.Count("wx1"), stand.Count("wx2"), stand.Count("wx3"), stand.Count("wx4"))
	}
	made := calls()
	for range 2 {
		matches(t, `(?s)^COMPONENT .*\nwx1 .* code is current, revision 1\nwx2 .* code is current, revision 1\n`+hopeless, here("replay", "--wait=1m")...)
	}
	if calls() != made {
		t.Errorf("%s calls of the components, want %s as before", calls(), made)
	}
	if after := matches(t, `"token_expires_at":"([^"]+)"`, here("status", "wx2", "--json")...)[1]; after != before {
		t.Errorf("replayed, the token ends at %s, and ended at %s before", after, before)
	}
	for _, appid := range []string{"wx3", "wx4"} {
		status, out, stderr := do(t, here("replay", appid)...)
		if status != 1 || !strings.Contains(out, "announce a newer one") || !strings.Contains(stderr, "nothing to replay") {
			t.Errorf("replay %s: status %d, %q, %q", appid, status, out, stderr)
		}
	}
	if status, _, stderr := do(t, here("replay", "wx9")...); status != 1 || !strings.Contains(stderr, "has no event of wx9 from the last 24h0m0s") {
		t.Errorf("replay of an unknown component: status %d, %q", status, stderr)
	}

	// A database that was set back behind the component's first event.
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, table := range []string{"pre_auth_code", "component"} {
		if _, err := db.ExecContext(t.Context(), "DELETE FROM "+table+" WHERE appid = 'wx1'"); err != nil {
			t.Fatal(err)
		}
	}
	matches(t, `^\{"component_appid":"wx1","stream_sequence":\d+,"stored_at":"[^"]+","token_expires_at":"[^"]+","replayed_as":\d+,"status":\{"component_appid":"wx1","state":"valid",.*\}\}\n$`,
		here("replay", "wx1", "--json", "--wait=1m")...)
	if n := stand.Count("wx1"); n != 2 {
		t.Errorf("%d calls for the component that was lost, want one more", n)
	}
}

// A stream of somebody else may take the flat subject only.
func TestReplayToAStreamOfTheFlatSubject(t *testing.T) {
	t.Parallel()
	server, stand, dsn := newNATS(t), newWeChat(t, ""), apptest.NewDatabase(t)
	nc := connect(t, server.URL())
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MINE", Subjects: []string{"component.token.updated"}}); err != nil {
		t.Fatal(err)
	}
	_, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn="+dsn, "--schema-apply", "--wechat-url="+stand.URL(), "--spares=0")
	awaitReady(t, admin)
	updates := subscribe(t, nc, "preauth.updated")
	if _, err := js.Publish(t.Context(), "component.token.updated", tokenEvent("wx1", "first")); err != nil {
		t.Fatal(err)
	}
	nextUpdate(t, updates, "wx1")
	matches(t, `(?s)\nwx1 .* code is current, revision 1\n`, "replay", "--wait=1m", "--timeout=1m", "--nats-url="+server.URL())
}

// A token that is announced while others are replayed stays the newest.
func TestReplayIsNoNewerThanANewEvent(t *testing.T) {
	t.Parallel()
	server := newNATS(t)
	nc := connect(t, server.URL())
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MINE", Subjects: []string{"component.>"}})
	if err != nil {
		t.Fatal(err)
	}
	announce := func(subject string, body []byte) {
		t.Helper()
		if _, err := js.Publish(t.Context(), subject, body); err != nil {
			t.Fatal(err)
		}
	}
	for _, appid := range []string{"wx1", "wx2", "wx3"} {
		announce("component.token.updated", tokenEvent(appid, "first"))
	}
	announce("component.ticket", []byte("no token"))
	announce("component.token.updated", []byte("no event"))

	c := replayCommand{client: client{Timeout: patience}, Since: time.Hour, Wait: 0}
	c.NATS.URL = server.URL()
	s, err := c.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	r := replayer{replayCommand: c, session: s, js: js, role: stream.Role{Events: "component.token.updated"}, newest: map[string]storedEvent{}}
	if err := r.find(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.read(t.Context(), jetstream.ConsumerConfig{}); err != nil {
		t.Fatal(err)
	}
	plan := make([]*replayed, 3)
	for i := range plan {
		plan[i] = &replayed{storedEvent: r.newest[fmt.Sprintf("wx%d", i+1)]}
	}
	if err := r.publish(t.Context(), plan[0]); err != nil {
		t.Fatal(err)
	}
	announce("component.token.updated", tokenEvent("wx2", "second"))
	for _, p := range plan[1:] {
		if err := r.publish(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if plan[0].as != 6 || plan[1].as != 0 || plan[1].reason == "" || plan[2].as != 8 {
		t.Errorf("replayed as %d, %d (%q) and %d; want 6, 0 with a reason, and 8", plan[0].as, plan[1].as, plan[1].reason, plan[2].as)
	}
	if msg, err := tokens.GetLastMsgForSubject(t.Context(), "component.token.updated"); err != nil || string(msg.Data) != string(tokenEvent("wx2", "second")) {
		t.Errorf("the newest event on the flat subject is %q, %v", msg.Data, err)
	}
}
