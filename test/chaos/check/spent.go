package check

import (
	"slices"
	"time"

	"preauth"
	"preauth/test/chaos/history"
)

// spentStaysSpent: each authorization that JetStream acknowledged has an outcome: its code is spent,
// or a failure says why not. A spent code is announced as such. Nobody gets it any more.
func spentStaysSpent(x *index, v *verdict) {
	stored := map[string]uint64{}
	reported := map[history.Hash][]string{}
	for _, message := range x.State.Authorizations {
		stored[message.ID] = message.Sequence
		e, ok := x.published[message.ID]
		v.that(ok, nil, "authorization %d in the stream was reported by nobody", message.Sequence)
		code := x.codes[e.Code]
		switch {
		case e.Bad:
			v.that(x.failedWith(message.Sequence, preauth.ClassBadEvent), only(e), "authorization %d breaks the contract, and no failure reports it", message.Sequence)
		case code == nil:
			v.that(x.failedWith(message.Sequence, preauth.ClassUnknownCode), only(e), "authorization %d has an unknown code, and no failure reports it", message.Sequence)
		case code.Authorizer != e.Authorizer:
			v.that(code.Authorizer != "" && x.failedWith(message.Sequence, preauth.ClassSecondAuthorizer), only(e),
				"authorization %d was acknowledged, and its code is not spent", message.Sequence)
		default:
			v.that(true, nil, "")
		}
		reported[e.Code] = append(reported[e.Code], e.Authorizer)
	}
	for _, e := range x.Events {
		if e.Op == history.Authorize && e.Status == history.OK {
			v.that(stored[e.ID] == e.Sequence, only(e), "NATS acknowledged authorization %d, and the stream does not hold it", e.Sequence)
		}
	}
	for i := range x.State.Codes {
		code := &x.State.Codes[i]
		if code.Authorizer == "" {
			continue
		}
		v.that(slices.Contains(reported[code.Code], code.Authorizer), x.byCode[code.Code], "a code of %s is spent, and nobody said so", code.AppID)
		v.that(slices.ContainsFunc(x.State.Authorized, func(a Authorized) bool {
			return a.AppID == code.AppID && x.isAbout(a.ClaimID, a.Revision, code) && a.Reference == code.Reference && a.Authorizer == code.Authorizer
		}), x.byCode[code.Code], "a code of %s is spent, and no announcement says whose it was", code.AppID)
		x.notGivenAgain(v, code)
	}
}

// failedWith reports whether a failure of an authorization was announced.
func (x *index) failedWith(sequence uint64, class preauth.Class) bool {
	return slices.ContainsFunc(x.State.Failures, func(f Failure) bool {
		return f.Stream == authorizationStream && f.Sequence == sequence && f.Class == class
	})
}

// isAbout reports whether an announcement that names a claim or a revision is about a code.
func (x *index) isAbout(claimID string, revision uint64, code *Code) bool {
	if revision == 0 {
		return code.Revision == 0 && code.ClaimID == claimID
	}
	return x.committed(code.AppID, revision) == code
}

// notGivenAgain: a spent code is in no answer to a request that was sent after its authorization was
// announced. Claims ask the database. Look-ups ask the memory of a replica, which learns of it
// through NATS: within a second, or when a fault is over.
func (x *index) notGivenAgain(v *verdict, code *Code) {
	announced := slices.IndexFunc(x.Events, func(e history.Event) bool {
		return e.Op == history.Authorized && e.AppID == code.AppID && e.Authorizer == code.Authorizer && x.isAbout(e.ClaimID, e.Revision, code)
	})
	if announced < 0 {
		return // the subscriber missed it: the stream has it
	}
	told := x.Events[announced]
	for _, e := range x.byCode[code.Code] {
		switch {
		case e.Status != history.OK:
		case e.Op == history.Claim:
			v.that(e.Begin <= told.End, only(told, e), "a claim was given a spent code")
		case e.Op == history.Lookup:
			lag := time.Second
			if x.faulty(told.Begin-aftermath, e.Begin) {
				lag = aftermath
			}
			v.that(e.Begin <= told.End+lag, only(told, e), "a look-up was given a code %v after it was spent", e.Begin-told.End)
		}
	}
}

// faulty reports whether there was a fault within a time.
func (x *index) faulty(begin, end time.Duration) bool {
	return slices.ContainsFunc(x.faults, func(e history.Event) bool { return e.Begin <= end && e.End >= begin })
}
