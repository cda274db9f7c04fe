package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
)

func measureComponents(ctx context.Context, b *bench) error {
	const few = 100
	many := b.components
	services := b.services()
	fewRates, err := b.eventRates(ctx, services, few)
	if err != nil {
		return err
	}
	heaps, err := b.liveHeaps(ctx, many)
	if err != nil {
		return err
	}
	starts, late, err := b.warmStarts(ctx, services, many)
	if err != nil {
		return err
	}
	rates, err := b.eventRates(ctx, services, many)
	if err != nil {
		return err
	}
	row := func(f figure, byVersion ...[]float64) {
		f.row = "components"
		b.add(f, byVersion...)
	}
	for f, form := range forms {
		row(figure{what: fmt.Sprintf("warm start with %d components, %s", many, form.name), bound: 5, atMost: true, unit: "s"}, starts[f]...)
	}
	row(figure{what: "live heap for each", bound: 1024, atMost: true, unit: "B"}, heaps...)
	for f, form := range forms {
		var times [][]float64
		for i := range services {
			times = append(times, ratios(fewRates[f][i], rates[f][i]))
		}
		row(figure{
			what: fmt.Sprintf("time for an event / that with %d components, %s", few, form.name), bound: 1.5, atMost: true, unit: "×",
			given: fmt.Sprintf("%.0f/s and %.0f/s", median(rates[f][0]), median(fewRates[f][0])),
		}, times...)
	}
	row(figure{
		what: "latest renewal", bound: 3, atMost: true, unit: "s late",
		given: fmt.Sprintf("%.0f renewals a second, as with codes of 30 minutes", float64(many)/renewedEvery.Seconds()),
	}, late...)
	return nil
}

// eventRates returns the events a second with so many components: by form, then by contender.
func (b *bench) eventRates(ctx context.Context, contenders []contender, components int) ([][][]float64, error) {
	if err := b.seed(ctx, components, contenders...); err != nil {
		return nil, err
	}
	found := make([][][]float64, len(forms))
	for f, form := range forms {
		rates, err := b.inTurn(contenders, func(round int, c contender) (perSecond float64, err error) {
			err = b.with(ctx, c, func(p *program) error {
				// Fewer than the smaller set has components, so that none is superseded.
				got, err := p.sustained(ctx, form, components, 90, b.warmup(), b.length)
				b.progress("%s %d: %s, %d components, %s: %.0f/s; %s", b.row, round, c.name, components, form.name, got.perSecond,
					got.used.perEvent(got.n))
				perSecond = got.perSecond
				return err
			})
			return perSecond, err
		})
		if err != nil {
			return nil, err
		}
		found[f] = rates
	}
	return found, nil
}

// warmStarts returns in how many seconds a service is ready that finds two events of each of n
// components in the stream, acknowledged before: by form, then by contender. It also returns by how
// many seconds the latest renewal was late, with the last form.
func (b *bench) warmStarts(ctx context.Context, contenders []contender, n int) (starts [][][]float64, late [][]float64, err error) {
	if err := b.seed(ctx, n, contenders...); err != nil {
		return nil, nil, err
	}
	for f, form := range forms {
		for _, c := range contenders {
			p, err := b.place(ctx, c.name)
			if err != nil {
				return nil, nil, err
			}
			if err := p.settledTokens(ctx, form, n, 2); err != nil {
				return nil, nil, err
			}
		}
		late = make([][]float64, len(contenders))
		took, err := b.inTurn(contenders, func(round int, c contender) (float64, error) {
			p, err := b.place(ctx, c.name)
			if err != nil {
				return 0, err
			}
			begin := time.Now()
			started, err := c.start(ctx, p)
			if err != nil {
				return 0, err
			}
			ready := time.Since(begin).Seconds()
			b.progress("components %d: %s, %s: ready after %.2f s", round, c.name, form.name, ready)
			if f == len(forms)-1 {
				i := slices.IndexFunc(contenders, func(other contender) bool { return other.name == c.name })
				worst, err := p.renewals(ctx)
				if err != nil {
					return 0, errors.Join(err, b.stop(ctx, c.name, started))
				}
				b.progress("components %d: %s: renewals at most %.1f s late", round, c.name, worst)
				late[i] = append(late[i], worst)
			}
			return ready, b.stop(ctx, c.name, started)
		})
		if err != nil {
			return nil, nil, err
		}
		starts = append(starts, took)
	}
	return starts, late, nil
}

// settledTokens gives the token stream some events of each of n components, one after the other as
// from a token service with replicas, all acknowledged.
func (p *place) settledTokens(ctx context.Context, f form, n, of int) error {
	if err := p.recreateTokens(ctx); err != nil || n == 0 {
		return err
	}
	if err := p.store(ctx, f, n*of, func(i int) int { return i / of }); err != nil {
		return err
	}
	stream, err := p.js.Stream(ctx, tokenStream)
	if err != nil {
		return err
	}
	cons, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:   fmt.Sprintf("preauth-%d", stream.CachedInfo().Created.UTC().UnixMicro()),
		AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: 4096,
	})
	if err != nil {
		return err
	}
	reading, err := cons.Consume(func(msg jetstream.Msg) { _ = msg.Ack() }, jetstream.PullMaxMessages(4096))
	if err != nil {
		return err
	}
	defer reading.Stop()
	return eventually(ctx, 2*time.Minute, func() error {
		info, err := cons.Info(ctx)
		if err == nil && info.NumPending+uint64(info.NumAckPending) > 0 {
			err = errors.New("events are left")
		}
		return err
	})
}

// collected has the heap collected often, so that the least that is ever in use is what is alive.
const collected = "GOGC=5"

// liveHeaps returns how many bytes of heap each of n components costs in memory, with its token and
// its code: one value for each version.
func (b *bench) liveHeaps(ctx context.Context, n int) ([][]float64, error) {
	var found [][]float64
	for _, c := range b.services(collected) {
		var least []float64
		for _, components := range []int{0, n} {
			if err := b.seed(ctx, components, c); err != nil {
				return nil, err
			}
			p, err := b.place(ctx, c.name)
			if err != nil {
				return nil, err
			}
			if err := p.settledTokens(ctx, forms[1], components, 1); err != nil {
				return nil, err
			}
			started, err := c.start(ctx, p)
			if err != nil {
				return nil, err
			}
			bytes, err := started.leastHeap(ctx)
			if err = errors.Join(err, b.stop(ctx, c.name, started)); err != nil {
				return nil, err
			}
			least = append(least, bytes)
		}
		b.note("components: %s has %.1f MiB of live heap with %d components, %.1f MiB without any", c.name, least[1]/(1<<20), n, least[0]/(1<<20))
		found = append(found, []float64{(least[1] - least[0]) / float64(n)})
	}
	return found, nil
}

// leastHeap returns the least use of the heap among so many reads that there was a collection.
func (p *program) leastHeap(ctx context.Context) (float64, error) {
	least := math.Inf(1)
	for range 300 {
		bytes, err := p.metric(ctx, "go_memstats_heap_alloc_bytes")
		if err != nil {
			return 0, err
		}
		least = min(least, bytes)
	}
	return least, nil
}

// renewedEvery is how long a code of WeChat's 30 minutes serves until it is renewed.
const renewedEvery = 1800 * time.Second * 3 / 4

// renewing is for how long renewals are watched. Renewals that are too slow are later and later.
const renewing = 30 * time.Second

// renewals has the components fall due as they do when their codes were made one after the other.
// It returns by how many seconds the latest was late.
func (p *place) renewals(ctx context.Context) (worst float64, err error) {
	begin := time.Now().UTC()
	_, err = p.db.ExecContext(ctx, "UPDATE component SET lease = NULL, due_at = DATE_ADD(?, INTERVAL FLOOR(RAND() * ?) MICROSECOND)",
		begin, renewedEvery.Microseconds())
	if err != nil {
		return 0, err
	}
	// What fell due while the statement ran is not the service's fault.
	if _, err = p.db.ExecContext(ctx, "UPDATE component SET due_at = ? WHERE due_at < ?", begin.Add(preauth.DefaultTokenLife), time.Now().UTC()); err != nil {
		return 0, err
	}
	for end := time.Now().Add(renewing); time.Now().Before(end); {
		if !sleep(ctx, 500*time.Millisecond) {
			return 0, ctx.Err()
		}
		var oldest *time.Time
		now := time.Now().UTC()
		if err := p.db.QueryRowContext(ctx, "SELECT MIN(due_at) FROM component").Scan(&oldest); err != nil {
			return 0, err
		}
		if oldest != nil {
			worst = max(worst, now.Sub(*oldest).Seconds())
		}
	}
	return worst, nil
}

func measureIdle(ctx context.Context, b *bench) error {
	const components = 100
	services := b.services(collected)
	if err := b.seed(ctx, components, services...); err != nil {
		return err
	}
	return b.together(ctx, services, func(programs []*program) error {
		shares, growths := make([][]float64, len(programs)), make([][]float64, len(programs))
		heaps := make([]float64, len(programs))
		used := make([]usage, len(programs))
		for i, p := range programs {
			for range 2 { // being looked at costs memory too
				bytes, err := p.leastHeap(ctx)
				if err != nil {
					return err
				}
				heaps[i] = bytes
			}
		}
		for i, p := range programs {
			used[i] = p.usage(p)
		}
		if !sleep(ctx, b.idle) {
			return ctx.Err()
		}
		for i, p := range programs {
			share := 100 * p.usage(p).since(used[i]).program.Seconds() / b.idle.Seconds()
			shares[i] = []float64{share}
		}
		for i, p := range programs {
			after, err := p.leastHeap(ctx)
			if err != nil {
				return err
			}
			growths[i] = []float64{(after - heaps[i]) / 1024}
		}
		b.add(figure{row: "idle", what: fmt.Sprintf("share of a core over %v", b.idle), bound: 1, atMost: true, unit: "%"}, shares...)
		b.add(figure{
			row: "idle", what: "growth of the live heap", bound: 256, atMost: true, unit: "KiB",
			given: fmt.Sprintf("from %.2f MiB", heaps[0]/(1<<20)),
		}, growths...)
		return nil
	})
}
