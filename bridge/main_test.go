package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/leak"
	"preauth/internal/loopback"
	"preauth/internal/natsserver"
)

// secret is in every token and code, and nothing prints it.
const secret = apptest.Secret

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if regexp.MustCompile(`^(NATS|REDIS|PREAUTH)_`).MatchString(name) && !strings.HasPrefix(name, "PREAUTH_TEST_") {
			_ = os.Unsetenv(name)
		}
	}
	leak.VerifyTestMain(m)
}

// redisServer is a real redis-server, which keeps nothing.
type redisServer struct {
	address string
	args    []string
	command *exec.Cmd
}

func startRedis(t *testing.T, args ...string) *redisServer {
	t.Helper()
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	s := &redisServer{address: address, args: append([]string{"--dir", t.TempDir(), "--save", "", "--bind", "127.0.0.1"}, args...)}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

// start starts the server, and returns when it answers.
func (s *redisServer) start(t *testing.T) {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.address)
	s.command = exec.Command("redis-server", append(s.args, "--port", port)...)
	if err := s.command.Start(); err != nil {
		t.Fatalf("redis-server (the package of this name in Debian): %v", err)
	}
	db := s.client(t)
	apptest.Eventually(t, "Redis answers", func() bool {
		err := db.Ping(context.Background()).Err()
		_, answers := errors.AsType[redis.Error](err) // that somebody has to log in
		return err == nil || answers
	})
}

// kill kills the server.
func (s *redisServer) kill() {
	if s.command != nil {
		_ = s.command.Process.Kill()
		_ = s.command.Wait()
		s.command = nil
	}
}

func (s *redisServer) url() string { return "redis://" + s.address + "/0" }

// client returns a client of the default user, which waits as long as a test does.
func (s *redisServer) client(t *testing.T) *redis.Client {
	t.Helper()
	db := redis.NewClient(&redis.Options{Addr: s.address, Protocol: 2, ReadTimeout: apptest.Patience})
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// do does something to Redis that has to work.
func do(t *testing.T, db *redis.Client, args ...any) {
	t.Helper()
	if err := db.Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
}

// broker is a real nats-server with the streams of the service, and what was announced there.
type broker struct {
	*natsserver.Server

	nc *nats.Conn
	js jetstream.JetStream

	mu     sync.Mutex
	tokens []preauth.TokenEvent
}

func startBroker(t *testing.T, options natsserver.Options) *broker {
	t.Helper()
	server, err := natsserver.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	b := &broker{Server: server}
	b.use(t, connect(t, server.URL()))
	return b
}

func connect(t *testing.T, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	options = append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, options...)
	nc, err := nats.Connect(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// use makes the streams, and notes the tokens that are announced.
func (b *broker) use(t *testing.T, nc *nats.Conn) {
	t.Helper()
	var err error
	if b.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	b.nc = nc
	b.createStreams(t)
	_, err = nc.Subscribe("component.token.updated.*", func(msg *nats.Msg) {
		event, err := preauth.ParseTokenEvent(preauth.AppIDFromSubject("component.token.updated", msg.Subject), msg.Header, msg.Data, time.Now())
		if err != nil {
			t.Errorf("announced: %v", err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.tokens = append(b.tokens, event)
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// createStreams creates the streams as the service does.
func (b *broker) createStreams(t *testing.T) {
	t.Helper()
	for _, stream := range []jetstream.StreamConfig{
		{Name: "COMPONENT_TOKENS", Subjects: []string{"component.token.updated", "component.token.updated.>"}, MaxAge: 2 * time.Hour},
		{
			Name: "PREAUTH", Subjects: []string{"preauth.updated.*"}, MaxMsgsPerSubject: 1, AllowDirect: true, AllowMsgTTL: true,
			RePublish: &jetstream.RePublish{Source: "preauth.updated.*", Destination: "preauth.updated"},
		},
		{
			Name: "KV_preauth", Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew,
			FirstSeq: uint64(time.Now().UnixMicro()), DenyDelete: true, AllowDirect: true, AllowMsgTTL: true, AllowRollup: true,
			SubjectDeleteMarkerTTL: time.Minute,
			Sources: []*jetstream.StreamSource{{
				Name:              "PREAUTH",
				SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "preauth.updated.*", Destination: "$KV.preauth.{{wildcard(1)}}"}},
			}},
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), apptest.Patience)
		if _, err := b.js.CreateStream(ctx, stream); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
}

// announced returns how often a token was announced.
func (b *broker) announced(appid, token string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.tokens {
		if e.AppID == appid && e.Token.Reveal() == token {
			n++
		}
	}
	return n
}

// await waits until a token was announced so often, and returns its last event.
func (b *broker) await(t *testing.T, appid, token string, times int) preauth.TokenEvent {
	t.Helper()
	apptest.Eventually(t, fmt.Sprintf("the token of %s is announced %d times", appid, times), func() bool { return b.announced(appid, token) >= times })
	if n := b.announced(appid, token); n != times {
		t.Fatalf("the token of %s was announced %d times, want %d", appid, n, times)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var last preauth.TokenEvent
	for _, e := range b.tokens {
		if e.AppID == appid {
			last = e
		}
	}
	return last
}

// update publishes an update as the service does.
func (b *broker) update(t *testing.T, u preauth.Update) {
	t.Helper()
	if u.ExpiresAt.IsZero() {
		u.ExpiresAt = time.Now().Add(30 * time.Minute)
	}
	u.IssuedAt = time.Now().Add(-time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), apptest.Patience)
	defer cancel()
	msg := &nats.Msg{Subject: "preauth.updated." + u.AppID, Header: u.Header("/test"), Data: u.Encode()}
	if _, err := b.js.PublishMsg(ctx, msg); err != nil {
		t.Fatal(err)
	}
}

// code returns a code to announce.
func code(text string) preauth.Secret { return preauth.NewSecret("preauthcode@@@" + secret + text) }

// bridge is the program in this process.
type bridge struct {
	*apptest.Command

	admin string
}

// startBridge starts a command with its parts at other addresses, and a fast poll unless args say
// otherwise.
func startBridge(t *testing.T, natsURL, redisURL, command string, args ...string) *bridge {
	t.Helper()
	all := append([]string{command, "--nats-url=" + natsURL, "--admin-listen=127.0.0.1:0", "--log-format=json", "--log-level=debug", "--poll=100ms"}, args...)
	if redisURL != "" {
		all = append(all, "--redis-url="+redisURL)
	}
	b := &bridge{Command: apptest.Start(t, run, all...)}
	b.admin = "http://" + b.Err.Await(t, `"msg":"starting".*"admin":"([^"]+)"`)[1]
	return b
}

// get returns a page of the admin endpoint.
func (b *bridge) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	response, err := http.Get(b.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	apptest.HasNoSecret(t, string(text))
	return response.StatusCode, string(text)
}

// awaitReady waits until the bridge reaches all its parts, or does not.
func (b *bridge) awaitReady(t *testing.T, want bool) {
	t.Helper()
	apptest.Eventually(t, fmt.Sprintf("ready: %v", want), func() bool {
		status, _ := b.get(t, "/readyz")
		return (status == http.StatusOK) == want
	})
}

// awaitMetric waits until a metric has a value.
func (b *bridge) awaitMetric(t *testing.T, line string) {
	t.Helper()
	apptest.Eventually(t, line, func() bool {
		_, body := b.get(t, "/metrics")
		return strings.Contains(body, "\n"+line+"\n")
	})
}

// proxy forwards connections until it is cut.
type proxy struct {
	address, target string

	mu       sync.Mutex
	open     bool
	conns    map[net.Conn]bool
	listener net.Listener
	running  sync.WaitGroup
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String(), target: target, open: true, conns: map[net.Conn]bool{}, listener: listener}
	p.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.forward(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) forward(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer to.Close()
	p.mu.Lock()
	if !p.open {
		p.mu.Unlock()
		return
	}
	p.conns[from], p.conns[to] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, from)
	delete(p.conns, to)
}

// cut breaks all connections and takes no more.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = false
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// mend takes connections again.
func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = true
}

// breakOnce breaks all connections, and takes new ones.
func (p *proxy) breakOnce() {
	p.cut()
	p.mend()
}
