package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/leak"
	"preauth/internal/natsserver"
	"preauth/internal/stream"
)

func TestMain(m *testing.M) {
	status := m.Run()
	if status == 0 {
		if err := leak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// patience is how long a test waits for an event before it fails.
const patience = time.Minute

// connect starts a server and returns a connection to it.
func connect(t *testing.T) (*natsserver.Server, jetstream.JetStream) {
	t.Helper()
	server, err := natsserver.Start(natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	nc, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return server, js
}

// next receives the next item of a channel, and fails the test after patience.
func next[T any](t *testing.T, items <-chan T) T {
	t.Helper()
	select {
	case item := <-items:
		return item
	case <-time.After(patience):
		t.Fatalf("no %T arrived", *new(T))
		panic("unreachable")
	}
}

func publish(t *testing.T, js jetstream.JetStream, subject, body string) uint64 {
	t.Helper()
	ack, err := js.Publish(t.Context(), subject, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

func role(name, events string) stream.Role {
	return stream.Role{Name: name + " stream", Events: events, Config: func() jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: strings.ToUpper(name), MaxAge: time.Hour}
	}}
}

// run has work done until the test ends, and waits for its end.
func run(t *testing.T, work func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { work(ctx) })
	t.Cleanup(func() {
		cancel()
		working.Wait()
	})
}

// follows has streams followed and returns them as they are.
func follows(t *testing.T, js jetstream.JetStream, log *slog.Logger, r stream.Role) (followed <-chan jetstream.Stream, failed <-chan error) {
	t.Helper()
	streams, failures := make(chan jetstream.Stream, 100), make(chan error, 100)
	keeper := stream.NewKeeper(js, log, func(_ stream.Role, err error) { failures <- err })
	run(t, func(ctx context.Context) {
		keeper.Keep(ctx, r, stream.Follower{Follow: func(ctx context.Context, s jetstream.Stream, id stream.Identity) error {
			if id != stream.IdentityOf(s.CachedInfo()) {
				t.Errorf("followed as %+v", id)
			}
			streams <- s
			<-ctx.Done()
			return nil
		}})
	})
	return streams, failures
}

func TestMissingStreamIsCreatedAndFollowedAgainWhenItIsAnother(t *testing.T) {
	_, js := connect(t)
	followed, failed := follows(t, js, slog.New(slog.DiscardHandler), role("events", "acme.event"))
	first := next(t, followed)
	if got := first.CachedInfo().Config.Subjects; !slices.Equal(got, []string{"acme.event", "acme.event.>"}) {
		t.Errorf("created for %v", got)
	}
	if err := js.DeleteStream(t.Context(), "EVENTS"); err != nil {
		t.Fatal(err)
	}
	if err := next(t, failed); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("got %v", err)
	}
	second := next(t, followed)
	was, is := stream.IdentityOf(first.CachedInfo()), stream.IdentityOf(second.CachedInfo())
	if was == is || was.Durable("d") == is.Durable("d") {
		t.Errorf("the new stream is the same as the old one: %+v", is)
	}
}

// Somebody else's stream is used as it is, and how it differs is logged once.
func TestStreamThatTakesTheEventsIsUsedAsItIs(t *testing.T) {
	_, js := connect(t)
	config := jetstream.StreamConfig{Name: "ALL", Subjects: []string{"acme.>"}}
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	followed, _ := follows(t, js, slog.New(slog.NewTextHandler(&log, nil)), role("events", "acme.event"))
	if got := next(t, followed).CachedInfo().Config; got.Name != "ALL" || !slices.Equal(got.Subjects, config.Subjects) || got.MaxAge != 0 {
		t.Errorf("followed: %+v", got)
	}
	if n := strings.Count(log.String(), "used as it is"); n != 1 || !strings.Contains(log.String(), "name is ALL, not EVENTS") {
		t.Errorf("logged: %s", log.String())
	}
}

func TestEventsOfOneStreamEach(t *testing.T) {
	_, js := connect(t)
	for _, name := range []string{"A", "B"} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{"acme.event." + name}}); err != nil {
			t.Fatal(err)
		}
	}
	_, failed := follows(t, js, slog.New(slog.DiscardHandler), role("events", "acme.event"))
	const want = "streams A and B share the subjects acme.event and acme.event.>"
	if err := next(t, failed); !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Each message is read once and in order, although the consumers vanish and the server restarts.
func TestReadInOrder(t *testing.T) {
	server, js := connect(t)
	source, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"acme.>"}})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, js, "acme.a", "1")
	publish(t, js, "acme.a", "2")
	reader := stream.NewReader(js.Conn(), slog.New(slog.DiscardHandler))
	read, release, caughtUp := make(chan string, 100), make(chan struct{}), make(chan struct{})
	run(t, func(ctx context.Context) {
		err := reader.Read(ctx, source, jetstream.ConsumerConfig{}, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) {
			read <- string(msg.Data())
			select {
			case <-release:
			case <-ctx.Done():
			}
		}, func() { close(caughtUp) })
		if err != nil {
			t.Error(err)
		}
	})
	is := func(want string) {
		t.Helper()
		if got := next(t, read); got != want {
			t.Errorf("read %s, want %s", got, want)
		}
	}
	is("1")
	if got := reader.Lag(); got != 2 {
		t.Errorf("a lag of %d, want the message that is being read and the next", got)
	}
	select {
	case <-caughtUp:
		t.Error("caught up before all was applied")
	default:
	}
	release <- struct{}{}
	is("2")
	close(release)
	next(t, caughtUp)

	names := source.ConsumerNames(t.Context())
	for name := range names.Name() {
		if err := source.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, js, "acme.b", "3")
	is("3")
	server.Stop()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	again := func() error { // a message that got lost with the connection has no answer
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "acme.b", []byte("4"), jetstream.WithMsgID("4"))
		return err
	}
	for err := again(); err != nil; err = again() {
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	is("4")
}

// Two kinds of events come through one stream. Each intake takes its own and leaves nothing behind.
func TestIntakesShareAStream(t *testing.T) {
	_, js := connect(t)
	source, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ALL", Subjects: []string{"acme.>"}})
	if err != nil {
		t.Fatal(err)
	}
	id := stream.IdentityOf(source.CachedInfo())
	intakes, taken := map[string]*stream.Intake{}, map[string]chan string{}
	for _, kind := range []string{"apple", "pear"} {
		events := make(chan string, 100)
		intake := stream.NewIntake(js, slog.New(slog.DiscardHandler), stream.IntakeOptions{
			Role: role(kind, "acme."+kind), Durable: kind, Description: "eats", Limit: 2, AckWait: time.Minute,
			Work: func(_ context.Context, msg jetstream.Msg, _ *jetstream.MsgMetadata, from stream.Identity) {
				if from != id {
					t.Errorf("from %+v", from)
				}
				events <- msg.Subject()
				if err := msg.Ack(); err != nil {
					t.Error(err)
				}
			},
		})
		ready := make(chan struct{})
		run(t, func(ctx context.Context) {
			if err := intake.Take(ctx, ctx, source, id, func() { close(ready) }); err != nil {
				t.Error(err)
			}
			intake.Wait()
		})
		next(t, ready)
		intakes[kind], taken[kind] = intake, events
	}
	subjects := []string{"acme.apple", "acme.pear.b", "acme.other", "acme.apple.a", "acme.pear"}
	var last uint64
	for _, subject := range subjects {
		last = publish(t, js, subject, "")
	}
	for kind, want := range map[string][]string{"apple": {"acme.apple", "acme.apple.a"}, "pear": {"acme.pear", "acme.pear.b"}} {
		got := []string{next(t, taken[kind]), next(t, taken[kind])}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s took %v, want %v", kind, got, want)
		}
		deadline := time.Now().Add(patience)
		for {
			p, err := intakes[kind].Progress(t.Context())
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("%s: %+v, %v", kind, p, err)
			}
			if p.Waiting() == 0 && p.Floor == last && intakes[kind].InFlight() == 0 {
				break
			}
		}
	}
}

func TestErrorCode(t *testing.T) {
	_, js := connect(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "A", Subjects: []string{"a"}, Replicas: 3})
	if got := stream.ErrorCode(fmt.Errorf("creating: %w", err)); got != 10074 {
		t.Errorf("%d for %v, want the code for replicas on one server", got, err)
	}
	if got := stream.ErrorCode(errors.New("another")); got != 0 {
		t.Errorf("%d for an error of somebody else", got)
	}
}
