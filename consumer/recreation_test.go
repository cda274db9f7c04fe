package consumer_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// asked reports whether WeChat got a call for the component with the token.
func (w *world) asked(appid string, token preauth.Secret) bool {
	return slices.ContainsFunc(w.wechat.Calls(appid), func(call wechattest.Call) bool { return call.Token.Equal(token) })
}

// tokenStream returns the token stream.
func (w *world) tokenStream() jetstream.Stream {
	w.t.Helper()
	stream, err := w.js.Stream(w.within(), "COMPONENT_TOKENS")
	if err != nil {
		w.t.Fatal(err)
	}
	return stream
}

// consumers returns the token stream's consumers: the durable that the replicas share, and the
// names of those with which each replica reads the stream into memory.
func (w *world) consumers() (durable *jetstream.ConsumerInfo, readers []string) {
	w.t.Helper()
	consumers := w.tokenStream().ListConsumers(w.within())
	for info := range consumers.Info() {
		if info.Config.Durable == "" {
			readers = append(readers, info.Name)
		} else {
			durable = info
		}
	}
	if err := consumers.Err(); err != nil {
		w.t.Fatal(err)
	}
	return durable, readers
}

// A recreated stream counts from 1 again. A replica that has not noticed the new stream must not
// take its events for older events of the previous one.
func TestEventOfAReCreatedStreamIsNotTakenForAnOldOne(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	// Given a component with several events in the stream, and a replica without a free slot.
	r := w.start(func(s *setup) { s.cfg.InFlight = 1 }).ready()
	for range 5 {
		w.announce("wx1", w.token("old"))
	}
	w.settled(r, "wx1")
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx2", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx2", w.token("a"))
	next(w, hold.Reached())

	// When the stream and right away its durable are recreated, as another replica would do it.
	created := func() string { return strconv.FormatInt(w.tokenStream().CachedInfo().Created.UnixMicro(), 10) }
	durable, _ := w.consumers()
	was := created()
	if err := w.js.DeleteStream(w.within(), "COMPONENT_TOKENS"); err != nil {
		t.Fatal(err)
	}
	w.createTokenStream()
	config := durable.Config
	config.Durable = strings.Replace(config.Durable, was, created(), 1)
	config.Name = config.Durable
	if _, err := w.tokenStream().CreateConsumer(w.within(), config); err != nil {
		t.Fatal(err)
	}
	newest := w.token("newest")
	if sequence := w.announce("wx1", newest); sequence != 1 {
		t.Fatalf("sequence %d", sequence)
	}
	hold.Release()

	// Then the new stream's event is processed.
	w.eventually("WeChat asked with the newest token", func() bool { return w.asked("wx1", newest) })
	w.settled(r, "wx1")
}

// An acknowledgement is in transit while the stream is recreated. In the new stream another event
// has its sequence, and must not be acknowledged.
func TestLateAcknowledgementHitsNoOtherEvent(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	// Given an acknowledgement in transit.
	way := &line{}
	late := w.start(w.onLine(way)).ready()
	stalled := way.stallAt("+ACK\r\n")
	defer stalled.release()
	w.announce("wx1", w.token("a"))
	next(w, stalled.reached)

	// When it arrives after another replica has received the first event of the new stream.
	if err := w.js.DeleteStream(w.within(), "COMPONENT_TOKENS"); err != nil {
		t.Fatal(err)
	}
	other := w.start(func(s *setup) { s.cfg.Shutdown = time.Millisecond }).ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx2", wechattest.Fault{HoldAnswer: hold})
	if sequence := w.announce("wx2", w.token("b")); sequence != 1 {
		t.Fatalf("sequence %d", sequence)
	}
	next(w, hold.Reached())
	stalled.release()
	if err := late.nc.FlushWithContext(w.within()); err != nil {
		t.Fatal(err)
	}

	// Then that event is redelivered after the other replica failed to finish it.
	other.stop()
	late.await(consumer.StepCommitted, "wx2", 1)
	w.settled(late, "wx2")
}

// An announcement is in transit while the update stream is recreated. In the new stream a newer
// announcement has the sequence that it was meant to follow.
func TestOlderRevisionNeverFollowsANewerOneInAReCreatedStream(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	// Given revision 2 in transit, to follow revision 1.
	way := &line{}
	late := w.start(w.onLine(way)).ready()
	w.announce("wx1", w.token("a"))
	w.settled(late, "wx1")
	stalled := way.stallAt("HPUB preauth.updated.wx1 ")
	defer stalled.release()
	w.announce("wx1", w.token("b"))
	next(w, stalled.reached)

	// When it arrives after revision 3 was announced, and announced again in the new stream.
	other := w.start().ready()
	w.announce("wx1", w.token("c"))
	revision3 := func() bool { update, ok := w.stored("wx1"); return ok && update.Revision == 3 }
	w.eventually("revision 3 announced", revision3)
	if err := w.js.DeleteStream(w.within(), "PREAUTH"); err != nil {
		t.Fatal(err)
	}
	w.eventually("revision 3 announced again", revision3)
	stalled.release()
	if err := late.nc.FlushWithContext(w.within()); err != nil {
		t.Fatal(err)
	}

	// Then it is refused.
	if update, _ := w.stored("wx1"); update.Revision != 3 {
		t.Errorf("the last message is revision %d", update.Revision)
	}
	if update := w.settled(other, "wx1"); update.Revision != 3 {
		t.Errorf("settled at revision %d", update.Revision)
	}
}

// NATS loses what it has not synced. The stream stays the same one, but gives the sequences of the
// lost events to new ones.
func TestRolledBackStreamLosesNoNewerToken(t *testing.T) {
	cases := map[string]struct {
		lost int // events of the component
		then func(*world, *replica) *replica
	}{
		"the same sequence": {1, func(_ *world, r *replica) *replica { return r }},
		// Clocks of two servers may differ, so an event with a smaller sequence counts as newer only if
		// it is more than a minute later. A second replica takes over because the first has seen the
		// real times.
		"a smaller sequence, two minutes later": {5, func(w *world, r *replica) *replica {
			r.stop()
			w.database.MustExec("UPDATE component SET token_time = token_time - INTERVAL 2 MINUTE")
			return w.start()
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			// Given a component whose events came after the last sync.
			r := w.start().ready()
			w.announce("wx0", w.token("a"))
			w.settled(r, "wx0")
			w.stopNATS()
			synced := t.TempDir()
			if err := os.CopyFS(synced, os.DirFS(w.store)); err != nil {
				t.Fatal(err)
			}
			w.restartNATS()
			r.ready()
			var last uint64
			for range c.lost {
				last = w.announce("wx1", w.token("lost"))
			}
			before := w.settled(r, "wx1")

			// When NATS goes back to that state, and a newer token is announced.
			created := w.tokenStream().CachedInfo().Created
			w.stopNATS()
			if err := errors.Join(os.RemoveAll(w.store), os.CopyFS(w.store, os.DirFS(synced))); err != nil {
				t.Fatal(err)
			}
			w.restartNATS()
			r = c.then(w, r.ready()).ready()
			if !w.tokenStream().CachedInfo().Created.Equal(created) {
				t.Fatal("the stream is not the same one")
			}
			newest := w.token("newest")
			if sequence := w.announce("wx1", newest); sequence > last {
				t.Fatalf("sequence %d was not used before", sequence)
			}

			// Then the newer token's code becomes current and is announced.
			w.eventually("WeChat asked with the newest token", func() bool { return w.asked("wx1", newest) })
			w.eventually("announced", func() bool {
				update, ok := w.stored("wx1")
				return ok && update.Revision > before.Revision
			})
			w.settled(r, "wx1")
		})
	}
}

// If a stream of another owner is unsuitable, the service names what to change and leaves the
// stream alone. Once that stream is deleted, the service creates its own.
func TestStreamOfAnotherOwnerThatCannotServeIsRefused(t *testing.T) {
	cases := map[string]struct {
		config jetstream.StreamConfig
		says   string
	}{
		"work-queue retention": {
			jetstream.StreamConfig{Name: "OTHERS", Subjects: []string{"component.>"}, Retention: jetstream.WorkQueuePolicy},
			"retention must be limits",
		},
		"interest retention": {
			jetstream.StreamConfig{Name: "OTHERS", Subjects: []string{"component.>"}, Retention: jetstream.InterestPolicy},
			"retention must be limits",
		},
		"right name, wrong subjects": {
			jetstream.StreamConfig{Name: "COMPONENT_TOKENS", Subjects: []string{"something.else"}},
			"does not take the subjects",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			stream, err := w.js.CreateStream(w.within(), c.config)
			if err != nil {
				t.Fatal(err)
			}
			r := w.start()
			w.eventually("refused", func() bool {
				return contains(r.service.Ready(), "token stream: ") && contains(r.service.Ready(), c.says)
			})
			if info, err := stream.Info(w.within()); err != nil || info.State.Consumers != 0 {
				t.Errorf("the stream has %d consumers: %v", info.State.Consumers, err)
			}

			if err := w.js.DeleteStream(context.Background(), c.config.Name); err != nil {
				t.Fatal(err)
			}
			r.ready()
			w.announce("wx1", w.token("a"))
			r.await(consumer.StepCommitted, "wx1", 1)
			w.settled(r, "wx1")
		})
	}
}
