package model

import "fmt"

// check returns the promise that a step has broken, and how, "" if it has broken none. It looks at
// the state before and after, and asks every replica for every kind of look-up.
func (m *Model) check(before, after *state) string {
	switch {
	case after.leaked:
		return "silent about secrets: a token or a code stands in a log or a table"
	case after.exited:
		return "the processes do as they should: a replica ended by itself"
	}
	for c := range components {
		if broken := m.checkComponent(c, before, after); broken != "" {
			return broken
		}
	}
	for e, event := range m.Events {
		lost := after.rows[event.Component].event <= uint8(e) && !m.isFollowed(after, e)
		if event.Bad {
			lost = after.events[e].failure == 0
		}
		if after.events[e].stage == acknowledged && lost {
			return fmt.Sprintf("nothing lost: event %d is acknowledged and has no outcome", e+1)
		}
	}
	for a, report := range after.reports {
		if report.stage == acknowledged && report.code > 0 && before.reports[a].stage != acknowledged && after.code(report.code).spent == 0 {
			return fmt.Sprintf("a spent code stays spent: report %d is acknowledged and its code is not spent", a+1)
		}
	}
	return m.checkClaims(after)
}

// isFollowed reports whether a newer event of the same component is in the stream and not yet
// acknowledged. An event may be left to it.
func (m *Model) isFollowed(s *state, e int) bool {
	for n := e + 1; n < len(m.Events); n++ {
		if other := m.Events[n]; !other.Bad && other.Component == m.Events[e].Component && (s.events[n].stage == waiting || s.events[n].stage == inFlight) {
			return true
		}
	}
	return false
}

func (m *Model) checkComponent(c int, before, after *state) string {
	was, is := before.rows[c], after.rows[c]
	currents := 0
	for _, k := range after.codes {
		if k.use == isCurrent && int(k.component) == c {
			currents++
		}
	}
	switch {
	case currents > 1 || (currents == 1) != (is.revision > 0):
		return fmt.Sprintf("one current code: component %d has %d, and revision %d", c+1, currents, is.revision)
	case is.event < was.event:
		return fmt.Sprintf("newest token wins: event %d follows event %d", is.event, was.event)
	case is.revision < was.revision || after.stream[c].revision < before.stream[c].revision:
		return fmt.Sprintf("revisions only grow: component %d goes back", c+1)
	case after.outbox[c]&(1<<is.revision) == 0 && after.stream[c].revision < is.revision:
		return fmt.Sprintf("announced if and only if committed: revision %d of component %d never is", is.revision, c+1)
	}
	for r := range after.replicas {
		for _, l := range [...]lookup{{}, {minTTL: true}, {minRevision: after.stream[c].revision}} {
			if broken := m.checkLookup(after, r, c, l); broken != "" {
				return fmt.Sprintf("%s is what a look-up at replica %d gets", broken, r+1)
			}
		}
	}
	return ""
}

// lookup is what a look-up asks for. A min_ttl asks for a young code.
type lookup struct {
	minTTL      bool
	minRevision uint8
}

// serves is lookups.serves: whether a look-up is answered from the view.
func (m *Model) serves(s *state, r, c int, l lookup) bool {
	view := s.replicas[r].view[c]
	switch {
	case view.revision == 0:
		return false
	case m.flaws.expiredServed:
		return true
	case view.spent || l.minRevision > view.revision && !m.flaws.minRevisionIgnored:
		return false
	case l.minTTL && !m.flaws.minTTLIgnored:
		return s.code(view.code).said() == young
	}
	return s.code(view.code).said() < dead
}

func (m *Model) checkLookup(s *state, r, c int, l lookup) string {
	if !m.serves(s, r, c, l) {
		return ""
	}
	view := s.replicas[r].view[c]
	switch k := s.code(view.code); {
	case k.age == dead:
		return "no expired code: a dead one"
	case l.minTTL && k.age != young:
		return "no expired code: one with less life than asked for"
	case view.revision < l.minRevision:
		return "revisions only grow: an older revision than asked for"
	case k.use == held:
		return "always valid: a code that was not committed"
	case k.claim > 0:
		return "one code, one visitor: the code of a claim"
	case k.spent > 0 && view.revision == s.rows[c].revision:
		return "a spent code stays spent: one that is spent, and no update will say so,"
	}
	return ""
}

func (m *Model) checkClaims(s *state) string {
	for id, given := range s.given {
		if given > 0 && s.code(given).claim == uint8(2-id) {
			return fmt.Sprintf("one code, one visitor: the code of claim id %d becomes another's", id+1)
		}
		if given > 0 && (s.code(given).claim != uint8(id+1) || m.flaws.claimResolvesToNothing) {
			return fmt.Sprintf("resolve agrees: the code of claim id %d resolves to nothing", id+1)
		}
	}
	spares := 0
	for _, k := range s.codes {
		if k.use == isSpare && k.age == young {
			spares++
		}
	}
	if spares > replicas*m.Spares+len(m.Requests) { // a claim that finds another code leaves its new one
		return fmt.Sprintf("frugal: %d spares are made, and %d are wanted", spares, m.Spares)
	}
	return ""
}

// isSettled reports whether nothing is left to do, and every component has what it should have. A
// run that can never get there again does not settle by itself.
func (m *Model) isSettled(s *state) bool {
	for e, event := range m.Events {
		if s.events[e].stage != acknowledged || s.events[e].failure == waiting {
			return false
		}
		if c := event.Component; !event.Bad && !m.isComponentSettled(s, c) {
			return false
		}
	}
	for _, report := range s.reports {
		if report.stage != absent && report.stage != acknowledged {
			return false
		}
	}
	for _, k := range s.codes {
		if k.tellAuthorized == waiting {
			return false
		}
	}
	for _, asked := range s.asked {
		if asked.stage != idle {
			return false
		}
	}
	return true
}

func (m *Model) isComponentSettled(s *state, c int) bool {
	row, k := s.rows[c], s.currentOf(c)
	if !s.usable(k) || s.code(k).age == dead || row.failed || row.due == now || row.lease > 0 || s.outbox[c] != 0 || s.stream[c] != s.updateOf(c) {
		return false
	}
	for r := range s.replicas {
		if s.replicas[r].jobs[c].stage != idle || !m.serves(s, r, c, lookup{minRevision: row.revision}) {
			return false
		}
	}
	return true
}
