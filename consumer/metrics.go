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
// classes. Every label value exists from the start, since an alert on an increase does not see a
// counter that is born at 1.
type metrics struct {
	events         *prometheus.CounterVec
	endToEnd       prometheus.Histogram
	calls          *prometheus.HistogramVec
	quotaQuestions *prometheus.CounterVec
	failures       *prometheus.CounterVec
	transactions   *prometheus.HistogramVec
	outcomes       prometheus.Histogram
	publishes      *prometheus.HistogramVec
	lookups        answers
	claims         answers
	resolves       answers
	statuses       answers
	renews         answers
	spares         prometheus.Counter
	authorizations *prometheus.CounterVec
	purged         prometheus.Counter
	foreignUpdates prometheus.Counter
	natsErrors     *prometheus.CounterVec
}

// answers counts the answers to requests of one kind by their code. Most are 200.
type answers struct {
	byCode *prometheus.CounterVec
	ok     prometheus.Counter
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

// The values of the labels, beside WeChat's classes.
var (
	eventOutcomes         = []string{"saved", "repeated", "superseded", "parked", "given_up"}
	authorizationOutcomes = []string{
		"spent", "repeated", string(preauth.ClassUnknownCode), string(preauth.ClassSecondAuthorizer), string(preauth.ClassBadEvent),
	}
	results      = []string{"ok", "error"}
	requestCodes = []string{"200", "400", "404", "429", "500", "503"}
	claimCodes   = []string{"200", "201", "400", "404", "409", "429", "500", "503"}
	resolveCodes = []string{"200", "400", "404", "429", "500", "503"}
	statusCodes  = []string{"200", "400", "404", "429", "500", "503"}

	natsErrorKinds = []string{"stream", "permissions", "answers", "slow_consumer", "other"}
)

func newMetrics(registerer prometheus.Registerer) *metrics {
	count := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "preauth", Name: name, Help: help})
		registerer.MustRegister(c)
		return c
	}
	countBy := func(label string, values []string, name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "preauth", Name: name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		registerer.MustRegister(v)
		return v
	}
	durationsBy := func(label string, values []string, name, help string) *prometheus.HistogramVec {
		opts := prometheus.HistogramOpts{Namespace: "preauth", Name: name, Help: help, Buckets: seconds}
		v := prometheus.NewHistogramVec(opts, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		registerer.MustRegister(v)
		return v
	}
	distribution := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "preauth", Name: name, Help: help, Buckets: buckets})
		registerer.MustRegister(h)
		return h
	}
	answered := func(values []string, name, help string) answers {
		v := countBy("code", values, name, help)
		return answers{v, v.WithLabelValues("200")}
	}
	var classes []string
	for _, class := range preauth.Classes() {
		classes = append(classes, string(class))
	}
	return &metrics{
		events: countBy("outcome", eventOutcomes, "events_total",
			"Token events finished, by outcome: saved, repeated, superseded, parked (to be tried again), given_up."),
		calls: durationsBy("class", append(classes, "ok", "cancelled"), "wechat_call_duration_seconds",
			"Time of a call of WeChat, over all hosts tried, by class of failure; ok if there was none."),
		quotaQuestions: countBy("result", results, "wechat_quota_questions_total",
			"Questions to WeChat what is left of a component's quota."),
		failures: countBy("class", classes, "failures_total", "Failures recorded, by class."),
		lookups:  answered(requestCodes, "lookups_total", "Look-ups answered, by code; 200 for a pre_auth_code."),
		claims: answered(claimCodes, "claims_total", "Claims answered, by code: 200 for a spare or the code given before, "+
			"201 for a pre_auth_code made while the caller waited."),
		resolves: answered(resolveCodes, "resolves_total", "Requests to resolve a code answered, by code."),
		statuses: answered(statusCodes, "statuses_total", "Requests for how components fare answered, by code."),
		renews:   answered(statusCodes, "renews_total", "Requests to work on a component now answered, by code; 200 for a new pre_auth_code."),
		spares:   count("spares_made_total", "Codes made ahead of claims."),
		authorizations: countBy("outcome", authorizationOutcomes, "authorizations_total",
			"Authorizations finished, by outcome: spent, repeated, or the class of a failure."),
		purged: count("codes_purged_total", "Expired codes deleted after their retention."),
		foreignUpdates: count("foreign_updates_total",
			"Messages in the stream of announcements that MySQL contradicts."),
		natsErrors: countBy("kind", natsErrorKinds, "nats_errors_total",
			"What NATS refused or lost, by kind: stream (a stream is not followed), permissions, answers (on subjects that "+
				"requesters chose), slow_consumer (messages dropped), other."),
		transactions: durationsBy("result", results, "transaction_duration_seconds",
			"Time of the saving transaction, retries included."),
		publishes: durationsBy("result", results, "publish_duration_seconds", "Time until the stream has stored an announcement."),
		endToEnd: distribution("end_to_end_duration_seconds",
			"Time from the token event, by the stream's clock, to the stored announcement of its code.", seconds),
		outcomes: distribution("transaction_outcomes", "Outcomes saved by one transaction.", prometheus.ExponentialBuckets(1, 2, 10)),
	}
}

// gauge registers a figure that is read when Prometheus asks.
func gauge(registerer prometheus.Registerer, name, help string, labels prometheus.Labels, read func() float64) {
	opts := prometheus.GaugeOpts{Namespace: "preauth", Name: name, Help: help, ConstLabels: labels}
	registerer.MustRegister(prometheus.NewGaugeFunc(opts, read))
}

func (m *metrics) failed(class preauth.Class) { m.failures.WithLabelValues(string(class)).Inc() }

func (m *metrics) authorized(outcome string) { m.authorizations.WithLabelValues(outcome).Inc() }

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
	m.calls.WithLabelValues(class).Observe(took.Seconds())
}

// asked counts a question to WeChat what is left of a quota.
func (m *metrics) asked(err error) { m.quotaQuestions.WithLabelValues(result(err)).Inc() }

func (m *metrics) saved(outcomes int, took time.Duration, err error) {
	m.transactions.WithLabelValues(result(err)).Observe(took.Seconds())
	m.outcomes.Observe(float64(outcomes))
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
