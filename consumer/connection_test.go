package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
)

// users returns a configuration of nats-server in which the service has the permissions, and
// everybody else has all.
func users(permissions string) string {
	return fmt.Sprintf(`
accounts: {
  A: {
    jetstream: enabled
    users: [
      {user: service, password: service, permissions: {%s}}
      {user: a, password: a}
    ]
  }
}
no_auth_user: a
`, permissions)
}

// The service knows its account on a server that tells it.
func TestAccountOfAConnection(t *testing.T) {
	w := newWorldConfigured(t, users(""))
	if got := consumer.Account(w.within(), w.nc); got != "A" {
		t.Errorf("account %q, want A", got)
	}
	w.stopNATS()
	if got := consumer.Account(w.within(), w.nc); got != "" {
		t.Errorf("account %q without a connection", got)
	}
}

// asService has a replica log in as the user with the permissions, and notice soon that they have
// changed.
func (w *world) asService(s *setup) {
	s.nc = w.connect(nats.UserInfo("service", "service"))
	consumer.ShortenRefusals(&s.cfg, 3*time.Second)
}

// NATS drops what it does not permit, and says so to nobody who waits for an answer. It is a reason
// all the same, until it is permitted.
func TestWhatNATSDoesNotPermitIsAReason(t *testing.T) {
	const everything = `publish: ">"`
	lookup := func(w *world, _ *replica) bool {
		client, err := preauth.NewClient(w.nc)
		if err != nil {
			w.t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		_, err = client.Lookup(ctx, preauth.LookupRequest{AppID: "wx1"})
		return !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, context.DeadlineExceeded)
	}
	announced := func(w *world, _ *replica) bool { _, ok := w.stored("wx1"); return ok }
	cases := map[string]struct {
		permissions string
		subject     string
		works       func(*world, *replica) bool // what is not permitted
	}{
		"to announce":          {`publish: {deny: "preauth.updated.*"}`, `Publish to "preauth.updated.wx1"`, announced},
		"to take look-ups":     {`subscribe: {deny: "preauth.lookup.>"}`, `Subscription to "preauth.lookup.>"`, lookup},
		"to acknowledge":       {`publish: {deny: "$JS.ACK.>"}`, `Publish to "$JS.ACK.`, announced},
		"to take token events": {`publish: {deny: "$JS.API.CONSUMER.MSG.NEXT.>"}`, `Publish to "$JS.API.CONSUMER.MSG.NEXT.`, announced},
		"to create consumers":  {`publish: {deny: "$JS.API.CONSUMER.CREATE.>"}`, `Publish to "$JS.API.CONSUMER.CREATE.`, announced},
		"to hear answers":      {`subscribe: {deny: "_INBOX.>"}`, `Subscription to "_INBOX.`, announced},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorldConfigured(t, users(c.permissions))
			w.createTokenStream()
			w.announce("wx1", w.token("a"))
			r := w.start(w.asService)
			w.eventually("the reason", func() bool {
				lookup(w, r)
				return contains(r.service.Ready(), c.subject) && contains(r.service.Ready(), "allow it to the service's user")
			})
			if strings.Contains(r.metrics(), "preauth_nats_errors_total{kind=\"permissions\"} 0\n") {
				t.Error("no metric counts it")
			}
			if err := w.nats.Reload(users(everything)); err != nil {
				t.Fatal(err)
			}
			r.ready()
			w.eventually("it works", func() bool { return c.works(w, r) })
			w.settled(r, "wx1")
		})
	}
}

// A requester that wants its answer on a subject that is not permitted does not make the service
// unready, whatever the subject is.
func TestAnswerThatIsNotPermittedIsNoReason(t *testing.T) {
	w := newWorldConfigured(t, users(`publish: {deny: ["elsewhere.>", "_INBOX.>"]}`))
	r := w.start(w.asService).ready()
	for _, reply := range []string{"elsewhere.answers", "_INBOX.other.answers"} {
		if err := w.nc.PublishRequest("preauth.lookup.wx1", reply, nil); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("counted", func() bool { return strings.Contains(r.metrics(), "preauth_nats_errors_total{kind=\"answers\"} 2\n") })
	if err := r.service.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

// A user that may not ask for its account is asked for no longer, after a few tries and one line in
// the log. The service works without.
func TestAccountThatIsNotToldIsDoneWithout(t *testing.T) {
	w := newWorldConfigured(t, users(`publish: {deny: "$SYS.>"}`))
	db, faults := w.faulty()
	r := w.start(w.asService, func(s *setup) { s.db = db }).ready()
	tried := func(n int) bool {
		return strings.Contains(r.metrics(), fmt.Sprintf("preauth_nats_errors_total{kind=\"permissions\"} %d\n", n))
	}
	w.eventually("a few tries", func() bool { return tried(5) })
	faults.Operations()
	looks := 0
	w.eventually("two more looks at the database", func() bool {
		for _, operation := range faults.Operations() {
			if operation == "owner" {
				looks++
			}
		}
		return looks >= 2
	})
	if !tried(5) {
		t.Error("it is still asked for")
	}
	if n := strings.Count(w.log.String(), "NATS refused something that the service can do without"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if err := r.service.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

// What is only shown to people may be forbidden: to hear announcements, to ask the other replicas.
func TestWhatIsOnlyShownMayBeForbidden(t *testing.T) {
	w := newWorldConfigured(t, users(`publish: {deny: "$SRV.>"}, subscribe: {deny: ["preauth.updated", "preauth.failed", "preauth.authorized"]}`))
	r := w.start(w.asService).ready()
	for _, subject := range []string{"preauth.updated", "preauth.failed", "preauth.authorized"} {
		if _, err := r.nc.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.nc.PublishRequest("$SRV.STATS.preauth", r.nc.NewInbox(), nil); err != nil {
		t.Fatal(err)
	}
	w.eventually("four refusals", func() bool {
		return strings.Contains(r.metrics(), "preauth_nats_errors_total{kind=\"permissions\"} 4\n")
	})
	if err := r.service.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

func TestTooFewSubscriptionsAreAReason(t *testing.T) {
	w := newWorldConfigured(t, "max_subscriptions: 12")
	r := w.start()
	w.eventually("the reason", func() bool {
		return contains(r.service.Ready(), "NATS permissions: ") && contains(r.service.Ready(), "max_subscriptions")
	})
}

// The consumers with which a replica reads the streams vanish, and it may not make others: its
// memory would grow old in silence.
func TestStreamThatCannotBeReadAnyMoreIsAReason(t *testing.T) {
	w := newWorldConfigured(t, users(`publish: ">"`))
	r := w.start(w.asService).ready()
	_, readers := w.consumers()
	if err := w.nats.Reload(users(`publish: {deny: "$JS.API.CONSUMER.CREATE.>"}`)); err != nil {
		t.Fatal(err)
	}
	for _, reader := range readers {
		if err := w.js.DeleteConsumer(w.within(), "COMPONENT_TOKENS", reader); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("the reason", func() bool { return contains(r.service.Ready(), "token stream: is not followed: ") })
	if err := w.nats.Reload(users(`publish: ">"`)); err != nil {
		t.Fatal(err)
	}
	r.ready()
	token := w.token("a")
	w.announce("wx1", token)
	w.eventually("the token is known", func() bool { return consumer.KnowsToken(r.service, "wx1", token) })
}

// A reader whose consumer vanished goes on where it was.
func TestReaderThatVanishedIsReplaced(t *testing.T) {
	w := newWorldConfigured(t, "")
	r := w.start().ready()
	for i := range 3 {
		token := w.token(fmt.Sprint(i))
		w.announce("wx1", token)
		w.eventually("the token is known", func() bool { return consumer.KnowsToken(r.service, "wx1", token) })
		_, readers := w.consumers()
		for _, reader := range readers {
			if err := w.js.DeleteConsumer(w.within(), "COMPONENT_TOKENS", reader); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.settled(r, "wx1")
	if strings.Contains(w.log.String(), "stream is not followed") {
		t.Error("the stream was read anew")
	}
}

// Where JetStream refuses something, the reason says what to change.
func TestRemedies(t *testing.T) {
	for code, want := range map[jetstream.ErrorCode]string{
		10002: "more room", 10023: "more room", 10028: "more room", 10047: "more room",
		10005: "number of servers", 10074: "number of servers", 10120: "no limits for this number of replicas",
		10026: "raise max_consumers", 10027: "raise max_streams", 10039: "enable it", 10076: "enable it",
		10065: "take them from it", 10077: "the stream is full", 10113: "set --stream-max-bytes", 10122: "set a smaller --stream-max-bytes",
		10059: "",
	} {
		err := fmt.Errorf("stream PREAUTH: %w", &jetstream.APIError{ErrorCode: code})
		if got := consumer.Remedy(err); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("error %d: %q, want %q", code, got, want)
		}
	}
	if got := consumer.Remedy(nats.ErrNoResponders); !strings.Contains(got, "enable it") {
		t.Errorf("no JetStream: %q", got)
	}
	if got := consumer.Remedy(nats.ErrTimeout); got != "" {
		t.Errorf("no answer: %q", got)
	}
}
