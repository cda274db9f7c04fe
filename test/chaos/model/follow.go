package model

import (
	"fmt"
	"hash/maphash"
	"slices"
)

// letter is something that clients see of a followed code: what, of the first or the second one, and
// a detail. Most are seen in a step; sawLookup, sawLateLookup and sawRow are seen in a state.
type letter struct{ saw, mark, detail uint8 }

const (
	sawNothing    uint8 = iota
	sawUpdate           // its announcement, or that it is spent (1)
	sawClaim            // a claim id gets it
	sawReport           // the report that an account authorized with it
	sawAuthorized       // the announcement that the account did
	sawLookup           // an answer of a replica
	sawLateLookup       // an answer of a replica that has read all that the stream has
	sawRow              // what its row says: use and account
	sawImpossible       // what no state shows
)

// The uses that a row shows: see rowOf.
const noRow, revisionRow, spareRow, claimRow = 0, 1, 2, 3 // claimRow of claim id 1; 4 of claim id 2

// isOfClaim reports whether only a claimed code or a spare can show the letter.
func (l letter) isOfClaim() bool {
	use := l.detail % 8
	return l.saw == sawClaim || l.saw == sawRow && use >= spareRow
}

// follow marks a code that was just issued. It may be any of them.
func (m *move) follow(k int, mark uint8) bool {
	if mark > m.Followed || m.codes[k].use != held || m.codes[k].mark > 0 || m.marked(mark) != nil {
		return false
	}
	m.codes[k].mark = mark
	return true
}

// marked returns the followed code, nil if there is none yet.
func (s *state) marked(mark uint8) *code {
	i := slices.IndexFunc(s.codes[:], func(c code) bool { return c.mark == mark })
	if i < 0 {
		return nil
	}
	return &s.codes[i]
}

// rowOf is the detail of sawRow: the use, and the account of the authorization.
func rowOf(use, account uint8) uint8 { return use + 8*account }

// shows reports whether clients can see a letter in a state.
func (m *Model) shows(s *state, l letter) bool {
	c := s.marked(l.mark)
	if c == nil {
		return false
	}
	switch l.saw {
	case sawRow:
		use := uint8(spareRow)
		switch {
		case c.use == held:
			use = noRow
		case c.revision > 0:
			use = revisionRow
		case c.claim > 0:
			use = claimRow + c.claim - 1
		}
		return l.detail == rowOf(use, c.spent)
	case sawLookup, sawLateLookup:
		for r := range replicas {
			view := s.replicas[r].view[c.component]
			isLate := view.revision >= s.stream[c.component].revision
			if view.code > 0 && s.code(view.code) == c && (l.saw == sawLookup || isLate) && m.serves(s, r, int(c.component), lookup{}) {
				return true
			}
		}
	}
	return false
}

// inOrder reports whether the second followed code has the higher revision, if both have one.
func (s *state) inOrder() bool {
	a, b := s.marked(1), s.marked(2)
	return a == nil || b == nil || b.revision == 0 || a.revision > 0 && a.revision < b.revision
}

// automaton reads the words of a model: what clients see, in order, while everything else that
// happens is hidden from them, and so is what they miss. After each word it knows all states of the
// model that are compatible with it. It has each set of states once.
type automaton struct {
	model  *Model
	states []state
	steps  [][]seenStep
	sets   []bitset
	known  map[uint64]int
	after  map[reading]int
}

type seenStep struct {
	to  int32
	saw letter
}

type reading struct {
	set int
	saw letter
}

type bitset []uint64

func (b bitset) has(n int32) bool { return b[n/64]&(1<<(n%64)) != 0 }

// newAutomaton explores a model whose promises are known to hold.
func newAutomaton(m *Model) *automaton {
	a := &automaton{model: m, known: map[uint64]int{}, after: map[reading]int{}}
	index := map[uint64]int32{}
	add := func(s state) int32 {
		m.canonical(&s)
		hash := m.hash(&s)
		n, ok := index[hash]
		if !ok {
			n = int32(len(a.states))
			index[hash] = n
			a.states = append(a.states, s)
		}
		return n
	}
	add(m.start())
	for len(a.steps) < len(a.states) {
		from := a.states[len(a.steps)]
		var steps []seenStep
		m.steps(&from, func(to *move, _ step) bool {
			if to.inOrder() {
				steps = append(steps, seenStep{add(to.state), to.letter})
			}
			return true
		})
		a.steps = append(a.steps, steps)
	}
	a.add([]int32{0})
	return a
}

// add returns the number of the set of all states that can be reached from some without a letter.
func (a *automaton) add(todo []int32) int {
	set := make(bitset, len(a.states)/64+1)
	for _, n := range todo {
		set[n/64] |= 1 << (n % 64)
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, s := range a.steps[n] {
			if s.saw.saw != sawReport && !set.has(s.to) {
				set[s.to/64] |= 1 << (s.to % 64)
				todo = append(todo, s.to)
			}
		}
	}
	var h maphash.Hash
	h.SetSeed(a.model.seed)
	for _, word := range set {
		maphash.WriteComparable(&h, word)
	}
	n, ok := a.known[h.Sum64()]
	if !ok {
		n = len(a.sets)
		a.known[h.Sum64()] = n
		a.sets = append(a.sets, set)
	}
	return n
}

// read returns the set after a letter, and whether any state is left.
func (a *automaton) read(set int, l letter) (int, bool) {
	at := reading{set, l}
	next, ok := a.after[at]
	if !ok {
		var left []int32
		for n := range int32(len(a.states)) {
			switch {
			case !a.sets[set].has(n):
			case a.model.shows(&a.states[n], l):
				left = append(left, n)
			default:
				for _, s := range a.steps[n] {
					if s.saw == l {
						left = append(left, s.to)
					}
				}
			}
		}
		next = -1
		if len(left) > 0 {
			next = a.add(left)
		}
		a.after[at] = next
	}
	return next, next >= 0
}

// accepts reports whether a word is one of the model, or which letter is the first that is not.
func (a *automaton) accepts(word []letter) (int, bool) {
	set := 0
	for i, l := range word {
		next, ok := a.read(set, l)
		if !ok {
			return i, false
		}
		set = next
	}
	return 0, true
}

// String is the letter in words.
func (l letter) String() string {
	says := [...]string{"nothing", "announced", "claimed by id", "reported for account", "announced as spent by account", "looked up", "looked up late", "row", "impossible"}
	return fmt.Sprintf("code %d %s %d", l.mark, says[l.saw], l.detail)
}
