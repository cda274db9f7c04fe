package check

import (
	"fmt"
	"slices"

	"preauth"
	"preauth/test/chaos/history"
)

// The streams of the events.
const tokenStream, authorizationStream = "COMPONENT_TOKENS", "COMPONENT_AUTHORIZED"

// nothingLost: each event that JetStream acknowledged is in the stream. Each event in the stream
// has an outcome: its component's row is from this event or a newer one, or a failure records it as
// bad.
func nothingLost(x *index, v *verdict) {
	stored := map[string]uint64{}
	for _, message := range x.State.Tokens {
		stored[message.ID] = message.Sequence
	}
	bad := map[uint64]bool{}
	for _, failure := range x.State.Failures {
		if failure.Class == preauth.ClassBadEvent && failure.Stream == tokenStream {
			bad[failure.Sequence] = true
		}
	}
	for _, e := range x.Events {
		if e.Op == history.Publish && e.Status == history.OK {
			v.that(stored[e.ID] == e.Sequence, only(e), "NATS acknowledged event %d, and the stream does not hold it", e.Sequence)
		}
	}
	for _, message := range x.State.Tokens {
		e, ok := x.published[message.ID]
		switch {
		case !ok:
			v.that(false, nil, "event %d in the stream was published by nobody", message.Sequence)
		case e.Bad:
			v.that(bad[message.Sequence], only(e), "event %d breaks the contract, and no failure reports it", message.Sequence)
		default:
			v.that(x.State.Components[e.AppID].TokenSequence >= message.Sequence, only(e),
				"event %d has no outcome: the newest event taken of its component is %d", message.Sequence, x.State.Components[e.AppID].TokenSequence)
		}
	}
}

// newestTokenWins: the component's row is from the newest event. In the order of revisions, no code
// of an older event follows the code of a newer one.
func newestTokenWins(x *index, v *verdict) {
	for _, appid := range x.components() {
		newest, ok := x.newest(appid)
		component := x.State.Components[appid]
		if !ok {
			v.that(false, nil, "%s is in the database, and no good event names it", appid)
			continue
		}
		v.that(component.TokenSequence == newest.sequence && component.Token == newest.Token, only(newest.Event),
			"the row of %s is from event %d, and the newest is %d", appid, component.TokenSequence, newest.sequence)
		// The same token may have been announced several times. Assigning each code to the earliest event
		// that fits leaves the most events for later codes.
		next := 0
		events := x.tokens[appid]
		for _, code := range x.revisions(appid) {
			found := slices.IndexFunc(events[next:], func(e tokenEvent) bool { return e.Token == code.Token })
			v.that(found >= 0, nil, "revision %d of %s was made with the token of an older event than an earlier revision", code.Revision, appid)
			if found < 0 {
				break
			}
			next += found
		}
	}
}

// oneCurrentCode: a component has one current code, and it is the newest.
func oneCurrentCode(x *index, v *verdict) {
	for _, appid := range x.components() {
		var current []uint64
		for _, code := range x.revisions(appid) {
			if !code.Deleted {
				current = append(current, code.Revision)
			}
		}
		component := x.State.Components[appid]
		want := []uint64{component.Revision}
		if component.Revision == 0 {
			want = nil
		}
		v.that(slices.Equal(current, want), nil, "%s has the current codes %v, and its row says %v", appid, current, want)
	}
}

// settles: after the faults, nothing is left undone.
func settles(x *index, v *verdict) {
	v.that(len(x.Undone) == 0, nil, "when the time to settle was over: %q", x.Undone)
	undone := x.unsettled()
	v.that(len(undone) == 0, nil, "when the replicas had stopped: %q", undone)
}

// Unsettled says what a system that is left alone has still to do, one line each.
func Unsettled(e *Evidence) []string { return newIndex(e).unsettled() }

func (x *index) unsettled() []string {
	var undone []string
	if n := x.State.Pending + x.State.AckPending; n > 0 {
		undone = append(undone, fmt.Sprintf("%d events wait", n))
	}
	if n := len(x.State.Outbox); n > 0 {
		undone = append(undone, fmt.Sprintf("%d announcements wait", n))
	}
	for _, appid := range x.components() {
		component := x.State.Components[appid]
		current := x.current[appid][component.Revision]
		if announced := x.State.Announced[appid].Revision; component.Revision > 0 && announced != component.Revision &&
			(announced != 0 || current == nil || !x.isDead(current)) {
			undone = append(undone, fmt.Sprintf("%s: revision %d is announced, %d committed", appid, x.State.Announced[appid].Revision, component.Revision))
		}
		if why := x.undoneFor(appid); why != "" {
			undone = append(undone, appid+": "+why)
		}
	}
	return undone
}

// undoneFor says what is missing for a component's newest token, "" if nothing is.
func (x *index) undoneFor(appid string) string {
	newest, ok := x.newest(appid)
	if !ok {
		return ""
	}
	component := x.State.Components[appid]
	code := x.current[appid][component.Revision]
	failure := component.Failure
	switch {
	case component.TokenSequence != newest.sequence:
		return fmt.Sprintf("event %d is the newest, and %d was taken", newest.sequence, component.TokenSequence)
	case newest.expires <= x.State.Now:
		return "" // any outcome is right
	case code != nil && code.Token == newest.Token && code.ExpiresAt > x.State.Now+x.ahead() && code.Authorizer == "" && failure == nil:
		return ""
	case failure == nil:
		return "its token lives, and there is neither a code nor a failure"
	case failure.RetryAt != 0:
		return fmt.Sprintf("%s, to be tried again", failure.Class)
	case x.givenUp(newest, *failure):
		return ""
	default:
		return fmt.Sprintf("given up with %s for no reason", failure.Class)
	}
}

// givenUp reports whether the service had a reason to give up a token until a newer one comes:
// WeChat rejected the token or the request, or the token had expired, if only by a clock that was
// fast.
func (x *index) givenUp(newest tokenEvent, failure Failure) bool {
	if failure.Class == preauth.ClassTokenExpired {
		return newest.expires <= failure.At
	}
	return failure.ErrCode != 0 && slices.ContainsFunc(x.Calls, func(call Call) bool {
		return call.Token == newest.Token && call.ErrCode == failure.ErrCode
	})
}
