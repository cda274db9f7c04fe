package consumer

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/internal/natsserver"
)

// gate is in front of a replica's connection to NATS. While it is shut, the replica reads nothing
// that the server sends, and does not connect again.
type gate struct {
	mu   sync.Mutex
	conn net.Conn
	// passable is closed while the gate is open.
	passable chan struct{}
}

func newGate() *gate {
	g := &gate{passable: make(chan struct{})}
	g.open()
	return g
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.passable)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passable = make(chan struct{})
}

// cut ends the connection, which the server notices too.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conn.Close()
}

// Dial connects if the gate is open.
func (g *gate) Dial(network, address string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.passable:
	default:
		return nil, net.ErrClosed
	}
	conn, err := net.Dial(network, address)
	g.conn = conn
	return gatedConn{conn, g}, err
}

type gatedConn struct {
	net.Conn
	*gate
}

func (c gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, err
	}
	c.mu.Lock()
	passable := c.passable
	c.mu.Unlock()
	<-passable
	return n, nil
}

// stopping is a replica that answers claims, behind a gate, and a requester.
type stopping struct {
	*testing.T
	gate      *gate
	nc        *nats.Conn // of the replica
	requester *nats.Conn
	responder *responder
}

// newStopping starts a replica with a handler of claims.
func newStopping(t *testing.T, handle handler) *stopping {
	server, err := natsserver.Start(natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	connect := func(options ...nats.Option) *nats.Conn {
		nc, err := nats.Connect(server.URL(), options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	s := &stopping{T: t, gate: newGate(), requester: connect()}
	s.nc = connect(nats.SetCustomDialer(s.gate), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond))
	s.responder = newResponder(
		Config{}.withDefaults(), s.nc, slog.New(slog.DiscardHandler),
		func() error { return nil }, func() preauth.Replica { return preauth.Replica{} },
	)
	e := endpoint{"claim", "preauth.claim", newMetrics(prometheus.NewRegistry()).claims, func() handler { return handle }}
	if err := s.responder.start(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := s.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return s
}

// stop begins to stop the replica.
func (s *stopping) stop() (stopped <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.responder.stop(s.Context())
	}()
	return done
}

// waits fails the test if the replica stops now. A stop that waits for nothing takes less than this.
func (s *stopping) waits(stopped <-chan struct{}, what string) {
	s.Helper()
	select {
	case <-stopped:
		s.Error("stopped before " + what)
	case <-time.After(100 * time.Millisecond):
	}
}

// A replica that stops answers the requests that NATS had sent it before it heard of that: those that
// it has not read yet, and those that wait for the first one, however many they are.
func TestStoppingReplicaAnswersWhatItWasSent(t *testing.T) {
	taken, release := make(chan struct{}), make(chan struct{})
	s := newStopping(t, func(_ string, data []byte) ([]byte, work, error) {
		if string(data) == "first" {
			close(taken)
			<-release
		}
		return nil, func(context.Context, context.Context) (int, []byte, error) { return 200, []byte("answer"), nil }, nil
	})
	inbox := s.requester.NewInbox()
	answers, err := s.requester.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	s.gate.shut()
	const requests = 20
	for i := range requests {
		if err := s.requester.PublishRequest("preauth.claim", inbox, []byte(map[bool]string{true: "first"}[i == 0])); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.requester.Flush(); err != nil { // the server has sent them to the replica
		t.Fatal(err)
	}
	stopped := s.stop()
	s.waits(stopped, "the requests were read")
	s.gate.open()
	<-taken
	s.waits(stopped, "the requests were handled")
	close(release)
	<-stopped
	for range requests {
		answer, err := answers.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if string(answer.Data) != "answer" {
			t.Errorf("answered with %q %v", answer.Data, answer.Header)
		}
	}
}

// A replica that stops while it reconnects is sent no requests when it is back: they would wait for
// an answer that does not come.
func TestReplicaThatStopsWithoutNATSIsSentNoRequestsLater(t *testing.T) {
	s := newStopping(t, func(string, []byte) ([]byte, work, error) { return []byte("answer"), nil, nil })
	away := s.nc.StatusChanged(nats.RECONNECTING)
	s.gate.shut()
	s.gate.cut()
	<-away
	stopped := s.stop()
	s.waits(stopped, "NATS was back")
	s.gate.open()
	<-stopped
	_, err := s.requester.Request("preauth.claim", nil, 10*time.Second)
	if !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a request after the stop: %v; nobody should have got it", err)
	}
}
