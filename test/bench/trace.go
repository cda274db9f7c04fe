package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// stations are what an event passes on its way, in this order: the name of a step or of a
// statement, and what the time since the station before is spent on.
var stations = []struct{ name, what string }{
	{"received", "stream: stored, synced, delivered"},
	{"sql.components", "SELECT component"},
	{"issued", "call of WeChat"},
	{"sql.begin", "START TRANSACTION"},
	{"sql.lock", "SELECT … FOR UPDATE"},
	{"sql.component", "component"},
	{"sql.retire", "old code"},
	{"sql.code", "new code"},
	{"sql.announce", "outbox"},
	{"sql.commit", "COMMIT"},
	{"arrived", "publish: stored, synced, received"},
}

// measureTrace traces lone events of the working tree's service and of floor, side by side.
func measureTrace(ctx context.Context, b *bench) error {
	const components = 100
	contenders := []contender{yardstick("floor", "-steps"), yardstick("floor", "-read", "-steps"), yardstick("traced")}
	names := []string{"floor", "floor that reads", "preauth"}
	if err := b.seed(ctx, components, contenders...); err != nil {
		return err
	}
	var bars [][]float64
	err := b.together(ctx, contenders, func(programs []*program) error {
		passed := make([]*passing, len(programs))
		for i, p := range programs {
			passed[i] = &passing{}
			go p.collect(passed[i].add)
		}
		spans, err := loneSpans(ctx, programs, forms[1], components, b.rounds*b.loneEvents())
		if err != nil {
			return err
		}
		for i := range programs {
			bars = append(bars, passed[i].medians(spans[i]))
		}
		return nil
	})
	if err != nil {
		return err
	}
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

// passing is what a program said that it did.
type passing struct {
	mu   sync.Mutex
	seen []pass
}

type pass struct {
	what string
	at   time.Time
}

func (p *passing) add(what string, s span) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, pass{what, s.end})
}

// medians returns how many milliseconds events took to each station since the one before.
func (p *passing) medians(events []span) []float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	took := make([][]float64, len(stations))
	for _, event := range events {
		last := event.begin
		for i, station := range stations {
			at := event.end
			if station.name != "arrived" {
				j := slices.IndexFunc(p.seen, func(s pass) bool {
					return s.what == station.name && s.at.After(event.begin) && s.at.Before(event.end)
				})
				if j < 0 {
					continue // this program does not pass it
				}
				at = p.seen[j].at
			}
			took[i] = append(took[i], float64(at.Sub(last))/float64(time.Millisecond))
			last = at
		}
	}
	found := make([]float64, len(stations))
	for i := range took {
		if len(took[i]) > len(events)/2 {
			found[i] = median(took[i])
		}
	}
	return found
}
