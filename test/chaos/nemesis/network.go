package nemesis

import (
	"context"
	"math/rand/v2"
	"time"

	"preauth/test/chaos/history"
	"preauth/test/chaos/system"
)

// network faults happen to the connections of one replica to one of the servers.
func (n *Nemesis) network() []fault {
	poisoned := func(weight int, kind string, longest time.Duration, toxics func(*rand.Rand) []system.Toxic) fault {
		return fault{weight, func(ctx context.Context, rng *rand.Rand) {
			to, proxies := n.connection(rng)
			chosen := toxics(rng)
			n.during(ctx, rng, longest, history.Event{Fault: "connection " + kind + ": " + to, Target: proxies[0].Name}, func() func() error {
				return poison(proxies, chosen)
			})
		}}
	}
	return []fault{
		{4, func(ctx context.Context, rng *rand.Rand) {
			to, proxies := n.connection(rng)
			n.during(ctx, rng, 4*time.Second, history.Event{Fault: "connection cut: " + to, Target: proxies[0].Name}, func() func() error {
				return cut(proxies)
			})
		}},
		poisoned(2, "reset", 2*time.Second, func(*rand.Rand) []system.Toxic {
			return []system.Toxic{{Type: "reset_peer", Stream: system.Downstream}, {Type: "reset_peer", Stream: system.Upstream}}
		}),
		poisoned(3, "half-open", 8*time.Second, func(rng *rand.Rand) []system.Toxic {
			return one(rng,
				[]system.Toxic{{Type: "timeout", Stream: system.Downstream}, {Type: "timeout", Stream: system.Upstream}},
				[]system.Toxic{{Type: "timeout", Stream: system.Upstream}})
		}),
		// The server does what it was asked, and the answer is lost or the connection closed.
		poisoned(4, "answer lost", 4*time.Second, func(rng *rand.Rand) []system.Toxic {
			return []system.Toxic{{Type: one(rng, "timeout", "limit_data"), Stream: system.Downstream, Attributes: map[string]int64{"bytes": 0, "timeout": 0}}}
		}),
		poisoned(3, "slow", 8*time.Second, func(rng *rand.Rand) []system.Toxic {
			return []system.Toxic{one(rng,
				system.Toxic{Type: "latency", Stream: system.Downstream, Attributes: map[string]int64{"latency": 50 + rng.Int64N(2000), "jitter": rng.Int64N(300)}},
				system.Toxic{Type: "latency", Stream: system.Upstream, Attributes: map[string]int64{"latency": 50 + rng.Int64N(2000), "jitter": rng.Int64N(300)}},
				system.Toxic{Type: "bandwidth", Stream: system.Downstream, Attributes: map[string]int64{"rate": 1 + rng.Int64N(20)}},
				system.Toxic{Type: "slicer", Stream: system.Downstream, Attributes: map[string]int64{"average_size": 10, "size_variation": 5, "delay": 500}},
			)}
		}),
	}
}

// connection returns the proxies between a replica and one kind of server, and names the server.
func (n *Nemesis) connection(rng *rand.Rand) (to string, proxies []*system.Proxy) {
	r := n.replica(rng)
	switch rng.IntN(3) {
	case 0:
		return "MySQL", []*system.Proxy{r.MySQL}
	case 1:
		return "WeChat", []*system.Proxy{r.WeChat}
	default:
		if one := rng.IntN(len(r.NATS)); rng.IntN(3) == 0 {
			return "NATS", r.NATS[one : one+1]
		}
		return "NATS", r.NATS
	}
}

func poison(proxies []*system.Proxy, toxics []system.Toxic) (undo func() error) {
	var heals []func()
	for _, p := range proxies {
		heal, err := p.Poison(toxics...)
		heals = append(heals, heal)
		if err != nil {
			for _, heal := range heals {
				heal()
			}
			return nil
		}
	}
	return func() error {
		for _, heal := range heals {
			heal()
		}
		return nil
	}
}
