package nemesis

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"preauth/test/chaos/history"
	"preauth/test/chaos/system"
)

// The kinds of faults by which the size of a campaign is stated.
const (
	ReplicaKilled = "replica: SIGKILL"
	NATSKilled    = "NATS: SIGKILL"
	MySQLKilled   = "MySQL: SIGKILL"
)

// kills are the faults that kill replicas, which are soon started again.
func (n *Nemesis) kills() []fault {
	return []fault{
		{20, func(ctx context.Context, rng *rand.Rand) { n.kill(ctx, rng, n.replica(rng)) }},
		{1, func(ctx context.Context, rng *rand.Rand) { // all at once
			var all sync.WaitGroup
			for _, r := range n.System.Replicas {
				own := rand.New(rand.NewPCG(rng.Uint64(), 0))
				all.Go(func() { n.kill(ctx, own, r) })
			}
			all.Wait()
		}},
	}
}

func (n *Nemesis) replica(rng *rand.Rand) *system.Replica {
	return n.System.Replicas[rng.IntN(len(n.System.Replicas))]
}

func (n *Nemesis) kill(ctx context.Context, rng *rand.Rand, r *system.Replica) {
	n.during(ctx, rng, 300*time.Millisecond, history.Event{Fault: ReplicaKilled, Target: r.Name}, func() func() error {
		if r.Kill() != nil {
			return nil
		}
		return r.Start
	})
}

// processes are the other things that happen to a replica's process.
func (n *Nemesis) processes() []fault {
	return []fault{
		{3, func(ctx context.Context, rng *rand.Rand) {
			// Sometimes longer than any lease.
			longest := one(rng, 3*time.Second, 8*time.Second, system.Lease+5*time.Second)
			r := n.replica(rng)
			n.during(ctx, rng, longest, history.Event{Fault: "replica: SIGSTOP", Target: r.Name}, func() func() error {
				if r.Stop() != nil {
					return nil
				}
				return func() error {
					if err := r.Continue(); !errors.Is(err, system.ErrDown) { // killed meanwhile
						return err
					}
					return nil
				}
			})
		}},
		{2, func(ctx context.Context, rng *rand.Rand) {
			r := n.replica(rng)
			n.during(ctx, rng, time.Second, history.Event{Fault: "replica: SIGTERM", Target: r.Name}, func() func() error {
				if r.Terminate() != nil {
					return nil
				}
				return r.Start
			})
		}},
		{3, func(ctx context.Context, rng *rand.Rand) {
			r := n.replica(rng)
			offset := time.Duration((2*rng.Float64() - 1) * float64(n.MaxSkew)).Truncate(time.Millisecond)
			e := history.Event{Fault: "replica: clock step", Target: r.Name, Offset: offset}
			n.during(ctx, rng, 15*time.Second, e, func() func() error {
				if r.SetClock(offset) != nil {
					return nil
				}
				return func() error { return r.SetClock(0) }
			})
		}},
	}
}
