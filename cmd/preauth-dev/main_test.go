package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"preauth"
	"preauth/internal/app/apptest"
)

// dev is a running "preauth-dev".
type dev struct {
	*apptest.Command

	url string
	nc  *nats.Conn
}

// startDev starts the command and waits until it announces tokens.
func startDev(t *testing.T, args ...string) *dev {
	t.Helper()
	d := &dev{Command: apptest.Start(t, run, args...)}
	d.Out.Await(t, `counts +nats micro `)
	d.url = d.Out.Await(t, `NATS +(nats://\S+)`)[1]
	var err error
	if d.nc, err = nats.Connect(d.url, nats.NoReconnect(), nats.Timeout(apptest.Patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.nc.Close)
	return d
}

func TestMain(m *testing.M) { apptest.Main(m, main) }

// awaitReady waits until the admin endpoint at an address says that the service is ready.
func awaitReady(t *testing.T, address string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: apptest.Patience}
	apptest.Eventually(t, "the service is ready", func() bool {
		resp, err := client.Get("http://" + address + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
}

// end does what Ctrl-C does. Before that it looks for what must not be on the screen: the tokens
// that were announced, and the codes that are current.
func (d *dev) end(t *testing.T) {
	t.Helper()
	var secrets []string
	for _, body := range stored(t, d.nc, "COMPONENT_TOKENS") {
		if event, err := preauth.ParseTokenEvent("", nil, body, time.Now()); err == nil {
			secrets = append(secrets, event.Token.Reveal())
		}
	}
	tokens := len(secrets)
	for _, body := range stored(t, d.nc, "PREAUTH") {
		u, err := preauth.ParseUpdate(body)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, u.PreAuthCode.Reveal())
	}
	if tokens == 0 || len(secrets) == tokens {
		t.Errorf("%d tokens and %d codes to look for, want some of both", tokens, len(secrets)-tokens)
	}
	if status := d.Stop(); status != 0 {
		t.Errorf("stopped with status %d, want 0", status)
	}
	screen := d.Out.String() + d.Err.String()
	for _, text := range secrets {
		// The instructions show a made-up one.
		if text != exampleToken && strings.Contains(screen, text) {
			t.Error("a token or a code is on the screen")
		}
	}
}

// stored returns the bodies of all messages in a stream.
func stored(t *testing.T, nc *nats.Conn, stream string) [][]byte {
	t.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apptest.Patience))
	if err != nil {
		t.Fatal(err)
	}
	cons, err := js.OrderedConsumer(t.Context(), stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := cons.FetchNoWait(1000)
	if err != nil {
		t.Fatal(err)
	}
	var bodies [][]byte
	for msg := range batch.Messages() {
		bodies = append(bodies, msg.Data())
	}
	return bodies
}

// hint is how a code is shown.
const hint = `preauthcode@@@\S{2}…\S{4}`

func TestDevShowsEachStepAndLeavesNothing(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	d := startDev(t, "--components=2", "--every=200ms")
	for _, appid := range []string{"wxdev1", "wxdev2"} {
		line := `(?m)^\d\d:\d\d:\d\d  ` + appid + `  token → saved → announced → looked up, \d+ ms$`
		d.Out.Await(t, line)
		apptest.Eventually(t, appid+" gets another token", func() bool {
			return len(regexp.MustCompile(line).FindAllString(d.Out.String(), -1)) > 1
		})
	}
	d.Out.Await(t, `(?m)^  database  \S+ \S+ on `+address+"$")
	d.Out.Await(t, `(?m)^  WeChat    http://`+address+`, a stand-in that accepts any token$`)
	awaitReady(t, d.Out.Await(t, `(?m)^  page      http://(`+address+`), which also has /readyz and /metrics$`)[1])

	if err := d.nc.Publish("component.token.updated", []byte(`{`)); err != nil {
		t.Fatal(err)
	}
	d.Out.Await(t, `(?m)^\S+  _  no code: .*; given up$|^\S+  no code: .*; given up$`)
	if !isChild(t, temporary) {
		t.Error("no process works in the temporary directory: the test looks for the wrong ones")
	}
	d.end(t)
	d.Out.Await(t, `\nStopped\. Nothing is left behind\.\n`)
	if isChild(t, temporary) {
		t.Error("a process is left")
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if strings.Contains(d.Out.String(), "  log: ") {
		t.Error("the log is shown, but nothing is wrong that no event shows")
	}
}

// In its first minute the sandbox shows all that happens to codes. Here it has a quarter of that
// time.
func TestDevShowsItsFeaturesByItself(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--every=6s", "--code-life=10s")
	for _, line := range []string{
		`wxdev1  token → saved → announced → looked up, \d+ ms`,
		`wxdev2  token → saved → announced → looked up, \d+ ms`,
		`wxdev1  claim → ` + hint + ` → resolve: visitor-100, \d+ ms`,
		`wxdev1  authorized → spent: the code of visitor-100`,
		`wxdev2  authorized → spent → saved → announced → looked up, \d+ ms`,
		`wxdev1  renewal → saved → announced → looked up, \d+ ms`,
		`wxdev1  no code: transient: system error; next call at \d\d:\d\d:\d\d`,
		`wxdev1  token → no code → saved → announced → looked up, \d+ ms`,
	} {
		d.Out.Await(t, `(?m)^\d\d:\d\d:\d\d  `+line+`$`)
	}
	d.end(t)
	for line := range strings.Lines(d.Out.String()) {
		if length := utf8.RuneCountInString(strings.TrimRight(line, "\n")); length > 80 {
			t.Errorf("%d columns: %s", length, line)
		}
	}
}

const address = `127\.0\.0\.1:\d+`

// exampleToken is the token in the printed command.
const exampleToken = "my-token-1"

// exampleCode is where the code goes in the printed command.
const exampleCode = "CODE"

func TestDevPrintsCommandsThatWork(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--every=0s", "--components=1", "--mysql-dsn="+apptest.NewDatabase(t))
	commands := natsCommands(t, d)
	if len(commands) != 8 {
		t.Fatalf("%d commands are printed: %q", len(commands), commands)
	}
	updates, failures := make(chan *nats.Msg, 100), make(chan *nats.Msg, 100)
	for subject, heard := range map[string]chan *nats.Msg{"preauth.updated": updates, "preauth.failed": failures} {
		if _, err := d.nc.ChanSubscribe(argument(t, commands, "sub", subject), heard); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	d.Out.Await(t, `wxdev1  token → saved → announced → looked up`)

	subject, body := argument(t, commands, "pub", "component.token.updated.wxdev1"), commands[2][2]
	if !json.Valid([]byte(body)) || !strings.Contains(body, exampleToken) {
		t.Errorf("the printed token event is %s", body)
	}
	published := time.Now()
	if err := d.nc.Publish(subject, []byte(body)); err != nil {
		t.Fatal(err)
	}
	var update preauth.Update
	for update.Revision < 2 {
		var err error
		if update, err = preauth.ParseUpdate(next(t, updates)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("from the token's publish to the code's arrival: %v", time.Since(published))

	msg, err := d.nc.Request(argument(t, commands, "req", "preauth.lookup.wxdev1"), []byte(commands[3][2]), apptest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := preauth.ParseLookup(msg.Data); err != nil || !code.PreAuthCode.Equal(update.PreAuthCode) {
		t.Errorf("the look-up answers something else than was announced: %v", err)
	}

	if msg, err = d.nc.Request(argument(t, commands[4:], "req", "preauth.claim.wxdev1"), []byte(commands[4][2]), apptest.Patience); err != nil {
		t.Fatal(err)
	}
	claim, err := preauth.ParseClaim(msg.Data)
	if err != nil || claim.ClaimID != "visitor-1" {
		t.Errorf("the claim is answered for %q: %v", claim.ClaimID, err)
	}

	authorization := strings.Replace(commands[5][2], exampleCode, claim.PreAuthCode.Reveal(), 1)
	if err := d.nc.Publish(argument(t, commands[5:], "pub", "component.authorized.wxdev1"), []byte(authorization)); err != nil {
		t.Fatal(err)
	}
	d.Out.Await(t, `wxdev1  authorized → spent: the code of visitor-1\n`)

	js, err := jetstream.New(d.nc, jetstream.WithDefaultTimeout(apptest.Patience))
	if err != nil {
		t.Fatal(err)
	}
	argument(t, commands[6:], "kv", "watch")
	apptest.Eventually(t, "the code is in the bucket", func() bool {
		kv, err := js.KeyValue(t.Context(), commands[6][2])
		if err != nil {
			return false
		}
		entry, err := kv.Get(t.Context(), "wxdev1")
		if err != nil {
			return false
		}
		cached, err := preauth.ParseUpdate(entry.Value())
		return err == nil && cached.PreAuthCode.Equal(update.PreAuthCode)
	})

	var ping micro.Ping
	request(t, d.nc, micro.APIPrefix+".PING", &ping)
	if service := argument(t, commands[7:], "micro", "stats"); ping.Name != "preauth" || commands[7][2] != "preauth" {
		t.Errorf("the service is %q, and the command is %s %q", ping.Name, service, commands[7][2])
	}
	var stats micro.Stats
	request(t, d.nc, micro.APIPrefix+".STATS."+commands[7][2], &stats)
	answered := 0
	for _, endpoint := range stats.Endpoints {
		answered += endpoint.NumRequests
	}
	if answered == 0 {
		t.Error("the statistics show no look-up")
	}

	if err := d.nc.Publish(subject, []byte(`[]`)); err != nil {
		t.Fatal(err)
	}
	if f, err := preauth.ParseFailure(next(t, failures)); err != nil || f.Class != preauth.ClassBadEvent {
		t.Errorf("failure %q, %v", f.Class, err)
	}
	d.end(t)
	d.Out.Await(t, `\nStopped\. What was stored is in the database\.\n`)
}

// next returns the body of the next message.
func next(t *testing.T, messages <-chan *nats.Msg) []byte {
	t.Helper()
	select {
	case msg := <-messages:
		return msg.Data
	case <-time.After(apptest.Patience):
		t.Fatal("no message")
		return nil
	}
}

// natsCommands returns the words of the printed command lines. They are for the server that the
// first line exports.
func natsCommands(t *testing.T, d *dev) [][]string {
	t.Helper()
	d.Out.Await(t, `(?m)^  first     export NATS_URL=`+regexp.QuoteMeta(d.url)+`$`)
	screen := strings.ReplaceAll(d.Out.String(), " \\\n", " ") // as a shell reads it
	var commands [][]string
	for _, line := range regexp.MustCompile(`(?m)^  \S+ +nats (.*)$`).FindAllStringSubmatch(screen, -1) {
		var words []string
		for _, word := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(line[1], -1) {
			words = append(words, word[1]+word[2])
		}
		commands = append(commands, words)
	}
	return commands
}

// argument requires a command with a first argument, and returns that.
func argument(t *testing.T, commands [][]string, command, want string) string {
	t.Helper()
	for _, words := range commands {
		if words[0] == command && words[1] == want {
			return want
		}
	}
	t.Fatalf("no command %s %s in %q", command, want, commands)
	return ""
}

func request(t *testing.T, nc *nats.Conn, subject string, into any) {
	t.Helper()
	msg, err := nc.Request(subject, nil, apptest.Patience)
	if err == nil {
		err = json.Unmarshal(msg.Data, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
}

func TestDevKeepsItsStateBetweenRuns(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "state")
	args := []string{"--data=" + data, "--every=0s", "--components=1", "--code-life=1h"}
	publish := func(d *dev, token string) {
		t.Helper()
		if err := d.nc.Publish("component.token.updated", fmt.Appendf(nil, `{"component_appid":"wxkept","component_access_token":%q}`, apptest.Secret+token)); err != nil {
			t.Fatal(err)
		}
	}
	// await returns the code as soon as it has a revision.
	await := func(d *dev, revision uint64) (code preauth.Lookup) {
		t.Helper()
		apptest.Eventually(t, fmt.Sprint("revision ", revision), func() bool {
			msg, err := d.nc.Request("preauth.lookup.wxkept", nil, apptest.Patience)
			if err != nil {
				t.Fatal(err)
			}
			code, err = preauth.ParseLookup(msg.Data)
			return err == nil && code.Revision == revision
		})
		return code
	}

	d := startDev(t, args...)
	publish(d, "one")
	await(d, 1)
	publish(d, "two")
	before := await(d, 2)
	status, _, stderr := apptest.Do(t, run, args...)
	if status != 1 || !strings.Contains(stderr, "--data: ") || !strings.Contains(stderr, "stop the other one, or choose another directory") {
		t.Errorf("a second one on the same directory: status %d, %q", status, stderr)
	}
	d.end(t)
	d.Out.Await(t, `\nStopped\. The state is in `+data+`\.\n`)
	if isChild(t, data) {
		t.Error("a process is left")
	}

	d = startDev(t, args...)
	publish(d, "two")
	d.Out.Await(t, `wxkept  token announced again: its code is still valid`)
	if after := await(d, 2); !after.PreAuthCode.Equal(before.PreAuthCode) {
		t.Error("the code after the restart is another one")
	}
	publish(d, "three")
	await(d, 3)
	d.end(t)
}

func TestDevListensWhereItIsTold(t *testing.T) {
	t.Parallel()
	var listeners []net.Listener
	var ports []string
	for range 3 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		listeners, ports = append(listeners, listener), append(ports, listener.Addr().String())
	}
	args := []string{"--nats-listen=" + ports[0], "--wechat-listen=" + ports[1], "--admin-listen=" + ports[2], "--mysql-dsn=" + apptest.NewDatabase(t)}

	status, out, stderr := apptest.Do(t, run, args...)
	for i, flag := range []string{"--nats-listen", "--wechat-listen", "--admin-listen"} {
		if want := "preauth-dev: " + flag + ": another process listens on " + ports[i] + ": stop it, or choose another address"; !strings.Contains(stderr, want) {
			t.Errorf("%q does not say %q", stderr, want)
		}
	}
	if status != 1 || out != "" {
		t.Errorf("status %d, %q; want 1 and nothing started", status, out)
	}

	for _, listener := range listeners {
		listener.Close()
	}
	status, out, stderr = apptest.Do(t, run, "--nats-listen="+ports[0], "--admin-listen="+ports[0])
	if want := "--admin-listen: another process listens on " + ports[0]; status != 1 || out != "" || !strings.Contains(stderr, want) {
		t.Errorf("two parts on one address: status %d, %q, %q; want 1 and %q", status, out, stderr, want)
	}

	d := startDev(t, args...)
	if d.url != "nats://"+ports[0] {
		t.Errorf("NATS is at %s, want %s", d.url, ports[0])
	}
	d.Out.Await(t, `WeChat +http://`+regexp.QuoteMeta(ports[1])+",")
	awaitReady(t, ports[2])
	d.Out.Await(t, `wxdev1  token → saved → announced → looked up`)
	d.end(t)
}

// With --push-to, the stand-in pushes tickets to a token service, which gets tokens with the printed
// settings.
func TestDevPushesTickets(t *testing.T) {
	t.Parallel()
	pushed := make(chan string, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Query().Get("msg_signature") == "" {
			t.Errorf("a push has no signature: %s", r.URL)
		}
		pushed <- string(body)
		_, _ = w.Write([]byte("success"))
	}))
	t.Cleanup(receiver.Close)
	d := startDev(t, "--components=1", "--push-to="+receiver.URL+"/push", "--mysql-dsn="+apptest.NewDatabase(t))
	select {
	case body := <-pushed:
		if !strings.Contains(body, "<AppId><![CDATA[wx0123456789abcdef]]></AppId><Encrypt>") {
			t.Errorf("pushed was %s", body)
		}
	case <-time.After(apptest.Patience):
		t.Fatal("no push came")
	}
	d.Out.Await(t, `pushes +to `+regexp.QuoteMeta(receiver.URL)+`/push, for a token service with\n`)
	url := d.Out.Await(t, `export WECHAT_URL=(http://\S+) \\\n +WECHAT_APPID=wx0123456789abcdef WECHAT_APPSECRET=\S+ \\\n +WECHAT_PUSH_TOKEN=\S+ \\\n +WECHAT_ENCODING_AES_KEY=\S{43}\n`)[1]
	secret := d.Out.Await(t, `WECHAT_APPSECRET=(\S+)`)[1]
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: apptest.Patience}
	response, err := client.Post(url+"/cgi-bin/component/api_component_token", "application/json",
		strings.NewReader(`{"component_appid":"wx0123456789abcdef","component_appsecret":"`+secret+`","component_verify_ticket":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(answer), `"errcode":61006`) {
		t.Errorf("with the printed secret and a made-up ticket, the answer is %s, %v", answer, err)
	}
	d.Out.Await(t, `wxdev1  token → saved → announced → looked up`)
	d.end(t)
}

func TestDevRefusesImpossibleValues(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ arg, says string }{
		{"--components=0", "--components must be 1 to 1000, not 0"},
		{"--components=1001", "--components must be 1 to 1000, not 1001"},
		{"--every=-1s", "--every must be 0s to 24h, not -1s"},
		{"--code-life=1s", "--code-life must be 10s to 1h, not 1s"},
		{"--nats-listen=4222", "--nats-listen must be host:port, such as 127.0.0.1:8180"},
		{"--nats-listen=0.0.0.0:0", "--nats-listen: "},
		{"--wechat-listen=192.0.2.1:0", "--wechat-listen: "},
		{"--wechat-listen=", "--wechat-listen must be host:port"},
		{"--admin-listen=here:now", "--admin-listen must be host:port"},
		{"--push-to=127.0.0.1:8080", "--push-to: must be an http or https URL, such as http://127.0.0.1:8080/"},
		{"--push-to=/push", "--push-to: must be an http or https URL"},
		{"--mysql-dsn=me:" + apptest.Secret + "@tcp(127.0.0.1)/", "--mysql-dsn: database: the MySQL DSN: it names no database: "},
		{"--verbose=perhaps", "--verbose: bool value must be true, 1, yes, false, 0 or no"},
	} {
		apptest.Refused(t, run, []string{test.says}, test.arg)
	}
	status, _, stderr := apptest.Do(t, run, "--mysql-dsn=me:"+apptest.Secret+"@tcp(127.0.0.1:1)/preauth")
	if status != 1 || !strings.Contains(stderr, "127.0.0.1:1: ") {
		t.Errorf("a database that is away: status %d, %q", status, stderr)
	}
	status, _, stderr = apptest.Do(t, run, "--mysql-dsn="+apptest.MySQL.DSN("missing"))
	if status != 1 || !strings.Contains(stderr, "Unknown database 'missing'") {
		t.Errorf("a server without the database: status %d, %q", status, stderr)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	status, _, stderr = apptest.Do(t, run, "--data="+file)
	if status != 1 || !strings.Contains(stderr, "not a directory") {
		t.Errorf("a file in place of a directory: status %d, %q", status, stderr)
	}
}
