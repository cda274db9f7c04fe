package check

import (
	"slices"
	"time"

	"preauth/test/chaos/history"
)

// frugal: every call of WeChat was needed.
//
// Each code in the table cost one call. The table shows what the code was made for:
//
//   - A renewal is needed when a quarter of its predecessor's life is left, or less. A fiftieth
//     more is allowed, because renewals are spread.
//   - A code on demand is needed when its predecessor had less life left than some look-up asked
//     for. So is a renewal that retries a failed demand.
//   - A code in place of a spent one is needed when its predecessor is spent.
//   - A code for a token event is needed when its predecessor was made with another token or had
//     expired. Two replicas may make one at the same time for a token that is announced twice.
//     There are no more of them than events.
//   - Spares and claims: one for each code that became current, one for each claim and for each
//     authorization, and one more each time that two replicas make spares at once.
//
// A code that WeChat issued may be missing in the table if its answer, process or database was
// lost, or if a newer token superseded it: a fault or an event near the call explains each. Failed
// calls are retried at a limited pace.
func frugal(x *index, v *verdict) {
	for _, appid := range x.components() {
		codes := x.revisions(appid)
		tokens, aside := 0, 0
		for i, code := range codes {
			if code.Cause == "token" {
				tokens++
			}
			if i == 0 {
				continue
			}
			before := codes[i-1]
			begun, called := x.issued[before.Code].At, x.issued[code.Code].At
			slow, fast := x.skew(begun-x.Limits.CodeLife, called)
			left, skew := before.ExpiresAt-called, slow+fast
			if code.Cause == "spent" {
				v.that(before.Authorizer != "", x.ofRevision(appid, code.Revision), "revision %d of %s was replaced as spent, and nobody authorized with it", before.Revision, appid)
			}
			if before.Token != code.Token || before.Authorizer != "" || x.delayed(begun, called) {
				continue
			}
			switch code.Cause {
			case "renewal":
				allowed := renewedWith(x.Limits.CodeLife)
				if x.failedBetween(appid, begun, called) {
					allowed = x.Limits.MaxMinTTL
				}
				v.that(left <= allowed+skew, x.ofRevision(appid, code.Revision), "revision %d of %s was renewed when %v of its life were left", before.Revision, appid, left)
			case "demand":
				v.that(left <= x.Limits.MaxMinTTL+skew, x.ofRevision(appid, code.Revision),
					"revision %d of %s was replaced on demand when %v of its life were left", before.Revision, appid, left)
			case "token":
				v.that(left <= skew || called-begun <= atOnce, x.ofRevision(appid, code.Revision),
					"revision %d of %s was made for a token announced again, when its predecessor had %v left", code.Revision, appid, left)
			}
		}
		for i := range x.State.Codes {
			if code := &x.State.Codes[i]; code.AppID == appid && code.Revision == 0 {
				aside++
			}
		}
		claims := 0
		for key := range x.claims {
			if key.appid == appid {
				claims++
			}
		}
		events := len(x.tokens[appid])
		v.that(tokens <= events, nil, "%s had %d good events, and %d codes for them", appid, events, tokens)
		asked := x.claimsAsked(appid) + x.authorizations(appid)
		bound := x.Limits.Spares*2*len(codes) + 2*asked + x.Limits.Spares
		v.that(aside <= bound, nil, "%s had %d current codes and %d claims, and %d unannounced codes were made for it", appid, len(codes), asked, aside)
		v.CallBound += events + len(codes) - tokens + bound
	}
	x.wasted(v)
	x.failed(v)
}

// renewedWith is the most life that a code may have left when it is renewed.
func renewedWith(life time.Duration) time.Duration { return life/4 + life/50 }

// atOnce bounds the time between the calls of two replicas that work on two events with the same
// token at the same time, when the second has not read the first event yet.
const atOnce = time.Second

// delayed reports whether a process or the database was held up between two calls, so that one
// replica could not know what the other had done.
func (x *index) delayed(begin, end time.Duration) bool {
	return slices.ContainsFunc(x.delays, func(e history.Event) bool { return e.Begin <= end && e.End >= begin })
}

// failedBetween reports whether a call for a component failed within a time.
func (x *index) failedBetween(appid string, begin, end time.Duration) bool {
	return slices.ContainsFunc(x.Calls, func(call Call) bool {
		return call.AppID == appid && call.Code == "" && call.At >= begin && call.At <= end
	})
}

// claimsAsked returns how many claim ids clients used, whether or not they were answered.
func (x *index) claimsAsked(appid string) int {
	asked := map[string]bool{}
	for _, e := range x.Events {
		if e.Op == history.Claim && e.AppID == appid {
			asked[e.ClaimID] = true
		}
	}
	return len(asked)
}

// authorizations returns how many authorizations of a component were reported.
func (x *index) authorizations(appid string) int {
	n := 0
	for _, e := range x.Events {
		if e.Op == history.Authorize && e.AppID == appid {
			n++
		}
	}
	return n
}

// aftermath is how long after a fault a code may still be lost because of it. The service waits for
// a database that does not answer, and then until it is back.
const aftermath = 20 * time.Second

// wasted: each code that WeChat issued and that is not in the table has an explanation.
func (x *index) wasted(v *verdict) {
	for _, call := range x.Calls {
		if call.Code == "" || x.codes[call.Code] != nil {
			continue
		}
		explained := call.Spoilt || x.superseded(call)
		explained = explained || x.faulty(call.At-aftermath, call.At+aftermath)
		v.Wasted++
		v.that(explained, nil, "a code of %s was issued at %v and is not in the database, with no fault near it", call.AppID, call.At)
	}
	v.CallBound += v.Wasted
}

// superseded reports whether a newer event came while the code was made.
func (x *index) superseded(call Call) bool {
	for _, e := range x.tokens[call.AppID] {
		if e.at > call.At-aftermath && e.at < call.At+aftermath {
			return true
		}
	}
	return false
}

// The pace of failing calls. For an event, a claim or a spare, the service tries 5 times in a row.
// After that it retries a component after waits that double from 0.2 s to 3 s: a few times at
// first, then once in 3 s.
const (
	triesAtOnce = 5
	triesSoon   = 10
	pace        = 3 * time.Second
)

// failed: failing calls are not repeated without a limit.
func (x *index) failed(v *verdict) {
	failed, requests := map[string]int{}, map[string]int{}
	for _, call := range x.Calls {
		if call.Code == "" {
			failed[call.AppID]++
		}
	}
	for _, e := range x.Events {
		if e.Op == history.Claim {
			requests[e.AppID]++
		}
	}
	for _, appid := range x.components() {
		occasions := len(x.tokens[appid]) + requests[appid] + len(x.current[appid])
		bound := triesAtOnce*occasions + triesSoon + int(x.State.Now/pace)
		v.that(failed[appid] <= bound, nil, "%d calls for %s failed, and at most %d may", failed[appid], appid, bound)
		v.CallBound += bound
	}
}
