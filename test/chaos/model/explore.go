package model

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// Script is what happens in a model beside the service, and how often things go wrong.
type Script struct {
	Name   string
	Events []Event
	// Spares is how many spares component 1 is to have.
	Spares int
	// Requests ask for claims of component 1, again and again.
	Requests []Request
	// Reports are the accounts that authorize, 1 or 2, each with any code that was given out.
	Reports []uint8
	// Followed is how many codes a replay follows.
	Followed uint8
	// Crashes, Lost, Late and Failures bound the kills, the lost answers, the delays beyond the
	// leases, and the calls that fail. Ages is how often a code grows older by a half.
	Crashes, Lost, Late, Failures, Ages uint8
}

// Event is a token event in the order of its stream.
type Event struct {
	Component, Token int
	Bad              bool
}

// Request asks for a code for a claim id, 1 or 2.
type Request struct{ ClaimID, Reference uint8 }

// Model is the protocol with a script.
type Model struct {
	Script

	flaws  flaws
	budget budget
	calls  []step // all actions with all arguments
	seed   maphash.Seed
}

type step struct {
	action, a, b uint8
	form         form
}

// form is how an action ends; see action.
type form uint8

const (
	heard form = iota
	unheard
	killed
)

// take takes the step. It reports false if that is not possible.
func (s step) take(m *move) bool {
	act, a, b := actions[s.action], int(s.a), int(s.b)
	if s.form == unheard && !take(&m.left.lost) || s.form == killed && !take(&m.left.crash) || !act.do(m, a, b) {
		return false
	}
	switch {
	case s.form == killed:
		m.restart(a)
	case s.form == heard && act.then != nil:
		act.then(m, a, b)
	}
	return true
}

// New returns the model of the service.
func New(script Script) *Model {
	m := &Model{
		Script: script, seed: maphash.MakeSeed(),
		budget: budget{crash: script.Crashes, lost: script.Lost, late: script.Late, fail: script.Failures, age: script.Ages},
	}
	size := map[kind]int{
		aReplica: replicas, aComponent: components, anEvent: len(script.Events), aCode: maxCodes,
		aRequest: len(script.Requests), aReport: len(script.Reports),
	}
	for n, act := range actions {
		second := 1
		if len(act.by) == 2 {
			second = size[act.by[1]]
		}
		for a := range size[act.by[0]] {
			for b := range second {
				m.calls = append(m.calls, step{uint8(n), uint8(a), uint8(b), heard})
				if act.then != nil {
					m.calls = append(m.calls, step{uint8(n), uint8(a), uint8(b), unheard}, step{uint8(n), uint8(a), uint8(b), killed})
				}
			}
		}
	}
	return m
}

// Mutated returns the model with a mutation, in the script that shows it.
func (u Mutation) Mutated() *Model {
	m := New(script(u.Script))
	u.set(&m.flaws)
	return m
}

// Result is what an exploration found.
type Result struct {
	States, Steps int
	Depth         int
	Took          time.Duration
	// Broken is the promise that is broken, and how; "" if none is. Trace is a shortest way there.
	Broken string
	Trace  []string
}

// String is the result in a line, and the trace.
func (r Result) String() string {
	line := fmt.Sprintf("%d states, %d steps, depth %d, %v", r.States, r.Steps, r.Depth, r.Took.Round(10*time.Millisecond))
	if r.Broken == "" {
		return line
	}
	return fmt.Sprintf("%s\n%s\n    %s", line, r.Broken, strings.Join(r.Trace, "\n    "))
}

// graph is what is known of the states seen so far. States themselves are not kept but for those
// whose steps are still to be taken, so a state is known by its hash: two of n states have the same
// one with a probability of n²/2⁶⁵.
type graph struct {
	index   map[uint64]int32
	parents []int32
	settled []bool
	edges   [][2]int32 // from, to
}

// add returns the number of a state, and whether it is new.
func (g *graph) add(hash uint64, parent int32, settled bool) (int32, bool) {
	if n, ok := g.index[hash]; ok {
		return n, false
	}
	n := int32(len(g.parents))
	g.index[hash] = n
	g.parents, g.settled = append(g.parents, parent), append(g.settled, settled)
	return n, true
}

type found struct {
	state

	number int32
}

// Explore takes every step from every state that can be reached, those with the fewest steps first.
// It ends with the first broken promise. At last it searches for a state from which the system
// cannot settle any more.
func (m *Model) Explore() Result {
	begun := time.Now()
	start := m.start()
	g := &graph{index: map[uint64]int32{}}
	g.add(m.hash(&start), -1, m.isSettled(&start))
	level := []found{{start, 0}}
	var result Result
	for len(level) > 0 && result.Broken == "" {
		var next []found
		for i := range level {
			from := &level[i]
			m.steps(&from.state, func(to *move, _ step) bool {
				broken := to.breach
				if broken == "" {
					broken = m.check(&from.state, &to.state)
				}
				m.canonical(&to.state)
				n, isNew := g.add(m.hash(&to.state), from.number, m.isSettled(&to.state))
				g.edges = append(g.edges, [2]int32{from.number, n})
				if broken != "" {
					result.Broken, result.Trace = broken, m.trace(g, n, from.number)
					return false
				}
				if isNew {
					next = append(next, found{to.state, n})
				}
				return true
			})
			if result.Broken != "" {
				break
			}
		}
		level = next
		result.Depth++
	}
	if result.Broken == "" {
		if n := g.stuck(); n >= 0 {
			result.Broken, result.Trace = "the system settles by itself: it cannot any more", m.trace(g, n, g.parents[n])
		}
	}
	result.States, result.Steps, result.Took = len(g.parents), len(g.edges), time.Since(begun)
	return result
}

func (m *Model) start() state { return state{left: m.budget} }

// steps calls visit with each state that one step leads to, until visit returns false.
func (m *Model) steps(from *state, visit func(*move, step) bool) {
	to := new(move)
	for _, s := range m.calls {
		*to = move{state: *from, Model: m}
		if s.take(to) && !visit(to, s) {
			return
		}
	}
}

// canonical replaces a state by one that stands for all that differ in what does not matter.
func (m *Model) canonical(s *state) {
	s.collect()
	if other := s.swapped(); maphash.Comparable(m.seed, other) < maphash.Comparable(m.seed, *s) {
		*s = other
	}
}

func (m *Model) hash(s *state) uint64 { return maphash.Comparable(m.seed, *s) }

// stuck returns the first state from which no settled one can be reached, -1 if there is none.
func (g *graph) stuck() int32 {
	// The sources of the edges into n are sources[at[n]:at[n+1]].
	at, sources := make([]int32, len(g.parents)+1), make([]int32, len(g.edges))
	for _, e := range g.edges {
		at[e[1]+1]++
	}
	for n := range g.parents {
		at[n+1] += at[n]
	}
	free := slices.Clone(at)
	for _, e := range g.edges {
		sources[free[e[1]]] = e[0]
		free[e[1]]++
	}
	can := make([]bool, len(g.parents))
	var todo []int32
	for n, settled := range g.settled {
		if settled {
			can[n], todo = true, append(todo, int32(n))
		}
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, from := range sources[at[n]:at[n+1]] {
			if !can[from] {
				can[from], todo = true, append(todo, from)
			}
		}
	}
	for n := range can {
		if !can[n] {
			return int32(n)
		}
	}
	return -1
}

// trace returns the steps to a state by way of another one. It takes them again, and the replicas
// keep their numbers.
func (m *Model) trace(g *graph, to, by int32) []string {
	way := []int32{to}
	for n := by; n > 0; n = g.parents[n] {
		way = append(way, n)
	}
	at := m.start()
	var says []string
	for _, wanted := range slices.Backward(way) {
		m.steps(&at, func(next *move, s step) bool {
			same := next.state
			m.canonical(&same)
			if g.index[m.hash(&same)] != wanted {
				return true
			}
			says = append(says, s.String())
			next.collect()
			at = next.state
			return false
		})
	}
	return says
}

// String is the step as a sentence.
func (s step) String() string {
	act := actions[s.action]
	args := []any{s.a + 1, s.b + 1}[:len(act.by)]
	return fmt.Sprintf(act.says, args...) + [...]string{"", ", and the answer is lost", ", and is killed before it knows"}[s.form]
}
