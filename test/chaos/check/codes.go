package check

import (
	"slices"
	"time"

	"preauth"
	"preauth/test/chaos/history"
)

// noExpiredCode: no code was given out after its expiry or with less life than asked for, and none is said
// to live longer than it does.
func noExpiredCode(x *index, v *verdict) {
	for _, e := range x.Events {
		if (e.Op != history.Lookup && e.Op != history.Claim) || e.Status != history.OK {
			continue
		}
		// The answer was made after the request was sent, with a clock that may have been slow.
		slow, _ := x.skew(e.Begin, e.End)
		v.that(e.ExpiresAt > e.Begin+e.MinTTL-slow, only(e), "a code with %v to live was given out, and %v was asked for", e.ExpiresAt-e.Begin, e.MinTTL)
	}
	for i := range x.State.Codes {
		code := &x.State.Codes[i]
		call, ok := x.issued[code.Code]
		v.that(ok && call.AppID == code.AppID && call.Token == code.Token, x.byCode[code.Code],
			"a code of %s in the database is not as WeChat issued it", code.AppID)
		// The clock that a life counts from may have been fast when WeChat was asked.
		_, fast := x.skew(call.At-askedBefore, call.At)
		v.that(code.ExpiresAt <= call.At+x.Limits.CodeLife+fast, x.byCode[code.Code],
			"a code of %s is said to live %v longer than it does", code.AppID, code.ExpiresAt-call.At-x.Limits.CodeLife)
	}
}

// askedBefore is how long before WeChat sees a call the service may have begun it: its limit for one call.
const askedBefore = 3 * time.Second

// alwaysValid: a look-up gets a committed code, or is told why not, and no component is unknown that had a code
// before. When the system has settled, each look-up of a component whose token lives gets a code, which is renewed
// ahead of its expiry, and each claim gets one.
func alwaysValid(x *index, v *verdict) {
	known := map[string]time.Duration{}
	for _, e := range x.Events {
		switch since, ok := known[e.AppID]; {
		case e.Op == history.Update && e.Status == history.OK && !ok:
			known[e.AppID] = e.End
		case e.Op == history.Lookup, e.Op == history.Claim:
			v.that(e.Status != preauth.StatusNotFound || !ok || since > e.Begin, only(e), "%s is unknown, and had a code", e.AppID)
			v.that(e.Status != history.Unreadable && e.Status != preauth.StatusBadRequest, only(e), "a good request was not understood, or its answer cannot be")
			if e.Op == history.Lookup && e.Status == history.OK {
				code := x.current[e.AppID][e.Revision]
				v.that(code != nil && code.Code == e.Code, only(e), "a look-up of %s got a code that was not committed as revision %d", e.AppID, e.Revision)
			}
			if e.Client == Prober && x.hasCode(e.AppID, e.End) {
				v.that(e.Status == history.OK || x.refusedAside(e), only(e), "the token of %s lives, and there is no code", e.AppID)
				v.that(e.Op != history.Lookup || e.Status != history.OK || e.ExpiresAt > e.Begin+x.ahead(), only(e),
					"a code of %s was not renewed ahead of its expiry", e.AppID)
			}
		}
	}
}

// Prober is the client that asks when the system has settled and is left alone.
const Prober = "prober"

// hasCode reports whether a component has to have a code until the given time, by its settled state.
func (x *index) hasCode(appid string, until time.Duration) bool {
	newest, ok := x.newest(appid)
	return ok && newest.dies > until && x.State.Components[appid].Failure == nil
}

// refusedAside reports whether a claim got no code because WeChat said, when it was asked for a claim or a spare
// before, that the token is dead or the request wrong: a replica asks for none then until there is a newer token.
func (x *index) refusedAside(e history.Event) bool {
	newest, _ := x.newest(e.AppID)
	return e.Op == history.Claim && (e.Class == preauth.ClassTokenRejected || e.Class == preauth.ClassRequest) &&
		slices.ContainsFunc(x.Calls, func(call Call) bool { return call.Token == newest.Token && call.ErrCode != 0 })
}

// ahead is the life that a code has left at least when another takes its place. The service renews it with a
// quarter left; the rest is for looking once a second, for the call, and for a machine that is busy.
func (x *index) ahead() time.Duration { return x.Limits.CodeLife / 15 }
