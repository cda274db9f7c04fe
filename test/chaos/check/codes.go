package check

import (
	"slices"
	"time"

	"preauth"
	"preauth/test/chaos/history"
)

// noExpiredCode: no code was given out after its expiry or with less life than asked for. No code
// is said to live longer than it does.
func noExpiredCode(x *index, v *verdict) {
	for _, e := range x.Events {
		if (e.Op != history.Lookup && e.Op != history.Claim) || e.Status != history.OK {
			continue
		}
		// The service answered after the request was sent, perhaps with a slow clock.
		slow, _ := x.skew(e.Begin, e.End)
		v.that(e.ExpiresAt > e.Begin+e.MinTTL-slow, only(e), "a code with %v to live was given out, and the request asked for %v", e.ExpiresAt-e.Begin, e.MinTTL)
	}
	for i := range x.State.Codes {
		code := &x.State.Codes[i]
		call, ok := x.issued[code.Code]
		v.that(ok && call.AppID == code.AppID && call.Token == code.Token, x.byCode[code.Code],
			"a code of %s in the database is not as WeChat issued it", code.AppID)
		// A life counts from the replica's clock, which may have been fast when it asked WeChat.
		_, fast := x.skew(call.At-askedBefore, call.At)
		v.that(code.ExpiresAt <= call.At+x.Limits.CodeLife+fast, x.byCode[code.Code],
			"the database says that a code of %s lives %v longer than it does", code.AppID, code.ExpiresAt-call.At-x.Limits.CodeLife)
	}
}

// askedBefore is how long before WeChat sees a call the service may have begun it. It is the
// service's limit for one call.
const askedBefore = 3 * time.Second

// alwaysValid: a look-up gets a committed code or a reason, and no component that had a code is
// unknown. Once the system has settled, every look-up and every claim of a component with a living
// token gets a code, and the current code is renewed before it expires.
func alwaysValid(x *index, v *verdict) {
	known := map[string]time.Duration{}
	for _, e := range x.Events {
		switch since, ok := known[e.AppID]; {
		case e.Op == history.Update && e.Status == history.OK && !ok:
			known[e.AppID] = e.End
		case e.Op == history.Lookup, e.Op == history.Claim:
			v.that(e.Status != preauth.StatusNotFound || !ok || since > e.Begin, only(e), "%s had a code, and the service does not know it", e.AppID)
			v.that(e.Status != history.Unreadable && e.Status != preauth.StatusBadRequest, only(e), "a good request was refused as bad, or its reply cannot be read")
			if e.Op == history.Lookup && e.Status == history.OK {
				code := x.committed(e.AppID, e.Revision)
				v.that(code != nil && code.Code == e.Code, only(e), "a look-up of %s got a code that is not the committed revision %d", e.AppID, e.Revision)
			}
			if e.Client == Prober && x.hasCode(e.AppID, e.End) {
				v.that(e.Status == history.OK || x.refusedForClaim(e), only(e), "the token of %s lives, and there is no code", e.AppID)
				v.that(e.Op != history.Lookup || e.Status != history.OK || e.ExpiresAt > e.Begin+x.ahead(), only(e),
					"a code of %s was not renewed in time before its expiry", e.AppID)
			}
		}
	}
}

// Prober is the client that sends requests once the system has settled.
const Prober = "prober"

// hasCode reports whether a component must have a code until the given time, according to its
// settled state.
func (x *index) hasCode(appid string, until time.Duration) bool {
	newest, ok := x.newest(appid)
	return ok && newest.expires > until && x.State.Components[appid].Failure == nil
}

// refusedForClaim reports whether a claim got no code because WeChat had rejected the token or the
// request before, for a claim or a spare. A replica then makes no more of these codes until a newer
// token comes.
func (x *index) refusedForClaim(e history.Event) bool {
	newest, _ := x.newest(e.AppID)
	return e.Op == history.Claim && (e.Class == preauth.ClassTokenRejected || e.Class == preauth.ClassRequest) &&
		slices.ContainsFunc(x.Calls, func(call Call) bool { return call.Token == newest.Token && call.ErrCode != 0 })
}

// ahead is the least life that a code has left when another replaces it. The service renews it with
// a quarter left. The rest allows for the interval of a second between two searches, for the call,
// and for a busy machine.
func (x *index) ahead() time.Duration { return x.Limits.CodeLife / 15 }
