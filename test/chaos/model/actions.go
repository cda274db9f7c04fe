package model

// action is a step that the system can take. Each of its arguments is one of a kind.
//
// One that writes something outside of the process comes in three forms, as the harness and
// TestEveryWriteBothWays have them: then follows; the answer is lost, and the replica does not know;
// or the replica is killed before it knows. The replica is the first argument.
type action struct {
	says string // with the arguments, counted from 1
	by   []kind
	do   func(m *move, a, b int) bool // false if it is not possible now
	then func(m *move, a, b int)
}

// kind is what an argument counts.
type kind int

const (
	aReplica kind = iota
	aComponent
	anEvent
	aCode
	aRequest
	aReport
)

// actions is the protocol: all that can happen. The functions say which part of the service they
// are.
var actions = []action{
	{"the token service publishes event %d", []kind{anEvent}, (*move).publish, nil},
	{"replica %d reads the next token event into its view", []kind{aReplica}, (*move).readToken, nil},
	{"replica %d takes event %d and decides", []kind{aReplica, anEvent}, (*move).take, nil},
	{"replica %d gives up its work on component %d", []kind{aReplica, aComponent}, (*move).giveUp, nil},
	{"replica %d calls WeChat for component %d, which gives a code", []kind{aReplica, aComponent}, (*move).call, (*move).called},
	{"replica %d calls WeChat for component %d, which answers late", []kind{aReplica, aComponent}, (*move).callSlowly, nil},
	{"replica %d calls WeChat for component %d, which fails", []kind{aReplica, aComponent}, (*move).callInVain, nil},
	{"replica %d commits its outcome for component %d, tells of it, acknowledges", []kind{aReplica, aComponent}, (*move).commit, (*move).committed},
	{"replica %d finds the update of component %d in the outbox", []kind{aReplica, aComponent}, (*move).sweep, nil},
	{"replica %d publishes the update of component %d and deletes its outbox row", []kind{aReplica, aComponent}, (*move).announce, (*move).announced},
	{"a replica publishes the failure of event %d", []kind{anEvent}, (*move).announceFailure, nil},
	{"replica %d reads the last update of component %d into its view", []kind{aReplica, aComponent}, (*move).readUpdate, nil},
	{"replica %d leases component %d, which is due", []kind{aReplica, aComponent}, (*move).leaseDue, nil},
	{"replica %d leases component %d for a look-up", []kind{aReplica, aComponent}, (*move).demand, nil},
	{"the lease of component %d, whose holder has gone, ends", []kind{aComponent}, (*move).leaseEnds, nil},
	{"the lease of component %d ends too early", []kind{aComponent}, (*move).leaseEndsEarly, nil},
	{"event %d is redelivered too early", []kind{anEvent}, (*move).redeliverEarly, nil},
	{"replica %d is killed and starts again", []kind{aReplica}, (*move).crash, nil},
	{"code %d grows older", []kind{aCode}, (*move).age, nil},

	{"replica %d takes a spare for request %d, if it can", []kind{aReplica, aRequest}, (*move).takeSpare, (*move).tookSpare},
	{"request %d gets what its claim id has", []kind{aRequest}, (*move).serveClaim, nil},
	{"the replica calls WeChat for request %d", []kind{aRequest}, (*move).callForClaim, nil},
	{"replica %d inserts the new code of request %d", []kind{aReplica, aRequest}, (*move).insertClaim, (*move).insertedClaim},
	{"replica %d calls WeChat for a spare", []kind{aReplica}, (*move).makeSpare, nil},
	{"replica %d saves its spare", []kind{aReplica}, (*move).saveSpare, (*move).savedSpare},

	{"somebody authorizes (report %d) with code %d", []kind{aReport, aCode}, (*move).authorize, nil},
	{"replica %d marks the code of report %d as spent and tells of it", []kind{aReplica, aReport}, (*move).spend, (*move).spentCode},
	{"replica %d does not reach MySQL with report %d", []kind{aReplica, aReport}, (*move).spendInVain, nil},
	{"a replica publishes that code %d is spent", []kind{aCode}, (*move).announceAuthorized, nil},

	{"code %d is the first to be followed", []kind{aCode}, func(m *move, k, _ int) bool { return m.follow(k, 1) }, nil},
	{"code %d is the second to be followed", []kind{aCode}, func(m *move, k, _ int) bool { return m.follow(k, 2) }, nil},
}

// move is a state in which an action is taking place.
type move struct {
	state

	*Model

	letter letter // what clients see of it
	breach string // the promise that it breaks by itself, and how
	answer answer // of MySQL or WeChat
}

// answer is what an action brings that only the replica hears which did it.
type answer struct {
	code  uint8
	stage uint8
}

// breaks notes that the action itself breaks a promise.
func (m *move) breaks(promise, how string) { m.breach = promise + ": " + how }

// take takes one of a budget, if there is one.
func take(left *uint8) bool {
	if *left == 0 {
		return false
	}
	*left--
	return true
}

// isCalm reports that nothing has gone wrong yet.
func (m *move) isCalm() bool {
	return m.left.crash == m.budget.crash && m.left.lost == m.budget.lost && m.left.late == m.budget.late
}

// The stream of tokens.

func (m *move) publish(e, _ int) bool {
	if m.events[e].stage != absent || e > 0 && m.events[e-1].stage == absent {
		return false
	}
	m.events[e].stage = waiting
	return true
}

// readToken is [view.Tokens.Add] and Read.
func (m *move) readToken(r, _ int) bool {
	x := &m.replicas[r]
	if int(x.read) >= len(m.Events) || m.events[x.read].stage == absent {
		return false
	}
	x.read++
	return true
}

// newest returns the newest good event of a component that a replica has read.
func (m *move) newest(r, c int) uint8 {
	for e := int(m.replicas[r].read) - 1; e >= 0; e-- {
		if m.Events[e].Component == c && !m.Events[e].Bad {
			return uint8(e + 1)
		}
	}
	return 0
}

// first returns the first of the consecutive events, up to the given one, that announce its token.
func (m *move) first(event uint8) uint8 {
	first := event
	for e := int(event) - 2; e >= 0; e-- {
		switch other := m.Events[e]; {
		case other.Bad || other.Component != m.Events[event-1].Component:
		case other.Token == m.Events[event-1].Token:
			first = uint8(e + 1)
		default:
			return first
		}
	}
	return first
}

func (m *move) sameToken(a, b uint8) bool {
	return a > 0 && b > 0 && m.Events[a-1].Token == m.Events[b-1].Token
}

// superseded is [view.Tokens.Superseded].
func (m *move) superseded(r, c int, event uint8) bool {
	newest := m.newest(r, c)
	if newest == 0 || m.flaws.eventsNotCompared {
		return false
	}
	first := m.first(newest)
	return first > event || event > first && newest > event
}

// take is worker.work in event.go up to the decision. An event that goes back to the stream for a
// moment, or that waits for the view, is one that is taken later. Both waits end after some seconds.
func (m *move) take(r, e int) bool {
	event, c := &m.events[e], m.Events[e].Component
	j, number := &m.replicas[r].jobs[c], uint8(e+1)
	if event.stage != waiting || j.stage != idle || int(m.replicas[r].read) < e && !take(&m.left.late) {
		return false
	}
	row, current := &m.rows[c], m.currentOf(c)
	keep := m.usable(current) && m.sameToken(m.code(current).event, number)
	switch first := m.first(number); {
	case m.Events[e].Bad && m.flaws.badEventIgnored:
		event.stage = acknowledged
		return true
	case m.Events[e].Bad && m.flaws.badEventExits:
		m.exited = true
		m.restart(r)
		return true
	case m.Events[e].Bad:
		j.stage = saving
	case m.superseded(r, c, number), number <= row.event && !m.flaws.eventsNotCompared:
		event.stage = acknowledged
		return true
	case first < number && first > row.event && !take(&m.left.late): // its first event is still worked on
		return false
	case keep && !m.flaws.repeatedTokenCosts:
		j.stage = saving
	default:
		j.stage = calling
	}
	event.stage, event.at, j.event = inFlight, uint8(r+1), number
	if m.flaws.acknowledgedWhenTaken {
		event.stage, event.at = acknowledged, 0
	}
	return true
}

func (m *move) redeliverEarly(e, _ int) bool {
	if m.events[e].stage != inFlight || !take(&m.left.late) {
		return false
	}
	m.events[e].stage, m.events[e].at = waiting, 0
	return true
}

// WeChat.

// issue has WeChat give a code. The code is in the replica's hand.
func (m *move) issue(c int, event uint8) uint8 {
	for k := range m.codes {
		if m.codes[k].use == free {
			m.codes[k] = code{use: held, component: uint8(c), event: event}
			m.leaked = m.leaked || m.flaws.tokenLogged || m.flaws.codeLogged
			return uint8(k + 1)
		}
	}
	panic("the model has too few codes") // a mistake in the bounds
}

// unwanted is what an order of issuer.issue calls so: a newer token was announced, or the lease
// ended.
func (m *move) unwanted(r, c int) bool {
	j, row := &m.replicas[r].jobs[c], &m.rows[c]
	ended := j.renewal && (row.lease != uint8(r+1) || row.due == now)
	return ended || m.superseded(r, c, j.event)
}

// giveUp ends a job that is unwanted. Its event is left to the newer one.
func (m *move) giveUp(r, c int) bool {
	j := &m.replicas[r].jobs[c]
	if j.stage != calling || !m.unwanted(r, c) {
		return false
	}
	if !j.renewal {
		m.acknowledge(r, j.event)
	}
	*j = job{}
	return true
}

// acknowledge ends an event, unless it was redelivered since.
func (m *move) acknowledge(r int, number uint8) {
	if e := &m.events[number-1]; e.at == uint8(r+1) {
		e.stage, e.at = acknowledged, 0
	}
}

// asks reports whether a job calls WeChat now: issuer.call. A lease that has ended need not keep it
// from that: the replica learns of it when it extends the lease.
func (m *move) asks(r, c int) bool {
	j := &m.replicas[r].jobs[c]
	if j.stage != calling || m.superseded(r, c, j.event) {
		return false
	}
	// Only what is certain while nothing goes wrong is a breach.
	current := m.currentOf(c)
	if m.isCalm() && m.usable(current) && m.sameToken(m.code(current).event, j.event) && m.code(current).age == young {
		m.breaks("frugal", "a call for a token that has a young code")
	}
	return true
}

func (m *move) call(r, c int) bool {
	if !m.asks(r, c) {
		return false
	}
	m.answer.code = m.issue(c, m.replicas[r].jobs[c].event)
	if m.flaws.announcedBeforeCommit {
		m.store(c, message{revision: m.rows[c].revision + 1, code: m.answer.code})
	}
	return true
}

func (m *move) called(r, c int) {
	j := &m.replicas[r].jobs[c]
	j.code, j.stage = m.answer.code, saving
}

// callSlowly is a call whose code has grown old when its answer comes.
func (m *move) callSlowly(r, c int) bool {
	if !m.call(r, c) || !take(&m.left.age) {
		return false
	}
	m.called(r, c)
	code := m.code(m.answer.code)
	code.age = old
	if m.flaws.lifeFromAnswer {
		code.overstated = 1
	}
	return true
}

// callInVain is a call that fails until a failure is recorded.
func (m *move) callInVain(r, c int) bool {
	if !m.asks(r, c) || !take(&m.left.fail) {
		return false
	}
	m.replicas[r].jobs[c].stage, m.replicas[r].jobs[c].failed = saving, true
	m.leaked = m.leaked || m.flaws.tokenStored || m.flaws.tokenLogged
	return true
}

// The transaction.

// save is plan.apply for the outcome of a job. Locks make it one step.
func (m *move) save(c int, j job) {
	row, current := &m.rows[c], m.currentOf(c)
	served := m.usable(current) && m.sameToken(m.code(current).event, j.event)
	if row.lease > 0 && j.event < row.event && m.sameToken(j.event, row.event) {
		j.event = row.event
	}
	older := j.event < row.event
	switch {
	case m.Events[j.event-1].Bad:
		m.events[j.event-1].failure = max(waiting, m.events[j.event-1].failure)
	case j.code > 0 && j.code == current: // saved before
		if j.event > row.event {
			m.record(c, j)
		}
	case older && !m.flaws.eventsNotCompared:
	case j.event == row.event && !j.renewal && (j.code > 0 || j.failed) && served && !m.flaws.repeatedTokenCosts:
	case j.code > 0 && m.code(j.code).use != held: // saved before, and replaced since
	case j.code > 0:
		if current > 0 {
			m.code(current).use = isRetired
		}
		row.revision++
		k := m.code(j.code)
		k.use, k.revision = isCurrent, row.revision
		m.outbox[c] |= 1 << row.revision
		m.record(c, j)
	case j.failed:
		m.record(c, j)
	case served && row.lease > 0: // keeps the lease
		row.event, row.failed = j.event, false
	default:
		m.record(c, j)
		if !served {
			row.due = now
		}
	}
}

// record is component.record: it ends the lease.
func (m *move) record(c int, j job) {
	row, k := &m.rows[c], m.currentOf(c)
	row.event, row.failed, row.lease, row.due = j.event, j.failed, 0, later
	if j.failed || k > 0 && m.code(k).said() > young || m.flaws.renewedTooEarly {
		row.due = now // a wait between attempts passes unseen
	}
}

// commit is committer.do. A batch is as good as its outcomes one after the other.
func (m *move) commit(r, c int) bool {
	j := m.replicas[r].jobs[c]
	if j.stage != saving {
		return false
	}
	m.save(c, j)
	return true
}

// committed is committer.tell and delivery.end. They are one step with the commit, because a replica
// that has yet to tell is, to all others, one that is behind. A lost acknowledgement is as if the
// replica were killed before it.
func (m *move) committed(r, c int) {
	j := &m.replicas[r].jobs[c]
	if j.code > 0 && j.code == m.currentOf(c) {
		m.tell(r, c)
	}
	if !j.renewal {
		m.acknowledge(r, j.event)
	}
	*j = job{}
}

// tell is committer.announce of the current code.
func (m *move) tell(r, c int) {
	x, update := &m.replicas[r], m.updateOf(c)
	m.view(r, c, update)
	if x.publishing[c].revision == 0 {
		x.publishing[c] = update
	}
}

// updateOf is the update that announces the current code.
func (s *state) updateOf(c int) message {
	k := s.currentOf(c)
	return message{s.code(k).revision, k, s.code(k).spent > 0}
}

// view is [view.Codes.Add].
func (m *move) view(r, c int, update message) {
	known := &m.replicas[r].view[c]
	skips := m.flaws.minRevisionIgnored && known.revision > 0 && update.revision == known.revision+1
	if known.revision < update.revision && !skips {
		*known = update
	}
}

// The outbox and the stream of updates.

// sweep is publisher.sweep: rows of codes that were replaced are deleted.
func (m *move) sweep(r, c int) bool {
	x := &m.replicas[r]
	if m.outbox[c] == 0 || x.publishing[c].revision > 0 {
		return false
	}
	m.outbox[c] &= 1 << m.rows[c].revision
	if m.outbox[c] > 0 {
		m.tell(r, c)
	}
	return true
}

// isStored is publisher.isStored.
func (m *move) isStored(update message) bool {
	forgotten := m.flaws.someForgotten && update.revision%2 == 0
	return m.stream[m.code(update.code).component].revision >= update.revision || forgotten
}

// announce is publisher.publishUpdate, up to the try that succeeds. That one knows the stream's last
// message, by isStored and by its expected sequence, and the server compares it and stores the
// update in one step. A try with another expected sequence changes nothing.
func (m *move) announce(r, c int) bool {
	update := m.replicas[r].publishing[c]
	if update.revision == 0 {
		return false
	}
	if !m.isStored(update) {
		m.store(c, update)
	}
	return true
}

// announced is publisher.finish and deleteRows.
func (m *move) announced(r, c int) {
	m.outbox[c] &^= 1 << m.replicas[r].publishing[c].revision
	m.replicas[r].publishing[c] = message{}
}

// store stores an update in the stream.
func (m *move) store(c int, update message) {
	k := m.code(update.code)
	was := k.revision == update.revision || k.spent > 0 && k.revision == update.revision+1
	if k.use == held || !was {
		m.breaks("announced if and only if committed", "the stream has an update that MySQL never had")
	}
	m.stream[c] = update
	m.letter = letter{sawUpdate, k.mark, 0}
	if update.spent {
		m.letter.detail = 1
	}
}

func (m *move) announceFailure(e, _ int) bool {
	if m.events[e].failure != waiting {
		return false
	}
	m.events[e].failure = acknowledged
	return true
}

// readUpdate is codeFollower.take.
func (m *move) readUpdate(r, c int) bool {
	if m.replicas[r].view[c].revision >= m.stream[c].revision {
		return false
	}
	m.view(r, c, m.stream[c])
	return true
}

// Leases and renewals.

// leaseDue is renewer.leaseDue, and renewer.renew up to the call. If the replica knows a newer event
// of the component, it leaves the component to that event, unless the event is late.
func (m *move) leaseDue(r, c int) bool {
	return m.rows[c].due == now && !m.flaws.nothingRetried && m.lease(r, c)
}

// demand is renewer.demand: a look-up finds the current code spent, or with too little life left.
func (m *move) demand(r, c int) bool {
	row, k := &m.rows[c], m.currentOf(c)
	if k == 0 || row.failed || row.lease > 0 && row.due != now || m.code(k).said() == young && m.code(k).spent == 0 {
		return false
	}
	return m.lease(r, c)
}

// lease is Repo.Lease and Repo.LeaseDue.
func (m *move) lease(r, c int) bool {
	row, j, newest := &m.rows[c], &m.replicas[r].jobs[c], m.newest(r, c)
	switch {
	case j.stage != idle || m.replicas[r].read < row.event:
		return false
	case newest > row.event && (m.flaws.acknowledgedWhenTaken || !take(&m.left.late)):
		return false
	}
	row.lease, row.due = uint8(r+1), later
	*j = job{stage: calling, renewal: true, event: max(newest, row.event)}
	return true
}

func (m *move) leaseEnds(c, _ int) bool {
	row := &m.rows[c]
	if row.lease == 0 || row.due != later || m.isHeld(c) {
		return false
	}
	row.due = now
	return true
}

func (m *move) isHeld(c int) bool {
	lease := m.rows[c].lease
	return lease > 0 && m.replicas[lease-1].jobs[c].renewal
}

// leaseEndsEarly is the end of a lease whose holder is at work, but does not reach MySQL.
func (m *move) leaseEndsEarly(c, _ int) bool {
	if !m.isHeld(c) || m.rows[c].due != later || !take(&m.left.late) {
		return false
	}
	m.rows[c].due = now
	return true
}

func (m *move) crash(r, _ int) bool {
	if !take(&m.left.crash) {
		return false
	}
	m.restart(r)
	return true
}

// restart is a process that has forgotten everything. What it had taken is redelivered.
func (m *move) restart(r int) {
	at := uint8(r + 1)
	m.replicas[r] = replica{}
	for e := range m.events {
		if m.events[e].at == at {
			m.events[e].stage, m.events[e].at = waiting, 0
		}
	}
	for q := range m.asked {
		if m.asked[q].at == at {
			m.asked[q] = asking{}
		}
	}
}

func (m *move) age(k, _ int) bool {
	code := &m.codes[k]
	if code.use == free || code.use == held || code.age == dead || !take(&m.left.age) {
		return false
	}
	code.age++
	if row := &m.rows[code.component]; code.use == isCurrent && row.due == later && row.lease == 0 && code.said() > young {
		row.due = now
	}
	return true
}

// Claims. They are of component 1.

// liveClaim is Repo.liveClaim.
func (m *move) liveClaim(q int) uint8 {
	for k := range m.codes {
		if m.codes[k].use == isClaimed && m.codes[k].claim == m.Requests[q].ClaimID {
			return uint8(k + 1)
		}
	}
	return 0
}

// oldestSpare is the code that Repo.takeSpare updates.
func (m *move) oldestSpare(q int) (oldest uint8) {
	for k := range m.codes {
		c := &m.codes[k]
		others := m.flaws.claimTakesClaimed && c.use == isClaimed && c.claim != m.Requests[q].ClaimID
		if (c.use == isSpare || others) && c.said() < dead && (oldest == 0 || c.said() > m.code(oldest).said()) {
			oldest = uint8(k + 1)
		}
	}
	return oldest
}

// takeSpare is Repo.takeSpare.
func (m *move) takeSpare(_, q int) bool {
	if m.asked[q].stage != idle || m.rows[0].revision == 0 {
		return false
	}
	m.answer.stage = took
	switch k := m.oldestSpare(q); {
	case k == 0:
		m.answer.stage = noSpare
	case m.liveClaim(q) == 0: // otherwise the unique key refuses it
		m.claim(k, m.Requests[q])
	}
	return true
}

func (m *move) tookSpare(r, q int) { m.asked[q] = asking{stage: m.answer.stage, at: uint8(r + 1)} }

func (m *move) claim(k uint8, request Request) {
	c := m.code(k)
	c.use, c.claim, c.reference = isClaimed, request.ClaimID, request.Reference
}

// accepts is ClaimRequest.accepts.
func (m *move) accepts(k uint8) bool {
	c := m.code(k)
	return (c.spent == 0 || m.flaws.claimKeepsSpent) && c.said() < dead && !m.flaws.claimGetsAnother
}

func (m *move) refuses(q int, live uint8) bool {
	return m.code(live).reference != m.Requests[q].Reference && !m.flaws.referenceNotCompared
}

// serveClaim is what Repo.Claim does after its UPDATE.
func (m *move) serveClaim(q, _ int) bool {
	asked := &m.asked[q]
	if asked.stage != took && asked.stage != noSpare {
		return false
	}
	switch live := m.liveClaim(q); {
	case live > 0 && m.refuses(q, live):
		*asked = asking{}
	case live > 0 && m.accepts(live):
		m.give(q, live)
	case asked.stage == noSpare:
		asked.stage = toCall
	default: // the UPDATE comes again
		if live > 0 {
			m.code(live).use = isUnclaimed
		}
		asked.stage, asked.at = idle, 0
	}
	return true
}

// give answers a request with a code.
func (m *move) give(q int, k uint8) {
	request, c := m.Requests[q], m.code(k)
	given := &m.given[request.ClaimID-1]
	switch {
	case c.revision > 0:
		m.breaks("one code, one visitor", "a claim gets a code that is announced")
	case m.given[2-request.ClaimID] == k:
		m.breaks("one code, one visitor", "two claim ids get a code")
	case c.said() == dead:
		m.breaks("no expired code", "a claim gets a dead code")
	case c.spent > 0:
		m.breaks("a spent code stays spent", "a claim gets a spent code")
	case c.reference != request.Reference:
		m.breaks("claims last", "a claim gets the code of another reference")
	case *given > 0 && *given != k && m.code(*given).spent == 0 && m.code(*given).said() < dead:
		m.breaks("claims last", "a claim id gets a second code while its first one lives")
	}
	*given = k
	m.letter = letter{sawClaim, c.mark, request.ClaimID}
	m.asked[q] = asking{}
}

// callForClaim is claims.claimNew up to the answer of WeChat.
func (m *move) callForClaim(q, _ int) bool {
	asked := &m.asked[q]
	if asked.stage != toCall || m.newest(int(asked.at)-1, 0) == 0 {
		return false
	}
	if k := m.currentOf(0); m.flaws.claimGetsCurrent && k > 0 {
		m.give(q, k)
		return true
	}
	asked.stage, asked.code = toInsert, m.issue(0, m.newest(int(asked.at)-1, 0))
	return true
}

// insertClaim is Repo.InsertClaim: one try.
func (m *move) insertClaim(r, q int) bool {
	asked := m.asked[q]
	if asked.stage != toInsert || asked.at != uint8(r+1) {
		return false
	}
	k, live := asked.code, m.liveClaim(q)
	mine := m.code(k)
	switch {
	case live > 0 && m.refuses(q, live):
		m.keep(mine)
	case live == k && mine.spent == 0: // an earlier try saved it
		m.answer.code = live
	case live > 0 && m.accepts(live):
		m.keep(mine)
		m.answer.code = live
	case mine.use != held: // an earlier try saved it, and it is another's now
	case live > 0:
		m.code(live).use = isUnclaimed
		m.answer.stage = toInsert // again
	default:
		m.claim(k, m.Requests[q])
		m.answer.code = k
	}
	return true
}

// insertedClaim is what claims.claim does with the answer.
func (m *move) insertedClaim(_, q int) {
	switch {
	case m.answer.code > 0 && m.code(m.answer.code).said() < dead:
		m.give(q, m.answer.code)
	case m.answer.stage != toInsert:
		m.asked[q] = asking{}
	}
}

// keep is Repo.AddSpares.
func (m *move) keep(c *code) {
	if c.use == held {
		c.use = isSpare
	}
}

// makeSpare is spares.makeLacking up to the answer of WeChat.
func (m *move) makeSpare(r, _ int) bool {
	x, limit, have := &m.replicas[r], m.Spares, 0
	if m.flaws.sparesWithoutLimit {
		limit *= 3
	}
	for k := range m.codes {
		if m.codes[k].use == isSpare && m.codes[k].said() == young {
			have++
		}
	}
	if have >= limit || x.spare > 0 || x.view[0].revision == 0 || m.newest(r, 0) == 0 {
		return false
	}
	x.spare = m.issue(0, m.newest(r, 0))
	return true
}

func (m *move) saveSpare(r, _ int) bool {
	k := m.replicas[r].spare
	if k > 0 {
		m.keep(m.code(k))
	}
	return k > 0
}

func (m *move) savedSpare(r, _ int) { m.replicas[r].spare = 0 }

// Authorizations.

// authorize is a visitor with a code that was given out, and the report of it.
func (m *move) authorize(a, k int) bool {
	c, number := &m.codes[k], uint8(k+1)
	public := c.revision > 0 && m.stream[c.component].revision >= c.revision
	for r := range replicas {
		public = public || m.replicas[r].view[c.component].code == number
	}
	if m.Followed > 0 && c.mark == 0 { // what happens to others is of no interest to a replay
		return false
	}
	if m.reports[a].stage != absent || a > 0 && m.reports[a-1].stage == absent ||
		!public && m.given[0] != number && m.given[1] != number {
		return false
	}
	m.reports[a] = report{stage: waiting, code: number}
	m.letter = letter{sawReport, c.mark, m.Reports[a]}
	return true
}

// spend is Repo.Spend. A report that is refused, since another account authorized before, is
// acknowledged like one that is saved.
func (m *move) spend(_, a int) bool {
	report := m.reports[a]
	if report.stage != waiting {
		return false
	}
	c := m.code(report.code)
	row := &m.rows[c.component]
	isLeased := row.lease > 0 && row.due != now
	if c.spent == 0 {
		c.spent, c.tellAuthorized = m.Reports[a], waiting
		switch {
		case c.use == isSpare:
			c.use = isUsed
		case c.use == isCurrent && !m.flaws.spentStaysCurrent:
			row.revision++
			c.revision = row.revision
			m.outbox[c.component] |= 1 << row.revision
			if row.due != never && !isLeased {
				row.due, row.lease = now, 0
			}
		}
	}
	return true
}

// spentCode is the end of authorizations.work. The demand that follows is an action of its own.
func (m *move) spentCode(r, a int) {
	if c := m.code(m.reports[a].code); c.use == isCurrent {
		m.tell(r, int(c.component))
	}
	m.reports[a].stage = acknowledged
}

// spendInVain is a try of authorizations.spend while MySQL is away.
func (m *move) spendInVain(_, a int) bool {
	if m.reports[a].stage != waiting || !take(&m.left.lost) {
		return false
	}
	if m.flaws.authorizationNotSaved {
		m.reports[a].stage = acknowledged
	}
	return true
}

func (m *move) announceAuthorized(k, _ int) bool {
	c := &m.codes[k]
	if c.tellAuthorized != waiting {
		return false
	}
	c.tellAuthorized = acknowledged
	m.letter = letter{sawAuthorized, c.mark, c.spent}
	return true
}
