package nemesis

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth/test/chaos/history"
	"preauth/test/chaos/system"
)

// repairLimit bounds the time that undoing a fault of a server may take.
const repairLimit = time.Minute

// natsFaults happen to the NATS servers.
func (n *Nemesis) natsFaults() []fault {
	faults := []fault{
		{10, func(ctx context.Context, rng *rand.Rand) {
			n.killNATS(ctx, rng, NATSKilled, rng.IntN(n.System.NATS.Size()))
		}},
		{1, n.fillStore},
	}
	if n.System.NATS.Size() > 1 {
		faults = append(faults, fault{10, func(ctx context.Context, rng *rand.Rand) {
			n.killNATS(ctx, rng, NATSKilled+" of a leader", n.leader(ctx, rng))
		}})
	}
	return faults
}

// leader returns the server that leads one of the streams, or any if that is not known.
func (n *Nemesis) leader(ctx context.Context, rng *rand.Rand) int {
	server, stream := rng.IntN(n.System.NATS.Size()), one(rng, "COMPONENT_TOKENS", "PREAUTH")
	if leader, ok := n.System.NATS.Leader(ctx, n.Conn, stream); ok {
		return leader
	}
	return server
}

func (n *Nemesis) killNATS(ctx context.Context, rng *rand.Rand, kind string, server int) {
	n.during(ctx, rng, 2*time.Second, history.Event{Fault: kind, Target: n.System.NATS.ServerName(server)}, func() func() error {
		n.System.NATS.Kill(server)
		return func() error { return n.System.NATS.Restart(server) }
	})
}

// fillStore fills all the space that JetStream may use, so that nothing more is stored.
func (n *Nemesis) fillStore(ctx context.Context, rng *rand.Rand) {
	const name, subject = "FILLER", "chaos.filler"
	n.during(ctx, rng, 3*time.Second, history.Event{Fault: "NATS: no room for messages", Target: "NATS"}, func() func() error {
		js, err := jetstream.New(n.Conn)
		if err != nil {
			return nil
		}
		filling, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		_, err = js.CreateStream(filling, jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Replicas: n.System.NATS.Size()})
		if err != nil {
			return nil
		}
		for block := make([]byte, 900<<10); err == nil; {
			_, err = js.Publish(filling, subject, block)
		}
		return func() error {
			repairing, cancel := context.WithTimeout(context.WithoutCancel(ctx), repairLimit)
			defer cancel()
			for {
				if err = js.DeleteStream(repairing, name); err == nil || repairing.Err() != nil {
					return err
				}
				system.Wait(repairing, 200*time.Millisecond)
			}
		}
	})
}

// mysqlFaults happen to the database server.
func (n *Nemesis) mysqlFaults() []fault {
	faults := []fault{{8, func(ctx context.Context, rng *rand.Rand) {
		n.during(ctx, rng, 2*time.Second, history.Event{Fault: MySQLKilled, Target: "MySQL"}, func() func() error {
			if n.System.MySQL.Kill() != nil {
				return nil
			}
			return func() error {
				repairing, cancel := context.WithTimeout(context.WithoutCancel(ctx), repairLimit)
				defer cancel()
				return n.System.MySQL.Restart(repairing)
			}
		})
	}}}
	if n.System.MySQL.CanFailOver() {
		faults = append(faults, fault{4, n.failOver})
	}
	if n.System.MySQL.CanBeReadOnly() {
		faults = append(faults, fault{2, func(ctx context.Context, rng *rand.Rand) {
			n.during(ctx, rng, 4*time.Second, history.Event{Fault: "MySQL: read-only", Target: "MySQL"}, func() func() error {
				set := func(on bool) error {
					setting, cancel := context.WithTimeout(context.WithoutCancel(ctx), repairLimit)
					defer cancel()
					return n.System.MySQL.ReadOnly(setting, on)
				}
				if set(true) != nil {
					return nil
				}
				return func() error { return set(false) }
			})
		}})
	}
	return faults
}

// failOver replaces the primary of the database by its replica.
func (n *Nemesis) failOver(ctx context.Context, rng *rand.Rand) {
	kind, mute := "MySQL: failover, old connections read-only", rng.IntN(2) == 0
	if mute {
		kind = "MySQL: failover, old connections half-open"
	}
	n.during(ctx, rng, 8*time.Second, history.Event{Fault: kind, Target: "MySQL"}, func() func() error {
		switching, cancel := context.WithTimeout(context.WithoutCancel(ctx), repairLimit)
		defer cancel()
		undo, err := n.System.MySQL.FailOver(switching, mute)
		if err != nil {
			n.Log("no failover: %v", err)
			return nil
		}
		return func() error {
			repairing, cancel := context.WithTimeout(context.WithoutCancel(ctx), repairLimit)
			defer cancel()
			return undo(repairing)
		}
	})
}
