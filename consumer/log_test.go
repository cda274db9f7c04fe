package consumer_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// lines returns the log lines that an operator sees, skipping the log's first bytes: those of level
// INFO and above, except for "code saved".
func (w *world) lines(after int) (seen []string) {
	w.t.Helper()
	for line := range strings.Lines(w.log.String()[after:]) {
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			w.t.Fatalf("%s: %v", line, err)
		}
		if entry.Level != "DEBUG" && entry.Msg != "code saved" {
			seen = append(seen, line)
		}
	}
	return seen
}

// An outage of ten minutes is logged once when it begins, now and then while it lasts, and once
// when it is over, however much work it blocks.
func TestOutageOfTenMinutesIsFewLines(t *testing.T) {
	for _, part := range []struct {
		name       string
		end        func(w *world, kill, restart func() error)
		again      func(w *world)
		eachMinute string // a debug line that shows that the service noticed the outage again
		want       []string
	}{
		{
			"MySQL",
			func(w *world, kill, _ func() error) {
				if err := kill(); err != nil {
					w.t.Fatal(err)
				}
			},
			nil, "outbox not swept",
			[]string{"MySQL away", "not ready", "MySQL still away", "MySQL back", "ready"},
		},
		{
			"NATS",
			func(w *world, _, _ func() error) { w.stopNATS() },
			(*world).restartNATS, "",
			[]string{"not ready", "ready"}, // the command logs the connection
		},
		{
			"WeChat",
			func(w *world, _, _ func() error) {
				w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.HTTPStatus(502) })
			},
			func(w *world) { w.wechat.Every(nil) },
			`"msg":"no code"`,
			[]string{"WeChat away", "WeChat still away", "WeChat back"},
		},
	} {
		t.Run(part.name, func(t *testing.T) {
			var c clock
			w, database := newWorldWithMySQL(t, wechattest.Options{Now: c.Now, CodeLife: 10 * time.Minute})
			r := w.start(func(s *setup) {
				s.cfg.Now, s.cfg.Spares, s.cfg.RequestTimeout = c.Now, 2, time.Second
			}).ready()
			appids := []string{"wx1", "wx2", "wx3", "wx4", "wx5"}
			for _, appid := range appids {
				w.announce(appid, w.token(appid))
				w.settled(r, appid)
				w.spares(r, appid, 2)
			}
			w.eventually("ready is logged", func() bool { return strings.Contains(w.log.String(), `"msg":"ready"`) })

			before := len(w.log.String())
			part.end(w, database.Kill, nil)
			for range 10 {
				c.advance(time.Minute)
				noticed := strings.Count(w.log.String(), part.eachMinute)
				for _, appid := range appids {
					if w.nc.IsConnected() { // a busy platform looks up codes
						_, _ = w.lookup(preauth.LookupRequest{AppID: appid, MinTTL: 9 * time.Minute})
					}
				}
				if part.eachMinute != "" {
					w.eventually("the outage is noticed again", func() bool { return strings.Count(w.log.String(), part.eachMinute) >= noticed+3 })
				}
			}
			w.eventually("the outage is logged", func() bool { return len(w.lines(before)) > 0 })
			if part.again != nil {
				part.again(w)
			} else if err := database.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			last := fmt.Sprintf(`"msg":%q`, part.want[len(part.want)-1])
			for _, appid := range appids {
				w.announce(appid, w.token(appid+"again"))
			}
			for _, appid := range appids {
				r.await(consumer.StepCommitted, appid, 2)
			}
			w.eventually("the end of the outage is logged", func() bool { return strings.Contains(w.log.String()[before:], last) })

			lines := w.lines(before)
			if len(lines) > 15 {
				t.Errorf("%d lines, want at most 15:\n%s", len(lines), strings.Join(lines, ""))
			}
			for _, msg := range part.want {
				if !strings.Contains(strings.Join(lines, ""), fmt.Sprintf(`"msg":%q`, msg)) {
					t.Errorf("%q is not logged:\n%s", msg, strings.Join(lines, ""))
				}
			}
		})
	}
}

// An orderly shutdown logs no warning and no error, even without NATS.
func TestStopWithoutNATSLogsNoWarning(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	w.eventually("ready is logged", func() bool { return strings.Contains(w.log.String(), `"msg":"ready"`) })
	w.stopNATS()
	before := len(w.log.String())
	r.stop()
	for _, line := range w.lines(before) {
		if strings.Contains(line, `"level":"WARN","msg":"not ready"`) {
			continue // the outage may be noticed only now
		}
		if !strings.Contains(line, `"level":"INFO"`) {
			t.Error(line)
		}
	}
}

// A failure is logged with what is known of it. An event that cannot be understood names no component
// and no attempt.
func TestFailureIsLoggedWithWhatIsKnown(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.Delays.Operator = time.Hour }).ready()
	w.wechat.AllowAddresses(netip.MustParsePrefix("203.0.113.0/24"))
	sequence := w.announce("wx1", w.token("a"))
	r.await(consumer.StepFailed, "wx1", 1)
	bad := w.publish("component.token.updated", []byte("{"))
	r.await(consumer.StepFailed, "", 2)
	for _, want := range []struct {
		sequence uint64
		members  []string
	}{
		{sequence, []string{"attempt", "class", "component", "errcode", "errmsg", "level", "msg", "request_ip", "retry_at", "rid", "sequence", "time"}},
		{bad, []string{"class", "errmsg", "level", "msg", "sequence", "time"}},
	} {
		var got []string
		w.eventually("a line about the failure", func() bool {
			for _, line := range w.lines(0) {
				var members map[string]any
				if json.Unmarshal([]byte(line), &members) == nil && members["msg"] == "no code" && members["level"] == "WARN" && members["sequence"] == float64(want.sequence) {
					got = slices.Sorted(maps.Keys(members))
					return true
				}
			}
			return false
		})
		if !slices.Equal(got, want.members) {
			t.Errorf("members %v, want %v", got, want.members)
		}
	}
}

// Every series exists before anything has happened: an alert on an increase does not see a counter
// whose first value is 1.
func TestEverySeriesExistsFromTheStart(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	metrics := r.metrics()
	for name, labels := range map[string]map[string][]string{
		"events_total":                       {"outcome": {"saved", "repeated", "superseded", "parked", "given_up"}},
		"lookups_total":                      {"code": {"200", "400", "404", "429", "500", "503"}},
		"claims_total":                       {"code": {"200", "201", "400", "404", "409", "429", "500", "503"}},
		"resolves_total":                     {"code": {"200", "400", "404", "429", "500", "503"}},
		"publish_duration_seconds_count":     {"result": {"ok", "error"}},
		"transaction_duration_seconds_count": {"result": {"ok", "error"}},
		"spares_made_total":                  nil,
		"codes_purged_total":                 nil,
		"foreign_updates_total":              nil,
		"outbox_rows":                        nil,
		"spares":                             nil,
		"code_expiry_timestamp_seconds":      nil,
		"token_expiry_timestamp_seconds":     nil,
		"components":                         {"state": {"valid", "expiring", "failing", "no_token"}},
		"components_overdue":                 nil,
		"statuses_total":                     {"code": {"200", "400", "404", "429", "500", "503"}},
		"renews_total":                       {"code": {"200", "400", "404", "429", "500", "503"}},
		"authorizations_total":               {"outcome": {"spent", "repeated", "unknown_code", "second_authorizer", "bad_event"}},
		"nats_errors_total":                  {"kind": {"stream", "permissions", "answers", "slow_consumer", "other"}},
		"wechat_quota_questions_total":       {"result": {"ok", "error"}},
		"events_in_flight":                   {"stream": {"tokens", "authorizations"}},
		"consumer_pending_events":            {"stream": {"tokens", "authorizations"}},
		"consumer_ack_pending_events":        {"stream": {"tokens", "authorizations"}},
		"view_codes":                         nil,
		"view_tokens":                        nil,
		"view_lag_messages":                  {"view": {"tokens", "codes"}},
		"kv_bucket":                          nil,
		"outbox_oldest_age_seconds":          nil,
		"nats_durability_warnings":           nil,
		"transaction_outcomes_count":         nil,
		"end_to_end_duration_seconds_count":  nil,
	} {
		want := []string{"preauth_" + name + " 0"}
		for label, values := range labels {
			want = nil
			for _, value := range values {
				want = append(want, fmt.Sprintf("preauth_%s{%s=%q} 0", name, label, value))
			}
		}
		for _, series := range want {
			if !strings.Contains(metrics, "\n"+series+"\n") {
				t.Errorf("missing series %s", series)
			}
		}
	}
	for _, class := range preauth.Classes() {
		for _, series := range []string{"failures_total{class=%q} 0", "wechat_call_duration_seconds_count{class=%q} 0"} {
			if series := "preauth_" + fmt.Sprintf(series, string(class)); !strings.Contains(metrics, "\n"+series+"\n") {
				t.Errorf("missing series %s", series)
			}
		}
	}
}

// Answers are counted by code, components by state.
func TestMetricsOfRequestsAndStates(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(oneSpare).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	w.spares(r, "wx1", 1)
	before := r.counted("preauth_lookups_total")["200"]
	if _, err := w.lookup(preauth.LookupRequest{AppID: "wx1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.lookup(preauth.LookupRequest{AppID: "wx2"}); code(err) != preauth.StatusNotFound {
		t.Fatal(err)
	}
	claimed, err := w.claim(preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.resolve(claimed.PreAuthCode); err != nil {
		t.Fatal(err)
	}
	w.spares(r, "wx1", 1)
	for _, series := range []string{
		fmt.Sprintf(`preauth_lookups_total{code="200"} %d`, before+1), `preauth_lookups_total{code="404"} 1`,
		`preauth_claims_total{code="200"} 1`, `preauth_resolves_total{code="200"} 1`,
		`preauth_view_codes 1`, `preauth_view_tokens 1`, `preauth_ready 1`, `preauth_spares_made_total 2`, `preauth_components{state="valid"} 1`, `preauth_components{state="no_token"} 0`, `preauth_spares 1`,
	} {
		w.eventually(series, func() bool { return strings.Contains(r.metrics(), "\n"+series+"\n") })
	}
	for _, gauge := range []string{"code_expiry_timestamp_seconds", "token_expiry_timestamp_seconds"} {
		if strings.Contains(r.metrics(), "\npreauth_"+gauge+" 0\n") {
			t.Errorf("%s is not set", gauge)
		}
	}
}
