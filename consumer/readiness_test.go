package consumer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

func TestReadinessComesBackWithEachStream(t *testing.T) {
	for name, reason := range map[string]string{
		"COMPONENT_TOKENS": "token stream: ", "PREAUTH": "update stream: ", "PREAUTH_FAILED": "failure stream: ",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			r := w.start().ready()
			if err := w.js.DeleteStream(w.within(), name); err != nil {
				t.Fatal(err)
			}
			w.eventually("not ready", func() bool { return contains(r.service.Ready(), reason) })
			r.ready()
			if _, err := w.js.Stream(w.within(), name); err != nil {
				t.Errorf("ready without the stream: %v", err)
			}
		})
	}
}

// If somebody deletes the durable that the replicas share, a replica recreates it.
func TestDeletedDurableIsRecreated(t *testing.T) {
	t.Run("while a pull request is open", func(t *testing.T) {
		w := newWorld(t, wechattest.Options{})
		r := w.start().ready()
		w.eventually("a pull request is open", func() bool { durable, _ := w.consumers(); return durable.NumWaiting > 0 })
		w.deleteDurable()
		w.announce("wx1", w.token("a"))
		r.await(consumer.StepCommitted, "wx1", 1)
		w.settled(r, "wx1")
	})
	t.Run("while no event slot is free", func(t *testing.T) {
		w := newWorld(t, wechattest.Options{})
		r := w.start(func(s *setup) { s.cfg.InFlight = 1 }).ready()
		hold := wechattest.NewHold()
		defer hold.Release()
		w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
		w.announce("wx1", w.token("a"))
		next(w, hold.Reached())
		w.deleteDurable()
		hold.Release()
		r.await(consumer.StepCommitted, "wx1", 1)
		w.announce("wx2", w.token("a"))
		r.await(consumer.StepCommitted, "wx2", 1)
		w.settled(r, "wx2")
		r.ready()
		if n := w.wechat.Count("wx1"); n != 1 {
			t.Errorf("%d calls for an event that the new durable redelivered, want 1", n)
		}
	})
}

func (w *world) deleteDurable() {
	w.t.Helper()
	durable, _ := w.consumers()
	if err := w.js.DeleteConsumer(w.within(), durable.Stream, durable.Name); err != nil {
		w.t.Fatal(err)
	}
}

// A replica is not ready if its events make no progress, or if it cannot tell.
func TestReadinessReportsAStandstill(t *testing.T) {
	t.Run("the durable is missing", func(t *testing.T) {
		w := newWorld(t, wechattest.Options{})
		r := w.start(func(s *setup) { s.cfg.InFlight, s.cfg.Stall = 1, time.Second }).ready()
		hold := wechattest.NewHold()
		defer hold.Release()
		w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
		w.announce("wx1", w.token("a"))
		next(w, hold.Reached())
		w.deleteDurable() // a replica without a free slot pulls nothing, so it does not notice
		w.eventually("not ready", func() bool { return contains(r.service.Ready(), "progress of tokens: not known for ") })
		hold.Release()
		r.ready()
	})
	// An event that is redelivered again and again is no progress.
	t.Run("an event is returned to NATS again and again", func(t *testing.T) {
		w := newWorld(t, wechattest.Options{})
		db, faults := w.faulty()
		stall := 7 * time.Second // longer than the redelivery takes
		r := w.start(func(s *setup) { s.db, s.cfg.Stall = db, stall }).ready()
		refused := make([]repotest.Fault, 100)
		for i := range refused {
			refused[i] = repotest.Answered(1142, "SELECT command denied")
		}
		faults.Script("components", refused...)
		w.announce("wx1", w.token("a"))
		r.await(consumer.StepReceived, "wx1", 2)
		w.eventually("not ready", func() bool {
			return contains(r.service.Ready(), "progress of tokens: 1 events wait and none was finished for ")
		})
		faults.Reset()
		r.await(consumer.StepCommitted, "wx1", 1)
		w.settled(r, "wx1")
		r.ready()
	})
}

// A reader that is looking for its stream while NATS is away must not delay the shutdown.
func TestShutdownWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	// A slow machine may take as long as the reader once, but not every time.
	for range 5 {
		if timeToStopWhileNATSIsAway(t) < 9*time.Second { // the reader needs ten
			return
		}
	}
	t.Error("Run waited for the reader each time")
}

func timeToStopWhileNATSIsAway(t *testing.T) time.Duration {
	t.Helper()
	w := newWorldAlone(t, mysql, wechattest.Options{})
	way := &line{}
	r := w.start(w.onLine(way), func(s *setup) { s.cfg.Shutdown = time.Second }).ready()
	stalled := way.stallAt("$JS.API.CONSUMER.CREATE.COMPONENT_TOKENS.")
	defer stalled.release()
	_, readers := w.consumers()
	if len(readers) != 1 {
		t.Fatalf("readers of the stream: %v", readers)
	}
	if err := w.js.DeleteConsumer(w.within(), "COMPONENT_TOKENS", readers[0]); err != nil {
		t.Fatal(err)
	}
	next(w, stalled.reached) // the reader is recreating its consumer
	way.down()
	w.eventually("disconnected", func() bool { return !r.nc.IsConnected() })
	started := time.Now()
	r.stop()
	return time.Since(started)
}

// A server that silently stops reading must delay neither the shutdown nor the metrics.
func TestShutdownWhileTheLineIsStalled(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	way := &line{}
	giveUp := func(o *nats.Options) error {
		o.FlusherTimeout, o.ReconnectOnFlusherError = 500*time.Millisecond, true
		return nil
	}
	r := w.start(redelivered, w.onLine(way, giveUp), func(s *setup) { s.cfg.Shutdown = time.Second }).ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	stalled := way.stallAt("+WPI")
	defer stalled.release()
	w.announce("wx1", w.token("a"))
	next(w, hold.Reached())
	next(w, stalled.reached)

	if !strings.Contains(r.metrics(), `preauth_events_in_flight{stream="tokens"} 1`) {
		t.Error("the event is not in flight")
	}
	r.stop() // must not wait for ever
	other := w.start(redelivered)
	hold.Release()
	other.await(consumer.StepCommitted, "wx1", 1)
	w.settled(other, "wx1")
}

// A replica that shuts down answers the requests that NATS has delivered to it, or refuses them so
// that the client can ask another replica.
func TestLookUpsWhileStoppingAreAnsweredOrRefused(t *testing.T) {
	const requests = 5000
	w := newWorld(t, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.Requests = 2 }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	replies, err := w.nc.SubscribeSync(w.nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := replies.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	for i := range requests {
		// Every other one is answered from memory; the rest need MySQL.
		appid := [...]string{"wx1", "wx2"}[i%2]
		if err := w.nc.PublishRequest(preauth.SubjectFor("preauth.lookup", appid), replies.Subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.nc.FlushWithContext(w.within()); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if err := r.nc.Drain(); err != nil { // as the caller of Run does
		t.Fatal(err)
	}
	w.eventually("connection drained", r.nc.IsClosed)

	counts := map[int]int{}
	for range requests {
		reply, err := replies.NextMsg(patience)
		if err != nil {
			t.Fatalf("%d requests, answers by code %v: %v", requests, counts, err)
		}
		if reply.Header.Get("Status") == "503" {
			counts[0]++ // no responders
		} else if e := preauth.ParseError(reply.Header.Get, reply.Data); e != nil {
			counts[e.Code]++
		} else {
			counts[200]++
		}
	}
	t.Logf("answers by code, 0 for no responders: %v", counts)
	for code := range counts {
		switch code {
		case 0, 200, preauth.StatusNotFound, preauth.StatusTooMany, preauth.StatusUnavailable:
		default:
			t.Errorf("%d answers with code %d", counts[code], code)
		}
	}
}
