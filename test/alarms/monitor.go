package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"preauth/internal/pause"
)

// job is the name that deploy/prometheus/rules.yml expects.
const job = "preauth"

// interval is the time between two scrapes, and between two looks at the rules, by the monitor's
// clock.
const interval = 15 * time.Second

// clock is time that goes several times as fast as the machine's.
type clock struct {
	begin time.Time
	speed int
}

// at returns what the clock shows at a time of the machine.
func (c clock) at(t time.Time) time.Time { return c.begin.Add(time.Duration(c.speed) * t.Sub(c.begin)) }

// real returns how long a time of the clock takes.
func (c clock) real(d time.Duration) time.Duration { return d / time.Duration(c.speed) }

// monitor is Prometheus: its scraper, its database, its rules. Only its clock is another one.
type monitor struct {
	clock   clock
	db      *tsdb.DB
	engine  *promql.Engine
	scraper *scrape.Manager
	scraped chan error
	rules   []*rules.Group
}

// newMonitor scrapes the targets, and stores what they say in a directory, as of the time of a clock
// with the given speed. Close it.
func newMonitor(dir string, speed int, ruleFile string, targets []string) (_ *monitor, err error) {
	m := &monitor{clock: clock{time.Now(), speed}, scraped: make(chan error, 1)}
	if m.db, err = tsdb.Open(dir, nil, nil, tsdb.DefaultOptions(), nil); err != nil {
		return nil, fmt.Errorf("open the database of Prometheus: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.db.Close())
		}
	}()
	m.engine = promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000_000, Timeout: time.Minute})
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(m.engine, m.db), AppendableV2: m.db, Queryable: m.db, Registerer: prometheus.NewRegistry(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
	})
	groups, errs := manager.LoadGroups(interval, labels.EmptyLabels(), "", nil, false, ruleFile)
	if err = errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, group := range groups {
		m.rules = append(m.rules, group)
		for _, rule := range group.AlertingRules() {
			rule.SetRestored(true) // otherwise it writes no ALERTS
		}
	}

	every := m.clock.real(interval)
	scrapes, err := config.Load(fmt.Sprintf("{global: {scrape_interval: %[1]v, scrape_timeout: %[1]v}, scrape_configs: [{job_name: %[2]s}]}", every, job), nil)
	if err != nil {
		return nil, fmt.Errorf("configure the scraper: %w", err)
	}
	m.scraper, err = scrape.NewManager(&scrape.Options{DiscoveryReloadInterval: model.Duration(50 * time.Millisecond)},
		nil, nil, nil, stretched{m.db, m.clock}, prometheus.NewRegistry())
	if err != nil {
		return nil, err
	}
	if err = m.scraper.ApplyConfig(scrapes); err != nil {
		return nil, fmt.Errorf("configure the scraper: %w", err)
	}
	group := &targetgroup.Group{Source: job}
	for _, target := range targets {
		group.Targets = append(group.Targets, model.LabelSet{model.AddressLabel: model.LabelValue(target)})
	}
	sets := make(chan map[string][]*targetgroup.Group, 1)
	sets <- map[string][]*targetgroup.Group{job: {group}}
	go func() { m.scraped <- m.scraper.Run(sets) }()
	return m, nil
}

// close ends the scrapes.
func (m *monitor) close() error {
	m.scraper.Stop()
	return errors.Join(<-m.scraped, m.db.Close())
}

// watch looks at the rules until ctx ends or see returns false. see is told which alerts fire, in the
// order of their names.
func (m *monitor) watch(ctx context.Context, see func(at time.Time, firing []string) bool) {
	for pause.For(ctx, m.clock.real(interval)) {
		at := m.clock.at(time.Now())
		var firing []string
		for _, group := range m.rules {
			group.Eval(ctx, at)
			for _, rule := range group.AlertingRules() {
				if rule.State() == rules.StateFiring {
					firing = append(firing, rule.Name())
				}
			}
		}
		slices.Sort(firing)
		if !see(at, firing) {
			return
		}
	}
}

// failed returns the last error of a rule.
func (m *monitor) failed() error {
	var errs []error
	for _, group := range m.rules {
		for _, rule := range group.AlertingRules() {
			errs = append(errs, rule.LastError())
		}
	}
	return errors.Join(errs...)
}

// stretched stores samples as of the time of a clock.
type stretched struct {
	storage.AppendableV2

	clock clock
}

// AppenderV2 returns an appender for the scraper.
func (s stretched) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return stretchedAppender{s.AppendableV2.AppenderV2(ctx), s.clock}
}

type stretchedAppender struct {
	storage.AppenderV2

	clock clock
}

// Append changes the sample's time and nothing else.
func (a stretchedAppender) Append(
	ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AppendV2Options,
) (storage.SeriesRef, error) {
	return a.AppenderV2.Append(ref, ls, st, a.clock.at(time.UnixMilli(t)).UnixMilli(), v, h, fh, opts)
}
