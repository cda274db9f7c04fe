package check

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"preauth"
	"preauth/test/chaos/history"
)

// oneCodeOneVisitor: no code is given to two claims. A claimed code is never announced or looked
// up.
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
		v.that(code == nil || code.Revision == 0, claims[:1], "a claimed code has a revision in the database")
	}
}

// claimsLast: a claim that was answered is in the database. A claim id gets another code only when
// the one before has too little life left. Another reference for a claim id is refused.
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
				"a claim was answered with a code that the database does not have for it")
			// Its first reference binds all later claims.
			v.that(!strings.HasSuffix(e.Reference, " of somebody else") || !slices.ContainsFunc(answers, func(other history.Event) bool {
				return other.Reference != e.Reference && other.End < e.Begin
			}), only(answers[0], e), "a claim id was given a code for another reference")
		}
		for i := 1; i < len(rows[key]); i++ {
			before, after := rows[key][i-1], rows[key][i]
			// A replica replaced the code by its own clock, and may have died before another one went on.
			// The request began at most RequestTimeout earlier.
			begin := min(before.ClaimedAt, after.ClaimedAt) - x.Limits.RequestTimeout
			slow, fast := x.skew(begin, x.State.Now)
			// Either may be the spent one: a slow clock can date the second claim before the first.
			v.that(before.Authorizer != "" || after.Authorizer != "" || before.ExpiresAt <= after.ClaimedAt+minTTLOf(answers)+x.Limits.RequestTimeout+slow+fast, answers,
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

// resolveAgrees: a claimed code resolves to its claim, and an announced code to its revision.
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
			v.that(code != nil && code.AppID == e.AppID && code.ClaimID == e.ClaimID && code.Reference == e.Reference,
				x.byCode[e.Code], "a code was resolved to a claim that it was not given to")
			v.that(code == nil || code.ClaimID != "" || x.committed(e.AppID, e.Revision) == code, x.byCode[e.Code],
				"a code was resolved to a revision that it does not have")
			v.that(e.Authorizer == "" || code != nil && code.Authorizer == e.Authorizer, x.byCode[e.Code],
				"a code was resolved to an account that did not authorize with it")
		case preauth.StatusNotFound:
			v.that(!claimed, x.byCode[e.Code], "a claimed code was resolved to nothing")
			v.that(code == nil || code.Revision == 0, x.byCode[e.Code], "an announced code was resolved to nothing")
		}
	}
}
