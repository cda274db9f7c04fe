// Package gateway holds the description of the HTTP API against a running gateway: each operation
// answers with every status that openapi.json lists for it, and with no other one.
//
//	go -C test/gateway test .
package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/consumer"
	"preauth/internal/app"
	"preauth/internal/gateway"
	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// patience is how long a test waits for what has to happen. No machine is too slow for it.
const patience = 2 * time.Minute

// system is the service with all that it needs, which the tests share.
var system struct {
	mysql  *mysqlserver.Server
	nats   *natsserver.Server
	wechat *wechattest.Server
	stop   context.CancelFunc
	ended  chan error
}

func TestMain(m *testing.M) {
	status := 1
	err := startSystem(context.Background())
	if err == nil {
		status = m.Run()
	}
	err = errors.Join(err, stopSystem())
	if err == nil && status == 0 {
		err = leak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func startSystem(ctx context.Context) (err error) {
	s := &system
	if s.mysql, err = mysqlserver.Start(ctx, mysqlserver.TestOptions()); err != nil {
		return err
	}
	name := fmt.Sprintf("gateway_%d", os.Getpid())
	if err := s.mysql.CreateDatabase(ctx, name); err != nil {
		return err
	}
	if s.nats, err = natsserver.Start(natsserver.Options{}); err != nil {
		return err
	}
	if s.wechat, err = wechattest.Start(wechattest.Options{AnyToken: true}); err != nil {
		return err
	}
	service := app.Service{
		NATS:        app.NATS{URL: s.nats.URL()},
		MySQL:       app.MySQL{DSN: s.mysql.DSN(name), Connections: 4},
		WeChat:      app.WeChat{URLs: []string{s.wechat.URL()}, Path: wechat.DefaultPath, Timeout: time.Minute, Calls: 16},
		Admin:       app.Admin{Listen: "127.0.0.1:0"},
		SchemaApply: true,
	}
	cfg := consumer.Config{Calls: 16, Spares: 1, RequestTimeout: time.Minute, Delays: consumer.Delays{Operator: time.Hour}}
	running, stop := context.WithCancel(ctx)
	started := make(chan struct{})
	s.stop, s.ended = stop, make(chan error, 1)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	go func() {
		s.ended <- service.Serve(running, log, cfg, func(net.Addr, *consumer.Service) { close(started) })
	}()
	select {
	case <-started:
		return nil
	case err := <-s.ended:
		s.ended <- nil
		return err
	}
}

func stopSystem() error {
	var errs []error
	if system.stop != nil {
		system.stop()
		errs = append(errs, <-system.ended)
	}
	if system.wechat != nil {
		system.wechat.Close()
	}
	if system.nats != nil {
		errs = append(errs, system.nats.Close())
	}
	if system.mysql != nil {
		errs = append(errs, system.mysql.Close())
	}
	return errors.Join(errs...)
}

// api is a running gateway whose answers are held against the description.
type api struct {
	gateway *gateway.Gateway
	t       *testing.T
	url     string
	router  routers.Router
	doc     *openapi3.T
	log     *bytes.Buffer // read it when the gateway has stopped
	token   string        // for everything
	few     string        // for a look-up of wx-other alone

	mu       sync.Mutex
	produced map[string]map[int]bool // the statuses of each operation
}

// newAPI starts a gateway on a NATS server until the test ends.
func newAPI(t *testing.T, url string, change func(*gateway.Options), login ...nats.Option) *api {
	t.Helper()
	a := &api{t: t, log: new(bytes.Buffer), produced: map[string]map[int]bool{}}
	a.doc = description(t)
	a.doc.Servers = nil // they are relative to where the document is
	var err error
	if a.router, err = legacy.NewRouter(a.doc); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc, err := nats.Connect(url, append(login, nats.Timeout(patience), nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	if err != nil {
		t.Fatal(err)
	}
	client, err := preauth.NewClient(nc, preauth.WithTraceParent(gateway.TraceParent))
	if err != nil {
		t.Fatal(err)
	}
	all, first, err := gateway.NewToken("all", []string{"*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	few, second, err := gateway.NewToken("few", []string{"lookup"}, []string{"wx-other"})
	if err != nil {
		t.Fatal(err)
	}
	a.token, a.few = all.Reveal(), few.Reveal()
	tokens, err := gateway.ParseTokens([]byte(first + "\n" + second + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	options := gateway.Options{
		Client: client, NATS: nc, Subjects: preauth.DefaultSubjects(), Tokens: func() gateway.Tokens { return tokens },
		Rate: 100_000, Timeout: time.Minute, Registry: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(a.log, nil)),
	}
	if change != nil {
		change(&options)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.url = "http://" + listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	a.gateway = gateway.New(options)
	go func() { ended <- a.gateway.Serve(ctx, listener, nil) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		nc.Close()
		<-closed
		a.hasNoSecret(a.log.String())
	})
	return a
}

// description returns the description of the API, which has to be valid.
func description(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("../../internal/gateway/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return doc
}

// secret is part of all tokens and of everything else in the tests that no log may have.
const secret = "N0tToBePr1nted"

func (a *api) hasNoSecret(log string) {
	a.t.Helper()
	for _, text := range []string{secret, "preauthcode@@@", a.token, a.few} {
		if strings.Contains(log, text) {
			a.t.Errorf("the log has a secret (%s):\n%s", text, log)
		}
	}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask is a request: what differs from one that succeeds.
type ask struct {
	method, path, body string
	media              string // "" for JSON if there is a body, "none" for none
	token              string // "" for the one for everything, "none" for none
	header             map[string]string
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, MaxIdleConns: 1}, Timeout: patience}

// request returns the request.
func (a *api) request(q ask) *http.Request {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), q.method, a.url+q.path, strings.NewReader(q.body))
	if err != nil {
		a.t.Fatal(err)
	}
	switch q.token {
	case "none":
	case "":
		r.Header.Set("Authorization", "Bearer "+a.token)
	default:
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	switch {
	case q.media == "" && q.body != "":
		r.Header.Set("Content-Type", "application/json")
	case q.media != "" && q.media != "none":
		r.Header.Set("Content-Type", q.media)
	}
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	return r
}

// do sends a request and holds the answer against the description.
func (a *api) do(q ask) answer {
	a.t.Helper()
	r := a.request(q)
	resp, err := client.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.hold(r, resp)
}

// hold holds an answer against the description, and notes which status which operation had.
func (a *api) hold(r *http.Request, resp *http.Response) answer {
	a.t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	got := answer{resp.StatusCode, resp.Header, body}
	what := fmt.Sprintf("%s %s: %d %s", r.Method, r.URL.Path, got.status, body)
	if got.status >= 400 && got.header.Get("Content-Type") != "application/problem+json" {
		a.t.Errorf("%s: not a problem document but %s", what, got.header.Get("Content-Type"))
	}
	if got.header.Get("Cache-Control") != "no-store" {
		a.t.Errorf("%s: it may be cached", what)
	}
	route, parameters, err := a.router.FindRoute(r)
	if err == nil && bytes.Contains(body, []byte(`:no-such-address"`)) { // the router overlooks a slash at the end
		err = routers.ErrPathNotFound
	}
	if err != nil {
		preflight := r.Method == http.MethodOptions && got.status == http.StatusNoContent
		if got.status != http.StatusNotFound && got.status != http.StatusMethodNotAllowed && !preflight {
			a.t.Errorf("%s: the description does not have this operation: %v", what, err)
		}
		return got
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}
	err = openapi3filter.ValidateResponse(a.t.Context(), (&openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: parameters, Route: route, Options: options},
		Status:                 got.status, Header: got.header, Options: options,
	}).SetBodyBytes(body))
	if err != nil {
		a.t.Errorf("%s: the description does not allow this answer: %v", what, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	id := route.Operation.OperationID
	if a.produced[id] == nil {
		a.produced[id] = map[int]bool{}
	}
	a.produced[id][got.status] = true
	return got
}

// must requires a status.
func (a *api) must(status int, q ask) answer {
	a.t.Helper()
	got := a.do(q)
	if got.status != status {
		a.t.Fatalf("%s %s: %d %s, want %d", q.method, q.path, got.status, got.body, status)
	}
	return got
}

// eventually repeats a request until it has the status.
func (a *api) eventually(status int, q ask) answer {
	a.t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		got := a.do(q)
		if got.status == status {
			return got
		}
		select {
		case <-tick.C:
		case <-deadline:
			a.t.Fatalf("%s %s: %d %s, want %d at last", q.method, q.path, got.status, got.body, status)
		}
	}
}
