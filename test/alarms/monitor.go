package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"preauth/internal/pause"
)

// interval is the time between two looks, by the monitor's clock.
const interval = 15 * time.Second

// monitor is Prometheus with another clock: each look is an interval after the one before, however
// long it took. A machine that is slow does not look like a service that is away.
type monitor struct {
	begin, now time.Time
	pause      time.Duration // between two looks, by the machine's clock
	db         *tsdb.DB
	engine     *promql.Engine
	rules      []*rules.Group
	targets    []*target
}

// target is an address that is scraped.
type target struct {
	job, addr string
	known     map[uint64]labels.Labels // what it exposed at the last look, by hash
}

// newMonitor returns a Prometheus whose clock is so many times as fast as the machine's. It stores
// what the targets expose in a directory. Close it.
func newMonitor(dir string, speed int, ruleFile string, targets []*target) (_ *monitor, err error) {
	now := time.Now()
	m := &monitor{begin: now, now: now, pause: interval / time.Duration(speed), targets: targets}
	if m.db, err = tsdb.Open(dir, nil, nil, tsdb.DefaultOptions(), nil); err != nil {
		return nil, fmt.Errorf("open the database of Prometheus: %w", err)
	}
	m.engine = promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000_000, Timeout: time.Minute})
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(m.engine, m.db), AppendableV2: m.db, Queryable: m.db, Registerer: prometheus.NewRegistry(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
	})
	groups, errs := manager.LoadGroups(interval, labels.EmptyLabels(), "", nil, false, ruleFile)
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, m.db.Close())
	}
	for _, group := range groups {
		m.rules = append(m.rules, group)
		for _, rule := range group.AlertingRules() {
			rule.SetRestored(true) // otherwise it writes no ALERTS
		}
	}
	return m, nil
}

func (m *monitor) close() error { return m.db.Close() }

// watch looks at the targets and then at the rules until ctx ends or see returns false. see is told
// how much time has passed and which alerts fire, in the order of their names.
func (m *monitor) watch(ctx context.Context, see func(passed time.Duration, firing []string) bool) error {
	for pause.For(ctx, m.pause) {
		m.now = m.now.Add(interval)
		for _, t := range m.targets {
			if err := t.scrape(ctx, m.db, m.now.UnixMilli()); err != nil {
				return fmt.Errorf("scrape %s: %w", t.addr, err)
			}
		}
		var firing []string
		for _, group := range m.rules {
			group.Eval(ctx, m.now)
			for _, rule := range group.AlertingRules() {
				if err := rule.LastError(); err != nil && ctx.Err() == nil {
					return fmt.Errorf("%s: %w", rule.Name(), err)
				}
				if rule.State() == rules.StateFiring {
					firing = append(firing, rule.Name())
				}
			}
		}
		slices.Sort(firing)
		if !see(m.now.Sub(m.begin), firing) {
			return nil
		}
	}
	return ctx.Err()
}

// scrape stores what the target exposes, and up, as Prometheus does: a series that is not exposed any
// more gets a marker.
func (t *target) scrape(ctx context.Context, db *tsdb.DB, at int64) error {
	samples, err := t.exposed(ctx)
	up := 1.0
	if err != nil {
		up, samples = 0, nil
	}
	samples = append(samples, &model.Sample{Metric: model.Metric{model.MetricNameLabel: "up"}, Value: model.SampleValue(up)})
	app := db.AppenderV2(ctx)
	store := func(series labels.Labels, v float64) error {
		_, err := app.Append(0, series, 0, at, v, nil, nil, storage.AOptions{})
		return err
	}
	gone := t.known
	t.known = map[uint64]labels.Labels{}
	for _, sample := range samples {
		builder := labels.NewBuilder(labels.FromStrings(model.JobLabel, t.job, model.InstanceLabel, t.addr))
		for name, v := range sample.Metric {
			builder.Set(string(name), string(v))
		}
		series := builder.Labels()
		t.known[series.Hash()] = series
		delete(gone, series.Hash())
		if err := store(series, float64(sample.Value)); err != nil {
			return errors.Join(err, app.Rollback())
		}
	}
	for _, series := range gone {
		if err := store(series, math.Float64frombits(value.StaleNaN)); err != nil {
			return errors.Join(err, app.Rollback())
		}
	}
	return app.Commit()
}

// exposed returns what the target says of itself.
func (t *target) exposed(ctx context.Context) (model.Vector, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.addr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	decoder := expfmt.SampleDecoder{Dec: expfmt.NewDecoder(answer.Body, expfmt.ResponseFormat(answer.Header)), Opts: &expfmt.DecodeOptions{}}
	var all model.Vector
	for {
		var family model.Vector
		switch err := decoder.Decode(&family); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, family...)
	}
}
