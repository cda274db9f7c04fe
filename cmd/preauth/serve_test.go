package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/loopback"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
)

// newNATS starts a server without authentication.
func newNATS(t *testing.T) *natsserver.Server {
	t.Helper()
	server, err := natsserver.Start(natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// serve starts the service with arguments of the test, and returns its admin address.
func serve(t *testing.T, args ...string) (r *apptest.Command, admin string) {
	t.Helper()
	r = start(t, append([]string{
		"serve", "--admin-listen=127.0.0.1:0", "--log-level=debug",
		// No machine is too slow for these limits.
		"--request-timeout=1m", "--wechat-timeout=1m", "--shutdown=1m", "--stall=1h",
	}, args...)...)
	return r, r.Err.Await(t, `"admin":"([^"]+)"`)[1]
}

func TestServeMakesACodeOfATokenAndAnswersLookups(t *testing.T) {
	t.Parallel()
	server, stand := newNATS(t), newWeChat(t, "")
	// The file with a DSN may end in a line break.
	dsn := write(t, "dsn", apptest.NewDatabase(t)+"\n")
	service, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn-file="+dsn, "--wechat-url="+stand.URL(), "--schema-apply", "--spares=0")
	awaitReady(t, admin)
	if status, body := get(t, admin, "/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz says %d %q", status, body)
	}
	if status, out, _ := do(t, "check", "--timeout=1m", "--admin-listen="+admin); status != 0 || out != "ready\n" {
		t.Errorf("check of a ready service: status %d, %q", status, out)
	}

	nc := connect(t, server.URL())
	sub := subscribe(t, nc, "preauth.updated")
	published := time.Now()
	if err := nc.Publish("component.token.updated", tokenEvent("wx1", "first")); err != nil {
		t.Fatal(err)
	}
	update := nextUpdate(t, sub, "wx1")
	t.Logf("from the token's publish to the code's arrival: %v", time.Since(published))
	if update.Revision != 1 || len(stand.Issued("wx1")) != 1 || !update.PreAuthCode.Equal(stand.Issued("wx1")[0]) {
		t.Errorf("revision %d announced, and %d codes issued; want the one code as revision 1", update.Revision, len(stand.Issued("wx1")))
	}
	msg, err := nc.Request("preauth.lookup.wx1", nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := preauth.ParseLookup(msg.Data); err != nil || !code.PreAuthCode.Equal(update.PreAuthCode) || code.Revision != 1 {
		t.Errorf("the look-up answers revision %d, error %v; want the announced code", code.Revision, err)
	}
	if msg, err = nc.Request(micro.APIPrefix+".PING.preauth", nil, patience); err != nil || !strings.Contains(string(msg.Data), `"name":"preauth"`) {
		t.Errorf("the NATS micro service does not answer a ping: %v", err)
	}
	lookUpByHand(t, server.URL(), update)
	checkMetrics(t, admin)

	if status := service.Stop(); status != 0 {
		t.Errorf("stopped with status %d, want 0", status)
	}
	service.Err.Await(t, `"msg":"stopped"`)
	if status, _, stderr := do(t, "check", "--timeout=1m", "--admin-listen="+admin); status != 1 || !strings.Contains(stderr, "connection refused") {
		t.Errorf("check of a stopped service: status %d, %q", status, stderr)
	}
	if text := service.Out.String() + service.Err.String(); strings.Contains(text, update.PreAuthCode.Reveal()) {
		t.Error("a code is printed")
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "COMPONENT_TOKENS")
	if err != nil {
		t.Fatal(err)
	}
	cons, err := stream.Consumer(t.Context(), fmt.Sprintf("preauth-%d", stream.CachedInfo().Created.UnixMicro()))
	if err != nil {
		t.Fatal(err)
	}
	if info := cons.CachedInfo(); info.NumAckPending+int(info.NumPending) != 0 {
		t.Errorf("%d events are not acknowledged and %d not taken up, want none", info.NumAckPending, info.NumPending)
	}
}

// lookUpByHand tries the command lookup on a service that has announced a code.
func lookUpByHand(t *testing.T, url string, current preauth.Update) {
	t.Helper()
	code := current.PreAuthCode.Reveal()
	status, out, _ := do(t, "lookup", "--timeout=1m", "--nats-url="+url, current.AppID)
	if status != 0 || strings.Contains(out, code) || !strings.HasPrefix(out, current.PreAuthCode.Hint()+"\nrevision 1, valid until ") {
		t.Errorf("lookup: status %d, %q", status, out)
	}
	if status, out, _ = do(t, "lookup", "--timeout=1m", "--nats-url="+url, "--reveal", "--min-ttl=1m", current.AppID); status != 0 || !strings.HasPrefix(out, code+"\n") {
		t.Errorf("lookup --reveal: status %d, and the code is not printed", status)
	}
	if status, out, stderr := do(t, "lookup", "--timeout=1m", "--nats-url="+url, "wxunknown"); status != 1 || out != "" || !strings.HasPrefix(stderr, "preauth: look-up: 404: ") {
		t.Errorf("lookup of an unknown component: status %d, %q %q", status, out, stderr)
	}
	if status, out, stderr := do(t, "lookup", "--timeout=1m", "--nats-url="+url, "--subject-prefix=elsewhere", "wx1"); status != 1 || out != "" || !strings.Contains(stderr, "nobody answers on elsewhere") {
		t.Errorf("lookup where no service is: status %d, %q %q", status, out, stderr)
	}
}

// checkMetrics requires all metrics after one event and its look-ups.
func checkMetrics(t *testing.T, admin string) {
	t.Helper()
	for what, sample := range map[string]string{
		"events by outcome":          `preauth_events_total{outcome="saved"} 1`,
		"calls of WeChat by class":   `preauth_wechat_call_duration_seconds_count{class="ok"} 1`,
		"latency of calls":           `preauth_wechat_call_duration_seconds_count{class="ok"} 1`,
		"latency of transactions":    `preauth_transaction_duration_seconds_count{result="ok"} 1`,
		"latency of publishing":      `preauth_publish_duration_seconds_count{result="ok"} 1`,
		"latency from end to end":    `preauth_end_to_end_duration_seconds_count 1`,
		"depth of the outbox":        `preauth_outbox_rows 0`,
		"age in the outbox":          `preauth_outbox_oldest_age_seconds 0`,
		"lag of the consumer":        `preauth_consumer_pending_events{stream="tokens"} 0`,
		"events in hand, all":        `preauth_consumer_ack_pending_events{stream="authorizations"} 0`,
		"events in hand, this one":   `preauth_events_in_flight{stream="tokens"} 0`,
		"size of the view of codes":  `preauth_view_codes 1`,
		"size of the view of tokens": `preauth_view_tokens 1`,
		"look-ups":                   `preauth_lookups_total{code="200"}`,
		"readiness":                  `preauth_ready 1`,
		"Go's own":                   `go_goroutines `,
		"the process's own":          `process_resident_memory_bytes `,
		"the build's":                `go_build_info{`,
	} {
		// The service refreshes the gauges of the stream and the database every two seconds.
		apptest.Eventually(t, what+": "+sample, func() bool {
			_, metrics := get(t, admin, "/metrics")
			return strings.Contains(metrics, "\n"+sample)
		})
	}
}

func TestServeStartsWithEverythingAwayAndRecovers(t *testing.T) {
	t.Parallel()
	options := mysqlserver.TestOptions()
	options.DSN = "" // the test kills the server
	database, err := mysqlserver.Start(t.Context(), options)
	if errors.Is(err, mysqlserver.ErrNotFound) {
		t.Skip("no database server of its own:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := database.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(database.CreateDatabase(t.Context(), "away"), database.Kill()); err != nil {
		t.Fatal(err)
	}
	server := newNATS(t)
	server.Stop()
	wechatAddress, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}

	service, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn="+database.DSN("away"), "--wechat-url=http://"+wechatAddress,
		"--schema-apply", "--delay-transient-max=500ms", "--spares=0")
	if status, _ := get(t, admin, "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz says %d with everything away, want 200", status)
	}
	expectReasons(t, admin, "NATS: the connection is ", "MySQL: ", "authorization stream: ", "authorized stream: ", "failure stream: ", "token stream: ", "update stream: ")
	status, out, stderr := do(t, "check", "--timeout=1m", "--admin-listen="+admin)
	if status != 1 || !strings.Contains(out, "NATS: ") || !strings.Contains(out, "MySQL: ") || !strings.Contains(stderr, errNotReady.Error()) {
		t.Errorf("check with everything away: status %d, %q %q", status, out, stderr)
	}
	service.Err.Await(t, `"NATS away"`)
	service.Err.Await(t, `"schema not applied: trying again"`)

	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	nc := connect(t, server.URL())
	sub := subscribe(t, nc, "preauth.updated")
	service.Err.Await(t, `"stream":"COMPONENT_TOKENS"`)
	if err := nc.Publish("component.token.updated", tokenEvent("wx1", "first")); err != nil {
		t.Fatal(err)
	}
	expectReasons(t, admin, "MySQL: ", "authorization stream: ", "token stream: ")

	if err := database.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, admin) // without WeChat, which another replica could not reach either
	stand := newWeChat(t, wechatAddress)
	if update := nextUpdate(t, sub, "wx1"); update.Revision != 1 || stand.Count("wx1") != 1 {
		t.Errorf("revision %d after %d calls, want 1 after 1", update.Revision, stand.Count("wx1"))
	}

	if err := database.Kill(); err != nil {
		t.Fatal(err)
	}
	expectReasons(t, admin, "MySQL: ")
	if _, err := nc.Request("preauth.lookup.wx1", nil, patience); err != nil {
		t.Errorf("look-up from memory without MySQL: %v", err)
	}
	if status := service.Stop(); status != 0 {
		t.Errorf("stopped with status %d, want 0", status)
	}
}

func TestServeBeginsBesideADatabaseThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	service, admin := serve(t, "--nats-url="+newNATS(t).URL(),
		"--mysql-dsn=root@tcp("+silent.Addr().String()+")/away?timeout=1h&readTimeout=1h", "--schema-apply")
	service.Err.Await(t, `"stream":"COMPONENT_TOKENS"`)
	if strings.Contains(service.Err.String(), "schema not applied") {
		t.Error("the service waited for the database to fail")
	}
	expectReasons(t, admin, "MySQL: ", "authorization stream: ", "token stream: ")
	if status := service.Stop(); status != 0 {
		t.Errorf("stopped with status %d, want 0", status)
	}
}

// expectReasons waits until /readyz has exactly the given reasons. It compares their beginnings.
func expectReasons(t *testing.T, admin string, beginnings ...string) {
	t.Helper()
	said := ""
	defer func() {
		if t.Failed() {
			t.Logf("/readyz said at last: %s", said)
		}
	}()
	apptest.Eventually(t, "/readyz says "+strings.Join(beginnings, ", "), func() bool {
		var status int
		status, said = get(t, admin, "/readyz")
		lines := strings.Split(strings.TrimSpace(said), "\n")
		if status != http.StatusServiceUnavailable || len(lines) != len(beginnings) {
			return false
		}
		for _, beginning := range beginnings {
			if !regexp.MustCompile("(?m)^" + regexp.QuoteMeta(beginning)).MatchString(said) {
				return false
			}
		}
		return true
	})
}

func TestServeSaysThatItsAdminAddressIsTaken(t *testing.T) {
	t.Parallel()
	server, stand, dsn := newNATS(t), newWeChat(t, ""), apptest.NewDatabase(t)
	taken := strings.TrimPrefix(stand.URL(), "http://")
	status, _, stderr := do(t, "serve", "--nats-url="+server.URL(), "--mysql-dsn="+dsn, "--admin-listen="+taken)
	if want := "--admin-listen: another process listens on " + taken; status != 1 || !strings.Contains(stderr, want) {
		t.Errorf("status %d, %q; want 1 and %q", status, stderr, want)
	}
}

func TestServeEndsWhenNATSClosesTheConnectionForGood(t *testing.T) {
	t.Parallel()
	// The subscription below this inbox prefix is longer than the server allows. After the server's
	// error a client must not reconnect.
	url := newNATSWith(t, "max_control_line: 1024")
	service, _ := serve(t, "--nats-url="+url, "--nats-inbox-prefix="+strings.Repeat("x", 1100), "--mysql-dsn="+apptest.NewDatabase(t))
	if status := service.Wait(); status != 1 {
		t.Errorf("status %d, want 1", status)
	}
	// The connection may be reset before the client has read the server's error.
	service.Err.Await(t, `(?m)^preauth: the connection to NATS was closed for good: .*(maximum control line|connection closed)`)
}

func TestLookupSaysThatNATSIsAway(t *testing.T) {
	t.Parallel()
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	status, _, stderr := do(t, "lookup", "--timeout=1m", "--nats-url="+address, "wx1")
	if want := "connecting to NATS at --nats-url ($NATS_URL): " + nats.ErrNoServers.Error(); status != 1 || !strings.Contains(stderr, want) {
		t.Errorf("status %d, %q; want 1 and %q", status, stderr, want)
	}
}
