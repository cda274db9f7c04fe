package model

// The bounds of the model. Replicas are two, and so are components; a script has up to three events.
const (
	replicas   = 2
	components = 2
	maxEvents  = 3
	maxCodes   = 7
	maxAsked   = 3
	claimIDs   = 2
	maxReports = 2
)

// state is everything that the system knows: the tables, the streams, and the memory of each
// replica. Numbers of events, codes, replicas and claim ids count from 1 in it, and 0 stands for
// none.
type state struct {
	// MySQL.
	rows   [components]row
	codes  [maxCodes]code
	outbox [components]uint16 // the revisions of the updates that wait, a bit each
	// NATS.
	events  [maxEvents]event    // the stream of tokens
	reports [maxReports]report  // the stream of authorizations
	stream  [components]message // the last update of each component in PREAUTH
	// The memory of the processes.
	replicas [replicas]replica
	asked    [maxAsked]asking
	// What the model remembers of a run beside that.
	given  [claimIDs]uint8 // the code that was last given to a claim id
	leaked bool            // a token or a code stands in a log or a table
	exited bool            // a replica has ended by itself
	left   budget
}

// row is a component's row.
type row struct {
	revision uint8
	event    uint8 // the newest token event taken
	due      uint8 // never, later or now
	lease    uint8 // the replica that has it; one that has ended is due now
	failed   bool  // the last call failed, and is to be tried again
}

const never, later, now = 0, 1, 2

// code is a code that WeChat issued, with its row in the table if it has one.
type code struct {
	use            uint8
	component      uint8
	revision       uint8
	event          uint8 // whose token it was made with
	age            uint8 // young; old, when it is due for renewal; dead
	overstated     uint8 // by how much its row says that it is younger
	claim          uint8 // the claim id that has it or had it
	reference      uint8
	spent          uint8 // the account that authorized with it
	tellAuthorized uint8 // the announcement of that: waiting in the outbox, or acknowledged
	mark           uint8 // which of the followed codes it is: see replay
}

// The uses of a code. An unclaimed one was taken from its claim id; a used one is a spent spare. One
// that is held is in a replica's hand alone, and lost if it lets go.
const free, held, isCurrent, isRetired, isSpare, isClaimed, isUnclaimed, isUsed = 0, 1, 2, 3, 4, 5, 6, 7

const young, old, dead = 0, 1, 2

// event is a token event in its stream.
type event struct {
	stage, at uint8
	failure   uint8 // of a bad event: waiting in the outbox, or acknowledged
}

// The stages of an event. One that is absent was not yet published.
const absent, waiting, inFlight, acknowledged = 0, 1, 2, 3

// report is an authorization in its stream.
type report struct{ stage, code uint8 }

// message is an update, in the stream or in a view.
type message struct {
	revision, code uint8
	spent          bool
}

// replica is what a process knows. A crash forgets it.
type replica struct {
	read       uint8 // the events that the view of tokens has read
	view       [components]message
	jobs       [components]job     // the key lock: one of each component at a time
	spare      uint8               // a code made ahead of claims, not saved yet
	publishing [components]message // the update under way
}

// job is the work on a component, for a token event or for a renewal.
type job struct {
	stage   uint8
	renewal bool
	event   uint8 // whose token it works with
	code    uint8
	failed  bool
}

// The stages of a job: to call WeChat; with an outcome.
const idle, calling, saving = 0, 1, 2

// asking is a request for a claim.
type asking struct{ stage, at, code uint8 }

// The stages of a claim: after the UPDATE that takes a spare, with success or because the claim id
// has a code; after it found no spare; to call WeChat; with a new code.
const took, noSpare, toCall, toInsert = 1, 2, 3, 4

// budget is how much of what goes wrong, and of what goes on, is left in a run.
type budget struct{ crash, lost, late, fail, age uint8 }

// currentOf returns the number of a component's current code.
func (s *state) currentOf(c int) uint8 {
	for k := range s.codes {
		if s.codes[k].use == isCurrent && int(s.codes[k].component) == c {
			return uint8(k + 1)
		}
	}
	return 0
}

// usable is [repo.CurrentCode.Usable].
func (s *state) usable(k uint8) bool { return k > 0 && s.code(k).spent == 0 && s.code(k).said() < dead }

func (s *state) code(k uint8) *code { return &s.codes[k-1] }

// said is the age of a code as its row has it.
func (c *code) said() uint8 { return c.age - c.overstated }

// collect forgets codes that nobody knows: those that were lost, and retired ones that no view, no
// message and no report names.
func (s *state) collect() {
	var named [maxCodes + 1]bool
	for _, k := range s.given {
		named[k] = true
	}
	for c := range components {
		named[s.stream[c].code] = true
		for r := range replicas {
			x := &s.replicas[r]
			named[x.view[c].code], named[x.jobs[c].code], named[x.publishing[c].code], named[x.spare] = true, true, true, true
		}
	}
	for _, q := range s.asked {
		named[q.code] = true
	}
	for _, a := range s.reports {
		if a.stage != acknowledged {
			named[a.code] = true
		}
	}
	for k := range s.codes {
		c := &s.codes[k]
		over := c.use == held || c.use == isRetired || c.use == isUnclaimed || c.use == isUsed
		if over && c.mark == 0 && c.tellAuthorized != waiting && !named[k+1] {
			*c = code{}
		}
	}
}

// swapped returns the state with the replicas exchanged. No replica is special, so it is as good.
func (s *state) swapped() state {
	t := *s
	swap := func(r *uint8) {
		if *r > 0 {
			*r = 3 - *r
		}
	}
	t.replicas[0], t.replicas[1] = s.replicas[1], s.replicas[0]
	for c := range t.rows {
		swap(&t.rows[c].lease)
	}
	for e := range t.events {
		swap(&t.events[e].at)
	}
	for q := range t.asked {
		swap(&t.asked[q].at)
	}
	return t
}
