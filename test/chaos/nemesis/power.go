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
// again each time. A disk keeps a random part of what was not synced, or nothing. The error is about
// what it cannot start again.
func (n *Nemesis) Cut(ctx context.Context, count int) error {
	rng := n.chance("power")
	for range count {
		if !system.Wait(ctx, time.Duration((0.2+1.3*rng.Float64())*float64(time.Second))) {
			return ctx.Err()
		}
		if err := n.cut(ctx, rng); err != nil {
			return err
		}
	}
	return nil
}

func (n *Nemesis) cut(ctx context.Context, rng *rand.Rand) error {
	nats, mysql := []int{rng.IntN(n.System.NATS.Size())}, false
	var replicas []*system.Replica
	kind := "power cut: a NATS server"
	switch rng.IntN(5) {
	case 0:
		nats, mysql, kind = nil, true, "power cut: the database"
	case 1:
		nats, mysql, kind = n.allNATS(), true, "power cut: all servers"
	case 2:
		nats = n.allNATS()
		if len(nats) > 1 {
			kind = "power cut: all NATS servers"
		}
	case 3:
		nats, mysql, replicas, kind = n.allNATS(), true, n.System.Replicas, "power cut: everything"
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

func (n *Nemesis) allNATS() []int {
	all := make([]int, n.System.NATS.Size())
	for i := range all {
		all[i] = i
	}
	return all
}
