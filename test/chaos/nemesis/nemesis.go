// Package nemesis breaks a system that runs, in many ways and several at once, and mends what it broke.
//
// Which faults come, of what, for how long and after what pause is decided by the seed. The faults are put
// into the history from their beginning to the time at which they were undone.
package nemesis

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"preauth/test/chaos/history"
	"preauth/test/chaos/system"
)

// Options say what to break.
type Options struct {
	// Seed decides on every choice.
	Seed uint64
	// System is what to break.
	System *system.System
	// Conn reaches NATS past the proxies.
	Conn *nats.Conn
	// Recorder takes the history.
	Recorder *history.Recorder
	// MaxSkew is by how much a clock is wrong at most.
	MaxSkew time.Duration
	// Log takes a line for each fault that cannot be brought about or undone.
	Log func(format string, args ...any)
}

// Nemesis breaks things.
type Nemesis struct {
	Options
	tempo atomic.Int64 // of what, see tempos

	mu     sync.Mutex
	counts map[string]int
}

// New returns a nemesis that has done nothing yet.
func New(opts Options) *Nemesis { return &Nemesis{Options: opts, counts: map[string]int{}} }

// Counts returns how often each kind of fault came.
func (n *Nemesis) Counts() map[string]int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.counts)
}

// tempo is how often faults come.
type tempo int64

const (
	ordinary tempo = iota
	storm          // replicas are killed again and again
	calm           // so that something can be finished
	tempos
)

// lane brings about one fault after the other. pause is the mean time between them, by tempo.
type lane struct {
	name   string
	pause  [tempos]time.Duration
	faults []fault
}

// fault is one kind of fault. act returns when it is undone, which it does when ctx ends at the latest.
type fault struct {
	weight int
	act    func(context.Context, *rand.Rand)
}

// Run breaks things until ctx ends, and then mends what is broken. The error is about what cannot be mended.
func (n *Nemesis) Run(ctx context.Context) error {
	var lanes sync.WaitGroup
	lanes.Go(func() { n.setTempo(ctx, n.chance("tempo")) })
	for _, l := range n.lanes() {
		lanes.Go(func() { n.follow(ctx, l, n.chance(l.name)) })
	}
	lanes.Wait()
	for i := range n.System.NATS.Size() {
		if err := n.System.NATS.Restart(i); err != nil {
			return fmt.Errorf("start NATS again: %w", err)
		}
	}
	for _, r := range n.System.Replicas {
		_ = r.Continue() // one that was not stopped is well
		if err := r.Start(); err != nil {
			return fmt.Errorf("start %s again: %w", r.Name, err)
		}
	}
	return nil
}

func (n *Nemesis) lanes() []lane {
	return []lane{
		{"kill", [tempos]time.Duration{1500 * time.Millisecond, 500 * time.Millisecond, 30 * time.Second}, n.kills()},
		{"process", [tempos]time.Duration{6 * time.Second, 15 * time.Second, time.Minute}, n.processes()},
		{"nats", [tempos]time.Duration{5 * time.Second, 4 * time.Second, time.Minute}, n.natsFaults()},
		{"mysql", [tempos]time.Duration{5 * time.Second, 4 * time.Second, time.Minute}, n.mysqlFaults()},
		{"network 1", [tempos]time.Duration{3 * time.Second, 5 * time.Second, time.Minute}, n.network()},
		{"network 2", [tempos]time.Duration{3 * time.Second, 5 * time.Second, time.Minute}, n.network()},
		{"wechat", [tempos]time.Duration{4 * time.Second, 4 * time.Second, time.Minute}, n.wechat()},
	}
}

// setTempo lets faults come now often, now seldom.
func (n *Nemesis) setTempo(ctx context.Context, rng *rand.Rand) {
	for {
		for _, next := range []struct {
			tempo
			seconds int
		}{{ordinary, 15}, {storm, 20}, {calm, 6}} {
			n.tempo.Store(int64(next.tempo))
			if !system.Wait(ctx, time.Duration(float64(next.seconds)*(0.5+rng.Float64())*float64(time.Second))) {
				return
			}
		}
	}
}

func (n *Nemesis) follow(ctx context.Context, l lane, rng *rand.Rand) {
	var total int
	for _, f := range l.faults {
		total += f.weight
	}
	for n.pause(ctx, l, rng) {
		choice := rng.IntN(total)
		chosen := slices.IndexFunc(l.faults, func(f fault) bool { choice -= f.weight; return choice < 0 })
		l.faults[chosen].act(ctx, rng)
	}
}

// pause waits until it is time for the next fault. A change of tempo changes the wait that goes on.
func (n *Nemesis) pause(ctx context.Context, l lane, rng *rand.Rand) bool {
	const step = 50 * time.Millisecond
	for left := rng.ExpFloat64(); left > 0; {
		if !system.Wait(ctx, step) {
			return false
		}
		left -= float64(step) / float64(l.pause[n.tempo.Load()])
	}
	return ctx.Err() == nil
}

// during records a fault that is brought about by begin and undone by the function that it returns, after it
// lasted for a time up to longest or until ctx ends. A nil function means that it could not be brought about.
func (n *Nemesis) during(ctx context.Context, rng *rand.Rand, longest time.Duration, e history.Event, begin func() (undo func() error)) {
	e.Op, e.Begin = history.Fault, n.Recorder.Now()
	lasts := time.Duration((0.05 + 0.95*rng.Float64()) * float64(longest)) // drawn in any case: the choices to come do not depend on luck
	undo := begin()
	if undo == nil {
		return
	}
	n.mu.Lock()
	n.counts[e.Fault]++
	n.mu.Unlock()
	system.Wait(ctx, lasts)
	if err := undo(); err != nil {
		n.Log("%s of %s not undone: %v", e.Fault, e.Target, err)
	}
	e.End = n.Recorder.Now()
	n.Recorder.Add(e)
}

// chance returns the choices of one lane.
func (n *Nemesis) chance(name string) *rand.Rand {
	var lane uint64
	for _, c := range []byte(name) {
		lane = lane*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(n.Seed, lane))
}

// one returns one of a few, by chance.
func one[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }
