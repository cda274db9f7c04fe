package consumer

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/internal/natsserver"
)

// A replica that stops answers the requests that NATS had sent it before it heard of that, however
// many of them wait.
func TestStoppingReplicaAnswersWhatItWasSent(t *testing.T) {
	server, err := natsserver.Start(natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	connect := func() *nats.Conn {
		nc, err := nats.Connect(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	nc, requester := connect(), connect()
	r := newResponder(Config{}.withDefaults(), nc, slog.New(slog.DiscardHandler), func() error { return nil }, func() preauth.Replica { return preauth.Replica{} })
	taken, release := make(chan struct{}), make(chan struct{})
	handle := func(_ string, data []byte) ([]byte, work, error) {
		if string(data) == "first" {
			close(taken)
			<-release
		}
		return nil, func(context.Context, context.Context) (int, []byte, error) { return 200, []byte("answer"), nil }, nil
	}
	e := endpoint{"claim", "preauth.claim", newMetrics(prometheus.NewRegistry()).claims, func() handler { return handle }}
	if err := r.start(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	inbox := requester.NewInbox()
	answers, err := requester.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	const requests = 20
	for i := range requests {
		if err := requester.PublishRequest("preauth.claim", inbox, []byte(map[bool]string{true: "first"}[i == 0])); err != nil {
			t.Fatal(err)
		}
	}
	if err := requester.Flush(); err != nil {
		t.Fatal(err)
	}
	<-taken
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop(t.Context())
	}()
	select {
	case <-stopped:
		t.Error("stopped before the requests were handled")
	case <-time.After(100 * time.Millisecond): // a stop that waits for nothing takes less
	}
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
