package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// stations are what an event passes on its way, in this order: the name of a step, or of a statement, and
// what the time since the station before is spent on.
var stations = []struct{ name, what string }{
	{"received", "stream: stored, synced, delivered"},
	{"sql.components", "SELECT component"},
	{"minted", "call of WeChat"},
	{"sql.begin", "START TRANSACTION"},
	{"sql.lock", "SELECT … FOR UPDATE"},
	{"sql.replace", "START TRANSACTION, component, codes, outbox"},
	{"sql.component", "component"},
	{"sql.retire", "old code"},
	{"sql.code", "new code"},
	{"sql.announce", "outbox"},
	{"sql.commit", "COMMIT"},
	{"arrived", "publish: stored, synced, received"},
}

func measureTrace(ctx context.Context, b *bench) error {
	const components = 100
	if err := b.seed(ctx, components); err != nil {
		return err
	}
	contenders := []contender{yardstick("floor", "-steps"), yardstick("traced")}
	bars := make([][]float64, len(contenders))
	for i, c := range contenders {
		var perEvent [][]float64
		for range b.rounds {
			err := b.with(ctx, c, func(p *program) error {
				found, err := b.traceLone(ctx, p, b.loneEvents(), components)
				perEvent = append(perEvent, found...)
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		for station := range stations {
			var took []float64
			for _, event := range perEvent {
				took = append(took, event[station])
			}
			bars[i] = append(bars[i], median(took))
		}
	}
	names := []string{"floor", "preauth"}
	for i, name := range names {
		var parts []string
		for station, took := range bars[i] {
			if took > 0 {
				parts = append(parts, fmt.Sprintf("%s %.2f", stations[station].what, took))
			}
		}
		b.note("one event of %s, medians in ms: %s", name, strings.Join(parts, "; "))
	}
	whats := make([]string, len(stations))
	for i, s := range stations {
		whats[i] = s.what
	}
	return b.plotStack("trace", "Where the time of one event goes", "ms", names, whats, bars)
}

// traceLone returns how many milliseconds each of n lone events took to each station since the one before.
func (b *bench) traceLone(ctx context.Context, p *program, n, components int) ([][]float64, error) {
	type passed struct {
		what string
		at   time.Time
	}
	var mu sync.Mutex
	var seen []passed
	go p.collect(func(what string, s span) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, passed{what, s.end})
	})
	const rest = 10 * time.Millisecond
	if _, err := b.lone(ctx, n/3, components, rest); err != nil {
		return nil, err
	}
	events, err := b.lone(ctx, n, components, rest)
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	var all [][]float64
	for _, event := range events {
		took := make([]float64, len(stations))
		last := event.begin
		for i, station := range stations {
			at := event.end
			if station.name != "arrived" {
				j := slices.IndexFunc(seen, func(s passed) bool {
					return s.what == station.name && s.at.After(event.begin) && s.at.Before(event.end)
				})
				if j < 0 {
					continue // this program does not pass it
				}
				at = seen[j].at
			}
			took[i] = float64(at.Sub(last)) / float64(time.Millisecond)
			last = at
		}
		all = append(all, took)
	}
	return all, nil
}
