package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/natsserver"
)

// awaitCode waits until Redis has the code of a component, "" for none.
func awaitCode(t *testing.T, db *redis.Client, appid string, want string) {
	t.Helper()
	apptest.Eventually(t, "the code of "+appid+" is "+want, func() bool {
		got, err := db.Get(t.Context(), "pre_auth_code:"+appid).Result()
		return (err == nil || want == "" && err == redis.Nil) && got == want //nolint:errorlint // it is not wrapped
	})
}

func TestCodeInRedis(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	bridge := startBridge(t, b.URL(), server.url(), "codes")
	bridge.awaitReady(t, true)

	end := time.Now().Add(30 * time.Minute)
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 41, ExpiresAt: end})
	awaitCode(t, db, "wx1", code("one").Reveal())
	if at, err := db.PExpireTime(t.Context(), "pre_auth_code:wx1").Result(); err != nil || at.Milliseconds() != end.UnixMilli() {
		t.Errorf("the code ends at %d, %v; want %d", at.Milliseconds(), err, end.UnixMilli())
	}
	// Spent, by a clock that is ahead.
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 42, ExpiresAt: end, Spent: true})
	awaitCode(t, db, "wx1", "")
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("two"), Revision: 43, ExpiresAt: end})
	awaitCode(t, db, "wx1", code("two").Reveal())

	// An older update that comes late changes nothing.
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 41, ExpiresAt: end})
	b.update(t, preauth.Update{AppID: "wx2", PreAuthCode: code("other"), Revision: 1})
	awaitCode(t, db, "wx2", code("other").Reveal())
	awaitCode(t, db, "wx1", code("two").Reveal())
	bridge.awaitMetric(t, `preauth_bridge_components{state="usable"} 2`)

	// An expired code is not written, and Redis drops one that expires.
	b.update(t, preauth.Update{AppID: "wx2", PreAuthCode: code("dead"), Revision: 2, ExpiresAt: time.Now().Add(-time.Second)})
	awaitCode(t, db, "wx2", "")
	b.update(t, preauth.Update{AppID: "wx2", PreAuthCode: code("short"), Revision: 3, ExpiresAt: time.Now().Add(time.Second)})
	awaitCode(t, db, "wx2", "")
}

// The fence is in Redis: it holds between mirrors that know nothing of each other.
func TestNoOlderRevisionReplacesANewerOne(t *testing.T) {
	server := startRedis(t)
	end := time.Now().Add(time.Hour)
	const newest = 60
	revisions := rand.Perm(newest)
	var writers sync.WaitGroup
	watched, stop := make(chan error, 1), make(chan struct{})
	db := server.client(t)
	go func() { // what a reader sees only grows
		seen := 0
		for {
			text, _ := db.Get(context.Background(), "pre_auth_code:wx1").Result()
			var revision int
			_, _ = fmt.Sscan(strings.TrimPrefix(text, code("").Reveal()), &revision)
			if revision < seen {
				watched <- fmt.Errorf("a reader saw revision %d after %d", revision, seen)
				return
			}
			seen = revision
			select {
			case <-stop:
				watched <- nil
				return
			default:
			}
		}
	}()
	for i := range 4 {
		m := &mirror{redis: server.client(t), keys: pattern{before: "pre_auth_code:"}}
		writers.Go(func() {
			for at, revision := range revisions {
				if at%4 != i && revision%7 != 0 { // some by all
					continue
				}
				u := preauth.Update{AppID: "wx1", PreAuthCode: code(fmt.Sprint(revision + 1)), Revision: uint64(revision + 1), ExpiresAt: end}
				if err := m.send(context.Background(), []preauth.Update{u})[0].Err(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	if err := <-watched; err != nil {
		t.Error(err)
	}
	awaitCode(t, db, "wx1", code(fmt.Sprint(newest)).Reveal())
}

// split flushes the scripts of Redis after the first command of each pipeline, so that the others are
// as if a proxy led their keys to other servers.
type split struct{ server *redis.Client }

func (split) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (split) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (s split) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds[:1])
		if len(cmds) > 1 {
			err = errors.Join(err, s.server.ScriptFlush(ctx).Err(), next(ctx, cmds[1:]))
		}
		return err
	}
}

func TestEachServerBehindAProxyGetsTheScript(t *testing.T) {
	server := startRedis(t)
	db := server.client(t)
	m := &mirror{redis: server.client(t), keys: pattern{before: "pre_auth_code:"}}
	m.redis.AddHook(split{db})
	updates := make([]preauth.Update, 3)
	for i := range updates {
		updates[i] = preauth.Update{AppID: fmt.Sprint("wx", i), PreAuthCode: code(fmt.Sprint(i)), Revision: 1, ExpiresAt: time.Now().Add(time.Hour)}
	}
	for i, reply := range m.send(t.Context(), updates) {
		if text, err := reply.Text(); err != nil || text != "written" {
			t.Errorf("update %d: %q, %v", i, text, err)
		}
	}
	for i, u := range updates {
		awaitCode(t, db, u.AppID, code(fmt.Sprint(i)).Reveal())
	}
}

func TestRedisLosesItsCodes(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	bridge := startBridge(t, b.URL(), server.url(), "codes")
	for i := range 250 {
		b.update(t, preauth.Update{AppID: fmt.Sprint("wx", i), PreAuthCode: code(fmt.Sprint(i)), Revision: 7})
	}
	all := func() {
		t.Helper()
		for i := range 250 {
			awaitCode(t, server.client(t), fmt.Sprint("wx", i), code(fmt.Sprint(i)).Reveal())
		}
	}
	all()
	do(t, server.client(t), "FLUSHALL")
	all()
	server.kill()
	bridge.awaitReady(t, false)
	b.update(t, preauth.Update{AppID: "wx0", PreAuthCode: code("newer"), Revision: 8})
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("1"), Revision: 8, ExpiresAt: time.Now(), Spent: true})
	server.start(t)
	awaitCode(t, server.client(t), "wx0", code("newer").Reveal())
	awaitCode(t, server.client(t), "wx1", "")
	awaitCode(t, server.client(t), "wx249", code("249").Reveal())
	bridge.awaitReady(t, true)
}

// A spent code that comes back with a backup of Redis goes away again.
func TestSpentCodeComesBackWithABackup(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	startBridge(t, b.URL(), server.url(), "codes").awaitReady(t, true)
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 1})
	awaitCode(t, db, "wx1", code("one").Reveal())
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 2, ExpiresAt: time.Now(), Spent: true})
	awaitCode(t, db, "wx1", "")
	do(t, db, "MSET", "pre_auth_code:wx1", code("one").Reveal(), "pre_auth_code:wx1:revision", "1")
	awaitCode(t, db, "wx1", "")
	// What others keep there while the component has no code stays.
	do(t, db, "SET", "pre_auth_code:wx1", "another program's")
	b.update(t, preauth.Update{AppID: "wx2", PreAuthCode: code("two"), Revision: 1})
	awaitCode(t, db, "wx2", code("two").Reveal())
	do(t, db, "DEL", "pre_auth_code:wx2")
	awaitCode(t, db, "wx2", code("two").Reveal()) // it is compared after wx1
	awaitCode(t, db, "wx1", "another program's")
}

func TestUpdatesWhileTheBridgeIsCutOff(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db, proxy := server.client(t), startProxy(t, strings.TrimPrefix(b.URL(), "nats://"))
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("before"), Revision: 3})
	bridge := startBridge(t, "nats://"+proxy.address, server.url(), "codes", "--poll=5s") // the bucket is a moment behind
	awaitCode(t, db, "wx1", code("before").Reveal())                                      // announced before the bridge started

	proxy.cut()
	bridge.awaitReady(t, false)
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("meanwhile"), Revision: 4})
	b.update(t, preauth.Update{AppID: "wx2", PreAuthCode: code("new"), Revision: 1})
	stream, err := b.js.Stream(t.Context(), "KV_preauth")
	if err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the bucket has both", func() bool {
		msg, err := stream.GetLastMsgForSubject(t.Context(), "$KV.preauth.wx2")
		return err == nil && len(msg.Data) > 0
	})
	proxy.mend()
	awaitCode(t, db, "wx1", code("meanwhile").Reveal())
	awaitCode(t, db, "wx2", code("new").Reveal())
	for i := range 20 { // cuts in the middle of everything
		b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code(fmt.Sprint("busy", i)), Revision: uint64(5 + i)})
		proxy.breakOnce()
	}
	awaitCode(t, db, "wx1", code("busy19").Reveal())
}

func TestStreamsOfCodesAreLost(t *testing.T) {
	store := t.TempDir()
	b, server := startBroker(t, natsserver.Options{StoreDir: store}), startRedis(t)
	db := server.client(t)
	bridge := startBridge(t, b.URL(), server.url(), "codes")
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 3})
	b.update(t, preauth.Update{AppID: "wx2", PreAuthCode: code("two"), Revision: 3})
	awaitCode(t, db, "wx1", code("one").Reveal())
	awaitCode(t, db, "wx2", code("two").Reveal())
	b.Stop()
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the bridge says that there is no bucket", func() bool {
		status, body := bridge.get(t, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "KV bucket: ") && strings.Contains(body, "start preauth, or correct --kv-bucket")
	})
	do(t, db, "DEL", "pre_auth_code:wx2") // Redis gets it from the bridge's memory
	awaitCode(t, db, "wx2", code("two").Reveal())
	b.createStreams(t)
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("next"), Revision: 4})
	awaitCode(t, db, "wx1", code("next").Reveal())
	awaitCode(t, db, "wx2", code("two").Reveal())
	bridge.awaitReady(t, true)
}

func TestForeignThingsAmongTheCodes(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	do(t, db, "RPUSH", "pre_auth_code:wx1:revision", secret)
	do(t, db, "HSET", "pre_auth_code:wx2", secret, secret)
	do(t, db, "SET", "pre_auth_code:wx3:revision", "no number")
	do(t, db, "SET", "pre_auth_code:wx4:revision", "9007199254740991")
	for i := 1; i <= 5; i++ {
		b.update(t, preauth.Update{AppID: fmt.Sprint("wx", i), PreAuthCode: code(fmt.Sprint(i)), Revision: 1})
	}
	forged := preauth.Update{AppID: "wx1", PreAuthCode: code("forged"), Revision: 9, ExpiresAt: time.Now().Add(time.Hour)}
	for subject, body := range map[string]string{"preauth.updated.wx6": string(forged.Encode()), "preauth.updated.wx7": secret, "preauth.updated.wx8": ""} {
		if _, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Data: []byte(body)}, jetstream.WithExpectStream("PREAUTH")); err != nil {
			t.Fatal(err)
		}
	}
	bridge := startBridge(t, b.URL(), server.url(), "codes")
	for _, i := range []int{2, 3, 5} {
		awaitCode(t, db, fmt.Sprint("wx", i), code(fmt.Sprint(i)).Reveal())
	}
	awaitCode(t, db, "wx1", "") // neither the component's, which has no revision, nor the forged one
	awaitCode(t, db, "wx4", "")
	bridge.Err.Await(t, `"code not written","component_appid":"wx1","error":"the key pre_auth_code:wx1:revision holds something else than a revision: remove it"`)
	bridge.Err.Await(t, `"entry of the KV bucket not taken","component_appid":"wx6"`)
	bridge.Err.Await(t, `"entry of the KV bucket not taken","component_appid":"wx7"`)
	do(t, db, "DEL", "pre_auth_code:wx1:revision")
	awaitCode(t, db, "wx1", code("1").Reveal())
	bridge.awaitReady(t, true)
	if err := b.nc.Publish("preauth.updated", []byte(secret)); err != nil {
		t.Fatal(err)
	}
	bridge.Err.Await(t, `"message not taken"`)
}

func TestTwoMirrors(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	proxies := []*proxy{startProxy(t, server.address), startProxy(t, server.address)}
	for _, p := range proxies {
		startBridge(t, b.URL(), "redis://"+p.address+"/0", "codes").awaitReady(t, true)
	}
	for i := range 60 {
		b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code(fmt.Sprint(i)), Revision: uint64(1 + i)})
		if i%6 == 0 {
			proxies[i/6%2].breakOnce()
		}
	}
	awaitCode(t, db, "wx1", code("59").Reveal())
	b.update(t, preauth.Update{AppID: "wx2", PreAuthCode: code("last"), Revision: 1})
	awaitCode(t, db, "wx2", code("last").Reveal())
	awaitCode(t, db, "wx1", code("59").Reveal())
}
