package check

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"preauth"
	"preauth/test/chaos/history"
)

// oneCodeOneVisitor: no code is given to two claims, and none to a claim that anybody saw otherwise.
func oneCodeOneVisitor(x *index, v *verdict) {
	for hash, events := range x.byCode {
		var claims, public []history.Event
		for _, e := range events {
			switch {
			case e.Op == history.Claim && e.Status == history.OK:
				claims = append(claims, e)
			case e.Op == history.Lookup, e.Op == history.Update:
				public = append(public, e)
			}
		}
		if len(claims) == 0 {
			continue
		}
		v.that(len(public) == 0, slices.Concat(claims[:1], public[:min(1, len(public))]), "a claimed code was looked up or announced")
		for _, e := range claims[1:] {
			v.that(e.AppID == claims[0].AppID && e.ClaimID == claims[0].ClaimID, only(claims[0], e), "a code was given to two claims")
		}
		code := x.codes[hash]
		v.that(code == nil || code.Revision == 0, claims[:1], "a claimed code is in the database as revision")
	}
}

// claimsLast: a claim that was answered is in the database, a claim id gets another code only when the one
// before has too little life left, and another reference under it is refused.
func claimsLast(x *index, v *verdict) {
	rows := map[claimKey][]*Code{}
	for i := range x.State.Codes {
		if code := &x.State.Codes[i]; code.ClaimID != "" {
			key := claimKey{code.AppID, code.ClaimID}
			rows[key] = append(rows[key], code)
		}
	}
	for key, answers := range x.claims {
		slices.SortFunc(rows[key], func(a, b *Code) int { return cmp.Compare(a.ClaimedAt, b.ClaimedAt) })
		for _, e := range answers {
			code := x.codes[e.Code]
			v.that(code != nil && code.AppID == e.AppID && code.ClaimID == e.ClaimID && code.Reference == e.Reference && e.Detail == "", only(e),
				"a claim was answered with a code that the database does not hold for it")
			// Its reference holds from then on for whoever asks later.
			v.that(!strings.HasSuffix(e.Reference, " of somebody else") || !slices.ContainsFunc(answers, func(other history.Event) bool {
				return other.Reference != e.Reference && other.End < e.Begin
			}), only(answers[0], e), "a claim id was given a code for another reference")
		}
		for i := 1; i < len(rows[key]); i++ {
			before, after := rows[key][i-1], rows[key][i]
			// Whoever replaced it did so with its own clock, and perhaps died of it before another went on. The
			// request began at most RequestTimeout before.
			begin := min(before.ClaimedAt, after.ClaimedAt) - x.Limits.RequestTimeout
			slow, fast := x.skew(begin, x.State.Now)
			v.that(before.ExpiresAt <= after.ClaimedAt+minTTLOf(answers)+x.Limits.RequestTimeout+slow+fast, answers,
				"a claim id got a second code while its first had %v to live", before.ExpiresAt-after.ClaimedAt)
		}
	}
}

func minTTLOf(answers []history.Event) (ttl time.Duration) {
	for _, e := range answers {
		ttl = max(ttl, e.MinTTL)
	}
	return ttl
}

// resolveAgrees: a code leads to the claim that it was given to, and one that everybody sees to none.
func resolveAgrees(x *index, v *verdict) {
	for _, e := range x.Events {
		if e.Op != history.Resolve {
			continue
		}
		code := x.codes[e.Code]
		claimed := slices.ContainsFunc(x.byCode[e.Code], func(other history.Event) bool {
			return other.Op == history.Claim && other.Status == history.OK && other.End < e.Begin
		})
		switch e.Status {
		case history.OK:
			v.that(code != nil && code.ClaimID != "" && code.AppID == e.AppID && code.ClaimID == e.ClaimID && code.Reference == e.Reference,
				x.byCode[e.Code], "a code was resolved to a claim that it was not given to")
		case preauth.StatusNotFound:
			v.that(!claimed, x.byCode[e.Code], "a claimed code was resolved to nothing")
		}
	}
}
