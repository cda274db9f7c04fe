package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/natsserver"
)

func TestTokenOfEachPreset(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	for name, test := range map[string]struct {
		args       []string
		key, value string
	}{
		"plain":      {nil, "component_access_token:wx-1", "%s"},
		"wxjava":     {[]string{"--preset=wxjava"}, "wechat_component_access_token:wx-2", "%s"},
		"easywechat": {[]string{"--preset=easywechat"}, "open_platform.component_access_token.wx-3", `s:21:"%s";`},
		"with a prefix and a suffix": {
			[]string{"--key=a*[b]?:{appid}:token"}, "a*[b]?:wx-4:token", "%s",
		},
		"of named components": {
			[]string{"--preset=wxjava", "--key=app:wechat_component_access_token:{appid}", "--component=wx-9,wx-5"}, "app:wechat_component_access_token:wx-5", "%s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bridge := startBridge(t, b.URL(), server.url(), "tokens", test.args...)
			bridge.awaitReady(t, true)
			// Keys beside it that are no component's.
			do(t, db, "SET", "component_access_token:wx:1", "x")
			do(t, db, "SET", "component_access_token:", "x")
			do(t, db, "SET", "aXb:wx-4:token", "x")

			token, appid := "61_"+secret+name[:2], "wx-"+strings.Trim(test.key, "abcdefghijklmnopqrstuvwxyz_.:*[]?-")
			token += strings.Repeat("x", 21-len(token))
			do(t, db, "SET", test.key, fmt.Sprintf(test.value, token), "PX", 6_900_000)
			event := b.await(t, appid, token, 1)
			if left := time.Until(event.ExpiresAt); left > 6900*time.Second || left < 6900*time.Second-apptest.Patience {
				t.Errorf("the token lives %v more, want 6900 s", left)
			}
			bridge.awaitMetric(t, `preauth_bridge_components{state="usable"} 1`)
			bridge.awaitMetric(t, `preauth_bridge_announcements_total{result="stored"} 1`)
		})
	}
}

// The log says that a wrong key was given.
func TestLogSaysWhetherThereAreTokens(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	bridge := startBridge(t, b.URL(), server.url(), "tokens", "--key=app:{appid}:token")
	bridge.Err.Await(t, `"level":"WARN","msg":"no tokens found: compare --preset and --key with the keys in Redis","keys":"app:\*:token"`)
	do(t, server.client(t), "SET", "app:wx1:token", "61_"+secret)
	bridge.Err.Await(t, `"msg":"tokens found","keys":"app:\*:token","components":1`)
}

// sentinel has a token announced that was set later than anything before, so that the bridge has
// looked at everything since.
func sentinel(t *testing.T, b *broker, server *redisServer, name string) {
	t.Helper()
	for _, appid := range []string{"a-" + name, "z-" + name} { // whatever the order
		do(t, server.client(t), "SET", "component_access_token:"+appid, "1", "EX", 7000)
		b.await(t, appid, "1", 1)
	}
}

func TestChangeIsAnnouncedOnce(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t, "--notify-keyspace-events", "KA")
	db := server.client(t)
	startBridge(t, b.URL(), server.url(), "tokens").awaitReady(t, true)
	end := time.Now().Add(7000 * time.Second).UnixMilli()
	for _, token := range []string{"first" + secret, "second" + secret, "first" + secret + "again"} {
		do(t, db, "SET", "component_access_token:wx1", token, "PXAT", end)
		b.await(t, "wx1", token, 1)
		do(t, db, "SET", "component_access_token:wx1", token, "PXAT", end) // nothing new
		sentinel(t, b, server, token[:3]+fmt.Sprint(len(token)))
		b.await(t, "wx1", token, 1)
	}
	do(t, db, "EXPIRE", "component_access_token:wx1", 3000)
	if left := time.Until(b.await(t, "wx1", "first"+secret+"again", 2).ExpiresAt); left > 3000*time.Second {
		t.Errorf("a shorter life is announced as %v", left)
	}
}

// A poll would take five minutes, which is longer than the test waits.
func TestNotificationsAreHeard(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t, "--notify-keyspace-events", "KA")
	db, proxy := server.client(t), startProxy(t, server.address)
	bridge := startBridge(t, b.URL(), "redis://"+proxy.address+"/0", "tokens", "--poll=5m")
	bridge.awaitReady(t, true)
	apptest.Eventually(t, "it subscribes", func() bool {
		n, err := db.PubSubNumPat(t.Context()).Result()
		return err == nil && n == 1
	})
	do(t, db, "SET", "component_access_token:wx1", "one", "EX", 7000)
	b.await(t, "wx1", "one", 1)

	// What changes while the connection is broken is found when it is back.
	proxy.cut()
	do(t, db, "SET", "component_access_token:wx1", "two", "EX", 7000)
	proxy.mend()
	b.await(t, "wx1", "two", 1)
	bridge.awaitReady(t, true)
}

func TestConnectionThatBreaksAgainAndAgain(t *testing.T) {
	for _, events := range []string{"", "KA"} {
		t.Run("notifications "+events, func(t *testing.T) {
			t.Parallel()
			b, server := startBroker(t, natsserver.Options{}), startRedis(t, "--notify-keyspace-events", events)
			db, toRedis, toNATS := server.client(t), startProxy(t, server.address), startProxy(t, strings.TrimPrefix(b.URL(), "nats://"))
			startBridge(t, "nats://"+toNATS.address, "redis://"+toRedis.address+"/0", "tokens")
			for i := range 30 {
				do(t, db, "SET", fmt.Sprintf("component_access_token:wx%d", i%3), fmt.Sprint("token", i), "EX", 7000)
				if i%2 == 0 {
					toRedis.breakOnce()
				} else {
					toNATS.breakOnce()
				}
				appid, token := fmt.Sprint("wx", i%3), fmt.Sprint("token", i)
				if i%5 == 4 {
					apptest.Eventually(t, token+" is announced", func() bool { return b.announced(appid, token) > 0 })
				}
			}
			for i := 27; i < 30; i++ {
				apptest.Eventually(t, "the last token is announced", func() bool { return b.announced(fmt.Sprint("wx", i%3), fmt.Sprint("token", i)) > 0 })
			}
		})
	}
}

func TestKeysThatHoldNoToken(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	key := func(appid string) string { return "component_access_token:" + appid }
	do(t, db, "RPUSH", key("a-list"), secret)
	do(t, db, "SET", key("b-huge"), strings.Repeat(secret, 1<<20), "EX", 7000)
	do(t, db, "SET", key("c-long"), strings.Repeat("x", preauth.MaxToken+1), "EX", 7000)
	do(t, db, "SET", key("d-empty"), "")
	do(t, db, "SET", key("e-binary"), "\xac\xed\x00\x05t\x00"+secret, "EX", 7000)
	do(t, db, "SET", key("f-quoted"), `"`+secret+`"`, "EX", 7000)
	do(t, db, "SET", key("g-spaced"), secret+" \n", "EX", 7000)
	do(t, db, "SET", key("h-endless"), "endless"+secret)
	do(t, db, "SET", key("i-year"), "year"+secret, "EX", 365*86400)
	do(t, db, "SET", key("j-dead"), "dead"+secret, "PX", 1)
	do(t, db, "SET", key("z-good"), "good"+secret, "EX", 7000)
	bridge := startBridge(t, b.URL(), server.url(), "tokens")

	b.await(t, "z-good", "good"+secret, 1)
	for appid, token := range map[string]string{"h-endless": "endless", "i-year": "year"} {
		if left := time.Until(b.await(t, appid, token+secret, 1).ExpiresAt); left > 2*time.Hour || left < 2*time.Hour-apptest.Patience {
			t.Errorf("%s: the token lives %v more, want 2 h", appid, left)
		}
	}
	bridge.awaitMetric(t, `preauth_bridge_components{state="unusable"} 7`)
	bridge.awaitMetric(t, `preauth_bridge_components{state="usable"} 3`)
	bridge.awaitReady(t, true)
	for appid, says := range map[string]string{
		"a-list": "something else than a string", "b-huge": "too long", "c-long": "component_access_token has 2049 bytes",
		"d-empty": "is empty", "e-binary": "not a bare token", "f-quoted": "not a bare token", "g-spaced": "not a bare token",
	} {
		bridge.Err.Await(t, `"key not announced","component_appid":"`+appid+`","error":"[^"]*`+says)
	}
	sentinel(t, b, server, "later")
	if n := strings.Count(bridge.Err.String(), "key not announced"); n != 7 {
		t.Errorf("%d lines about 7 keys:\n%s", n, bridge.Err)
	}
	for _, appid := range []string{"a-list", "b-huge"} {
		do(t, db, "DEL", key(appid))
		do(t, db, "SET", key(appid), "mended"+secret, "EX", 7000)
		b.await(t, appid, "mended"+secret, 1)
		bridge.Err.Await(t, `"key in order again","component_appid":"`+appid)
	}
	if n := b.announced("j-dead", "dead"+secret); n != 0 {
		t.Errorf("an expired token is announced %d times", n)
	}
}

// A stream that refuses the tokens of some components gets those of the others, and each is logged by
// itself.
func TestRefusedComponentsHoldUpNoOther(t *testing.T) {
	nats, err := natsserver.Start(natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nats.Close() })
	b, server := &broker{Server: nats}, startRedis(t) // nobody else subscribes, so a refusal comes at once
	if b.js, err = jetstream.New(connect(t, nats.URL())); err != nil {
		t.Fatal(err)
	}
	takes := func(subjects ...string) {
		t.Helper()
		if _, err := b.js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "COMPONENT_TOKENS", Subjects: subjects, MaxAge: 2 * time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(appids ...string) {
		t.Helper()
		for _, appid := range appids {
			apptest.Eventually(t, "the stream has the token of "+appid, func() bool { return b.last(t, appid) == appid+secret })
		}
	}
	takes("component.token.updated.b", "component.token.updated.d")
	for _, appid := range []string{"a", "b", "c", "d", "e"} {
		do(t, server.client(t), "SET", "component_access_token:"+appid, appid+secret, "EX", 7000)
	}
	bridge := startBridge(t, b.URL(), server.url(), "tokens")
	stored("b", "d")
	bridge.awaitMetric(t, `preauth_bridge_components{state="unusable"} 3`)
	bridge.awaitMetric(t, `preauth_bridge_components{state="usable"} 2`)
	bridge.awaitReady(t, true)
	for _, appid := range []string{"a", "c", "e"} {
		bridge.Err.Await(t, `"key not announced","component_appid":"`+appid+`","error":"[^"]*there is no stream for it`)
	}
	takes("component.token.updated.>")
	stored("a", "c", "e")
	bridge.awaitMetric(t, `preauth_bridge_components{state="unusable"} 0`)
	for _, appid := range []string{"a", "c", "e"} {
		bridge.Err.Await(t, `"key in order again","component_appid":"`+appid)
	}
	if n := strings.Count(bridge.Err.String(), "key not announced"); n != 3 {
		t.Errorf("%d lines about 3 components:\n%s", n, bridge.Err)
	}
}

// A stream that is lost is not taken for one that refuses the only component there is.
func TestStreamIsLostRightAfterAToken(t *testing.T) {
	nats, err := natsserver.Start(natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nats.Close() })
	b, server := &broker{Server: nats}, startRedis(t) // nobody else subscribes, so a refusal comes at once
	if b.js, err = jetstream.New(connect(t, nats.URL())); err != nil {
		t.Fatal(err)
	}
	create := func() {
		t.Helper()
		_, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "COMPONENT_TOKENS", Subjects: []string{"component.token.updated.>"}, MaxAge: 2 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
	}
	create()
	bridge := startBridge(t, b.URL(), server.url(), "tokens")
	do(t, server.client(t), "SET", "component_access_token:wx1", "one", "EX", 7000)
	apptest.Eventually(t, "the stream has the token", func() bool { return b.last(t, "wx1") == "one" })
	bridge.awaitReady(t, true)

	if err := b.js.DeleteStream(t.Context(), "COMPONENT_TOKENS"); err != nil {
		t.Fatal(err)
	}
	do(t, server.client(t), "SET", "component_access_token:wx1", "two", "EX", 7000)
	bridge.awaitReady(t, false)
	bridge.awaitMetric(t, `preauth_bridge_reached{part="stream"} 0`)
	create()
	bridge.awaitReady(t, true)
	apptest.Eventually(t, "the stream has the newer token", func() bool { return b.last(t, "wx1") == "two" })
}

func TestRedisIsKilled(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t, "--notify-keyspace-events", "KA")
	bridge := startBridge(t, b.URL(), server.url(), "tokens")
	bridge.awaitReady(t, true)
	do(t, server.client(t), "SET", "component_access_token:wx1", "one", "EX", 7000)
	b.await(t, "wx1", "one", 1)

	server.kill()
	bridge.awaitReady(t, false)
	bridge.awaitMetric(t, `preauth_bridge_reached{part="redis"} 0`)
	server.start(t)
	do(t, server.client(t), "SET", "component_access_token:wx1", "two", "EX", 7000)
	b.await(t, "wx1", "two", 1)
	bridge.awaitReady(t, true)
	bridge.awaitMetric(t, `preauth_bridge_reached{part="redis"} 1`)
}

func TestNATSComesBackEmpty(t *testing.T) {
	store := t.TempDir()
	b, server := startBroker(t, natsserver.Options{StoreDir: store}), startRedis(t)
	db := server.client(t)
	bridge := startBridge(t, b.URL(), server.url(), "tokens")
	do(t, db, "SET", "component_access_token:wx1", "one", "EX", 7000)
	do(t, db, "SET", "component_access_token:wx2", "other", "EX", 7000)
	b.await(t, "wx1", "one", 1)
	b.await(t, "wx2", "other", 1)

	b.Stop()
	bridge.awaitReady(t, false)
	do(t, db, "SET", "component_access_token:wx2", "newer", "EX", 7000)
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	// Nobody has created the streams yet.
	apptest.Eventually(t, "the bridge says that there is no stream", func() bool {
		status, body := bridge.get(t, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "token stream: ") && strings.Contains(body, "start preauth, which creates one")
	})
	b.createStreams(t)
	bridge.awaitReady(t, true)
	for appid, token := range map[string]string{"wx1": "one", "wx2": "newer"} {
		apptest.Eventually(t, "the stream has the token of "+appid, func() bool { return b.last(t, appid) == token })
	}
}

// last returns the newest token of a component in the stream.
func (b *broker) last(t *testing.T, appid string) string {
	t.Helper()
	stream, err := b.js.Stream(t.Context(), "COMPONENT_TOKENS")
	if err != nil {
		return ""
	}
	msg, err := stream.GetLastMsgForSubject(t.Context(), "component.token.updated."+appid)
	if err != nil {
		return ""
	}
	event, err := preauth.ParseTokenEvent(appid, msg.Header, msg.Data, msg.Time)
	if err != nil {
		t.Fatal(err)
	}
	return event.Token.Reveal()
}

// Whatever two bridges announce in which order, the newest token is the last one.
func TestTwoBridgesAgree(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t, "--notify-keyspace-events", "KA")
	db := server.client(t)
	proxies := []*proxy{startProxy(t, server.address), startProxy(t, server.address)}
	for i, args := range [][]string{nil, {"--component=wx1"}} {
		startBridge(t, b.URL(), "redis://"+proxies[i].address+"/0", "tokens", args...).awaitReady(t, true)
	}
	for i := range 100 {
		do(t, db, "SET", "component_access_token:wx1", fmt.Sprint("token", i), "EX", 7000)
		if i%10 == 0 {
			proxies[i/10%2].breakOnce()
		}
	}
	b.await(t, "wx1", "token99", 2) // once by each, and nothing after
	if last := b.last(t, "wx1"); last != "token99" {
		t.Errorf("the newest token in the stream is %s, want token99", last)
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	for says, args := range map[string][]string{
		"--key ($PREAUTH_BRIDGE_TOKEN_KEY) must contain {appid} once": {"tokens", "--key=token"},
		"{appid} once, where": {"tokens", "--key={appid}:{appid}"},
		"--preset ($PREAUTH_BRIDGE_PRESET) must be one of wxjava, easywecha": {"tokens", "--preset=java"},
		"--component ($PREAUTH_BRIDGE_COMPONENTS): invalid":                  {"tokens", "--component=wx 1"},
		"--poll ($PREAUTH_BRIDGE_POLL) must be 100ms to 5m":                  {"tokens", "--poll=1h"},
		"--redis-url ($REDIS_URL) must be redis://USER":                      {"tokens", "--redis-url=http://me:" + secret + "@h"},
		"characters such as / and @":                                         {"codes", "--redis-url=redis://me:" + secret + "/%@h:1/0"},
		"--redis-ca ($REDIS_CA) goes with":                                   {"codes", "--redis-ca=" + secret},
		"--redis-ca ($REDIS_CA) must name a PEM file":                        {"codes", "--redis-url=rediss://h", "--redis-ca=" + secret},
		"--key ($PREAUTH_BRIDGE_CODE_KEY) must contain {appid} once":         {"codes", "--key="},
		"--wxcomponent-url ($PREAUTH_BRIDGE_WXCOMPONENT_URL) must be":        {"wxcomponent", "wx1", "--wxcomponent-url=http://me:" + secret + "@h"},
		"go together: give both or none":                                     {"wxcomponent", "wx1", "--wxcomponent-password=" + secret},
		"<component>: invalid: component_appid must be":                      {"wxcomponent", "wx 1"},
	} {
		apptest.Refused(t, run, []string{"preauth-bridge: ", says}, append(args, "--admin-listen=127.0.0.1:0")...)
	}
}

// A token whose end nobody says is not announced for ever, and the bridge says that it is too old.
func TestTokenThatIsNeverRenewed(t *testing.T) {
	b := startBroker(t, natsserver.Options{})
	client, err := preauth.NewClient(b.nc)
	if err != nil {
		t.Fatal(err)
	}
	a := newAnnouncer(&session{nc: b.nc, client: client, log: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry()})
	offer := func(token string, want error, usable int) {
		t.Helper()
		for range 2 {
			if err := a.offer(t.Context(), "wx1", token, time.Time{}); !errors.Is(err, want) || a.usable() != usable {
				t.Errorf("%s: %v, %d usable; want %v, %d", token, err, a.usable(), want, usable)
			}
		}
	}
	offer("one", nil, 1)
	a.known["wx1"].since = time.Now().Add(-preauth.DefaultTokenLife)
	offer("one", errUnusable, 0)
	offer("two", nil, 1)
	b.await(t, "wx1", "one", 1)
	b.await(t, "wx1", "two", 1)
}
