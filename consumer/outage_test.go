package consumer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/internal/mysqlserver"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

func TestStartsWithEverythingAway(t *testing.T) {
	w, database := newWorldWithMySQL(t, wechattest.Options{})
	w.createTokenStream()
	w.announce("wx1", w.token("early"))
	if err := database.Kill(); err != nil {
		t.Fatal(err)
	}
	w.stopNATS()
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Fault{Reset: wechattest.ResetBefore} })
	r := w.start()
	w.eventually("not ready, with the reasons", func() bool {
		err := r.service.Ready()
		return err != nil && contains(err, "NATS") && contains(err, "MySQL") && contains(err, "token stream")
	})

	w.restartNATS()
	w.eventually("NATS is back", func() bool { return !contains(r.service.Ready(), "NATS:") })
	if err := database.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.ready()
	r.await(consumer.StepFailed, "wx1", 1)
	w.wechat.Every(nil)
	r.await(consumer.StepCommitted, "wx1", 1)
	w.settled(r, "wx1")
}

func contains(err error, text string) bool {
	return err != nil && bytes.Contains([]byte(err.Error()), []byte(text))
}

// newWorldWithMySQL returns a world with a database server that the test may kill.
func newWorldWithMySQL(t *testing.T, options wechattest.Options) (*world, *mysqlserver.Server) {
	t.Helper()
	private := mysqlserver.TestOptions()
	private.DSN = "" // which names a server that is not the test's to kill
	server, err := mysqlserver.Start(t.Context(), private)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return newWorldOn(t, server, options), server
}

func TestMySQLIsKilledAndComesBack(t *testing.T) {
	w, database := newWorldWithMySQL(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	if err := database.Kill(); err != nil {
		t.Fatal(err)
	}
	w.announce("wx1", w.token("b"))
	w.announce("wx2", w.token("a"))
	w.eventually("not ready", func() bool { return contains(r.service.Ready(), "MySQL") })
	// Memory still answers.
	if _, err := w.lookup(preauth.LookupRequest{AppID: "wx1"}); err != nil {
		t.Errorf("look-up without MySQL: %v", err)
	}
	if _, err := w.lookup(preauth.LookupRequest{AppID: "wx3"}); code(err) != preauth.StatusInternal {
		t.Errorf("look-up that needs MySQL: got %v", err)
	}
	if err := database.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await(consumer.StepCommitted, "wx1", 2)
	r.await(consumer.StepCommitted, "wx2", 1)
	w.settled(r, "wx1")
	w.settled(r, "wx2")
	r.ready()
	if n := w.wechat.Count(""); n != 3 {
		t.Errorf("%d calls, want one per event", n)
	}
}

func TestNATSRestarts(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	hold := wechattest.NewHold()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("b"))
	<-hold.Reached()
	w.stopNATS() // between WeChat's answer and the acknowledgement
	hold.Release()
	r.await(consumer.StepCommitted, "wx1", 2)
	w.restartNATS()
	r.ready()
	if update := w.settled(r, "wx1"); update.Revision != 2 {
		t.Errorf("revision %d", update.Revision)
	}
	if n := w.wechat.Count("wx1"); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
}

func TestStreamOfAnnouncementsIsReCreated(t *testing.T) {
	for name, lose := range map[string]func(context.Context, jetstream.JetStream) error{
		"deleted": func(ctx context.Context, js jetstream.JetStream) error { return js.DeleteStream(ctx, "PREAUTH") },
		"purged": func(ctx context.Context, js jetstream.JetStream) error {
			stream, err := js.Stream(ctx, "PREAUTH")
			if err != nil {
				return err
			}
			return stream.Purge(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			r := w.start().ready()
			for i := range 3 {
				w.announce(fmt.Sprintf("wx%d", i), w.token("a"))
			}
			r.await(consumer.StepCleared, "", 3)
			before, _ := w.stored("wx1")
			if err := lose(w.within(), w.js); err != nil {
				t.Fatal(err)
			}
			w.eventually("announced again", func() bool {
				for i := range 3 {
					if update, ok := w.stored(fmt.Sprintf("wx%d", i)); !ok || update.Revision != 1 {
						return false
					}
				}
				return true
			})
			after := w.settled(r, "wx1")
			if !after.PreAuthCode.Equal(before.PreAuthCode) || after.MessageID() != before.MessageID() {
				t.Errorf("announced something else: %+v", after)
			}
			w.announce("wx1", w.token("b"))
			r.await(consumer.StepCommitted, "wx1", 2)
			if update := w.settled(r, "wx1"); update.Revision != 2 {
				t.Errorf("the next token gave revision %d, want 2", update.Revision)
			}
		})
	}
}

func TestStreamOfTokensIsReCreated(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx0", w.token("a"))
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "", 2)
	if err := w.js.DeleteStream(w.within(), "COMPONENT_TOKENS"); err != nil {
		t.Fatal(err)
	}
	w.eventually("the stream is recreated", func() bool {
		_, err := w.js.Stream(w.within(), "COMPONENT_TOKENS")
		return err == nil
	})
	// Its sequences start again at 1, below the one that MySQL has.
	if sequence := w.announce("wx1", w.token("b")); sequence != 1 {
		t.Fatalf("sequence %d", sequence)
	}
	r.await(consumer.StepCommitted, "wx1", 2)
	if update := w.settled(r, "wx1"); update.Revision != 2 {
		t.Errorf("revision %d", update.Revision)
	}
}

// New subscribers read the stream's last message of a component, so an older revision must never
// follow a newer one.
func TestOlderRevisionNeverFollowsANewerOne(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	// This replica commits revision 1 but cannot announce it, because its connection is closed.
	gone := make(chan struct{})
	slowNATS := w.connect()
	slow := w.start(func(s *setup) {
		s.nc = slowNATS
		s.onStep = func(step consumer.Step) {
			if step.Name == consumer.StepIssued {
				slowNATS.Close()
				close(gone)
			}
		}
	})
	slow.ready()
	w.announce("wx1", w.token("a"))
	<-gone
	slow.await(consumer.StepCommitted, "wx1", 1)

	fast := w.start(redelivered).ready()
	w.announce("wx1", w.token("b"))
	fast.await(consumer.StepCommitted, "wx1", 1)
	if update := w.settled(fast, "wx1"); update.Revision != 2 {
		t.Fatalf("revision %d", update.Revision)
	}
}

func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	hold := wechattest.NewHold()
	w.wechat.Next("", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("a"))
	<-hold.Reached()
	r.cancel()
	w.eventually("stopping", func() bool { return bytes.Contains([]byte(w.log.String()), []byte(`"msg":"stopping"`)) })
	hold.Release()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	r.stopOnce.Do(func() {})
	for _, name := range []consumer.StepName{consumer.StepCommitted, consumer.StepAcknowledged, consumer.StepAnnounced, consumer.StepCleared} {
		if r.count(name) != 1 {
			t.Errorf("%d steps %q", r.count(name), name)
		}
	}
}

// A code that is made for a look-up during shutdown is announced, and its outbox row deleted,
// before Run returns.
func TestShutdownFinishesACodeForALookUp(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	c := &clock{}
	r := w.start(func(s *setup) { s.db, s.cfg.Now = db, c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	r.await(consumer.StepCleared, "wx1", 1)
	c.advance(40 * time.Second)
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	asked := make(chan error, 1)
	go func() {
		_, err := w.lookup(preauth.LookupRequest{AppID: "wx1", MinTTL: 1770 * time.Second})
		asked <- err
	}()
	next(w, hold.Reached())
	ended := make(chan struct{})
	early := make(chan bool, 1)
	faults.Script("announced", repotest.Fault{Before: func() {
		select {
		case <-ended:
			early <- true
		case <-time.After(300 * time.Millisecond):
			early <- false
		}
	}})
	r.cancel()
	w.eventually("stopping", func() bool { return strings.Contains(w.log.String(), `"msg":"stopping"`) })
	hold.Release()
	if err := next(w, r.ended); err != nil {
		t.Fatal(err)
	}
	close(ended)
	r.stopOnce.Do(func() {})
	if next(w, early) {
		t.Error("Run returned while the code was being announced")
	}
	if err := next(w, asked); err != nil {
		t.Errorf("the look-up returned %v", err)
	}
	if n := r.count(consumer.StepCleared); n != 2 {
		t.Errorf("%d announcements finished, want 2", n)
	}
}

// The code is announced even if the look-up that it is made for has timed out.
func TestShutdownFinishesACodeWhoseLookUpTimedOut(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	c := &clock{}
	r := w.start(waitsBriefly, func(s *setup) { s.cfg.Now = c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	r.await(consumer.StepCleared, "wx1", 1)
	c.advance(40 * time.Second)
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	var err error
	w.eventually("look-up answered", func() bool {
		_, err = w.lookup(preauth.LookupRequest{AppID: "wx1", MinTTL: 1770 * time.Second})
		return code(err) != preauth.StatusInternal // MySQL used up the request's time
	})
	if code(err) != preauth.StatusUnavailable {
		t.Fatalf("a look-up for which WeChat is too slow returned %v", err)
	}
	next(w, hold.Reached())
	r.cancel()
	w.eventually("stopping", func() bool { return strings.Contains(w.log.String(), `"msg":"stopping"`) })
	hold.Release()
	if err := next(w, r.ended); err != nil {
		t.Fatal(err)
	}
	r.stopOnce.Do(func() {})
	if n := r.count(consumer.StepCleared); n != 2 {
		t.Errorf("%d announcements finished, want 2", n)
	}
}

func TestShutdownGivesUpWhatTakesTooLong(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(deliveredOnce, func(s *setup) { s.cfg.Shutdown = 50 * time.Millisecond }).ready()
	hold := wechattest.NewHold()
	w.wechat.Next("", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("a"))
	<-hold.Reached()
	newer := w.token("b")
	w.announce("wx1", newer) // waits for the first event
	r.await(consumer.StepReceived, "wx1", 2)
	r.stop()
	if n := r.count(consumer.StepAcknowledged); n != 0 {
		t.Fatal("an event was acknowledged")
	}
	if strings.Contains(w.log.String(), "event given back") {
		t.Error("a shutdown is logged as an error")
	}
	hold.Release()
	// The events were returned to NATS, so another replica gets them.
	other := w.start(deliveredOnce)
	w.settled(other, "wx1")
	if !w.asked("wx1", newer) {
		t.Error("the newer token brought no code")
	}
}

// Events that MySQL keeps from being finished before the time for the shutdown is over go back to the
// stream.
func TestEventsThatMySQLHoldsUpGoBack(t *testing.T) {
	for name, test := range map[string]struct {
		statement string
		others    bool // events beside one with a good token
		reasons   []string
	}{
		"they cannot be saved": {"begin", true, []string{"saving: ", "marking codes as spent: "}},
		"nothing can be read":  {"components", false, []string{"reading components: "}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			first := w.start().ready()
			w.announce("wx1", w.token("a"))
			code := w.settled(first, "wx1").PreAuthCode
			first.stop()
			db, faults := w.faulty()
			r := w.start(deliveredOnce, func(s *setup) { s.db, s.cfg.Shutdown = db, 50*time.Millisecond }).ready()
			faults.Script(test.statement, slices.Repeat([]repotest.Fault{repotest.NotApplied}, 100_000)...)
			events := 1
			w.announce("wx2", w.token("b"))
			if test.others {
				w.publish("component.token.updated", []byte("{"))
				w.authorize("wx1", code, "wxa")
				w.publish("component.authorized.wx1", []byte("{"))
				events = 4
				r.await(consumer.StepIssued, "wx2", 1)
			}
			r.await(consumer.StepReceived, "", events)
			for _, reason := range test.reasons {
				w.eventually(reason, func() bool { return contains(r.service.Ready(), reason) })
			}
			r.stop()
			if n := r.count(consumer.StepAcknowledged); n != 0 {
				t.Errorf("%d events were acknowledged", n)
			}
			other := w.start(deliveredOnce)
			other.await(consumer.StepAcknowledged, "", events)
			w.settled(other, "wx2")
		})
	}
}

// What MySQL refuses is a reason not to be ready, which names the part that it concerns.
func TestWhatMySQLRefusesIsAReason(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(oneSpare, func(s *setup) { s.db = db }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	w.spares(r, "wx1", 1)
	for statement, part := range map[string]string{
		"outbox": "outbox", "due": "due components", "owner": "database", "spares": "counting spares",
	} {
		faults.Script(statement, slices.Repeat([]repotest.Fault{repotest.Answered(1142, "command denied")}, 1000)...)
		w.announce("wx1", w.token(statement)) // a new code makes the service look after spares
		w.eventually(part+" is a reason", func() bool { return contains(r.service.Ready(), part+": repo: ") })
		faults.Reset()
		w.announce("wx1", w.token(statement+"_again"))
		r.ready()
	}
}

// The stream's advisories tell of the events that are given up, and why. One that is tried again is
// not given up.
func TestAdvisoriesOfGivenUpEvents(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.Delays.Operator = time.Hour }).ready()
	advisories, err := w.nc.SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>")
	if err != nil {
		t.Fatal(err)
	}
	w.wechat.Next("wx1", wechattest.Error(48001, ""))
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepAcknowledged, "wx1", 1)
	w.wechat.Next("wx2", wechattest.Error(47001, ""))
	sequence := w.announce("wx2", w.token("b"))
	msg, err := advisories.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	var advisory struct {
		Sequence uint64 `json:"stream_seq"`
		Reason   string `json:"reason"`
	}
	if err := json.Unmarshal(msg.Data, &advisory); err != nil || advisory.Sequence != sequence || advisory.Reason != string(preauth.ClassRequest) {
		t.Errorf("%s, %v", msg.Data, err)
	}
}

func TestTwoReplicasShareTheWork(t *testing.T) {
	const events = 60
	w := newWorld(t, wechattest.Options{})
	a := w.start(func(s *setup) { s.cfg.InFlight = 2 }).ready()
	b := w.start(func(s *setup) { s.cfg.InFlight = 2 }).ready()
	// Hold WeChat's answers, so that no replica is fast enough to take all events.
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Fault{HoldAnswer: hold} })
	for i := range events {
		w.announce(fmt.Sprintf("wx%d", i), w.token("a"))
	}
	a.await(consumer.StepReceived, "", 2)
	b.await(consumer.StepReceived, "", 2)
	hold.Release()
	w.eventually("all saved", func() bool {
		return a.count(consumer.StepCommitted)+b.count(consumer.StepCommitted) == events
	})
	for i := range events {
		w.settled(a, fmt.Sprintf("wx%d", i))
	}
	if n := w.wechat.Count(""); n != events {
		t.Errorf("%d calls for %d events", n, events)
	}
}

// One update is not taken by its stream while others are. It stays a reason not to be ready until it
// is taken.
func TestUpdateThatIsNotTakenStaysAReason(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	// wx1's update is larger than the stream allows.
	_, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{Name: "PREAUTH", Subjects: []string{"preauth.updated.*"}, MaxMsgsPerSubject: 1, FirstSeq: 1, MaxMsgSize: 600})
	if err != nil {
		t.Fatal(err)
	}
	r := w.start(func(s *setup) { s.db = db }).ready()
	long := "wx1" + strings.Repeat("x", 60)
	w.announce(long, w.token("long"))
	reason := func() bool {
		return contains(r.service.Ready(), "announcing updates: not announced, the outbox keeps it: publishing: ")
	}
	w.eventually("the reason", reason)
	for i := range 20 {
		w.announce("wx2", w.token("short"))
		r.await(consumer.StepAnnounced, "wx2", i+1)
		if !reason() {
			t.Fatal("the reason is gone while the update waits")
		}
	}
	w.eventually("it is seen how long the update waits", func() bool {
		m := r.metrics()
		return strings.Contains(m, "\npreauth_outbox_rows 1\n") && !strings.Contains(m, "\npreauth_outbox_oldest_age_seconds 0\n")
	})
	faults.Operations()
	for sweeps := 0; sweeps < 3; {
		for _, operation := range faults.Operations() {
			if operation == "outbox" {
				sweeps++
			}
		}
		if !reason() {
			t.Fatal("the reason is gone while the update waits")
		}
	}
	config := jetstream.StreamConfig{Name: "PREAUTH", Subjects: []string{"preauth.updated.*"}, MaxMsgsPerSubject: 1, FirstSeq: 1}
	if _, err := w.js.UpdateStream(w.within(), config); err != nil {
		t.Fatal(err)
	}
	r.ready()
	w.settled(r, long)
}

// A stream without room for all updates drops the oldest. Each code is announced all the same, and
// the service does not follow the stream anew each time.
func TestFullStreamOfUpdatesStillAnnounces(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.createTokenStream()
	updates := w.updates()
	r := w.start(func(s *setup) { s.cfg.StreamMaxBytes = 1500 }).ready()
	seen := map[string]uint64{}
	for round := range 2 {
		for i := range 6 {
			appid := fmt.Sprintf("wx%d", i)
			w.announce(appid, w.token(appid))
			for seen[appid] <= uint64(round) {
				u := next(w, updates)
				seen[u.AppID] = max(seen[u.AppID], u.Revision)
			}
		}
	}
	if err := r.service.Ready(); contains(err, "announcing updates") {
		t.Error(err)
	}
	info, err := w.js.Stream(w.within(), "PREAUTH")
	if err != nil || info.CachedInfo().State.NumSubjects > 3 {
		t.Fatalf("%d subjects fit, %v", info.CachedInfo().State.NumSubjects, err)
	}
}

// A code that has expired is not announced again in a stream that lost it.
func TestExpiredCodeIsNotAnnouncedAgain(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	for _, appid := range []string{"wx1", "wx2"} {
		w.announce(appid, w.token(appid))
		w.settled(r, appid)
	}
	r.stop()
	w.database.MustExec("UPDATE component SET due_at = NULL WHERE appid = 'wx1'")
	w.database.MustExec("UPDATE pre_auth_code SET issued_at = issued_at - INTERVAL 1 DAY, expires_at = expires_at - INTERVAL 1 DAY WHERE appid = 'wx1'")
	if err := w.js.DeleteStream(w.within(), "PREAUTH"); err != nil {
		t.Fatal(err)
	}
	w.start().ready()
	w.eventually("the living code is announced again", func() bool { _, ok := w.stored("wx2"); return ok })
	stream, err := w.js.Stream(w.within(), "PREAUTH")
	if err != nil {
		t.Fatal(err)
	}
	// wx1 comes before wx2.
	if _, err := stream.GetLastMsgForSubject(w.within(), "preauth.updated.wx1"); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("the expired code: %v", err)
	}
}

// aside has failures published where nobody answers.
type aside struct{}

func (aside) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return asideConn{conn}, err
}

type asideConn struct{ net.Conn }

func (c asideConn) Write(b []byte) (int, error) {
	return c.Conn.Write(bytes.ReplaceAll(b, []byte("HPUB preauth.failed."), []byte("HPUB preauth.fallen.")))
}

// Failures that their stream does not answer hold up no update, also if there are more of them than
// may be under way at once.
func TestFailuresWithoutAnAnswerHoldUpNoUpdate(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	const atOnce, all = 256, 12 * 256
	var published atomic.Int64
	full := make(chan struct{})
	sub, err := w.nc.Subscribe("preauth.fallen.*", func(*nats.Msg) {
		if published.Add(1) == atOnce {
			close(full)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	r := w.start(func(s *setup) {
		s.nc, s.cfg.Shutdown = w.connect(nats.SetCustomDialer(aside{})), time.Millisecond
	}).ready()
	for range all {
		w.publish("component.token.updated.wx0", []byte("{}"))
	}
	next(w, full)
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCommitted, "wx1", 1)
	before := published.Load()
	r.await(consumer.StepAnnounced, "wx1", 1)
	if n := published.Load() - before; n >= all-atOnce { // on a slow machine, some are given up and followed by others
		t.Errorf("the update waited for %d more failures", n)
	}
}
