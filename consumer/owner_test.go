package consumer_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/repo"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

// Two services with different streams must not share a database. The second one reports that and
// stays idle until it adopts the database.
func TestDatabaseBelongsToOneSetOfStreams(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	ours := w.start().ready()
	w.announce("wx1", w.token("ours"))
	before := w.settled(ours, "wx1")

	subjects := preauth.DefaultSubjects().WithPrefix("other")
	theirs := w.start(func(s *setup) {
		s.cfg.Subjects = subjects
		s.cfg.TokenStream, s.cfg.UpdateStream, s.cfg.FailureStream = "OTHER_TOKENS", "OTHER_UPDATES", "OTHER_FAILURES"
		s.cfg.AuthorizationStream, s.cfg.AuthorizedStream = "OTHER_AUTHORIZATIONS", "OTHER_AUTHORIZED"
	})
	w.eventually("not ready, with the reason and the remedy", func() bool {
		err := theirs.service.Ready()
		return contains(err, "database: ") && contains(err, "COMPONENT_TOKENS, PREAUTH and PREAUTH_FAILED") && contains(err, "preauth schema adopt")
	})
	client, err := preauth.NewClient(w.nc, preauth.WithSubjects(subjects))
	if err != nil {
		t.Fatal(err)
	}
	var refused error
	w.eventually("the other service answers", func() bool {
		_, refused = client.Claim(w.within(), preauth.ClaimRequest{AppID: "wx1"})
		return !errors.Is(refused, nats.ErrNoResponders)
	})
	if code(refused) != preauth.StatusUnavailable {
		t.Errorf("a claim of the other service: %v, want 503", refused)
	}
	// The other service must not renew a due component, whose token its stream never held.
	w.database.MustExec("UPDATE component SET due_at = ? WHERE appid = 'wx1'", time.Now().UTC())
	ours.await(consumer.StepCommitted, "wx1", 2)
	w.settled(ours, "wx1")
	if f := ours.failure("wx1"); f != nil {
		t.Errorf("recorded: %+v", f)
	}

	set := repo.StreamSet{Tokens: "OTHER_TOKENS", Updates: "OTHER_UPDATES", Failures: "OTHER_FAILURES"}
	if _, err := ours.db.Adopt(w.within(), set, time.Now()); err != nil {
		t.Fatal(err)
	}
	theirs.ready()
	w.eventually("the first service stops working", func() bool { return contains(ours.service.Ready(), "database: ") })
	if err := client.Announce(w.within(), preauth.TokenEvent{AppID: "wx1", Token: w.token("theirs")}); err != nil {
		t.Fatal(err)
	}
	theirs.await(consumer.StepCommitted, "wx1", 1)
	if got := w.current("wx1"); got.Equal(before.PreAuthCode) {
		t.Error("the current code is still the old one")
	}
}

// While other replicas run, one that starts takes no request before it knows the database.
func TestReplicaThatStartsRefusesNoRequest(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	running := w.start().ready()
	w.announce("wx1", w.token("a"))
	w.settled(running, "wx1")
	client, err := preauth.NewClient(w.nc)
	if err != nil {
		t.Fatal(err)
	}
	db, faults := w.faulty()
	asked, told := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(told) })
	defer release()
	faults.Script("owner", repotest.Fault{Before: func() { close(asked); <-told }})
	starting := w.start(func(s *setup) { s.db = db })
	next(w, asked)
	for i := range 20 {
		if _, err := client.Claim(w.within(), preauth.ClaimRequest{AppID: "wx1", ClaimID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	release()
	starting.ready()
}

// A newer release's schema is worked with if it says so. Otherwise the service says what to do and
// stays idle.
func TestServiceStopsWorkOnASchemaThatIsTooNew(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	ours := w.start().ready()
	client, err := preauth.NewClient(w.nc)
	if err != nil {
		t.Fatal(err)
	}
	w.database.MustExec("INSERT INTO schema_version (version, oldest_program, name, applied_at) VALUES (1000, 1, 'compatible', '2026-01-01')")
	w.announce("wx1", w.token("a"))
	w.settled(ours, "wx1")
	// A service that starts now works too.
	w.start().ready().stop()

	w.database.MustExec("INSERT INTO schema_version (version, oldest_program, name, applied_at) VALUES (1001, 1001, 'not', '2026-01-01')")
	w.eventually("not ready, with the reason and the remedy", func() bool {
		err := ours.service.Ready()
		return contains(err, "database: ") && contains(err, "MySQL: ") && contains(err, "version 1001") && contains(err, "run a newer release of preauth here")
	})
	if _, err := client.Claim(w.within(), preauth.ClaimRequest{AppID: "wx1"}); code(err) != preauth.StatusUnavailable {
		t.Errorf("a claim: %v, want 503", err)
	}
	w.announce("wx1", w.token("b"))

	// The event waits for a program that may work on it.
	w.database.MustExec("DELETE FROM schema_version WHERE version = 1001")
	ours.ready()
	w.settled(ours, "wx1")
}

// The database is given to others while an event waits for WeChat. Its outcome is not saved there,
// and the event goes back to the stream until the database is ours again.
func TestOutcomeIsNotSavedInADatabaseThatWasGivenAway(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("a"))
	next(w, hold.Reached())

	theirs := repo.StreamSet{Tokens: "OTHER_TOKENS", Updates: "OTHER_UPDATES", Failures: "OTHER_FAILURES"}
	ours, err := r.db.Adopt(w.within(), theirs, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("the service stops working", func() bool { return contains(r.service.Ready(), "database: ") })
	hold.Release()
	w.eventually("the event is given back", func() bool { return strings.Contains(w.log.String(), "event given back to the stream") })
	if n := r.count(consumer.StepCommitted); n != 0 {
		t.Error("saved all the same")
	}
	if _, err := r.db.Adopt(w.within(), ours, time.Now()); err != nil {
		t.Fatal(err)
	}
	r.await(consumer.StepCommitted, "wx1", 1)
	w.settled(r, "wx1")
}

// What the database says of its owner counts until it says something else. That it does not answer
// is a reason not to be ready, and changes nothing.
func TestOwnerIsWhatTheDatabaseSaidLast(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.prepare(func(s *setup) { s.db = db })
	adopt := func(prefix string) func() {
		set := repo.StreamSet{Tokens: prefix + "COMPONENT_TOKENS", Updates: prefix + "PREAUTH", Failures: prefix + "PREAUTH_FAILED"}
		return func() {
			if _, err := db.Adopt(w.within(), set, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	ours, theirs := adopt(""), adopt("OTHER_")
	newer := func() {
		w.database.MustExec("INSERT INTO schema_version (version, oldest_program, name, applied_at) VALUES (1001, 1001, 'new', '2026-01-01')")
	}
	older := func() { w.database.MustExec("DELETE FROM schema_version WHERE version = 1001") }
	refuse := func() { faults.Script("owner", denied) }
	const unknown, other, tooNew = "did not say yet", "belongs to other streams", "run a newer release"
	for _, step := range []struct {
		name    string
		given   func()
		want    string // why the database is not ours
		changed bool
	}{
		{"no answer at the start", refuse, unknown, false},
		{"theirs at the start", theirs, other, false},
		{"ours", ours, "", true},
		{"still ours", func() {}, "", false},
		{"no answer while ours", refuse, "", false},
		{"theirs", theirs, other, true},
		{"still theirs", func() {}, other, false},
		{"no answer while theirs", refuse, other, false},
		{"too new while theirs", newer, tooNew, false},
		{"ours again", func() { older(); ours() }, "", true},
		{"too new", newer, tooNew, true},
		{"no longer too new", older, "", true},
	} {
		step.given()
		before, _ := consumer.Owner(r.service)
		consumer.LookAtOwner(w.within(), r.service)
		_, err := consumer.Owner(r.service)
		if (err == nil) != (step.want == "") || !strings.Contains(fmt.Sprint(err), step.want) {
			t.Errorf("%s: %v, want %q", step.name, err, step.want)
		}
		changed := false
		select {
		case <-before:
			changed = true
		default:
		}
		if changed != step.changed {
			t.Errorf("%s: it is said that this changed: %v, want %v", step.name, changed, step.changed)
		}
		refused := strings.HasPrefix(step.name, "no answer")
		if reason := contains(r.service.Ready(), "database: "); reason != (refused || step.want != "") {
			t.Errorf("%s: not ready: %v", step.name, r.service.Ready())
		}
	}
}

// The account is part of whose the database is. It is asked for until NATS has told it, and a
// connection that is not there is no try.
func TestAccountIsAskedForUntilItIsTold(t *testing.T) {
	w := newWorldConfigured(t, users(""))
	r := w.prepare(func(s *setup) { s.nc = w.connect(nats.UserInfo("service", "service")) })
	account := func() (account string) {
		t.Helper()
		consumer.LookAtOwner(w.within(), r.service)
		if err := w.database.Get(&account, "SELECT account FROM stream_set"); err != nil {
			t.Fatal(err)
		}
		return account
	}
	w.stopNATS()
	w.eventually("disconnected", func() bool { return !r.nc.IsConnected() })
	for range 6 { // more than the tries
		if got := account(); got != "" {
			t.Errorf("account %q without a connection", got)
		}
	}
	w.restartNATS()
	w.eventually("connected", r.nc.IsConnected)
	if got := account(); got != "A" {
		t.Errorf("account %q, want A", got)
	}
	asked := r.nc.Stats().OutMsgs
	account()
	if n := r.nc.Stats().OutMsgs - asked; n != 0 {
		t.Errorf("%d messages about an account that is known", n)
	}
}

// The database is given to others while events wait for MySQL. Nothing of them is saved there, and
// they go back to the stream until the database is ours again.
func TestEventsGoBackWhenTheDatabaseIsGivenAway(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(deliveredOnce, func(s *setup) { s.db = db }).ready()
	w.announce("wx1", w.token("a"))
	code := w.settled(r, "wx1").PreAuthCode
	r.await(consumer.StepCleared, "wx1", 1)
	failures := w.failures()
	faults.Script("begin", slices.Repeat([]repotest.Fault{repotest.NotApplied}, 100_000)...)
	w.authorize("wx1", code, "wxa")
	w.publish("component.authorized.wx1", []byte("{"))
	w.publish("component.token.updated.wx2", []byte("{"))
	w.eventually("all events are taken", func() bool { return r.count(consumer.StepReceived) == 4 })

	theirs := repo.StreamSet{Tokens: "OTHER_TOKENS", Updates: "OTHER_UPDATES", Failures: "OTHER_FAILURES"}
	others := w.openRepo()
	ours, err := others.Adopt(w.within(), theirs, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("all events are given back", func() bool {
		return strings.Count(w.log.String(), "event given back to the stream") == 3
	})
	if !strings.Contains(w.log.String(), `"error":"not saved: repo: own: the database belongs to other streams`) {
		t.Error("the reason is not logged")
	}
	faults.Reset()
	for name, want := range map[consumer.StepName]int{consumer.StepSpent: 0, consumer.StepFailed: 0, consumer.StepAcknowledged: 1} {
		if n := r.count(name); n != want {
			t.Errorf("%d steps %q, want %d", n, name, want)
		}
	}

	if _, err := others.Adopt(w.within(), ours, time.Now()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if f := next(w, failures); f.Class != preauth.ClassBadEvent {
			t.Errorf("announced: %+v", f)
		}
	}
	r.await(consumer.StepSpent, "wx1", 1)
	r.await(consumer.StepAcknowledged, "", 4)
	w.eventually("another code is current", func() bool { current := w.current("wx1"); return !current.Equal(code) })
	w.settled(r, "wx1")
	if got, want := r.counted("preauth_authorizations_total"), map[string]int{"spent": 1, "bad_event": 1}; !maps.Equal(got, want) {
		t.Errorf("authorizations %v, want %v", got, want)
	}
}
