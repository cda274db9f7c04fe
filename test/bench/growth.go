package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"preauth"
	"preauth/repo"
)

// measureGrowth measures the working tree's service alone.
func measureGrowth(ctx context.Context, b *bench) error {
	service := b.services()[0]
	for _, measure := range []func(context.Context, contender) error{b.growComponents, b.growReplicas, b.growBatches} {
		if err := measure(ctx, service); err != nil {
			return err
		}
	}
	return nil
}

// growComponents measures events a second with more and more components.
func (b *bench) growComponents(ctx context.Context, service contender) error {
	var c curve
	for n := 100; n <= b.components; n *= 10 {
		rates, err := b.eventRates(ctx, []contender{service}, n)
		if err != nil {
			return err
		}
		var both []float64
		for f := range forms {
			both = append(both, rates[f][0]...)
		}
		c.add(float64(n), both)
	}
	b.note("events/s by components: %v", &c)
	return b.plotCurve("components", "Events a second by components", "components", "events/s", true, c)
}

// growReplicas measures events a second with more and more replicas on the same machine.
func (b *bench) growReplicas(ctx context.Context, service contender) error {
	const components = 10_000
	if err := b.seed(ctx, components, service); err != nil {
		return err
	}
	var c curve
	for replicas := 1; replicas <= 4; replicas++ {
		var rates []float64
		for range b.rounds {
			err := b.with(ctx, service, func(p *program) (err error) {
				for range replicas - 1 {
					more, startErr := service.start(ctx, p.place)
					if startErr != nil {
						return startErr
					}
					defer func() { err = errors.Join(err, more.stop()) }()
				}
				got, err := p.sustained(ctx, forms[1], components, underWay, b.warmup(), b.length)
				rates = append(rates, got.perSecond)
				return err
			})
			if err != nil {
				return err
			}
		}
		b.progress("growth: %d replicas: %.0f/s", replicas, median(rates))
		c.add(float64(replicas), rates)
	}
	b.note("events/s by replicas: %v", &c)
	return b.plotCurve("replicas", "Events a second by replicas on one machine", "replicas", "events/s", false, c)
}

// growBatches measures the saving call with more and more outcomes in one transaction.
func (b *bench) growBatches(ctx context.Context, service contender) error {
	const components = 1000
	p, err := b.place(ctx, service.name)
	if err != nil {
		return err
	}
	var c curve
	for _, size := range []int{1, 2, 5, 10, 20, 50, 100} {
		if err := p.seed(ctx, components); err != nil {
			return err
		}
		var rates []float64
		for range b.rounds {
			saved, begin := 0, time.Now()
			for time.Since(begin) < b.length/5 {
				outcomes := make([]repo.Outcome, size)
				now := time.Now().UTC()
				for i := range outcomes {
					outcomes[i] = repo.Outcome{
						AppID: appID((saved + i) % components), Cause: preauth.CauseToken, At: now, DueAt: now.Add(23 * time.Hour),
						Token: repo.Token{
							Position:  repo.Position{Stream: "growth", StreamCreated: begin, Sequence: uint64(saved + i + 1), Time: now},
							ExpiresAt: now.Add(2 * time.Hour), Fingerprint: repo.FingerprintOf(newCode()),
						},
						Code: &repo.Code{PreAuthCode: newCode(), IssuedAt: now, ExpiresAt: now.Add(24 * time.Hour)},
					}
				}
				if _, err := p.repo.Save(ctx, outcomes); err != nil {
					return err
				}
				saved += size
			}
			rates = append(rates, float64(saved)/time.Since(begin).Seconds())
		}
		b.progress("growth: batches of %d: %.0f/s", size, median(rates))
		c.add(float64(size), rates)
	}
	b.note("codes/s saved by one connection, by batch size: %v", &c)
	return b.plotCurve("batches", "Codes a second saved by one connection, by outcomes in a transaction", "outcomes", "codes/s", true, c)
}

// curve is what was measured for each value on an axis.
type curve struct {
	x      []float64
	rounds [][]float64
}

func (c *curve) add(x float64, rounds []float64) {
	c.x, c.rounds = append(c.x, x), append(c.rounds, rounds)
}

// String lists the medians.
func (c *curve) String() string {
	var points []string
	for i, x := range c.x {
		points = append(points, fmt.Sprintf("%g: %.0f", x, median(c.rounds[i])))
	}
	return strings.Join(points, ", ")
}
