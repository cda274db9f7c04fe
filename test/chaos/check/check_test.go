package check_test

import (
	"slices"
	"testing"
	"time"

	"preauth"
	"preauth/test/chaos/check"
	"preauth/test/chaos/history"
)

const s = time.Second

// limits are the limits of the evidence below.
var limits = check.Limits{CodeLife: 30 * s, RequestTimeout: 4 * s, MaxMinTTL: 10 * s, Spares: 1}

// sound returns the evidence of a run without violations: two good events of a component with a bad
// one between them, a renewal, a claim, look-ups, and a spare that is left.
func sound() *check.Evidence {
	update := func(at time.Duration, revision uint64, code history.Hash, id string, expires time.Duration) history.Event {
		return history.Event{
			Op: history.Update, Begin: at, End: at, AppID: "wx1", Status: history.OK, Revision: revision, Code: code, MessageID: id,
			Sequence: revision + 100, ExpiresAt: expires,
		}
	}
	lookup := func(at time.Duration, revision uint64, code history.Hash, expires time.Duration) history.Event {
		return history.Event{
			Op: history.Lookup, Begin: at, End: at + s/10, AppID: "wx1", Status: history.OK, Revision: revision, Code: code, ExpiresAt: expires,
		}
	}
	claim := history.Event{
		Op: history.Claim, Begin: 5 * s, End: 5*s + s/10, AppID: "wx1", Status: history.OK, Code: "claimed", ExpiresAt: 31 * s,
		ClaimID: "visitor", Reference: "order", MinTTL: 5 * s,
	}
	again := claim
	again.Begin, again.End = 6*s, 6*s+s/10
	return &check.Evidence{
		Limits: limits,
		Events: []history.Event{
			{Op: history.Publish, Begin: s / 2, End: s, AppID: "wx1", ID: "a", Token: "token a", Life: 7200 * s, Status: history.OK, Sequence: 1},
			{Op: history.Row, Begin: 2 * s, End: 2 * s, AppID: "wx1", Revision: 1, Sequence: 1},
			update(2*s, 1, "first", "wx1.1", 31*s),
			{Op: history.Publish, Begin: 3 * s, End: 3 * s, AppID: "wx1", ID: "bad", Bad: true, Status: history.OK, Sequence: 2},
			lookup(4*s, 1, "first", 31*s),
			claim,
			again,
			{Op: history.Resolve, Begin: 7 * s, End: 7 * s, AppID: "wx1", Status: history.OK, Code: "claimed", ClaimID: "visitor", Reference: "order"},
			{Op: history.Resolve, Begin: 8 * s, End: 8 * s, AppID: "wx1", Status: history.OK, Code: "first", Revision: 1},
			{Op: history.Authorize, Begin: 9 * s, End: 9 * s, AppID: "wx1", ID: "used", Status: history.OK, Sequence: 1, Code: "used", Authorizer: "wxa"},
			{Op: history.Authorize, Begin: 9 * s, End: 9 * s, AppID: "wx1", ID: "again", Status: history.OK, Sequence: 2, Code: "used", Authorizer: "wxb"},
			{Op: history.Authorize, Begin: 9 * s, End: 9 * s, AppID: "wx1", ID: "strange", Sequence: 0, Code: "strange", Authorizer: "wxa"},
			{Op: history.Authorize, Begin: 9 * s, End: 9 * s, AppID: "wx1", ID: "malformed", Bad: true, Code: "first"},
			{Op: history.Authorized, Begin: 10 * s, End: 10 * s, AppID: "wx1", Status: history.OK, ClaimID: "early", Reference: "order", Authorizer: "wxa"},
			update(24*s, 2, "second", "wx1.2", 54*s),
			lookup(25*s, 2, "second", 54*s),
			{Op: history.Publish, Begin: 40 * s, End: 41 * s, AppID: "wx1", ID: "b", Token: "token b", Life: 7200 * s, Sequence: 0},
			{Op: history.Row, Begin: 42 * s, End: 42 * s, AppID: "wx1", Revision: 3, Sequence: 3},
			update(42*s, 3, "third", "wx1.3", 71*s),
			lookup(43*s, 3, "third", 71*s),
		},
		State: check.State{
			Now: 50 * s,
			Tokens: []check.StoredEvent{
				{Sequence: 1, ID: "a", At: s}, {Sequence: 2, ID: "bad", At: 3 * s}, {Sequence: 3, ID: "b", At: 41 * s},
			},
			Authorizations: []check.StoredEvent{
				{Sequence: 1, ID: "used"}, {Sequence: 2, ID: "again"}, {Sequence: 3, ID: "strange"}, {Sequence: 4, ID: "malformed"},
			},
			Authorized: []check.Authorized{{AppID: "wx1", ClaimID: "early", Reference: "order", Authorizer: "wxa"}},
			Announced:  map[string]check.Announcement{"wx1": {MessageID: "wx1.3", Revision: 3, Code: "third", ExpiresAt: 71 * s}},
			Failures: []check.Failure{
				{AppID: "wx1", Class: preauth.ClassBadEvent, Stream: "COMPONENT_TOKENS", Sequence: 2, At: 3 * s},
				{AppID: "wx1", Class: preauth.ClassSecondAuthorizer, Stream: "COMPONENT_AUTHORIZED", Sequence: 2, At: 9 * s},
				{AppID: "wx1", Class: preauth.ClassUnknownCode, Stream: "COMPONENT_AUTHORIZED", Sequence: 3, At: 9 * s},
				{AppID: "wx1", Class: preauth.ClassBadEvent, Stream: "COMPONENT_AUTHORIZED", Sequence: 4, At: 9 * s},
			},
			Components: map[string]check.Component{"wx1": {Revision: 3, TokenSequence: 3, Token: "token b"}},
			Codes: []check.Code{
				{AppID: "wx1", Revision: 1, Code: "first", Token: "token a", Cause: "token", IssuedAt: s, ExpiresAt: 31 * s, Deleted: true},
				{AppID: "wx1", Revision: 2, Code: "second", Token: "token a", Cause: "renewal", IssuedAt: 24 * s, ExpiresAt: 54 * s, Deleted: true},
				{AppID: "wx1", Revision: 3, Code: "third", Token: "token b", Cause: "token", IssuedAt: 41 * s, ExpiresAt: 71 * s},
				{AppID: "wx1", Code: "claimed", Token: "token a", Cause: "claim", IssuedAt: s, ExpiresAt: 31 * s, ClaimID: "visitor", Reference: "order", ClaimedAt: 5 * s},
				{AppID: "wx1", Code: "spare", Token: "token a", Cause: "spare", IssuedAt: 6 * s, ExpiresAt: 36 * s},
				{
					AppID: "wx1", Code: "used", Token: "token a", Cause: "claim", IssuedAt: 2 * s, ExpiresAt: 32 * s,
					ClaimID: "early", Reference: "order", ClaimedAt: 2 * s, Authorizer: "wxa",
				},
			},
		},
		Calls: []check.Call{
			{AppID: "wx1", At: s, Token: "token a", Code: "first"},
			{AppID: "wx1", At: s, Token: "token a", Code: "claimed"},
			{AppID: "wx1", At: 2 * s, Token: "token a", Code: "used"},
			{AppID: "wx1", At: 6 * s, Token: "token a", Code: "spare"},
			{AppID: "wx1", At: 24 * s, Token: "token a", Code: "second"},
			{AppID: "wx1", At: 41 * s, Token: "token b", Code: "third"},
		},
	}
}

func TestSoundEvidenceHasNoViolations(t *testing.T) {
	result := check.Check(sound())
	for _, violation := range result.Violations {
		t.Errorf("%s: %s", violation.Promise, violation.Says)
	}
	for _, promise := range check.Promises {
		if result.Checks[promise.Name] == 0 {
			t.Errorf("nothing was compared for %q", promise.Name)
		}
	}
}

// doctored are changes to the sound evidence, each with the promise that it breaks.
var doctored = []struct {
	name    string
	promise string
	doctor  func(*check.Evidence)
}{
	{"an acknowledged event is not in the stream", "nothing lost", func(e *check.Evidence) {
		e.State.Tokens = e.State.Tokens[1:]
	}},
	{"an event without an outcome", "nothing lost", func(e *check.Evidence) {
		change(e, "wx1", func(c *check.Component) { c.TokenSequence = 1 })
	}},
	{"a component without a row", "nothing lost", func(e *check.Evidence) { clear(e.State.Components) }},
	{"a bad event that nobody reports", "nothing lost", func(e *check.Evidence) { e.State.Failures = nil }},
	{"another failure in place of the bad event's", "nothing lost", func(e *check.Evidence) { e.State.Failures[0].Class = preauth.ClassTransient }},
	{"an event from nowhere", "nothing lost", func(e *check.Evidence) {
		e.State.Tokens = append(e.State.Tokens, check.StoredEvent{Sequence: 4, ID: "?"})
	}},

	{"two current codes", "one current code", func(e *check.Evidence) { e.State.Codes[1].Deleted = false }},
	{"no current code", "one current code", func(e *check.Evidence) { e.State.Codes[2].Deleted = true }},
	{"the current code is not the newest", "one current code", func(e *check.Evidence) {
		e.State.Codes[1].Deleted, e.State.Codes[2].Deleted = false, true
	}},

	{"the row is from an older event", "newest token wins", func(e *check.Evidence) {
		change(e, "wx1", func(c *check.Component) { c.TokenSequence, c.Token = 1, "token a" })
	}},
	{"a code of an older token after a newer one's", "newest token wins", func(e *check.Evidence) { e.State.Codes[0].Token = "token b" }},

	{"an announcement of what was never committed", "announced if and only if committed", func(e *check.Evidence) {
		event(e, history.Update, 1).Revision = 7
	}},
	{"an announcement of another code than the committed", "announced if and only if committed", func(e *check.Evidence) {
		event(e, history.Update, 1).Code = "another"
	}},
	{"an announcement with another life", "announced if and only if committed", func(e *check.Evidence) { event(e, history.Update, 1).ExpiresAt += s }},
	{"an announcement with another message id", "announced if and only if committed", func(e *check.Evidence) {
		event(e, history.Update, 1).MessageID = "other"
	}},
	{"an announcement without a message id", "announced if and only if committed", func(e *check.Evidence) {
		event(e, history.Update, 1).MessageID = ""
	}},
	{"an update is stored again under its message id, by a server that was not killed", "revisions only grow", func(e *check.Evidence) {
		again := *event(e, history.Update, 2)
		again.Sequence++
		e.Events = append(e.Events, again)
	}},
	{"a failure that cannot be read", "announced if and only if committed", func(e *check.Evidence) {
		e.Events = append(e.Events, history.Event{Op: history.Failure, Status: history.Unreadable})
	}},
	{"an announcement that cannot be read", "announced if and only if committed", func(e *check.Evidence) {
		event(e, history.Update, 1).Status = history.Unreadable
	}},
	{"the newest revision is not announced", "announced if and only if committed", func(e *check.Evidence) {
		e.State.Announced["wx1"] = check.Announcement{MessageID: "wx1.2", Revision: 2, Code: "second", ExpiresAt: 54 * s}
	}},
	{"another code is announced as the newest revision", "announced if and only if committed", func(e *check.Evidence) {
		e.State.Announced["wx1"] = check.Announcement{MessageID: "wx1.3", Revision: 3, Code: "spare"}
	}},
	{"an announcement of an unknown component", "announced if and only if committed", func(e *check.Evidence) {
		e.State.Announced["wx2"] = check.Announcement{Revision: 1}
	}},
	{"a failure that is not announced", "announced if and only if committed", func(e *check.Evidence) {
		change(e, "wx1", func(c *check.Component) {
			c.Failure = &check.Failure{AppID: "wx1", Class: preauth.ClassQuota, Sequence: 3}
		})
	}},

	{"a revision goes back in the stream", "revisions only grow", func(e *check.Evidence) { event(e, history.Update, 0).Sequence = 200 }},
	{"a row goes back", "revisions only grow", func(e *check.Evidence) { event(e, history.Row, 0).Revision = 5 }},
	{"a row forgets an event", "revisions only grow", func(e *check.Evidence) { event(e, history.Row, 0).Sequence = 5 }},
	{"a row goes back in the end", "revisions only grow", func(e *check.Evidence) { event(e, history.Row, 1).Revision = 9 }},
	{"a look-up gets less than it asked for", "revisions only grow", func(e *check.Evidence) { event(e, history.Lookup, 1).MinRevision = 3 }},

	{"a look-up of what is not committed", "always valid", func(e *check.Evidence) { event(e, history.Lookup, 1).Code = "another" }},
	{"a component is unknown that had a code", "always valid", func(e *check.Evidence) {
		event(e, history.Lookup, 1).Status = preauth.StatusNotFound
	}},
	{"a settled system has no code to give", "always valid", func(e *check.Evidence) {
		lookup := event(e, history.Lookup, 2)
		lookup.Client, lookup.Status = check.Prober, preauth.StatusUnavailable
	}},
	{"a settled system renews too late", "always valid", func(e *check.Evidence) {
		lookup := event(e, history.Lookup, 1)
		lookup.Client, lookup.Begin, lookup.End = check.Prober, 53*s, 53*s
	}},
	{"a good request is refused", "always valid", func(e *check.Evidence) { event(e, history.Lookup, 1).Status = preauth.StatusBadRequest }},
	{"an answer that cannot be read", "always valid", func(e *check.Evidence) { event(e, history.Claim, 1).Status = history.Unreadable }},

	{"an expired code is looked up", "no expired code", func(e *check.Evidence) {
		lookup := event(e, history.Lookup, 0)
		lookup.Begin, lookup.End = 32*s, 32*s
	}},
	{"a code with too little life is looked up", "no expired code", func(e *check.Evidence) { event(e, history.Lookup, 0).MinTTL = 28 * s }},
	{"an expired code is claimed", "no expired code", func(e *check.Evidence) {
		claim := event(e, history.Claim, 1)
		claim.Begin, claim.End = 33*s, 33*s
	}},
	{"a clock was slow, and not as slow", "no expired code", func(e *check.Evidence) {
		lookup := event(e, history.Lookup, 0)
		lookup.Begin, lookup.End = 35*s, 35*s
		e.Events = append(e.Events, history.Event{Op: history.Fault, Fault: "clock", Begin: 30 * s, End: 40 * s, Offset: -3 * s})
	}},
	{"a code is said to live longer than it does", "no expired code", func(e *check.Evidence) { e.Calls[0].At = s - 1 }},
	{"a clock was fast, and not as fast", "no expired code", func(e *check.Evidence) {
		e.Calls[0].At = s - 2*s/10
		e.Events = append(e.Events, history.Event{Op: history.Fault, Fault: "clock", Begin: 0, End: 2 * s, Offset: s / 10})
	}},
	{"a code that WeChat never issued", "no expired code", func(e *check.Evidence) { e.Calls[0].Code = "another" }},
	{"a code of another component", "no expired code", func(e *check.Evidence) { e.Calls[0].AppID = "wx2" }},

	{"a code for two claims", "one code, one visitor", func(e *check.Evidence) { event(e, history.Claim, 1).ClaimID = "another" }},
	{"a claimed code is looked up", "one code, one visitor", func(e *check.Evidence) { event(e, history.Lookup, 0).Code = "claimed" }},
	{"a claimed code is announced", "one code, one visitor", func(e *check.Evidence) { event(e, history.Update, 0).Code = "claimed" }},
	{"a claimed code is a revision", "one code, one visitor", func(e *check.Evidence) { e.State.Codes[3].Revision = 4 }},

	{"a claim is lost", "claims last", func(e *check.Evidence) { e.State.Codes = slices.Delete(e.State.Codes, 3, 4) }},
	{"a claim is somebody else's in the end", "claims last", func(e *check.Evidence) { e.State.Codes[3].ClaimID = "another" }},
	{"a claim is a spare again", "claims last", func(e *check.Evidence) { e.State.Codes[3].ClaimID, e.State.Codes[3].Reference = "", "" }},
	{"a claim loses its reference", "claims last", func(e *check.Evidence) { e.State.Codes[3].Reference = "" }},
	{"a claim id gets a second code too early", "claims last", func(e *check.Evidence) {
		e.State.Codes[4].ClaimID, e.State.Codes[4].Reference, e.State.Codes[4].ClaimedAt = "visitor", "order", 20*s
	}},
	{"a claim id gets a code for another reference", "claims last", func(e *check.Evidence) {
		event(e, history.Claim, 1).Reference = "order of somebody else"
		e.State.Codes[3].Reference = "order of somebody else"
	}},

	{"a claimed code leads nowhere", "resolve agrees", func(e *check.Evidence) { event(e, history.Resolve, 0).Status = preauth.StatusNotFound }},
	{"a claimed code leads to another claim", "resolve agrees", func(e *check.Evidence) { event(e, history.Resolve, 0).ClaimID = "another" }},
	{"a code that everybody sees leads to a claim", "resolve agrees", func(e *check.Evidence) { event(e, history.Resolve, 1).ClaimID = "visitor" }},
	{"a code that everybody sees leads to another revision", "resolve agrees", func(e *check.Evidence) { event(e, history.Resolve, 1).Revision = 2 }},
	{"a code that everybody sees leads nowhere", "resolve agrees", func(e *check.Evidence) { event(e, history.Resolve, 1).Status = preauth.StatusNotFound }},
	{"a code leads to an account that did not authorize", "resolve agrees", func(e *check.Evidence) { event(e, history.Resolve, 0).Authorizer = "wxa" }},
	{"an acknowledged authorization is not in the stream", "a spent code stays spent", func(e *check.Evidence) {
		e.State.Authorizations = e.State.Authorizations[1:]
	}},
	{"an authorization without an outcome", "a spent code stays spent", func(e *check.Evidence) { e.State.Codes[5].Authorizer = "" }},
	{"an authorization from nowhere", "a spent code stays spent", func(e *check.Evidence) {
		e.State.Authorizations = append(e.State.Authorizations, check.StoredEvent{Sequence: 5, ID: "?"})
	}},
	{"a second authorizer that nobody reports", "a spent code stays spent", func(e *check.Evidence) { e.State.Failures = slices.Delete(e.State.Failures, 1, 2) }},
	{"a second authorizer takes the place of the first", "a spent code stays spent", func(e *check.Evidence) { e.State.Codes[5].Authorizer = "wxb" }},
	{"an unknown code that nobody reports", "a spent code stays spent", func(e *check.Evidence) { e.State.Failures = slices.Delete(e.State.Failures, 2, 3) }},
	{"a bad authorization that nobody reports", "a spent code stays spent", func(e *check.Evidence) { e.State.Failures = slices.Delete(e.State.Failures, 3, 4) }},
	{"a code is spent that nobody used", "a spent code stays spent", func(e *check.Evidence) { e.State.Codes[3].Authorizer = "wxa" }},
	{"a spent code that no announcement names", "a spent code stays spent", func(e *check.Evidence) { e.State.Authorized = nil }},
	{"a spent code is announced as another claim's", "a spent code stays spent", func(e *check.Evidence) { e.State.Authorized[0].ClaimID = "visitor" }},
	{"a spent code is claimed again", "a spent code stays spent", func(e *check.Evidence) {
		e.Events = append(e.Events, history.Event{
			Op: history.Claim, Begin: 11 * s, End: 11 * s, AppID: "wx1", Status: history.OK, Code: "used", ExpiresAt: 32 * s, ClaimID: "early", Reference: "order",
		})
	}},
	{"a spent code is looked up", "a spent code stays spent", func(e *check.Evidence) {
		spend(e, 3*s-1)
	}},
	{"a code is replaced as spent that nobody used", "frugal", func(e *check.Evidence) { e.State.Codes[1].Cause = "spent" }},

	{"a renewal that was not needed", "frugal", func(e *check.Evidence) { e.Calls[4].At = 22 * s }},
	{"a demand that was not needed", "frugal", func(e *check.Evidence) {
		e.State.Codes[1].Cause, e.Calls[4].At = "demand", 20*s
	}},
	{"a call for a token announced again", "frugal", func(e *check.Evidence) {
		e.State.Codes[1].Cause, e.Calls[4].At = "token", 20*s
	}},
	{"more codes than events", "frugal", func(e *check.Evidence) { e.State.Codes[1].Cause = "token" }},
	{"too many spares", "frugal", func(e *check.Evidence) {
		for range 20 {
			e.State.Codes = append(e.State.Codes, e.State.Codes[4])
		}
	}},
	{"a code is bought and thrown away", "frugal", func(e *check.Evidence) {
		e.Calls = append(e.Calls, check.Call{AppID: "wx1", At: 70 * s, Token: "token b", Code: "wasted"})
	}},
	{"calls that fail are repeated without measure", "frugal", func(e *check.Evidence) {
		for range 200 {
			e.Calls = append(e.Calls, check.Call{AppID: "wx1", At: 45 * s, Token: "token b", ErrCode: -1})
		}
	}},

	{"something is left undone", "the system settles by itself", func(e *check.Evidence) { e.Undone = []string{"wx1"} }},
	{"an event waits in the end", "the system settles by itself", func(e *check.Evidence) { e.State.Pending = 1 }},
	{"an event is in flight in the end", "the system settles by itself", func(e *check.Evidence) { e.State.AckPending = 1 }},
	{"an announcement waits in the end", "the system settles by itself", func(e *check.Evidence) { e.State.Outbox = []string{"wx1.3"} }},
	{"a living token without a code", "the system settles by itself", func(e *check.Evidence) { e.State.Codes[2].Token = "token a" }},
	{"a living token with a code about to expire", "the system settles by itself", func(e *check.Evidence) { e.State.Now = 70 * s }},
	{"a living token with an expired code", "the system settles by itself", func(e *check.Evidence) { e.State.Now = 80 * s }},
	{"a failure that has yet to be tried again", "the system settles by itself", func(e *check.Evidence) {
		change(e, "wx1", func(c *check.Component) {
			c.Failure = &check.Failure{Class: preauth.ClassQuota, ErrCode: 45009, RetryAt: 60 * s}
		})
	}},
	{"a living token is given up without a reason", "the system settles by itself", func(e *check.Evidence) {
		change(e, "wx1", func(c *check.Component) {
			c.Failure = &check.Failure{Class: preauth.ClassTokenRejected, ErrCode: 40001}
		})
	}},
	{"a living token is taken for dead", "the system settles by itself", func(e *check.Evidence) {
		change(e, "wx1", func(c *check.Component) { c.Failure = &check.Failure{Class: preauth.ClassTokenExpired, At: 45 * s} })
	}},

	{"a secret in a log", "silent about secrets", func(e *check.Evidence) { e.Leaks = []string{"replica1.log"} }},
	{"a replica ends by itself", "the processes do as they should", func(e *check.Evidence) { e.Broken = []string{"replica1 ended by itself"} }},
}

func TestEachBrokenPromiseIsFound(t *testing.T) {
	for _, d := range doctored {
		t.Run(d.name, func(t *testing.T) {
			e := sound()
			d.doctor(e)
			var found []string
			for _, violation := range check.Check(e).Violations {
				found = append(found, violation.Promise)
			}
			if !slices.Contains(found, d.promise) {
				t.Errorf("found broken: %q, want %q", found, d.promise)
			}
		})
	}
}

func TestEveryPromiseIsDoctored(t *testing.T) {
	for _, promise := range check.Promises {
		broken := false
		for _, d := range doctored {
			broken = broken || d.promise == promise.Name
		}
		if !broken {
			t.Errorf("no doctored evidence breaks %q", promise.Name)
		}
	}
}

func TestWhatFaultsExplainIsAllowed(t *testing.T) {
	clock := func(begin, end, offset time.Duration) history.Event {
		return history.Event{Op: history.Fault, Fault: "clock", Target: "replica1", Begin: begin, End: end, Offset: offset}
	}
	for name, change := range map[string]func(*check.Evidence){
		"a slow clock gives out an expired code": func(e *check.Evidence) {
			lookup := event(e, history.Lookup, 0)
			lookup.Begin, lookup.End = 33*s, 33*s
			e.Events = append(e.Events, clock(30*s, 40*s, -3*s))
		},
		"a fast clock has a code live longer": func(e *check.Evidence) {
			e.Calls[0].At = s - s/10
			e.Events = append(e.Events, clock(0, 2*s, s/5))
		},
		"a fast clock takes a living token for dead": func(e *check.Evidence) {
			failure := check.Failure{AppID: "wx1", Class: preauth.ClassTokenExpired, Sequence: 3, At: 41*s + 7300*s}
			changed := e.State.Components["wx1"]
			changed.Failure = &failure
			e.State.Components["wx1"] = changed
			e.State.Failures = append(e.State.Failures, failure)
		},
		"a demand that failed is tried again": func(e *check.Evidence) {
			renewedAt(e, 22*s)
			e.Calls = append(e.Calls, check.Call{AppID: "wx1", At: 21*s + s/2, Token: "token a", ErrCode: -1, Spoilt: true})
		},
		"a database that was away hides what another replica has done": func(e *check.Evidence) {
			renewedAt(e, 20*s)
			e.Events = append(e.Events, history.Event{Op: history.Fault, Fault: "MySQL: SIGKILL", Begin: 15 * s, End: 18 * s})
		},
		"so does a power cut of all servers": func(e *check.Evidence) {
			renewedAt(e, 20*s)
			e.Events = append(e.Events, history.Event{Op: history.Fault, Fault: "power cut: all servers", Begin: 15 * s, End: 18 * s})
		},
		"a code is lost beside a fault": func(e *check.Evidence) {
			e.Calls = append(e.Calls, check.Call{AppID: "wx1", At: 70 * s, Token: "token b", Code: "wasted"})
			e.Events = append(e.Events, history.Event{Op: history.Fault, Fault: "kill", Begin: 70 * s, End: 71 * s})
		},
		"a spent code is renewed before its time": func(e *check.Evidence) {
			spend(e, 15*s)
			renewedAt(e, 16*s)
			e.State.Codes[1].Cause = "spent"
		},
		"a fault keeps it from a replica that a code is spent": func(e *check.Evidence) {
			spend(e, 2*s+s/2)
			e.Events = append(e.Events, history.Event{Op: history.Fault, Fault: "kill", Begin: 2 * s, End: 3 * s})
		},
		"an update that left the stream early is announced again": func(e *check.Evidence) {
			again := *event(e, history.Update, 2)
			again.MessageID, again.Sequence = "", again.Sequence+1
			e.Events = append(e.Events, again)
		},
		"an update is announced again that the subscriber had missed": func(e *check.Evidence) {
			missed := event(e, history.Update, 1)
			missed.MessageID, missed.Sequence = "", missed.Sequence+1 // after one that nobody saw
			event(e, history.Update, 2).Sequence++
		},
		"an update that left the stream is announced again by a slow clock, and the server has forgotten its id": func(e *check.Evidence) {
			again := *event(e, history.Update, 2)
			again.Sequence++
			again.Begin += 2 * s
			e.Events = append(e.Events, again, history.Event{Op: history.Fault, Fault: "NATS: SIGKILL", Begin: again.Begin - s, End: again.Begin - s/2})
		},
		"a slow clock dates the second claim before the spent one": func(e *check.Evidence) {
			e.State.Codes[4].ClaimID, e.State.Codes[4].Reference, e.State.Codes[4].ClaimedAt = "early", "order", s
			e.State.Codes[5].Deleted = true
		},
		"a spent code is claimed once more, by another code": func(e *check.Evidence) {
			e.State.Codes[4].ClaimID, e.State.Codes[4].Reference, e.State.Codes[4].ClaimedAt = "early", "order", 12*s
			e.State.Codes[5].Deleted = true
		},
		"a code is spoilt by WeChat": func(e *check.Evidence) {
			e.Calls = append(e.Calls, check.Call{AppID: "wx1", At: 70 * s, Token: "token b", Code: "wasted", Spoilt: true})
		},
		"a token that WeChat rejects is given up": func(e *check.Evidence) {
			failure := check.Failure{AppID: "wx1", Class: preauth.ClassTokenRejected, ErrCode: 40001, Sequence: 3, At: 45 * s}
			changed := e.State.Components["wx1"]
			changed.Failure = &failure
			e.State.Components["wx1"] = changed
			e.State.Failures = append(e.State.Failures, failure)
			e.Calls = append(e.Calls, check.Call{AppID: "wx1", At: 45 * s, Token: "token b", ErrCode: 40001})
		},
		"a claim id gets a new code after its first": func(e *check.Evidence) {
			e.State.Codes[4].ClaimID, e.State.Codes[4].Reference, e.State.Codes[4].ClaimedAt = "visitor", "order", 32*s
			e.State.Codes[3].Deleted = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := sound()
			change(e)
			for _, violation := range check.Check(e).Violations {
				t.Errorf("%s: %s", violation.Promise, violation.Says)
			}
		})
	}
}

// event returns the n-th event of an operation, to be changed.
func event(e *check.Evidence, op history.Op, n int) *history.Event {
	for i := range e.Events {
		if e.Events[i].Op == op {
			if n == 0 {
				return &e.Events[i]
			}
			n--
		}
	}
	panic("no such event")
}

// spend has an account authorize with the code of the first revision.
func spend(e *check.Evidence, at time.Duration) {
	e.Events = append(e.Events,
		history.Event{Op: history.Authorize, Begin: at, End: at, AppID: "wx1", ID: "first", Status: history.OK, Sequence: 5, Code: "first", Authorizer: "wxc"},
		history.Event{Op: history.Authorized, Begin: at, End: at, AppID: "wx1", Status: history.OK, Revision: 1, Authorizer: "wxc"},
	)
	e.State.Authorizations = append(e.State.Authorizations, check.StoredEvent{Sequence: 5, ID: "first"})
	e.State.Authorized = append(e.State.Authorized, check.Authorized{AppID: "wx1", Revision: 1, Authorizer: "wxc"})
	e.State.Codes[0].Authorizer = "wxc"
}

// renewedAt moves the renewal to another time.
func renewedAt(e *check.Evidence, at time.Duration) {
	e.Calls[4].At, e.State.Codes[1].IssuedAt = at, at
	for _, expires := range []*time.Duration{&e.State.Codes[1].ExpiresAt, &event(e, history.Update, 1).ExpiresAt, &event(e, history.Lookup, 1).ExpiresAt} {
		*expires = at + limits.CodeLife
	}
}

// change changes the row of a component.
func change(e *check.Evidence, appid string, how func(*check.Component)) {
	c := e.State.Components[appid]
	how(&c)
	e.State.Components[appid] = c
}
