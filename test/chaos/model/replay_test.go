package model_test

import (
	"slices"
	"testing"
	"time"

	"preauth/test/chaos/check"
	"preauth/test/chaos/history"
	"preauth/test/chaos/model"
)

const s = time.Second

// recorded returns a run: three codes are announced, the second one is spent and replaced, and a
// claim is given a code that is spent too.
func recorded() *check.Evidence {
	update := func(at time.Duration, revision uint64, code history.Hash, spent bool) history.Event {
		return history.Event{
			Op: history.Update, Begin: at, End: at, AppID: "wx1", Status: history.OK, Revision: revision, Code: code, Sequence: 10 + revision, Spent: spent,
		}
	}
	seen := func(op history.Op, at time.Duration, code history.Hash) history.Event {
		return history.Event{Op: op, Begin: at, End: at + s/10, AppID: "wx1", Status: history.OK, Code: code}
	}
	with := func(e history.Event, change func(*history.Event)) history.Event { change(&e); return e }
	claimed := func(e *history.Event) { e.ClaimID = "visitor" }
	by := func(id string) func(*history.Event) {
		return func(e *history.Event) { e.ID, e.Authorizer = id, "wxa" }
	}
	return &check.Evidence{
		Events: []history.Event{
			update(1*s, 1, "first", false),
			seen(history.Lookup, 2*s, "first"),
			with(seen(history.Claim, 3*s, "claimed"), claimed),
			with(seen(history.Claim, 4*s, "claimed"), claimed),
			update(5*s, 2, "second", false),
			seen(history.Lookup, 6*s, "first"), // by a replica that is behind
			seen(history.Lookup, 7*s, "second"),
			with(seen(history.Authorize, 8*s, "second"), by("a")),
			update(9*s, 3, "second", true),
			{Op: history.Authorized, Begin: 9 * s, End: 9 * s, AppID: "wx1", Status: history.OK, Revision: 2, Authorizer: "wxa"},
			with(seen(history.Authorize, 10*s, "claimed"), by("b")),
			{Op: history.Authorized, Begin: 11 * s, End: 11 * s, AppID: "wx1", Status: history.OK, ClaimID: "visitor", Authorizer: "wxa"},
			update(12*s, 4, "third", false),
		},
		State: check.State{
			Authorizations: []check.StoredEvent{{Sequence: 1, ID: "a"}, {Sequence: 2, ID: "b"}},
			Codes: []check.Code{
				{AppID: "wx1", Code: "first", Revision: 1, Deleted: true},
				{AppID: "wx1", Code: "second", Revision: 3, Authorizer: "wxa", Deleted: true},
				{AppID: "wx1", Code: "third", Revision: 4},
				{AppID: "wx1", Code: "claimed", ClaimID: "visitor", Authorizer: "wxa"},
				{AppID: "wx1", Code: "spare"},
			},
		},
	}
}

func TestARecordedRunIsAPath(t *testing.T) {
	words, violations := model.Replay(recorded())
	for _, violation := range violations {
		t.Error(violation.Says)
	}
	if words != 7 { // five codes, and two successions
		t.Errorf("%d words are read", words)
	}
}

// Replicas take events at the same time, so the account that was reported second may be recorded
// first.
func TestAnotherAccountIsReportedBefore(t *testing.T) {
	for _, code := range []history.Hash{"second", "claimed"} {
		e := recorded()
		i := slices.IndexFunc(e.Events, func(e history.Event) bool { return e.Op == history.Authorize && e.Code == code })
		another := e.Events[i]
		another.ID, another.Authorizer, another.Begin = "c", "wxb", another.Begin-s/2
		e.Events = slices.Insert(e.Events, i, another)
		e.State.Authorizations = append(e.State.Authorizations, check.StoredEvent{Sequence: 3, ID: "c"})
		_, violations := model.Replay(e)
		for _, violation := range violations {
			t.Errorf("%s: %s", code, violation.Says)
		}
	}
}

func TestAlteredRunsAreNoPaths(t *testing.T) {
	for name, alter := range map[string]func(*check.Evidence){
		"a revision goes back":                                  func(e *check.Evidence) { e.Events[0].Sequence = 99 },
		"an announcement that no commit can have made":          func(e *check.Evidence) { e.State.Codes = e.State.Codes[1:] },
		"an announcement under another revision":                func(e *check.Evidence) { e.Events[0].Revision = 9 },
		"an announced code is a spare in the end":               func(e *check.Evidence) { e.State.Codes[0].Revision = 0 },
		"a claim is given twice":                                func(e *check.Evidence) { e.Events[3].ClaimID = "another" },
		"a claim is another's in the end":                       func(e *check.Evidence) { e.State.Codes[3].ClaimID = "another" },
		"a claimed code is looked up":                           func(e *check.Evidence) { e.Events[1].Code = "claimed" },
		"a claim of an announced code":                          func(e *check.Evidence) { e.Events[2].Code = "third" },
		"a code is announced as spent and is not":               func(e *check.Evidence) { e.Events[8].Code, e.Events[8].Revision = "first", 1 },
		"a code is spent that nobody reported":                  func(e *check.Evidence) { e.State.Codes[2].Authorizer = "wxa" },
		"a spent code is claimed after its announcement":        func(e *check.Evidence) { e.Events[3].Begin = 13 * s },
		"a spent code is looked up long after its announcement": func(e *check.Evidence) { e.Events[6].Begin = 40 * s },
	} {
		t.Run(name, func(t *testing.T) {
			e := recorded()
			alter(e)
			slices.SortStableFunc(e.Events, func(a, b history.Event) int { return int(a.Begin - b.Begin) })
			_, violations := model.Replay(e)
			if len(violations) == 0 {
				t.Error("the model takes it for one of its runs")
			}
			for _, violation := range violations {
				t.Log(violation.Says)
			}
		})
	}
}
