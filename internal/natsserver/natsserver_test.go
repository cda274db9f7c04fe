package natsserver_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/leak"
	"preauth/internal/natsserver"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// within returns a context that ends the waits of a test.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, opts natsserver.Options) *natsserver.Server {
	t.Helper()
	s, err := natsserver.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func connect(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	connection, err := nats.Connect(url, nats.Timeout(time.Minute), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connection.Close)
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func createStream(t *testing.T, js jetstream.JetStream, replicas int) jetstream.Stream {
	t.Helper()
	stream, err := js.CreateStream(within(t), jetstream.StreamConfig{
		Name: "KEPT", Subjects: []string{"kept.>"}, Storage: jetstream.FileStorage, Replicas: replicas,
	})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// publish retries until the server acknowledges, as a client does while a leader is elected. The
// message id keeps repetitions from being stored twice.
func publish(t *testing.T, js jetstream.JetStream, subject string) {
	t.Helper()
	ctx := within(t)
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		_, err := js.Publish(attempt, subject, nil, jetstream.WithMsgID(subject))
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("publish on %s: %v", subject, err)
		}
	}
}

func messages(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	stream, err := js.Stream(within(t), "KEPT")
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func temporaryStores(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.TempDir(), "preauth-natsserver-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestRestartKeepsAddressAndStreams(t *testing.T) {
	for _, syncAlways := range []bool{false, true} {
		t.Run(fmt.Sprintf("sync always %t", syncAlways), func(t *testing.T) {
			s := start(t, natsserver.Options{SyncAlways: syncAlways})
			js := connect(t, s.URL())
			createStream(t, js, 1)
			publish(t, js, "kept.one")

			url := s.URL()
			s.Stop()
			if conn, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://")); err == nil {
				_ = conn.Close()
				t.Fatal("it still takes connections after Stop")
			}
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			if s.URL() != url {
				t.Errorf("restarted on %s, was on %s", s.URL(), url)
			}
			publish(t, js, "kept.two")
			if got := messages(t, js); got != 2 {
				t.Errorf("%d messages after the restart, want 2", got)
			}
		})
	}
}

func TestStoreDirIsKeptBetweenServers(t *testing.T) {
	opts := natsserver.Options{StoreDir: filepath.Join(t.TempDir(), "made", "if missing")}
	first := start(t, opts)
	js := connect(t, first.URL())
	createStream(t, js, 1)
	publish(t, js, "kept.one")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	second := start(t, opts)
	if got := messages(t, connect(t, second.URL())); got != 1 {
		t.Errorf("%d messages in the second server, want 1", got)
	}
}

func TestCloseRemovesTheTemporaryStore(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := start(t, natsserver.Options{})
	createStream(t, connect(t, s.URL()), 1)
	if len(temporaryStores(t)) != 1 {
		t.Fatalf("temporary stores %q, want one", temporaryStores(t))
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if left := temporaryStores(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if err := s.Restart(); err == nil {
		t.Error("a closed server started again")
	}
}

func TestStartOnAGivenAddress(t *testing.T) {
	// Given an address that was just free
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()

	// while it is taken, then starting there is an error and leaves nothing behind.
	t.Setenv("TMPDIR", t.TempDir())
	_, err = natsserver.Start(natsserver.Options{Listen: address})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v, want one that says that the address is in use", err)
	}
	if left := temporaryStores(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	// When it is free again, then the server listens there.
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if s := start(t, natsserver.Options{Listen: address}); s.URL() != "nats://"+address {
		t.Errorf("listens on %s, want %s", s.URL(), address)
	}
}

func TestStartRefusesBadOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]natsserver.Options{
		"no port":                   {Listen: "127.0.0.1"},
		"no number":                 {Listen: "127.0.0.1:port"},
		"negative port":             {Listen: "127.0.0.1:-1"},
		"port too large":            {Listen: "127.0.0.1:70000"},
		"every address":             {Listen: "0.0.0.0:0"},
		"a name":                    {Listen: "example.org:4222"},
		"store that is a file":      {StoreDir: file},
		"store of a file's subtree": {StoreDir: filepath.Join(file, "below")},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := natsserver.Start(opts); err == nil {
				_ = s.Close()
				t.Errorf("started on %s, want an error", s.URL())
			}
		})
	}
}

func TestLogTakesWarningsAndErrors(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, err = natsserver.Start(natsserver.Options{Listen: listener.Addr().String(), Log: func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, fmt.Sprintf(format, args...))
	}})
	if err == nil {
		t.Fatal("started on a taken address")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "nats-server: fatal: Error listening") {
		t.Errorf("log %q, want the failure to listen", lines)
	}
}

func TestClusterSurvivesTheLossOfAStreamLeader(t *testing.T) {
	// Given a cluster of three with a replicated stream,
	c, err := natsserver.StartCluster(within(t), 3, natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	js := connect(t, c.URL())
	stream := createStream(t, js, 3)
	publish(t, js, "kept.one")

	// when the stream's leader stops, then the others go on;
	leader := c.Node(stream.CachedInfo().Cluster.Leader)
	if leader == nil {
		t.Fatalf("no node is called %q", stream.CachedInfo().Cluster.Leader)
	}
	leader.Stop()
	if err := c.AwaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "kept.two")

	// and when it comes back and another stops, then there is a majority again that has everything.
	if err := leader.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	for _, node := range c.Nodes {
		if node != leader {
			node.Stop()
			break
		}
	}
	publish(t, js, "kept.three")
	if got := messages(t, js); got != 3 {
		t.Errorf("%d messages, want 3", got)
	}
}

func TestAwaitReadyWithoutAMajorityEndsWithItsContext(t *testing.T) {
	c, err := natsserver.StartCluster(within(t), 2, natsserver.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	c.Nodes[0].Stop()
	c.Nodes[1].Stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.AwaitReady(ctx); err == nil {
		t.Error("ready with every server stopped")
	}
}

func TestStartClusterRefusesBadOptions(t *testing.T) {
	for name, start := range map[string]func() (*natsserver.Cluster, error){
		"one address for all": func() (*natsserver.Cluster, error) {
			return natsserver.StartCluster(t.Context(), 3, natsserver.Options{Listen: "127.0.0.1:4222"})
		},
		"one server": func() (*natsserver.Cluster, error) {
			return natsserver.StartCluster(t.Context(), 1, natsserver.Options{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := start(); err == nil {
				_ = c.Close()
				t.Error("started, want an error")
			}
		})
	}
}

func TestConfigurationIsReloadedAndKept(t *testing.T) {
	config := func(streams int) string {
		return fmt.Sprintf("accounts: {A: {jetstream: {max_streams: %d}, users: [{user: a, password: a}]}}\nno_auth_user: a", streams)
	}
	s := start(t, natsserver.Options{Config: config(5)})
	allowed := func() int {
		t.Helper()
		info, err := connect(t, s.URL()).AccountInfo(within(t))
		if err != nil {
			t.Fatal(err)
		}
		return info.Limits.MaxStreams
	}
	if n := allowed(); n != 5 {
		t.Errorf("%d streams are allowed, want 5", n)
	}
	if err := s.Reload(config(7)); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload("accounts: {"); err == nil {
		t.Error("an impossible configuration was taken")
	}
	for range 2 {
		if n := allowed(); n != 7 {
			t.Errorf("%d streams are allowed, want 7", n)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
	}
}
