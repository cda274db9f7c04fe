package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
)

func measureComponents(ctx context.Context, b *bench) error {
	const few = 100
	n := b.components
	if err := b.seed(ctx, few); err != nil {
		return err
	}
	fewRates, err := b.eventRates(ctx, few)
	if err != nil {
		return err
	}
	empty, err := b.liveHeap(ctx, 0)
	if err != nil {
		return err
	}
	full, err := b.liveHeap(ctx, n)
	if err != nil {
		return err
	}
	var starts, late []float64
	for round := range b.rounds {
		begin := time.Now()
		p, err := b.startPreauth(ctx, unlimited...)
		if err != nil {
			return err
		}
		starts = append(starts, time.Since(begin).Seconds())
		worst, err := b.renewals(ctx)
		if err = errors.Join(err, p.stop()); err != nil {
			return err
		}
		late = append(late, worst)
		b.progress("components %d: ready after %.2f s, renewals at most %.1f s late", round, starts[round], worst)
	}
	// Their tokens go with the stream that the next program finds.
	if _, err := b.db.ExecContext(ctx, "UPDATE component SET lease = NULL, due_at = NULL"); err != nil {
		return err
	}
	rates, err := b.eventRates(ctx, n)
	if err != nil {
		return err
	}
	row := func(f figure) {
		f.row = "components"
		b.add(f)
	}
	row(figure{what: fmt.Sprintf("warm start with %d components", n), bound: 5, atMost: true, unit: "s", values: starts})
	row(figure{
		what: "live heap for each", bound: 1024, atMost: true, unit: "B", values: []float64{(full - empty) / float64(n)},
		given: fmt.Sprintf("%.1f MiB and %.1f MiB without any", full/(1<<20), empty/(1<<20)),
	})
	row(figure{
		what: fmt.Sprintf("time for an event / that with %d components", few), bound: 1.2, atMost: true, unit: "×",
		values: ratios(fewRates, rates), given: fmt.Sprintf("%.0f/s and %.0f/s", median(rates), median(fewRates)),
	})
	row(figure{
		what: "latest renewal", bound: 3, atMost: true, unit: "s late", values: late,
		given: fmt.Sprintf("%.0f renewals a second, as with codes of 30 minutes", float64(n)/renewedEvery.Seconds()),
	})
	return nil
}

// eventRates returns the events a second with so many components, in each round.
func (b *bench) eventRates(ctx context.Context, components int) ([]float64, error) {
	var found []float64
	for round := range b.rounds {
		err := b.with(ctx, preauthWith(unlimited...), func(p *program) error {
			// No more than there are components in the smaller set, so that none is overtaken.
			got, err := b.sustained(ctx, p, components, 90, b.warmup(), b.length)
			if err != nil {
				return err
			}
			found = append(found, got.perSecond)
			b.progress("components %d: %d components: %.0f/s; %s", round, components, got.perSecond, got.used.perEvent(got.n))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// liveHeap returns how many bytes of heap are in use after a collection, with n components in memory,
// each with its token and its code.
func (b *bench) liveHeap(ctx context.Context, n int) (float64, error) {
	if err := b.seed(ctx, n); err != nil {
		return 0, err
	}
	if err := b.settledTokens(ctx, n); err != nil {
		return 0, err
	}
	// Collecting often, so that the least that is ever in use is what is alive.
	p, err := b.startPreauth(ctx, append(unlimited, "GOGC=5")...)
	if err != nil {
		return 0, err
	}
	least, err := p.leastHeap(ctx)
	return least, errors.Join(err, p.stop())
}

// leastHeap returns the least use of the heap among so many looks at it that there was a collection.
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

// settledTokens gives the token stream an event of each of n components, all of which the service has
// worked on.
func (b *bench) settledTokens(ctx context.Context, n int) error {
	if err := b.recreateTokens(ctx); err != nil || n == 0 {
		return err
	}
	events := newTokens()
	for i := range n {
		if _, err := b.js.PublishAsync(tokenSubject, events.next(i), jetstream.WithStallWait(time.Minute)); err != nil {
			return err
		}
	}
	select {
	case <-b.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	stream, err := b.js.Stream(ctx, tokenStream)
	if err != nil {
		return err
	}
	cons, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:        fmt.Sprintf("preauth-%d", stream.CachedInfo().Created.UTC().UnixMicro()),
		FilterSubjects: []string{tokenSubject, tokenSubject + ".>"}, AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: 4096,
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

// renewedEvery is how long a code of WeChat's 30 minutes serves until it is renewed.
const renewedEvery = 1800 * time.Second * 3 / 4

// renewing is how long the renewals are watched: where they are too slow, they are later and later.
const renewing = 30 * time.Second

// renewals has the components fall due as they do when their codes were made one after the other, and
// returns by how many seconds the latest was late.
func (b *bench) renewals(ctx context.Context) (worst float64, err error) {
	begin := time.Now().UTC()
	_, err = b.db.ExecContext(ctx, "UPDATE component SET lease = NULL, due_at = DATE_ADD(?, INTERVAL FLOOR(RAND() * ?) MICROSECOND)",
		begin, renewedEvery.Microseconds())
	if err != nil {
		return 0, err
	}
	// What fell due while the statement ran is not the service's fault.
	if _, err = b.db.ExecContext(ctx, "UPDATE component SET due_at = ? WHERE due_at < ?", begin.Add(preauth.DefaultTokenLife), time.Now().UTC()); err != nil {
		return 0, err
	}
	for end := time.Now().Add(renewing); time.Now().Before(end); {
		if !sleep(ctx, 500*time.Millisecond) {
			return 0, ctx.Err()
		}
		var oldest *time.Time
		now := time.Now().UTC()
		if err := b.db.QueryRowContext(ctx, "SELECT MIN(due_at) FROM component").Scan(&oldest); err != nil {
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
	if err := b.seed(ctx, components); err != nil {
		return err
	}
	return b.with(ctx, contender{"preauth", func(ctx context.Context, r *rig) (*program, error) {
		return r.startPreauth(ctx, "GOGC=5")
	}}, func(p *program) error {
		if _, err := p.leastHeap(ctx); err != nil { // being looked at costs memory too
			return err
		}
		before, err := p.leastHeap(ctx)
		if err != nil {
			return err
		}
		used := b.usage(p)
		if !sleep(ctx, b.idle) {
			return ctx.Err()
		}
		share := 100 * b.usage(p).since(used).program.Seconds() / b.idle.Seconds()
		after, err := p.leastHeap(ctx)
		if err != nil {
			return err
		}
		b.add(figure{row: "idle", what: fmt.Sprintf("share of a core over %v", b.idle), bound: 1, atMost: true, unit: "%", values: []float64{share}})
		b.add(figure{
			row: "idle", what: "growth of the live heap", bound: 256, atMost: true, unit: "KiB", values: []float64{(after - before) / 1024},
			given: fmt.Sprintf("%.2f MiB and %.2f MiB", after/(1<<20), before/(1<<20)),
		})
		return nil
	})
}
