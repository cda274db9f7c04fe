package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"preauth/test/chaos/history"
	"preauth/test/chaos/system"
)

// LostAtCuts counts, among the faults, the unsynced blocks and changes of directories that power cuts
// lost.
const LostAtCuts = "power cuts: blocks and names lost"

// Cut cuts the power count times, of one server, of several or of everything at once, and starts them
// again each time. A disk keeps a random part of what was not synced, or nothing. Every other cut, on
// average, comes after the system has announced something again, and the rest while it may still
// recover. The error is about what it cannot start again.
func (n *Nemesis) Cut(ctx context.Context, count int) error {
	const patience = 20 * time.Second
	rng := n.chance("power")
	for range count {
		began, recovering := n.Recorder.Now(), rng.IntN(2) == 0
		for !recovering && !n.Recorder.Seen(history.Update, began) && n.Recorder.Now() < began+patience {
			if !system.Wait(ctx, 20*time.Millisecond) {
				return ctx.Err()
			}
		}
		if !system.Wait(ctx, time.Duration((0.1+0.9*rng.Float64())*float64(time.Second))) {
			return ctx.Err()
		}
		if err := n.cut(ctx, rng); err != nil {
			return err
		}
	}
	return nil
}

func (n *Nemesis) cut(ctx context.Context, rng *rand.Rand) error {
	var nats []int
	var mysql bool
	var replicas []*system.Replica
	var kind string
	for i := range n.System.NATS.Size() {
		nats = append(nats, i)
	}
	switch rng.IntN(5) {
	case 0:
		nats, mysql, kind = nil, true, "power cut: the database"
	case 1:
		mysql, kind = true, "power cut: all servers"
	case 2:
		mysql, replicas, kind = true, n.System.Replicas, "power cut: everything"
	default:
		kind = "power cut: NATS"
		if len(nats) > 1 && rng.IntN(2) == 0 {
			nats, kind = []int{rng.IntN(len(nats))}, "power cut: a NATS server"
		} else if len(nats) > 1 && rng.IntN(2) == 0 {
			nats, kind = []int{n.leader(ctx, rng)}, "power cut: a NATS server that leads"
		}
	}
	e := history.Event{Op: history.Fault, Fault: kind, Target: "power", Begin: n.Recorder.Now()}
	lost, err := n.lose(rng, nats, mysql, replicas)
	if err != nil {
		return err
	}
	var failed error
	for _, i := range nats {
		failed = errors.Join(failed, n.System.NATS.Restart(i))
	}
	if mysql {
		starting, cancel := context.WithTimeout(ctx, repairLimit)
		defer cancel()
		failed = errors.Join(failed, n.System.MySQL.Restart(starting))
	}
	for _, r := range replicas {
		failed = errors.Join(failed, r.Start())
	}
	if failed != nil {
		return fmt.Errorf("start again after %s: %w", kind, failed)
	}
	n.mu.Lock()
	n.counts[kind]++
	n.counts[LostAtCuts] += lost
	n.mu.Unlock()
	if e.End = n.Recorder.Now(); mysql {
		e.End += 10 * time.Second // the replicas have to connect again, or to start
	}
	n.Recorder.Add(e)
	return nil
}

// lose kills what is cut, and lets its disks forget. It returns how much they forgot.
func (n *Nemesis) lose(rng *rand.Rand, nats []int, mysql bool, replicas []*system.Replica) (lost int, err error) {
	seed := func() uint64 {
		if rng.IntN(3) == 0 {
			return 0 // everything
		}
		return rng.Uint64()
	}
	for _, r := range replicas {
		_ = r.Kill() // fails if it does not run
	}
	// All are killed before the first disk forgets, so that none goes on for long without another.
	for _, i := range nats {
		n.System.NATS.Kill(i)
	}
	for _, i := range nats {
		forgot, err := n.System.NATS.Cut(i, seed())
		if err != nil {
			return 0, err
		}
		lost += forgot
	}
	if mysql {
		forgot, err := n.System.MySQL.Cut(seed())
		if err != nil {
			return 0, err
		}
		lost += forgot
	}
	return lost, nil
}
