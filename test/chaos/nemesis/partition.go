package nemesis

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"preauth/test/chaos/history"
	"preauth/test/chaos/system"
)

// Partition begins the kind of each fault that keeps NATS servers from one another.
const Partition = "NATS partition: "

// AllPartitions stands for partitions of every kind, and NoPartitions for none.
const (
	AllPartitions = "all"
	NoPartitions  = "none"
)

// partitionLimit is how long a partition may last. Another leader is elected after 4 to 9 seconds.
const partitionLimit = 15 * time.Second

// partitions are faults of the lines between the servers of a NATS cluster.
func (n *Nemesis) partitions() []fault {
	cluster := n.System.NATS
	partition := func(weight int, kind string, begin func(*rand.Rand, int) (undo func() error)) fault {
		if n.Partitions != "" && n.Partitions != AllPartitions && n.Partitions != kind {
			weight = 0
		}
		return fault{weight, func(ctx context.Context, rng *rand.Rand) {
			server := n.someServer(ctx, rng)
			own := rand.New(rand.NewPCG(rng.Uint64(), 0))
			n.during(ctx, rng, partitionLimit, history.Event{Fault: Partition + kind, Target: cluster.ServerName(server)}, func() func() error {
				return begin(own, server)
			})
		}}
	}
	return []fault{
		// The others are a majority.
		partition(4, "a server alone", func(rng *rand.Rand, server int) func() error {
			if rng.IntN(2) == 0 {
				return cut(n.linesOf(server))
			}
			return n.silence(server, true, true)
		}),
		partition(2, "no majority", func(_ *rand.Rand, server int) func() error {
			return cut(append(n.linesOf(server), cluster.Lines((server+1)%3, (server+2)%3)...))
		}),
		partition(2, "a server is not heard", func(_ *rand.Rand, server int) func() error { return n.silence(server, true, false) }),
		partition(2, "a server does not hear", func(_ *rand.Rand, server int) func() error { return n.silence(server, false, true) }),
		// Both reach the third one.
		partition(3, "between two servers", func(_ *rand.Rand, server int) func() error { return cut(cluster.Lines(server, (server+1)%3)) }),
		partition(2, "a server comes and goes", func(rng *rand.Rand, server int) func() error { return flap(rng, n.linesOf(server)) }),
		partition(8, "slow", func(rng *rand.Rand, server int) func() error {
			latency := map[string]int64{"latency": 100 + rng.Int64N(4000), "jitter": rng.Int64N(300)}
			return poison(n.linesOf(server), []system.Toxic{
				{Type: "latency", Stream: system.Upstream, Attributes: latency}, {Type: "latency", Stream: system.Downstream, Attributes: latency},
			})
		}),
		partition(3, "a server alone with a replica", func(rng *rand.Rand, server int) func() error {
			var others []*system.Proxy
			for i, p := range n.replica(rng).NATS {
				if i != server {
					others = append(others, p)
				}
			}
			return cut(append(n.linesOf(server), others...))
		}),
	}
}

// someServer returns a NATS server, more often than not the leader of a stream.
func (n *Nemesis) someServer(ctx context.Context, rng *rand.Rand) int {
	server, leads := rng.IntN(n.System.NATS.Size()), one(rng, "COMPONENT_TOKENS", "PREAUTH", "")
	if leads != "" {
		if leader, ok := n.System.NATS.Leader(ctx, n.Conn, leads); ok {
			return leader
		}
	}
	return server
}

// linesOf returns the lines between a server and the others.
func (n *Nemesis) linesOf(server int) (lines []*system.Proxy) {
	for other := range n.System.NATS.Size() {
		if other != server {
			lines = append(lines, n.System.NATS.Lines(server, other)...)
		}
	}
	return lines
}

// silence lets the connections of a server stand and drops what it sends, or what it is sent.
func (n *Nemesis) silence(server int, sent, received bool) (undo func() error) {
	var heals []func()
	undo = func() error {
		for _, heal := range heals {
			heal()
		}
		return nil
	}
	drop := func(from, to int) bool {
		heal, err := n.System.NATS.Silence(from, to)
		if err == nil {
			heals = append(heals, heal)
		}
		return err == nil
	}
	for other := range n.System.NATS.Size() {
		if other != server && (sent && !drop(server, other) || received && !drop(other, server)) {
			_ = undo()
			return nil
		}
	}
	return undo
}

// cut closes connections and refuses new ones.
func cut(lines []*system.Proxy) (undo func() error) {
	for _, p := range lines {
		p.Cut()
	}
	return func() error {
		var errs []error
		for _, p := range lines {
			errs = append(errs, p.Restore())
		}
		return errors.Join(errs...)
	}
}

// flap cuts and restores lines again and again, for up to two seconds each.
func flap(rng *rand.Rand, lines []*system.Proxy) (undo func() error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		some := func() time.Duration { return time.Duration(rng.Int64N(int64(2 * time.Second))) }
		for {
			restore := cut(lines)
			system.Wait(ctx, some())
			if err := restore(); err != nil || !system.Wait(ctx, some()) {
				ended <- err
				return
			}
		}
	}()
	return func() error {
		stop()
		return <-ended
	}
}

// countLeaders counts how often leaders are elected, until ctx ends.
func (n *Nemesis) countLeaders(ctx context.Context) {
	err := n.System.NATS.WatchLeaders(ctx, func(what string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.counts["NATS: leader of a "+what+" elected"]++
	})
	if err != nil {
		n.Log("leaders not watched: %v", err)
	}
}
