package consumer

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/loopback"
	"preauth/internal/monitor"
	"preauth/internal/natsserver"
	"preauth/internal/outage"
)

// durabilityRig is the watch over a nats-server that does not sync.
type durabilityRig struct {
	*natsDurability

	t      *testing.T
	server *natsserver.Server
	there  *monitor.Server
	other  jetstream.JetStream // of a user that may do everything
	out    bytes.Buffer
}

// newDurabilityRig has the watch connect as a user: a, or b, whose account has no JetStream.
func newDurabilityRig(t *testing.T, user string) *durabilityRig {
	t.Helper()
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	server, err := natsserver.Start(natsserver.Options{StoreDir: t.TempDir(), Config: "http: " + address + `
accounts: {
  A: {jetstream: enabled, users: [{user: a, password: a}]}
  B: {users: [{user: b, password: b}]}
}`})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	connect := func(user string) (*nats.Conn, jetstream.JetStream) {
		nc, err := nats.Connect(server.URL(), nats.UserInfo(user, user), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return nc, js
	}
	d := &durabilityRig{t: t, server: server, there: monitor.New("http://"+address, nil)}
	_, d.other = connect("a")
	nc, js := connect(user)
	log := slog.New(slog.NewTextHandler(&d.out, nil))
	d.natsDurability = &natsDurability{
		nc: nc, js: js, monitor: d.there, roles: Roles(Config{Bucket: "codes"}.withDefaults()), log: log, every: time.Hour,
		away: outage.New(log, "monitoring of NATS", time.Now),
	}
	return d
}

// looks reports whether a look asked NATS for the streams, and what it logged.
func (d *durabilityRig) looks() (asked bool, logged string) {
	d.t.Helper()
	before := d.nc.Stats().OutMsgs
	d.out.Reset()
	d.look(d.t.Context())
	return d.nc.Stats().OutMsgs > before, d.out.String()
}

// looksAnew is looks, whenever the last look was.
func (d *durabilityRig) looksAnew() (logged string) {
	d.t.Helper()
	d.every = 0
	defer func() { d.every = time.Hour }()
	asked, logged := d.looks()
	if !asked {
		d.t.Error("it does not look, though it is time")
	}
	return logged
}

// becomes starts or stops the server, and waits until the watch is connected, or not.
func (d *durabilityRig) becomes(connected bool) {
	d.t.Helper()
	status := nats.RECONNECTING
	if connected {
		status = nats.CONNECTED
	}
	changed := d.nc.StatusChanged(status)
	defer d.nc.RemoveStatusListener(changed)
	if !connected {
		d.server.Stop()
	} else if err := d.server.Restart(); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(time.Minute):
		d.t.Fatalf("never %v", status)
	}
}

func (d *durabilityRig) create(c jetstream.StreamConfig) {
	d.t.Helper()
	if _, err := d.other.CreateStream(d.t.Context(), c); err != nil {
		d.t.Fatal(err)
	}
}

// The streams are looked at from time to time, and at once after a new connection, which may lead to
// another server. While there is no connection, nothing is.
func TestDurabilityIsLookedAtWhenItMayHaveChanged(t *testing.T) {
	d := newDurabilityRig(t, "a")
	is := func(when string, want bool) {
		t.Helper()
		if asked, logged := d.looks(); asked != want || logged != "" {
			t.Errorf("%s: looked: %v, want %v; logged: %s", when, asked, want, logged)
		}
	}
	is("at the start", true)
	is("soon after", false)
	d.looked = d.looked.Add(-time.Hour)
	d.becomes(false)
	is("in time, without a connection", false)
	d.looked = time.Now()
	d.becomes(true)
	is("after a new connection", true)
	is("soon after that", false)
	d.looked = d.looked.Add(-time.Hour)
	is("in time", true)
	is("soon after the time", false)
}

// What NATS can lose is said again when it changes, and by a new connection. The streams that are not
// there, in memory, or a copy, are no risk.
func TestStreamsAtRisk(t *testing.T) {
	d := newDurabilityRig(t, "a")
	const token, authorization = "component.token.updated", "component.authorized"
	is := func(when, want string) {
		t.Helper()
		logged := d.looksAnew()
		if want == "" && logged != "" || !strings.Contains(logged, want) || want != "" && !strings.Contains(logged, "sync_interval") {
			t.Errorf("%s: logged: %s, want %s", when, logged, want)
		}
	}
	count := func(want float64) {
		t.Helper()
		if n := d.warnings(); n != want {
			t.Errorf("%v streams at risk, want %v", n, want)
		}
	}
	updates := jetstream.StreamConfig{Name: "PREAUTH", Subjects: []string{"preauth.updated.*"}, Storage: jetstream.FileStorage}
	count(0)
	is("no stream is there", "")
	d.create(jetstream.StreamConfig{Name: "PREAUTH_FAILED", Subjects: []string{"preauth.failed.*"}, Storage: jetstream.MemoryStorage})
	d.create(jetstream.StreamConfig{Name: "KV_codes", Storage: jetstream.FileStorage, Sources: []*jetstream.StreamSource{{Name: "PREAUTH"}}})
	is("one in memory and a copy", "")
	count(0)
	d.create(updates)
	is("one on disk", "streams=[PREAUTH]")
	count(1)
	is("the same one", "")
	d.create(jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{token, authorization}, Storage: jetstream.FileStorage})
	is("one more, for two kinds of events", `streams="[EVENTS PREAUTH]"`)
	count(2)
	d.becomes(false)
	d.becomes(true)
	is("after a new connection", `streams="[EVENTS PREAUTH]"`)
	is("the same two", "")
	for _, name := range []string{"PREAUTH", "EVENTS"} {
		if err := d.other.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	is("none is left", "")
	count(0)
	d.create(updates)
	is("one came back", "streams=[PREAUTH]")
}

// Where it cannot be told what NATS can lose, what was seen last stands, and the next look asks
// again.
func TestDurabilityThatIsNotKnown(t *testing.T) {
	const away, back = "monitoring of NATS away", "monitoring of NATS back"
	nowhere, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	d := newDurabilityRig(t, "a")
	d.create(jetstream.StreamConfig{Name: "PREAUTH", Subjects: []string{"preauth.updated.*"}, Storage: jetstream.FileStorage})
	d.looks()
	d.looked = d.looked.Add(-time.Hour)
	d.monitor = monitor.New("http://"+nowhere, nil)
	if _, logged := d.looks(); !strings.Contains(logged, away) {
		t.Errorf("logged: %s", logged)
	}
	if n := d.warnings(); n != 1 {
		t.Errorf("%v streams at risk, want the one that was seen before", n)
	}
	d.monitor = d.there
	if asked, logged := d.looks(); !asked || !strings.Contains(logged, back) || strings.Contains(logged, "streams=") {
		t.Errorf("looked: %v, logged: %s", asked, logged)
	}

	without := newDurabilityRig(t, "b")
	if asked, logged := without.looks(); !asked || !strings.Contains(logged, away) || !strings.Contains(logged, "stream") {
		t.Errorf("without JetStream: looked: %v, logged: %s", asked, logged)
	}
}
