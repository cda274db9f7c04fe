package consumer_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// counted returns the values of one of the replica's counters by the value of its label, without
// zeros.
func (r *replica) counted(name string) map[string]int {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	counts := map[string]int{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if n := int(metric.GetCounter().GetValue()); n > 0 {
				counts[metric.GetLabel()[0].GetValue()] = n
			}
		}
	}
	return counts
}

func TestMetricsCountEachEventOnce(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.InFlight, s.cfg.Delays.Operator = 1, time.Hour }).ready()
	done := 0
	finished := func() {
		done++
		r.await(consumer.StepAcknowledged, "", done)
	}
	token := w.token("a")
	w.announce("wx1", token) // saved
	finished()
	w.announce("wx1", token) // repeated
	finished()
	w.publish("component.token.updated", []byte("{}")) // given up
	finished()
	w.publish("component.token.updated.wx5", []byte(fmt.Sprintf(
		`{"component_access_token":%q,"issued_at":%q,"expires_in":60}`, w.token("dead").Reveal(), time.Now().Add(-time.Hour).UTC().Format(time.RFC3339),
	))) // given up
	finished()
	w.wechat.Next("wx2", wechattest.Error(47001, ""))
	w.announce("wx2", w.token("a")) // given up
	finished()
	w.wechat.Next("wx3", wechattest.Error(48001, ""))
	w.announce("wx3", w.token("a")) // parked
	finished()
	// The code of a newer token is saved while this event waits for WeChat's answer.
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx4", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx4", w.token("older")) // superseded
	next(w, hold.Reached())
	other := w.start().ready()
	w.announce("wx4", w.token("newer")) // saved
	other.await(consumer.StepAcknowledged, "wx4", 1)
	hold.Release()
	finished()
	w.settled(other, "wx4")
	r.await(consumer.StepAnnounced, "wx1", 1)

	if n := r.stepsOf(consumer.StepCommitted, "wx4"); n != 0 {
		t.Error("the code that came too late was told of as saved")
	}
	want := map[string]int{"saved": 1, "repeated": 1, "given_up": 3, "parked": 1, "superseded": 1}
	if got := r.counted("preauth_events_total"); !maps.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if got, want := other.counted("preauth_events_total"), map[string]int{"saved": 1}; !maps.Equal(got, want) {
		t.Errorf("events of the other replica: %v, want %v", got, want)
	}
	want = map[string]int{"bad_event": 1, "token_expired": 1, "request": 1, "configuration": 1}
	if got := r.counted("preauth_failures_total"); !maps.Equal(got, want) {
		t.Errorf("failures %v, want %v", got, want)
	}
	for _, each := range []*replica{r, other} {
		if !strings.Contains(each.metrics(), "preauth_end_to_end_duration_seconds_count 1\n") {
			t.Error("the end-to-end duration does not count exactly one event")
		}
	}
}
