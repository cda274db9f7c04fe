package check

import (
	"slices"
	"time"

	"preauth/test/chaos/history"
)

// frugal: what WeChat was asked for was needed.
//
// A code that is in the table cost one call, and the table shows what each was made for:
//
//   - a renewal when no more than the last quarter of its predecessor's life was left (and a fiftieth, by
//     which renewals are spread), or after its end;
//   - one on demand, or a renewal that tries again what failed on demand, when its predecessor had less life
//     than some look-up asked for;
//   - one for a token event when its predecessor was for another token, or dead, or was made at the same time by
//     another replica for the same token announced twice: no more than there are events;
//   - spares and claims: one for each code that became current, one for each claim, and one more for each
//     time that replicas make spares at once.
//
// A code that was issued and is not in the table is one whose answer, process or database was lost, or that
// a newer token overtook: each has a fault beside it. And a call that failed is tried again at a pace.
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
			if before.Token != code.Token || x.delayed(begun, called) {
				continue
			}
			switch code.Cause {
			case "renewal":
				allowed := renewedWith(x.Limits.CodeLife)
				if x.failedBetween(appid, begun, called) {
					allowed = x.Limits.MaxMinTTL
				}
				v.that(left <= allowed+skew, x.ofRevision(appid, code.Revision), "revision %d of %s was renewed with %v left", before.Revision, appid, left)
			case "demand":
				v.that(left <= x.Limits.MaxMinTTL+skew, x.ofRevision(appid, code.Revision),
					"revision %d of %s was replaced on demand with %v left", before.Revision, appid, left)
			case "token":
				v.that(left <= skew || called-begun <= atOnce, x.ofRevision(appid, code.Revision),
					"revision %d of %s was made for a token announced again, with %v left", code.Revision, appid, left)
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
		asked := x.claimsAsked(appid)
		bound := x.Limits.Spares*2*len(codes) + 2*asked + x.Limits.Spares
		v.that(aside <= bound, nil, "%s had %d current codes and %d claims, and %d codes were made aside", appid, len(codes), asked, aside)
		v.CallBound += events + len(codes) - tokens + bound
	}
	x.wasted(v)
	x.failed(v)
}

// renewedWith is the life that a code may have left when it is renewed.
func renewedWith(life time.Duration) time.Duration { return life/4 + life/50 }

// atOnce is how far apart WeChat may see the calls of two replicas that took up two events of the same token at the
// same moment, before the one with the second had read the first.
const atOnce = time.Second

// delayed reports whether a process or the database was held up between two calls, so that what one replica had done
// the other could not know.
func (x *index) delayed(begin, end time.Duration) bool {
	return slices.ContainsFunc(x.delays, func(e history.Event) bool { return e.Begin <= end && e.End >= begin })
}

// failedBetween reports whether a call for a component failed between two others.
func (x *index) failedBetween(appid string, begin, end time.Duration) bool {
	return slices.ContainsFunc(x.Calls, func(call Call) bool {
		return call.AppID == appid && call.Code == "" && call.At >= begin && call.At <= end
	})
}

// claimsAsked returns how many claim ids were asked for, answered or not.
func (x *index) claimsAsked(appid string) int {
	asked := map[string]bool{}
	for _, e := range x.Events {
		if e.Op == history.Claim && e.AppID == appid {
			asked[e.ClaimID] = true
		}
	}
	return len(asked)
}

// aftermath is how long after a fault a code may still be lost to it: the service waits so long for a
// database that does not answer, and then for one that comes back.
const aftermath = 20 * time.Second

// wasted: a code that was issued and is not in the table has a reason.
func (x *index) wasted(v *verdict) {
	var faults []history.Event
	for _, e := range x.Events {
		if e.Op == history.Fault {
			faults = append(faults, e)
		}
	}
	for _, call := range x.Calls {
		if call.Code == "" || x.codes[call.Code] != nil {
			continue
		}
		explained := call.Spoilt || x.overtaken(call)
		for _, fault := range faults {
			explained = explained || fault.Begin <= call.At+aftermath && fault.End >= call.At-aftermath
		}
		v.Wasted++
		v.that(explained, nil, "a code of %s was issued at %v, and is not in the database, without a fault beside it", call.AppID, call.At)
	}
	v.CallBound += v.Wasted
}

// overtaken reports whether a newer event came while the code was made.
func (x *index) overtaken(call Call) bool {
	for _, e := range x.tokens[call.AppID] {
		if e.at > call.At-aftermath && e.at < call.At+aftermath {
			return true
		}
	}
	return false
}

// The pace of calls that fail. What is tried at once, for an event, a claim or a spare, is tried 5 times. From then
// on a component is tried after waits that double from 0.2 s to 3 s: some more times at first, and once in 3 s from
// then on.
const (
	triesAtOnce = 5
	triesSoon   = 10
	pace        = 3 * time.Second
)

// failed: calls that fail are not repeated without measure.
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
		v.that(failed[appid] <= bound, nil, "%d calls for %s failed, where %d may", failed[appid], appid, bound)
		v.CallBound += bound
	}
}
