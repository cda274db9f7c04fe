package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/app"
	"preauth/internal/app/apptest"
	"preauth/wechat/wechattest"
)

// matches requires that a command succeeds and prints what the pattern matches, and returns what the
// pattern's groups match.
func matches(t *testing.T, pattern string, args ...string) []string {
	t.Helper()
	status, out, stderr := do(t, args...)
	found := regexp.MustCompile(pattern).FindStringSubmatch(out)
	if status != 0 || stderr != "" || found == nil {
		t.Fatalf("%q: status %d, %q\n%s\nwant %s", args, status, stderr, out, pattern)
	}
	for line := range strings.Lines(out) {
		if slices.Contains(args, "--json") && !json.Valid([]byte(line)) {
			t.Errorf("%q prints what is not JSON: %s", args, line)
		}
	}
	return found
}

// A person does everything with the commands that programs do with messages.
func TestCommandsOfAPerson(t *testing.T) {
	t.Parallel()
	server, stand := newNATS(t), newWeChat(t, "")
	_, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn="+apptest.NewDatabase(t), "--schema-apply", "--wechat-url="+stand.URL(), "--delay-operator=1h")
	awaitReady(t, admin)
	here := func(args ...string) []string { return append(args, "--timeout=1m", "--nats-url="+server.URL()) }
	updates := subscribe(t, connect(t, server.URL()), "preauth.updated")
	watch := start(t, here("watch")...)
	watchJSON := start(t, here("watch", "--json", "wx1")...)
	watch.Err.Await(t, "Listening")
	watchJSON.Err.Await(t, "Listening")

	// The table of no components.
	matches(t, `(?s)^REPLICA .* yes .*\n0 components: 0 valid.*No component matches\.\n$`, here("status")...)

	// A token from a file becomes a code.
	token := write(t, "token", secret+"-first\n")
	matches(t, `^announced: the stream has stored it\n$`, here("announce", "wx1", "--token-file="+token, "--expires-in=119m")...)
	first := nextUpdate(t, updates, "wx1")
	hint := first.PreAuthCode.Hint()
	watch.Out.Await(t, `updated     wx1  revision 1, made for: token, until \S+, `+regexp.QuoteMeta(hint)+`\n`)
	watchJSON.Out.Await(t, `\{"updated":\{"component_appid":"wx1","pre_auth_code":"`+regexp.QuoteMeta(hint)+`",`)

	matches(t, `^\{"component_appid":"wx1","pre_auth_code":"`+regexp.QuoteMeta(hint)+`",.*\}\n$`, here("lookup", "wx1", "--json")...)
	matches(t, `(?s)^component +wx1\nstate +valid\ncode +revision 1, made for: token, at \S+\nexpires +in \S+ .*next work +in .*token expires +in 1h5\dm.*spares +\d\nquota +\S`, here("status", "wx1")...)
	var status struct {
		State  string
		Spares *int
	}
	if err := json.Unmarshal([]byte(matches(t, `^\{.*\}\n$`, here("status", "wx1", "--json")...)[0]), &status); err != nil || status.State != "valid" || status.Spares == nil {
		t.Errorf("status --json: %+v, %v", status, err)
	}

	// A claim, what it was for, and its authorization. The code is printed whole only on demand.
	claimed := matches(t, `^(preauthcode\S+)\nclaim visitor-1, valid until .*\nhttps://mp\.weixin\.qq\.com/\S+\nhttps://\S+\n$`,
		here("claim", "wx1", "--claim-id=visitor-1", "--reference=order 7", "--redirect-uri=https://example.com/", "--reveal")...)[1]
	short := preauth.NewSecret(claimed).Hint()
	for _, flag := range []string{"--json", "--json=false"} {
		out := matches(t, regexp.QuoteMeta(short), here("claim", "wx1", "--claim-id=visitor-1", "--reference=order 7", "--redirect-uri=https://example.com/", flag)...)
		if strings.Contains(out[0], claimed) {
			t.Errorf("claim %s prints the code", flag)
		}
	}
	file := write(t, "code", claimed)
	matches(t, `^component wx1, claim visitor-1, reference order 7, claimed at .*\nvalid until .*\n$`, here("resolve", "--code-file="+file)...)
	matches(t, `^\{"component_appid":"wx1","claim_id":"visitor-1",.*\}\n$`, here("resolve", "--json", "--code-file="+file)...)
	matches(t, `^\{"stored":true\}\n$`, here("authorized", "wx1", "wx8888888888888888", "--json", "--code-file="+file)...)
	watch.Out.Await(t, `authorized  wx1  wx8888888888888888 with claim visitor-1, reference order 7\n`)
	watchJSON.Out.Await(t, `\{"authorized":\{"component_appid":"wx1","claim_id":"visitor-1",`)
	matches(t, `\nwx8888888888888888 authorized with it at `, here("resolve", "--code-file="+file)...)

	// A new code on request, and the reason where there is none.
	matches(t, `(?s)^component +wx1\nstate +valid\ncode +revision 2, made for: demand`, here("renew", "wx1")...)
	stand.Next("wx1", wechattest.Error(61004, ""))
	if status, out, stderr := do(t, here("renew", "wx1")...); status != 1 || out != "" || !strings.Contains(stderr, "503: ") || !strings.Contains(stderr, "address_not_allowed") ||
		!strings.Contains(stderr, "\npreauth: what to do: add request_ip to the component's IP allow-list on WeChat's open platform (request_ip is 127.0.0.1)\n") {
		t.Errorf("renew that fails: status %d, %q %q", status, out, stderr)
	}
	watch.Out.Await(t, `failed      wx1  address_not_allowed 61004: access clientip is not registered .*, next attempt at `)
	matches(t, `(?s)state +failing\n.*failure +address_not_allowed 61004, attempt 1, .*what to do +add request_ip`, here("status", "wx1")...)
	matches(t, `(?s)1 component: 0 valid, 0 expiring, 1 failing, .*\nCOMPONENT +STATE .*\nwx1 +failing +2 .* address_not_allowed 61004\n$`, here("status")...)
	matches(t, `No component matches`, here("status", "--state=valid")...)
	matches(t, `^\{.*"components":\[\{.*"component_appid":"wx1".*"replicas":\[\{.*"ready":true.*"summary":\{.*\}\n$`, here("status", "--prefix=wx", "--json")...)
	looking := start(t, here("status", "--watch", "--every=100ms")...)
	looking.Out.Await(t, `(?s)REPLICA.*\nwx1 +failing.*REPLICA.*\nwx1 +failing`)
	if strings.Contains(looking.Out.String(), "\x1b") || looking.Stop() != 0 {
		t.Errorf("status --watch ends with another status, or prints for a terminal where there is none:\n%q", looking.Out)
	}

	// The failures of the past, by time and component.
	matches(t, `^\S+  failed      wx1  address_not_allowed 61004: .*\n$`, here("failures")...)
	matches(t, `^\{"failed":\{"component_appid":"wx1",.*\}\n$`, here("failures", "wx1", "--json")...)
	matches(t, `^No failure of wx2 in the last 24h0m0s\.\n$`, here("failures", "wx2")...)
	matches(t, `^$`, here("failures", "wx2", "--json")...)
}

// Secrets come from standard input where no file is named.
func TestSecretFromStandardInput(t *testing.T) {
	file, err := os.Open(write(t, "token", secret+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	before := os.Stdin
	os.Stdin = file
	defer func() { os.Stdin = before }()
	if got, err := readSecret(t.Context(), app.Stdio{}, "--token-file", "-"); err != nil || got.Reveal() != secret {
		t.Errorf("another text was read: %v", err)
	}
}

// Who types a secret may think better of it.
func TestSecretThatIsNotTyped(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	before := os.Stdin
	os.Stdin = in
	defer func() { os.Stdin = before }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readSecret(ctx, app.Stdio{}, "--token-file", "-"); !errors.Is(err, errInterrupted) {
		t.Errorf("error %v", err)
	}
	out.Close() // ends the read
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// Output that is lost is a failure.
func TestOutputThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	var stderr strings.Builder
	if status := run(t.Context(), []string{"schema", "print"}, full{}, &stderr); status != 1 || !strings.Contains(stderr.String(), "no space left on device") {
		t.Errorf("status %d, %q", status, stderr.String())
	}
	stderr.Reset()
	if status := run(t.Context(), []string{"--version"}, full{}, &stderr); status != 1 || strings.Count(stderr.String(), "no space") != 1 {
		t.Errorf("status %d, %q", status, stderr.String())
	}
}

// The first failure of a time is found among many with a few requests.
func TestFailuresSince(t *testing.T) {
	t.Parallel()
	nc := connect(t, newNATS(t).URL())
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "PREAUTH_FAILED", Subjects: []string{"preauth.failed.*"}, FirstSeq: 4711})
	if err != nil {
		t.Fatal(err)
	}
	const messages = 100
	for i := range messages {
		if _, err := js.Publish(t.Context(), fmt.Sprintf("preauth.failed.wx%d", i%2), fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := stream.GetMsg(t.Context(), 4711+90)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		subject string
		at      time.Time
		want    int
		first   string
	}{
		"some":              {"preauth.failed.*", stored.Time, 10, "90"},
		"of one component":  {"preauth.failed.wx1", stored.Time, 5, "91"},
		"all":               {"preauth.failed.*", time.Time{}, messages, "0"},
		"none of that time": {"preauth.failed.*", time.Now().Add(time.Hour), 0, ""},
		"none of that name": {"preauth.failed.wx9", time.Time{}, 0, ""},
	} {
		gets := subscribe(t, nc, "$JS.API.STREAM.MSG.GET.PREAUTH_FAILED")
		of := failures{js: js, timeout: patience, subject: test.subject}
		if err := of.open(t.Context(), "PREAUTH_FAILED"); err != nil {
			t.Fatal(err)
		}
		var found []string
		err := of.since(t.Context(), test.at, func(msg *jetstream.RawStreamMsg) {
			found = append(found, string(msg.Data))
		})
		if err != nil || len(found) != test.want || test.want > 0 && (found[0] != test.first || found[0] == found[test.want-1]) {
			t.Errorf("%s: %q, %v; want %d from %s on", name, found, err, test.want, test.first)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if n, _, err := gets.Pending(); err != nil || n > test.want+9 {
			t.Errorf("%s: %d requests, %v; want %d and a few", name, n, err, test.want)
		}
		if err := gets.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}

// operate runs the commands of an operator with the role's own rights.
func (d *deployment) operate(t *testing.T, config string) {
	t.Helper()
	login := "--nats-nkey=" + filepath.Join(d.keys, "operator.nk")
	if config == "operator.conf" {
		login = "--nats-creds=" + filepath.Join(d.keys, "operator.creds")
	}
	as := func(args ...string) []string {
		return append(args, "--timeout=1m", "--nats-url="+d.url, "--nats-ca="+d.ca, login, "--nats-inbox-prefix=_INBOX.operator")
	}
	matches(t, `(?s)^REPLICA.* yes .*\nwx1 +valid `, as("status")...)
	matches(t, `^component +wx1\n`, as("status", "wx1")...)
	matches(t, `^component +wx1\n`, as("renew", "wx1")...)
	// Messages that the admin stored there are no failures, and do not hide those behind them.
	if status, out, stderr := do(t, as("failures")...); status != 0 || !strings.Contains(out, "bad_event: ") || !strings.Contains(stderr, "preauth.failed.wx9: invalid: ") {
		t.Errorf("failures as operator: status %d, %q %q", status, out, stderr)
	}
	// Tokens are read by the admin alone.
	if status, out, stderr := do(t, as("replay")...); status != 1 || out != "" || !strings.Contains(stderr, `Permissions Violation for Publish to "$JS.API.CONSUMER.CREATE.COMPONENT_TOKENS`) || !strings.Contains(stderr, "log in as") {
		t.Errorf("replay as operator: status %d, %q %q", status, out, stderr)
	}
	login = strings.Replace(login, "operator.", "admin.", 1)
	matches(t, `(?s)^COMPONENT .*\nwx1 .* (code is current|new code), revision \d+\n`, as("replay", "--wait=1m")...)
	login = strings.Replace(login, "admin.", "operator.", 1)
	// What the role may not do is said at once, not when the time is over.
	if status, _, stderr := do(t, as("lookup", "wx1")...); status != 1 || !strings.Contains(stderr, `Permissions Violation for Publish to "preauth.lookup.wx1"`) {
		t.Errorf("a look-up as operator: status %d, %q", status, stderr)
	}
}

// While NATS is away, watch says so, and goes on when it is back.
func TestWatchOutlivesNATS(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	address, stop := startNATS(t, "127.0.0.1:-1", store, "")
	watch := start(t, "watch", "--timeout=1m", "--nats-url="+address)
	watch.Err.Await(t, "Listening")
	stop()
	watch.Err.Await(t, "NATS is away")
	startNATS(t, address, store, "")
	watch.Err.Await(t, "NATS is back")
	nc := connect(t, "nats://"+address)
	// The subscription is there again a little after the connection.
	apptest.Eventually(t, "what is announced is printed", func() bool {
		if err := nc.Publish("preauth.failed", []byte(`{"class":"bad_event","errmsg":"no JSON","occurred_at":"2026-03-14T09:00:00Z"}`)); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(watch.Out.String(), "bad_event: no JSON")
	})
	if status := watch.Stop(); status != 0 {
		t.Errorf("watch ends with status %d", status)
	}
}

// An error says what was waited for, and that nobody waits any more.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	server := newNATS(t)
	subscribe(t, connect(t, server.URL()), "preauth.lookup.wx1") // and no answer
	c := client{NATS: app.NATS{URL: server.URL()}, Timeout: patience}
	s, err := c.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	err = s.ask(t.Context(), 50*time.Millisecond, "preauth.lookup", func(ctx context.Context, s *session) error {
		_, err := s.Lookup(ctx, preauth.LookupRequest{AppID: "wx1"})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "no answer on preauth.lookup within 50ms: wait longer with --timeout") {
		t.Errorf("a look-up that nobody answers: %v", err)
	}
	waiting := start(t, "lookup", "wx1", "--timeout=1m", "--nats-url="+server.URL())
	if status := waiting.Stop(); status != 1 || strings.Contains(waiting.Err.String(), "context canceled") {
		t.Errorf("a look-up that is interrupted: status %d, %q", status, waiting.Err)
	}
}
