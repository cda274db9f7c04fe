package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
	"preauth/wechat/wechattest"
)

// envMain makes the test binary be the command itself, for tests that need a process of their own.
const envMain = "PREAUTH_TEST_MAIN"

// patience is how long a test waits for what has to happen: so long that no machine is too slow.
const patience = 2 * time.Minute

// secret is part of every password, token and DSN of these tests: no output may have it.
const secret = "N0tToBePr1nted"

// mysql is the database server of the package's tests; each has a database of its own.
var mysql *mysqlserver.Server

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
	}
	err := flag.Set("test.parallel", "8") // the tests wait more than they compute
	if err == nil {
		forgetVariables()
		mysql, err = mysqlserver.Start(context.Background(), mysqlserver.TestOptions())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	if err := mysql.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	if status == 0 {
		if err := leak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// forgetVariables unsets what the machine says about a service of its own.
func forgetVariables() {
	for _, command := range model().Leaves(false) {
		for _, flag := range command.Flags {
			for _, name := range flag.Envs {
				_ = os.Unsetenv(name)
			}
		}
	}
}

// model is what kong knows of the command line.
func model() *kong.Application {
	parser, err := newParser(new(cli))
	if err != nil {
		panic(err)
	}
	return parser.Model
}

// output is what a command prints, and can be waited for.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed and replaced at each write
}

func newOutput() *output { return &output{more: make(chan struct{})} }

func (o *output) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.text.Write(text)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits until a pattern is found, and returns what its groups match.
func (o *output) await(t *testing.T, pattern string) []string {
	t.Helper()
	expression, deadline := regexp.MustCompile(pattern), time.After(patience)
	for {
		o.mu.Lock()
		found, more := expression.FindStringSubmatch(o.text.String()), o.more
		o.mu.Unlock()
		if found != nil {
			return found
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("never printed: %s\n%s", pattern, o)
		}
	}
}

// eventually waits until condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		}
	}
}

// running is a command at work in this process.
type running struct {
	t        *testing.T
	out, err *output
	stopping context.CancelFunc
	ended    chan struct{}
	status   int
}

// start runs a command until the test stops it or ends.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, out: newOutput(), err: newOutput(), stopping: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.status = run(ctx, args, r.out, r.err)
	}()
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("preauth %s\n%s%s", strings.Join(args, " "), r.out, r.err)
		}
		hasNoSecret(t, r.out.String()+r.err.String())
	})
	return r
}

// stop does what Ctrl-C does, and returns the exit status.
func (r *running) stop() int {
	r.t.Helper()
	r.stopping()
	return r.wait()
}

// wait returns the exit status.
func (r *running) wait() int {
	r.t.Helper()
	select {
	case <-r.ended:
		return r.status
	case <-time.After(patience):
		r.t.Fatal("the command does not end")
		return -1
	}
}

// do runs a command to its end.
func do(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	status = run(ctx, args, &out, &err)
	hasNoSecret(t, out.String()+err.String())
	return status, out.String(), err.String()
}

func hasNoSecret(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, secret) {
		t.Errorf("a secret is printed:\n%s", text)
	}
}

var databases atomic.Int64

// newDatabase returns the DSN of an empty database.
func newDatabase(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("command_%d_%d", os.Getpid(), databases.Add(1))
	if err := mysql.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mysql.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	return mysql.DSN(name)
}

// newWeChat starts a stand-in that takes any token.
func newWeChat(t *testing.T, listen string) *wechattest.Server {
	t.Helper()
	stand, err := wechattest.Start(wechattest.Options{Listen: listen, AnyToken: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stand.Close)
	return stand
}

// connect returns a plain connection to NATS.
func connect(t *testing.T, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append(options, nats.Timeout(patience))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// subscribe returns a subscription that is known to the server.
func subscribe(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// nextUpdate returns the next announcement of a component.
func nextUpdate(t *testing.T, sub *nats.Subscription, appid string) preauth.Update {
	t.Helper()
	for {
		msg, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatalf("no update of %s: %v", appid, err)
		}
		u, err := preauth.ParseUpdate(msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		if u.AppID == appid {
			return u
		}
	}
}

// tokenEvent is the body of a token event; a text names the same token each time.
func tokenEvent(appid, text string) []byte {
	return fmt.Appendf(nil, `{"component_appid":%q,"component_access_token":%q}`, appid, secret+"-"+text)
}

// get asks the admin endpoint.
func get(t *testing.T, address, path string) (status int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	hasNoSecret(t, string(text))
	return resp.StatusCode, string(text)
}

// awaitReady waits until the service at an admin address does all its work.
func awaitReady(t *testing.T, address string) {
	t.Helper()
	eventually(t, "the service is ready", func() bool {
		status, _ := get(t, address, "/readyz")
		return status == http.StatusOK
	})
}

// write makes a file in a directory of the test's own, and returns its name.
func write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
