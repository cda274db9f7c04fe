package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/natsserver"
)

// info returns a number of Redis's INFO.
func info(t *testing.T, db *redis.Client, section, field string) int {
	t.Helper()
	text, err := db.Info(t.Context(), section).Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, field); ok {
			value, _, _ = strings.Cut(strings.TrimSpace(value), ",")
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// metric returns the value of a metric, 0 if there is none.
func (b *bridge) metric(t *testing.T, name string) (value float64) {
	t.Helper()
	_, body := b.get(t, "/metrics")
	for line := range strings.Lines(body) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			var err error
			if value, err = strconv.ParseFloat(strings.TrimSpace(text), 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	return value
}

// unready waits until a bridge says that it is not ready because of something.
func (b *bridge) unready(t *testing.T, says ...string) {
	t.Helper()
	apptest.Eventually(t, fmt.Sprintf("not ready: %q", says), func() bool {
		status, body := b.get(t, "/readyz")
		for _, text := range says {
			if !strings.Contains(body, text) {
				return false
			}
		}
		return status == http.StatusServiceUnavailable
	})
}

// With many components, a comparison takes few round trips, and the bucket is read less often than
// something changes in it.
func TestTenThousandCodes(t *testing.T) {
	const components, rounds = 10_000, 10
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	end := time.Now().Add(time.Hour)
	for i := range components {
		u := preauth.Update{AppID: fmt.Sprint("wx", i), PreAuthCode: code(fmt.Sprint(i)), Revision: 1, ExpiresAt: end, IssuedAt: time.Now()}
		if _, err := b.js.PublishMsgAsync(&nats.Msg{Subject: "preauth.updated." + u.AppID, Data: u.Encode()}, jetstream.WithStallWait(apptest.Patience)); err != nil {
			t.Fatal(err)
		}
	}
	apptest.Eventually(t, "the bucket has all", func() bool {
		stream, err := b.js.Stream(t.Context(), "KV_preauth")
		return err == nil && stream.CachedInfo().State.Msgs == components
	})
	var gets atomic.Int64
	if _, err := b.nc.Subscribe("$JS.API.DIRECT.GET.KV_preauth.>", func(*nats.Msg) { gets.Add(1) }); err != nil {
		t.Fatal(err)
	}
	bridge := startBridge(t, b.URL(), server.url(), "codes")
	const same = `preauth_bridge_writes_total{result="same"}`
	compared := func(times float64) {
		t.Helper()
		want := bridge.metric(t, same) + times*components
		apptest.Eventually(t, "all are compared", func() bool { return bridge.metric(t, same) >= want })
	}
	compared(1)
	if n, err := db.DBSize(t.Context()).Result(); err != nil || n != 2*components {
		t.Fatalf("Redis has %d keys, %v; want %d", n, err, 2*components)
	}
	reads, before := info(t, db, "stats", "total_reads_processed:"), bridge.metric(t, same)
	compared(1)
	// Redis reads up to 16 KiB at once.
	times := (bridge.metric(t, same) - before) / components
	if n := float64(info(t, db, "stats", "total_reads_processed:") - reads); n > times*components/10 {
		t.Errorf("Redis read %v times for %v comparisons of %d codes", n, times, components)
	}
	for i := range rounds {
		b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code(fmt.Sprint("round", i)), Revision: uint64(2 + i)})
		awaitCode(t, db, "wx1", code(fmt.Sprint("round", i)).Reveal())
		compared(1)
	}
	if n := gets.Load(); n < components || n > 3*components {
		t.Errorf("the bucket was asked %d times, while it had %d keys and changed %d times", n, components, rounds)
	}
}

// What is wrong with a component is logged when it begins, when it changes and when it ends.
func TestFaultIsLoggedOnce(t *testing.T) {
	t.Parallel()
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	put := func(appid, body string) {
		t.Helper()
		if _, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: "preauth.updated." + appid, Data: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	put("wx1", "x"+secret)
	for _, appid := range []string{"wx3", "wx4"} {
		do(t, db, "RPUSH", "pre_auth_code:"+appid+":revision", "x")
		b.update(t, preauth.Update{AppID: appid, PreAuthCode: code("one"), Revision: 1})
	}
	bridge := startBridge(t, b.URL(), server.url(), "codes")
	revision := 0
	lines := func(says string, want int) {
		t.Helper()
		for range 3 { // each makes the bridge read the bucket once more
			revision++
			stalled := bridge.metric(t, `preauth_bridge_writes_total{result="same"}`)
			b.update(t, preauth.Update{AppID: "wx2", PreAuthCode: code(fmt.Sprint(revision)), Revision: uint64(revision)})
			awaitCode(t, db, "wx2", code(fmt.Sprint(revision)).Reveal())
			apptest.Eventually(t, "it compares", func() bool { return bridge.metric(t, `preauth_bridge_writes_total{result="same"}`) >= stalled+2 })
		}
		bridge.Err.Await(t, says)
		if n := strings.Count(bridge.Err.String(), says); n != want {
			t.Errorf("%d lines, want %d: %s", n, want, says)
		}
	}
	lines(`"entry of the KV bucket not taken","component_appid":"wx1"`, 1)
	lines(`"code not written","component_appid":"wx3"`, 1)
	lines(`"code not written","component_appid":"wx4"`, 1)
	bridge.awaitMetric(t, `preauth_bridge_components{state="unusable"} 2`)
	put("wx1", `{"component_appid":"wx1"}`)
	lines(`"entry of the KV bucket not taken","component_appid":"wx1","error":"invalid: an update needs`, 1)
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 1})
	lines(`"entry of the KV bucket taken again","component_appid":"wx1"`, 1)
	do(t, db, "DEL", "pre_auth_code:wx3:revision", "pre_auth_code:wx4:revision")
	lines(`"code written again","component_appid":"wx3"`, 1)
	bridge.awaitMetric(t, `preauth_bridge_components{state="unusable"} 0`)
	lines(`"code not written"`, 2)
}

// What reaches the bucket only after the bridge has read it is found soon, whatever the poll.
func TestBucketThatIsBehind(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	if err := b.js.DeleteStream(t.Context(), "KV_preauth"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KV_preauth", Subjects: []string{"$KV.preauth.>"}, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	bridge := startBridge(t, b.URL(), server.url(), "codes", "--poll=5m")
	bridge.awaitReady(t, true)
	late := preauth.Update{AppID: "wx1", PreAuthCode: code("late"), Revision: 1, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}
	if _, err := b.js.Publish(t.Context(), "$KV.preauth.wx1", late.Encode()); err != nil {
		t.Fatal(err)
	}
	awaitCode(t, server.client(t), "wx1", code("late").Reveal())
}

func TestRedisIsAReplica(t *testing.T) {
	t.Parallel()
	b, primary := startBroker(t, natsserver.Options{}), startRedis(t)
	replica := startRedis(t, "--replicaof", strings.Replace(primary.address, ":", " ", 1))
	db := replica.client(t)
	do(t, primary.client(t), "SET", "component_access_token:wx1", "one", "EX", 7000)
	tokens := startBridge(t, b.URL(), replica.url(), "tokens")
	b.await(t, "wx1", "one", 1) // a replica is enough to read from
	tokens.awaitReady(t, true)

	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 1})
	codes := startBridge(t, b.URL(), replica.url(), "codes")
	codes.unready(t, "Redis: writing a code: READONLY", "this is a replica, so give the address of the primary")
	do(t, db, "REPLICAOF", "NO", "ONE")
	awaitCode(t, db, "wx1", code("one").Reveal())
	codes.awaitReady(t, true)
}

// A Redis that is full still drops a code that somebody authorized with, whatever else it refuses.
func TestMemoryOfRedisIsFull(t *testing.T) {
	t.Parallel()
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	bridge := startBridge(t, b.URL(), server.url(), "codes")
	b.update(t, preauth.Update{AppID: "wx999", PreAuthCode: code("one"), Revision: 1})
	awaitCode(t, db, "wx999", code("one").Reveal())
	do(t, db, "CONFIG", "SET", "maxmemory", "1")
	for i := range writeAtOnce + 1 {
		b.update(t, preauth.Update{AppID: fmt.Sprintf("wx%03d", i), PreAuthCode: code("one"), Revision: 1})
	}
	bridge.unready(t, "Redis: writing a code: OOM")
	b.update(t, preauth.Update{AppID: "wx999", PreAuthCode: code("one"), Revision: 2, Spent: true})
	awaitCode(t, db, "wx999", "")
	do(t, db, "CONFIG", "SET", "maxmemory", "0")
	awaitCode(t, db, "wx500", code("one").Reveal())
	bridge.awaitReady(t, true)
}

// A Redis that takes connections and answers nothing.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	b, server := startBroker(t, natsserver.Options{}), startRedis(t, "--notify-keyspace-events", "KA")
	db := server.client(t)
	tokens, codes := startBridge(t, b.URL(), server.url(), "tokens"), startBridge(t, b.URL(), server.url(), "codes")
	tokens.awaitReady(t, true)
	codes.awaitReady(t, true)
	if err := server.command.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 1})
	tokens.unready(t, "Redis: ", "timeout")
	codes.unready(t, "Redis: ", "timeout")
	if err := server.command.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	awaitCode(t, db, "wx1", code("one").Reveal())
	do(t, db, "SET", "component_access_token:wx1", "one", "EX", 7000)
	b.await(t, "wx1", "one", 1)
	tokens.awaitReady(t, true)
	codes.awaitReady(t, true)
}

// Redis's user loses its password, and the bridge says what to change.
func TestRedisRefusesTheLogin(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t, "--requirepass", aclPassword)
	for says, url := range map[string]string{
		"NOAUTH":    "redis://" + server.address,
		"WRONGPASS": "redis://default:wrong" + secret + "@" + server.address,
	} {
		for _, command := range []string{"tokens", "codes"} {
			bridge := startBridge(t, b.URL(), url, command)
			bridge.unready(t, "Redis: ", says, "--redis-url ($REDIS_URL)")
		}
	}
}

// A token that changes while NATS is away is announced as it is when NATS is back.
func TestTokenChangesTwiceWhileNATSIsAway(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{StoreDir: t.TempDir()}), startRedis(t, "--notify-keyspace-events", "KA")
	db := server.client(t)
	bridge := startBridge(t, b.URL(), server.url(), "tokens")
	do(t, db, "SET", "component_access_token:wx1", "one", "EX", 7000)
	do(t, db, "SET", "component_access_token:wx2", "short", "PX", 7000_000)
	b.await(t, "wx1", "one", 1)
	b.await(t, "wx2", "short", 1)
	b.Stop()
	bridge.awaitReady(t, false)
	bridge.awaitMetric(t, `preauth_bridge_reached{part="nats"} 0`)
	heard := bridge.metric(t, "preauth_bridge_notifications_total")
	do(t, db, "SET", "component_access_token:wx1", "two", "EX", 7000)
	do(t, db, "PEXPIRE", "component_access_token:wx2", 1)
	apptest.Eventually(t, "the bridge hears of it", func() bool { return bridge.metric(t, "preauth_bridge_notifications_total") >= heard+2 })
	do(t, db, "SET", "component_access_token:wx1", "three", "EX", 7000)
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the stream has the newest token", func() bool { return b.last(t, "wx1") == "three" })
	if n := b.announced("wx1", "two"); n != 0 {
		t.Errorf("a token of meanwhile was announced %d times", n)
	}
	bridge.awaitReady(t, true)
}

// A Redis that stops to send notifications is polled.
func TestNotificationsAreSwitchedOff(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t, "--notify-keyspace-events", "KA")
	db := server.client(t)
	bridge := startBridge(t, b.URL(), server.url(), "tokens")
	do(t, db, "SET", "component_access_token:wx1", "one", "EX", 7000)
	b.await(t, "wx1", "one", 1)
	do(t, db, "CONFIG", "SET", "notify-keyspace-events", "")
	heard := bridge.metric(t, "preauth_bridge_notifications_total")
	do(t, db, "SET", "component_access_token:wx1", "two", "EX", 7000)
	do(t, db, "SET", "component_access_token:wx2", "new", "EX", 7000)
	b.await(t, "wx1", "two", 1)
	b.await(t, "wx2", "new", 1)
	if n := bridge.metric(t, "preauth_bridge_notifications_total"); n != heard {
		t.Errorf("%v notifications, want %v", n, heard)
	}
}

// Among very many keys of others, the keys of components that are known are read far more often than
// all keys are scanned.
func TestManyKeysOfOthers(t *testing.T) {
	t.Parallel()
	b, server := startBroker(t, natsserver.Options{}), startRedis(t, "--enable-debug-command", "yes")
	db := server.client(t)
	do(t, db, "DEBUG", "POPULATE", 1_000_000, "session", 1)
	do(t, db, "SET", "component_access_token:wx1", "one", "EX", 7000)
	bridge := startBridge(t, b.URL(), server.url(), "tokens")
	b.await(t, "wx1", "one", 1)
	do(t, db, "CONFIG", "RESETSTAT")
	const looks = 15
	apptest.Eventually(t, "it looks", func() bool { return info(t, db, "commandstats", "cmdstat_exec:calls=") >= looks })
	if n := info(t, db, "commandstats", "cmdstat_scan:calls="); n > looks/3*1000 {
		t.Errorf("%d calls of SCAN for %d looks", n, looks)
	}
	do(t, db, "SET", "component_access_token:wx1", "two", "EX", 7000)
	b.await(t, "wx1", "two", 1)
	bridge.awaitReady(t, true)
}

// What Redis says of a code that it does not take is logged with what to change.
func TestCodeThatRedisDoesNotTake(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	do(t, db, "SET", "pre_auth_code:wx1:revision", 1000)
	u := preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 7, IssuedAt: time.Now().Add(-time.Hour), ExpiresAt: time.Now().Add(time.Hour)}
	if _, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: "preauth.updated.wx1", Data: u.Encode()}); err != nil {
		t.Fatal(err)
	}
	bridge := startBridge(t, b.URL(), server.url(), "codes")
	bridge.Err.Await(t, `"code not written","component_appid":"wx1","error":"the key pre_auth_code:wx1:revision has a newer revision than the service: .* remove the key"`)
	bridge.awaitMetric(t, `preauth_bridge_components{state="unusable"} 1`)
	do(t, db, "DEL", "pre_auth_code:wx1:revision")
	awaitCode(t, db, "wx1", code("one").Reveal())
	bridge.Err.Await(t, `"code written again","component_appid":"wx1"`)

	// By the clock of Redis, the code is over.
	result, err := fence.Run(t.Context(), db, []string{"a", "b"}, 1, "code", time.Now().Add(-time.Minute).UnixMilli(), "true").Text()
	if err != nil || result != "expired" || db.Exists(t.Context(), "a").Val() != 0 {
		t.Errorf("the code is %s, %v", result, err)
	}
}
