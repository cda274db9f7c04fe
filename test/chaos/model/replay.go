package model

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"preauth/test/chaos/check"
	"preauth/test/chaos/history"
)

// The scripts of a replay. The first three follow one code: an announced one, a claimed one with
// whom it was used for, and a spare with its claim. The last follows two that are announced in
// succession.
var (
	announcedCode = Script{Name: "an announced code", Followed: 1, Events: []Event{{0, 1, false}}, Reports: []uint8{1, 2}}
	claimedCode   = Script{Name: "a claimed code", Followed: 1, Events: []Event{{0, 1, false}}, Requests: []Request{{1, 1}, {2, 1}}, Reports: []uint8{1}}
	spareCode     = Script{Name: "a spare", Followed: 1, Events: []Event{{0, 1, false}}, Spares: 1, Requests: []Request{{1, 1}, {2, 1}}}
	twoCodes      = Script{Name: "two announced codes", Followed: 2, Events: []Event{{0, 1, false}, {0, 2, false}}, Crashes: 1}
)

// automata are those of the scripts above, made once.
var automata = sync.OnceValue(func() [4]*automaton {
	return [4]*automaton{newAutomaton(New(announcedCode)), newAutomaton(New(claimedCode)), newAutomaton(New(spareCode)), newAutomaton(New(twoCodes))}
})

// Promise is the name of what Replay checks.
const Promise = "the run is a path of the model"

// lag is how long after an announcement every replica has read it, faults included.
const lag = 20 * time.Second

// Replay reads a run as words of the model, and returns those that it does not have. It is a
// projection: one word for each code, of all that clients saw of it, and one for each two codes that
// were announced one after the other, of their order in the stream. A request counts as of its
// begin, an announcement as of its arrival. So a word that is refused shows a breach, but not every
// breach is seen: what concerns more codes at once, and how long anything takes, is left to package
// check.
func Replay(e *check.Evidence) (words int, violations []check.Violation) {
	r := replay{Evidence: e, codes: map[history.Hash]*check.Code{}, seen: map[history.Hash][]sight{}}
	r.collect()
	automata := automata()
	for hash, sights := range r.seen {
		word, events := r.word(hash, sights)
		reader := automata[0]
		switch isReport := func(l letter) bool { return l.saw == sawReport }; {
		case !slices.ContainsFunc(word, letter.isOfClaim):
		case slices.ContainsFunc(word, isReport):
			// A second account is refused whatever the code is, and makes this model much larger.
			reader, word = automata[1], slices.DeleteFunc(word, func(l letter) bool { return isReport(l) && l.detail == 2 })
		default:
			reader = automata[2]
		}
		i, ok := reader.accepts(word)
		words++
		if !ok {
			violations = append(violations, check.Violation{
				Promise: Promise, Says: fmt.Sprintf("of a code was seen %v, and the model has no such run: see %v", word, word[i]), Events: events,
			})
		}
	}
	for appid, updates := range r.updates() {
		for i := 1; i < len(updates); i++ {
			a, b := updates[i-1], updates[i]
			word := []letter{{sawUpdate, 1, 0}, {sawUpdate, 2, 0}}
			if a.Sequence > b.Sequence {
				slices.Reverse(word)
			}
			words++
			if _, ok := automata[3].accepts(word); !ok {
				violations = append(violations, check.Violation{
					Promise: Promise, Says: fmt.Sprintf("revision %d of %s was stored before revision %d", b.Revision, appid, a.Revision), Events: []history.Event{a, b},
				})
			}
		}
	}
	return words, violations
}

// replay is the evidence, by code.
type replay struct {
	*check.Evidence

	codes map[history.Hash]*check.Code
	seen  map[history.Hash][]sight
}

// sight is an event as of some time.
type sight struct {
	at time.Duration
	history.Event
}

func (r *replay) collect() {
	for i := range r.State.Codes {
		r.codes[r.State.Codes[i].Code] = &r.State.Codes[i]
		r.seen[r.State.Codes[i].Code] = nil
	}
	stored := map[string]bool{}
	for _, a := range r.State.Authorizations {
		stored[a.ID] = true
	}
	for _, e := range r.Events {
		at, code := e.Begin, e.Code
		switch e.Op {
		case history.Update, history.Authorized:
			at = e.End
			if e.Op == history.Authorized {
				code = r.authorizedCode(e)
			}
		case history.Lookup, history.Claim:
		case history.Authorize:
			if row := r.codes[code]; e.Bad || !stored[e.ID] || row == nil || row.AppID != e.AppID {
				continue
			}
		default:
			continue
		}
		if e.Op == history.Authorize || e.Status == history.OK {
			r.seen[code] = append(r.seen[code], sight{at, e})
		}
	}
}

// authorizedCode returns the code that an announcement is about, which names it by claim or
// revision.
func (r *replay) authorizedCode(e history.Event) history.Hash {
	for hash, c := range r.codes {
		about := c.ClaimID == e.ClaimID && c.Revision == 0
		if e.Revision > 0 {
			about = r.isRevision(c, e.Revision)
		}
		if c.AppID == e.AppID && c.Authorizer == e.Authorizer && about {
			return hash
		}
	}
	return ""
}

// isRevision reports whether a code has the revision, or had it before it was spent.
func (r *replay) isRevision(c *check.Code, revision uint64) bool {
	return c.Revision == revision || c.Authorizer != "" && c.Revision == revision+1
}

// word returns what was seen of a code, in order, and at last its row.
func (r *replay) word(hash history.Hash, sights []sight) (word []letter, events []history.Event) {
	slices.SortStableFunc(sights, func(a, b sight) int { return cmp.Compare(a.at, b.at) })
	claims, accounts := numbers{}, numbers{}
	c := r.codes[hash]
	if c != nil && c.Authorizer != "" && c.Revision == 0 {
		accounts.of(c.Authorizer) // is the first, whichever was reported before: see Replay on the second
	}
	var told time.Duration
	for _, s := range sights {
		events = append(events, s.Event)
		l := letter{mark: 1}
		switch s.Op {
		case history.Update:
			l.saw = sawUpdate
			if s.Spent {
				l.detail = 1
			}
			if c == nil || !r.isRevision(c, s.Revision) {
				l.saw = sawImpossible
			}
		case history.Lookup:
			l.saw = sawLookup
			if told > 0 && s.Begin > told+lag {
				l.saw = sawLateLookup
			}
		case history.Claim:
			l.saw, l.detail = sawClaim, claims.of(s.ClaimID)
		case history.Authorize:
			l.saw, l.detail = sawReport, accounts.of(s.Authorizer)
		case history.Authorized:
			l.saw, l.detail, told = sawAuthorized, accounts.of(s.Authorizer), cmp.Or(told, s.End)
		default: // collect takes no others
		}
		if !slices.Contains(word, l) || l.saw == sawLookup || l.saw == sawClaim {
			word = append(word, l)
		}
	}
	use, account := uint8(noRow), uint8(0)
	if c != nil {
		switch {
		case c.Revision > 0:
			use = revisionRow
		case c.ClaimID != "":
			use = claimRow + claims.of(c.ClaimID) - 1
		default:
			use = spareRow
		}
		if c.Authorizer != "" {
			account = accounts.of(c.Authorizer)
		}
	}
	return slices.Compact(append(word, letter{sawRow, 1, rowOf(use, account)})), events
}

// numbers number names from 1 as they come. The model knows two, and takes all others for the
// second.
type numbers map[string]uint8

func (n numbers) of(name string) uint8 {
	if _, ok := n[name]; !ok {
		n[name] = uint8(min(len(n)+1, 2))
	}
	return n[name]
}

// updates returns the first announcement of each code of each component, by revision.
func (r *replay) updates() map[string][]history.Event {
	updates := map[string][]history.Event{}
	seen := map[history.Hash]bool{}
	for _, e := range r.Events {
		if e.Op == history.Update && e.Status == history.OK && e.Sequence > 0 && !e.Spent && !seen[e.Code] {
			seen[e.Code] = true
			updates[e.AppID] = append(updates[e.AppID], e)
		}
	}
	for _, of := range updates {
		slices.SortFunc(of, func(a, b history.Event) int { return cmp.Compare(a.Revision, b.Revision) })
	}
	return updates
}
