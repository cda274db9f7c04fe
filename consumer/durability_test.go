package consumer_test

import (
	"slices"
	"strings"
	"testing"

	"preauth/internal/loopback"
	"preauth/internal/monitor"
)

// With one replica of each stream, a server that does not sync can lose what it acknowledged. That
// is said once, and again by a new connection, and does not make the service unready.
func TestNATSThatDoesNotSyncIsWarnedOf(t *testing.T) {
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldConfigured(t, "http: "+address)
	r := w.start(func(s *setup) { s.cfg.Monitor = monitor.New("http://"+address, nil) }).ready()
	const warning = "NATS can lose a message that it acknowledged"
	atRisk := func(n string) bool {
		return slices.Contains(strings.Split(r.metrics(), "\n"), "preauth_nats_durability_warnings "+n)
	}
	said := func() int { return strings.Count(w.log.String(), warning) }
	w.eventually("all streams but the bucket are at risk", func() bool { return atRisk("5") })
	if err := r.service.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	before := said()
	w.stopNATS()
	w.restartNATS()
	w.eventually("said again on the new connection", func() bool { return said() > before })

	w.stopNATS()
	if err := w.nats.Reload("http: " + address + ", jetstream: {sync_interval: always}"); err != nil {
		t.Fatal(err)
	}
	w.restartNATS()
	w.eventually("nothing is at risk", func() bool { return atRisk("0") })
	r.ready()
	if text := w.log.String(); !strings.Contains(text, `"COMPONENT_TOKENS","COMPONENT_AUTHORIZED","PREAUTH","PREAUTH_FAILED","PREAUTH_AUTHORIZED"`) {
		t.Error("the streams are not named")
	}
}

// A monitoring endpoint that is not there does no harm.
func TestMonitoringThatIsAwayIsNoWarning(t *testing.T) {
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldConfigured(t, "")
	r := w.start(func(s *setup) { s.cfg.Monitor = monitor.New("http://"+address, nil) }).ready()
	w.eventually("it was asked", func() bool { return strings.Contains(w.log.String(), "monitoring of NATS away") })
	if strings.Contains(w.log.String(), "NATS can lose") || !strings.Contains(r.metrics(), "preauth_nats_durability_warnings 0\n") {
		t.Error("it counts as a warning")
	}
	if err := r.service.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
}
