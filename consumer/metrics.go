package consumer

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/repo"
	"preauth/wechat"
)

// metrics are what Prometheus is told. No label has a value that comes from outside, but for WeChat's
// classes.
type metrics struct {
	events      *prometheus.CounterVec
	endToEnd    prometheus.Histogram
	calls       *prometheus.CounterVec
	callSeconds *prometheus.HistogramVec
	failures    *prometheus.CounterVec
	txSeconds   *prometheus.HistogramVec
	txOutcomes  prometheus.Histogram
	publishes   *prometheus.HistogramVec
	lookups     answers
	claims      answers
	resolves    answers
	spares      prometheus.Counter
	purged      prometheus.Counter

	foreignUpdates prometheus.Counter
}

// answers counts the answers to requests of one kind by their code. Most are 200.
type answers struct {
	byCode *prometheus.CounterVec
	ok     prometheus.Counter
}

func newAnswers(byCode *prometheus.CounterVec) answers {
	return answers{byCode, byCode.WithLabelValues("200")}
}

func (a answers) count(code int) {
	if code == 200 {
		a.ok.Inc()
		return
	}
	a.byCode.WithLabelValues(strconv.Itoa(code)).Inc()
}

// seconds are the buckets of all durations: from a tenth of a millisecond to half a minute.
var seconds = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

func newMetrics(registerer prometheus.Registerer) *metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "preauth", Name: name, Help: help}, labels)
	}
	durations := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(
			prometheus.HistogramOpts{Namespace: "preauth", Name: name, Help: help, Buckets: seconds}, labels)
	}
	m := &metrics{
		events: counters("events_total",
			"Token events finished, by outcome: saved, repeated, superseded, parked (to be tried again), given_up.", "outcome"),
		calls:    counters("wechat_calls_total", "Calls of WeChat, by class of failure; ok if there was none.", "class"),
		failures: counters("failures_total", "Failures recorded, by class.", "class"),
		lookups:  newAnswers(counters("lookups_total", "Look-ups answered, by code; 200 for a pre_auth_code.", "code")),
		claims: newAnswers(counters("claims_total", "Claims answered, by code: 200 for a spare or the code given before, "+
			"201 for a pre_auth_code made while the caller waited.", "code")),
		resolves: newAnswers(counters("resolves_total", "Requests to resolve a code answered, by code.", "code")),
		spares: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "preauth", Name: "spares_made_total", Help: "Codes made ahead of claims.",
		}),
		purged: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "preauth", Name: "codes_purged_total", Help: "Expired codes deleted after their retention.",
		}),
		foreignUpdates: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "preauth", Name: "foreign_updates_total",
			Help: "Updates in the stream of announcements that MySQL does not have.",
		}),
		callSeconds: durations("wechat_call_duration_seconds",
			"Time of a call of WeChat, over all hosts tried.", "class"),
		txSeconds: durations("transaction_duration_seconds", "Time of the saving transaction, retries included.", "result"),
		publishes: durations("publish_duration_seconds", "Time until the stream has stored an announcement.", "result"),
		endToEnd: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "preauth", Name: "end_to_end_seconds", Buckets: seconds,
			Help: "Time from the token event, by the stream's clock, to the stored announcement of its code.",
		}),
		txOutcomes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "preauth", Name: "transaction_outcomes", Help: "Outcomes saved by one transaction.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
	}
	registerer.MustRegister(m.events, m.calls, m.failures, m.lookups.byCode, m.callSeconds, m.txSeconds, m.publishes,
		m.endToEnd, m.txOutcomes, m.claims.byCode, m.resolves.byCode, m.spares, m.purged, m.foreignUpdates)
	return m
}

// gauge registers a figure that is read when Prometheus asks.
func gauge(registerer prometheus.Registerer, name, help string, read func() float64) {
	registerer.MustRegister(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Namespace: "preauth", Name: name, Help: help}, read))
}

func (m *metrics) failed(class preauth.Class) { m.failures.WithLabelValues(string(class)).Inc() }

// superseded counts an event that needed no outcome of its own.
func (m *metrics) superseded() { m.events.WithLabelValues("superseded").Inc() }

// finished counts an event by its committed outcome.
func (m *metrics) finished(outcome repo.Outcome, result repo.Result) {
	label := "repeated"
	switch {
	case result.Status == repo.Superseded:
		label = "superseded"
	case outcome.Code != nil:
		label = "saved"
	case outcome.Failure != nil && outcome.Failure.RetryAt.IsZero():
		label = "given_up"
	case outcome.Failure != nil:
		label = "parked"
	}
	m.events.WithLabelValues(label).Inc()
}

func (m *metrics) called(err error, took time.Duration) {
	class := "ok"
	switch failed, ok := errors.AsType[*wechat.Error](err); {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		class = "cancelled" // by us, not by WeChat
	case ok:
		class = string(failed.Class)
	}
	m.calls.WithLabelValues(class).Inc()
	m.callSeconds.WithLabelValues(class).Observe(took.Seconds())
}

func (m *metrics) saved(outcomes int, took time.Duration, err error) {
	m.txSeconds.WithLabelValues(result(err)).Observe(took.Seconds())
	m.txOutcomes.Observe(float64(outcomes))
}

func (m *metrics) published(err error, took time.Duration) {
	m.publishes.WithLabelValues(result(err)).Observe(took.Seconds())
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}
