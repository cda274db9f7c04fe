package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"preauth/test/chaos/history"
)

// announcedIsCommitted: every announced code is in the database, with the same message id each
// time. The last message of each component in the stream announces its current code.
func announcedIsCommitted(x *index, v *verdict) {
	for _, e := range x.Events {
		if e.Op == history.Update || e.Op == history.Failure {
			v.that(e.Status == history.OK, only(e), "an announcement that cannot be read")
		}
		if e.Op != history.Update {
			continue
		}
		code := x.committed(e.AppID, e.Revision)
		v.that(code != nil && code.Code == e.Code && (e.Spent && code.Authorizer != "" || sameTime(code.ExpiresAt, e.ExpiresAt)), only(e),
			"revision %d of %s was announced, and the database holds another code or none", e.Revision, e.AppID)
		again := e.MessageID == "" && (x.announcedBefore(e) || x.missedBefore(e))
		v.that(e.MessageID == fmt.Sprintf("%s.%d", e.AppID, e.Revision) || again, only(e), "announced with the message id %q", e.MessageID)
	}
	for _, appid := range x.components() {
		revision := x.State.Components[appid].Revision
		code, announced := x.current[appid][revision], x.State.Announced[appid]
		if revision == 0 {
			v.that(announced.Revision == 0, nil, "revision %d of %s is in the stream, and the database holds no code", announced.Revision, appid)
			continue
		}
		v.that(code != nil && (announced.Revision == revision && announced.Code == code.Code || announced.Revision == 0 && x.isDead(code)),
			x.ofRevision(appid, revision), "the last announcement of %s is revision %d, and revision %d is committed", appid, announced.Revision, revision)
	}
	for appid := range x.State.Announced {
		_, known := x.State.Components[appid]
		v.that(known, nil, "%s has an announcement and no row", appid)
	}
	// A failure in a component's row was committed together with its announcement.
	for _, appid := range x.components() {
		if failure := x.State.Components[appid].Failure; failure != nil {
			announced := slices.ContainsFunc(x.State.Failures, func(f Failure) bool {
				return f.AppID == appid && f.Stream == failure.Stream && f.Sequence == failure.Sequence && f.Class == failure.Class && f.At == failure.At
			})
			v.that(announced, nil, "the failure of %s, %s for event %d, was not announced", appid, failure.Class, failure.Sequence)
		}
	}
}

// announcedBefore reports whether the same update was seen before. It may be announced again if it
// left the stream too early, by the clock of the replica that published it, or if a replica whose
// clock is slow takes it for alive. The stream drops its message id then, unless the server has been
// restarted since and has forgotten the id.
func (x *index) announcedBefore(e history.Event) bool {
	return slices.ContainsFunc(x.byCode[e.Code], func(other history.Event) bool {
		return other.Op == history.Update && other.AppID == e.AppID && other.Revision == e.Revision && other.Sequence < e.Sequence
	})
}

// missedBefore reports whether the subscriber lacks a message of the stream between an update and the
// component's one before: it may have been the same update. NATS sends the subscriber each message
// once, and drops those that come while a partition or a restart keeps it away.
func (x *index) missedBefore(e history.Event) bool {
	after, sequences := uint64(0), map[uint64]bool{}
	for _, other := range x.Events {
		if other.Op != history.Update || other.Sequence >= e.Sequence {
			continue
		}
		sequences[other.Sequence] = true
		if other.AppID == e.AppID && other.Revision < e.Revision {
			after = max(after, other.Sequence)
		}
	}
	for sequence := after + 1; after > 0 && sequence < e.Sequence; sequence++ {
		if !sequences[sequence] {
			return true
		}
	}
	return after == 0 // its first revision that the subscriber saw
}

// forgotten reports whether the stream may have forgotten a message id between two times: its server
// was killed, or the window for duplicates has passed.
func (x *index) forgotten(from, to time.Duration) bool {
	return to-from > 2*time.Minute || slices.ContainsFunc(x.Events, func(e history.Event) bool {
		return e.Op == history.Fault && strings.HasPrefix(e.Fault, "NATS: SIGKILL") && e.End > from && e.Begin < to
	})
}

// isDead reports whether a code can be used no more. Its announcement may have left the stream.
func (x *index) isDead(code *Code) bool {
	return code.Authorizer != "" || code.ExpiresAt <= x.State.Now
}

// sameTime compares times as the database keeps them.
func sameTime(a, b time.Duration) bool {
	return a.Truncate(time.Microsecond) == b.Truncate(time.Microsecond)
}

// ofRevision returns the events about a revision.
func (x *index) ofRevision(appid string, revision uint64) []history.Event {
	var seen []history.Event
	for _, e := range x.Events {
		if e.AppID == appid && e.Revision == revision {
			seen = append(seen, e)
		}
	}
	return seen
}

// revisionsGrow: in the stream, each revision of a component is higher than the one before. The
// database never goes back, and a look-up never gets an older revision than it asked for.
func revisionsGrow(x *index, v *verdict) {
	updates := map[string][]history.Event{}
	rows := map[string]history.Event{}
	for _, e := range x.Events {
		switch {
		case e.Op == history.Update && e.Status == history.OK:
			updates[e.AppID] = append(updates[e.AppID], e)
		case e.Op == history.Row:
			before := rows[e.AppID]
			v.that(e.Revision >= before.Revision && e.Sequence >= before.Sequence, only(before, e), "the row of %s went back", e.AppID)
			rows[e.AppID] = e
		case e.Op == history.Lookup && e.Status == history.OK:
			v.that(e.Revision >= e.MinRevision, only(e), "a look-up for revision %d or newer got %d", e.MinRevision, e.Revision)
		}
	}
	for appid, row := range rows {
		v.that(x.State.Components[appid].Revision >= row.Revision, only(row), "the row of %s had gone back at the end", appid)
	}
	for appid, seen := range updates {
		slices.SortStableFunc(seen, func(a, b history.Event) int { return cmp.Compare(a.Sequence, b.Sequence) })
		for i := 1; i < len(seen); i++ {
			a, b := seen[i-1], seen[i]
			again := a.Revision == b.Revision && a.Code == b.Code && (b.MessageID == "" || x.forgotten(a.Begin, b.Begin))
			v.that(a.Sequence == b.Sequence || a.Revision < b.Revision || again, only(a, b),
				"revision %d of %s follows %d in the stream", b.Revision, appid, a.Revision)
		}
	}
}
