// Package nemesis breaks a running system, in many ways and in several at once, and repairs what it
// broke.
//
// The seed determines which faults come, to what, for how long and after which pauses. The history
// has each fault from its begin until it was undone.
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

// Options configure a [Nemesis].
type Options struct {
	// Seed determines every choice.
	Seed uint64
	// System is what to break.
	System *system.System
	// Conn reaches NATS past the proxies.
	Conn *nats.Conn
	// Recorder records the history.
	Recorder *history.Recorder
	// MaxSkew is the largest error of a clock.
	MaxSkew time.Duration
	// Partitions leaves out all faults but failovers of the database and partitions of this kind, such
	// as "slow", or of [AllPartitions] or [NoPartitions]. Empty: nothing is left out.
	Partitions string
	// Log gets a line for each fault that cannot be undone.
	Log func(format string, args ...any)
}

// Nemesis breaks things.
type Nemesis struct {
	Options
	tempo atomic.Int64 // a tempo

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
	calm           // so that work can be finished
	tempos
)

// lane causes one fault after the other. pause is the mean time between them, by tempo.
type lane struct {
	name   string
	pause  [tempos]time.Duration
	faults []fault
}

// fault is one kind of fault. act causes it, undoes it at the latest when ctx ends, and returns.
type fault struct {
	weight int
	act    func(context.Context, *rand.Rand)
}

// Run breaks things until ctx ends, and then repairs them. The error is about what it cannot
// repair.
func (n *Nemesis) Run(ctx context.Context) error {
	chosen := n.lanes()
	if !slices.ContainsFunc(chosen[0].faults, func(f fault) bool { return f.weight > 0 }) {
		return fmt.Errorf("no partition is called %q: see docs/reliability.md", n.Partitions)
	}
	var lanes sync.WaitGroup
	if n.System.NATS.Size() > 1 {
		lanes.Go(func() { n.countLeaders(ctx) })
	}
	lanes.Go(func() { n.setTempo(ctx, n.chance("tempo")) })
	for _, l := range chosen {
		lanes.Go(func() { n.follow(ctx, l, n.chance(l.name)) })
	}
	lanes.Wait()
	for i := range n.System.NATS.Size() {
		if err := n.System.NATS.Restart(i); err != nil {
			return fmt.Errorf("start NATS again: %w", err)
		}
	}
	for _, r := range n.System.Replicas {
		_ = r.Continue() // fails if it was not stopped
		if err := r.Start(); err != nil {
			return fmt.Errorf("start %s again: %w", r.Name, err)
		}
	}
	return nil
}

func (n *Nemesis) lanes() []lane {
	partitions := lane{"partition", [tempos]time.Duration{8 * time.Second, 8 * time.Second, time.Minute}, n.partitions()}
	if n.Partitions != "" {
		var lanes []lane
		if n.Partitions != NoPartitions {
			partitions.pause = [tempos]time.Duration{2 * time.Second, 2 * time.Second, 5 * time.Second}
			lanes = append(lanes, partitions)
		}
		if n.System.MySQL.CanFailOver() {
			lanes = append(lanes, lane{"failover", [tempos]time.Duration{5 * time.Second, 5 * time.Second, 10 * time.Second}, []fault{{1, n.failOver}}})
		}
		return lanes
	}
	lanes := []lane{
		{"kill", [tempos]time.Duration{1500 * time.Millisecond, 500 * time.Millisecond, 30 * time.Second}, n.kills()},
		{"process", [tempos]time.Duration{6 * time.Second, 15 * time.Second, time.Minute}, n.processes()},
		{"nats", [tempos]time.Duration{5 * time.Second, 4 * time.Second, time.Minute}, n.natsFaults()},
		{"mysql", [tempos]time.Duration{5 * time.Second, 4 * time.Second, time.Minute}, n.mysqlFaults()},
		{"network 1", [tempos]time.Duration{3 * time.Second, 5 * time.Second, time.Minute}, n.network()},
		{"network 2", [tempos]time.Duration{3 * time.Second, 5 * time.Second, time.Minute}, n.network()},
		{"wechat", [tempos]time.Duration{4 * time.Second, 4 * time.Second, time.Minute}, n.wechat()},
	}
	if n.System.NATS.Size() > 1 {
		lanes = append(lanes, partitions)
	}
	return lanes
}

// setTempo makes faults come often at some times and rarely at others.
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

// pause waits until it is time for the next fault. A change of tempo takes effect on the current
// wait.
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

// during causes a fault with begin, waits for a time of up to longest or until ctx ends, undoes the
// fault with the function that begin returned, and records it. A nil function means that the fault
// could not be caused.
func (n *Nemesis) during(ctx context.Context, rng *rand.Rand, longest time.Duration, e history.Event, begin func() (undo func() error)) {
	e.Op, e.Begin = history.Fault, n.Recorder.Now()
	// Drawn even if begin fails, so that later choices do not depend on that.
	lasts := time.Duration((0.05 + 0.95*rng.Float64()) * float64(longest))
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

// chance returns the random numbers of one lane.
func (n *Nemesis) chance(name string) *rand.Rand {
	var lane uint64
	for _, c := range []byte(name) {
		lane = lane*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(n.Seed, lane))
}

// one returns one of its arguments, at random.
func one[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }
