// Package check decides from the evidence of a run whether preauth kept its promises.
//
// The evidence is what clients did and saw, the faults, and the final contents of the database, the
// streams, the stand-in for WeChat and the processes' logs. The package knows the contract, but not
// how the service works. It allows faults no more than their unavoidable effect: a wrong clock, for
// example, makes times wrong by its error and changes nothing else.
package check

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"preauth"
	"preauth/test/chaos/history"
)

// Evidence is everything that is known about a run. Times count from its start.
type Evidence struct {
	// Seed is that of the run.
	Seed uint64
	// Limits are the settings of the system.
	Limits Limits
	// Events are the history, in the order in which the events began.
	Events []history.Event

	// State is the state of the database and the streams at the end: the system has settled, or the
	// time for that is over, and the replicas have stopped.
	State State
	// Undone is what the system had still to do when the time for that was over.
	Undone []string
	// Calls are the calls that reached WeChat, in order.
	Calls []Call
	// Leaks say where a token or a code was found that must not be there, without repeating it.
	Leaks []string
	// Broken says what the processes did that a service must never do.
	Broken []string
}

// Limits are the settings of the system that promises depend on.
type Limits struct {
	// CodeLife is how long a code lives.
	CodeLife time.Duration
	// RequestTimeout is the service's limit for answering a request.
	RequestTimeout time.Duration
	// MaxMinTTL is the largest min_ttl that a look-up asked for.
	MaxMinTTL time.Duration
	// Spares is the number of spares of a component.
	Spares int
}

// State is the state of the database and the streams at one time.
type State struct {
	// Now is that time.
	Now time.Duration
	// Tokens are the messages of the stream of tokens, in order, and Authorizations those of the stream
	// of authorizations.
	Tokens, Authorizations []StoredEvent
	// Pending is how many events of both streams wait, AckPending how many are in flight.
	Pending, AckPending int
	// Announced are the messages of the stream of announcements, one for each component.
	Announced map[string]Announcement
	// Failures are the messages of the stream of failures.
	Failures []Failure
	// Authorized are the messages of the stream that announces authorizations.
	Authorized []Authorized

	Components map[string]Component
	Codes      []Code
	// Outbox are the message ids of the announcements that wait.
	Outbox []string
}

// StoredEvent is a token event or an authorization in its stream.
type StoredEvent struct {
	Sequence uint64
	// ID is the header [history.IDHeader].
	ID string
	// At is the stream's time stamp.
	At time.Duration
}

// Announcement is the last message of a component in the stream of announcements.
type Announcement struct {
	MessageID string
	Revision  uint64
	Code      history.Hash
	ExpiresAt time.Duration
}

// Authorized is an announced authorization.
type Authorized struct {
	AppID, ClaimID, Reference, Authorizer string
	Revision                              uint64
}

// Failure is a message in the stream of failures, or what a component's row holds of it.
type Failure struct {
	AppID string
	preauth.Class
	ErrCode int
	// Stream is the one of the event, and Sequence the event's.
	Stream   string
	Sequence uint64
	// At is when it happened. RetryAt is when the service tries again, 0 if it gave up.
	At, RetryAt time.Duration
}

// Component is a row of the table component.
type Component struct {
	Revision      uint64
	TokenSequence uint64
	Token         history.Hash
	Failure       *Failure
}

// Code is a row of the table pre_auth_code.
type Code struct {
	AppID string
	// Revision is 0 for a code that is never announced.
	Revision            uint64
	Code, Token         history.Hash
	Cause               string
	IssuedAt, ExpiresAt time.Duration
	Deleted             bool
	ClaimID, Reference  string
	ClaimedAt           time.Duration
	// Authorizer is the account that authorized with it, "" while it is not spent.
	Authorizer string
}

// Call is a call of WeChat.
type Call struct {
	AppID string
	At    time.Duration
	Token history.Hash
	// Code is the code that it issued, "" if none, and ErrCode the error that it returned.
	Code    history.Hash
	ErrCode int
	// Spoilt means that the stand-in was told to spoil the answer.
	Spoilt bool
}

// Violation is the breach of a promise.
type Violation struct {
	// Promise is the name of the promise.
	Promise string
	// Says says what happened.
	Says string
	// Events are the events that show it.
	Events []history.Event
}

// index is the evidence, arranged for the checks.
type index struct {
	*Evidence
	published map[string]history.Event         // by ID
	tokens    map[string][]tokenEvent          // the good events of each component, in the stream's order
	codes     map[history.Hash]*Code           // by code
	current   map[string]map[uint64]*Code      // by component and revision
	before    map[string]map[uint64]*Code      // the same for the revisions that spent codes had before
	issued    map[history.Hash]Call            // by code
	claims    map[claimKey][]history.Event     // that were answered with a code
	byCode    map[history.Hash][]history.Event // every event with the code
	faults    []history.Event
	clocks    []history.Event // the faults of clocks
	delays    []history.Event // the faults that hold up a process or the database
}

type claimKey struct{ appid, id string }

// tokenEvent is a good event in the stream.
type tokenEvent struct {
	history.Event
	sequence uint64
	at       time.Duration
	// expires is when the token does, according to the event.
	expires time.Duration
}

// holdsUp reports whether a fault holds up a process or the database. All cuts of the power do,
// except those of NATS alone.
func holdsUp(fault string) bool {
	return strings.Contains(fault, "SIGSTOP") || strings.Contains(fault, "MySQL") ||
		strings.Contains(fault, "power cut") && !strings.Contains(fault, "NATS")
}

func newIndex(e *Evidence) *index {
	x := &index{
		Evidence: e, published: map[string]history.Event{}, tokens: map[string][]tokenEvent{},
		codes: map[history.Hash]*Code{}, current: map[string]map[uint64]*Code{}, before: map[string]map[uint64]*Code{},
		issued: map[history.Hash]Call{},
		claims: map[claimKey][]history.Event{}, byCode: map[history.Hash][]history.Event{},
	}
	for _, event := range e.Events {
		if event.Op == history.Fault {
			x.faults = append(x.faults, event)
		}
		switch {
		case event.Op == history.Publish, event.Op == history.Authorize:
			x.published[event.ID] = event
		case event.Op == history.Claim && event.Status == history.OK:
			key := claimKey{event.AppID, event.ClaimID}
			x.claims[key] = append(x.claims[key], event)
		case event.Op == history.Fault && event.Offset != 0:
			x.clocks = append(x.clocks, event)
		case event.Op == history.Fault && holdsUp(event.Fault):
			x.delays = append(x.delays, event)
		}
		if event.Code != "" {
			x.byCode[event.Code] = append(x.byCode[event.Code], event)
		}
	}
	for _, stored := range e.State.Tokens {
		event, ok := x.published[stored.ID]
		if !ok || event.Bad {
			continue
		}
		expires := stored.At + event.Life
		if event.ExpiresAt != 0 {
			expires = event.ExpiresAt
		}
		x.tokens[event.AppID] = append(x.tokens[event.AppID], tokenEvent{event, stored.Sequence, stored.At, expires})
	}
	for i := range e.State.Codes {
		code := &e.State.Codes[i]
		x.codes[code.Code] = code
		if code.Revision != 0 {
			if x.current[code.AppID] == nil {
				x.current[code.AppID] = map[uint64]*Code{}
			}
			x.current[code.AppID][code.Revision] = code
		}
	}
	for appid, codes := range x.current {
		x.before[appid] = map[uint64]*Code{}
		for revision, code := range codes {
			if code.Authorizer != "" && codes[revision-1] == nil {
				x.before[appid][revision-1] = code
			}
		}
	}
	for _, call := range e.Calls {
		if call.Code != "" {
			x.issued[call.Code] = call
		}
	}
	return x
}

// newest returns the newest good event of a component.
func (x *index) newest(appid string) (tokenEvent, bool) {
	events := x.tokens[appid]
	if len(events) == 0 {
		return tokenEvent{}, false
	}
	return events[len(events)-1], true
}

// committed returns the code that the database has for a revision, nil if it has none. A code that
// was spent while it was current has two revisions: the second one says that it is spent.
func (x *index) committed(appid string, revision uint64) *Code {
	return cmp.Or(x.current[appid][revision], x.before[appid][revision])
}

// revisions returns the announced codes of a component, the oldest first.
func (x *index) revisions(appid string) []*Code {
	var codes []*Code
	for _, code := range x.current[appid] {
		codes = append(codes, code)
	}
	slices.SortFunc(codes, func(a, b *Code) int { return cmp.Compare(a.Revision, b.Revision) })
	return codes
}

// skew returns by how much the clock of any replica was slow or fast at any time from begin to end.
// Both are 0 or more.
func (x *index) skew(begin, end time.Duration) (slow, fast time.Duration) {
	for _, clock := range x.clocks {
		if clock.Begin <= end && clock.End >= begin {
			slow, fast = max(slow, -clock.Offset), max(fast, clock.Offset)
		}
	}
	return slow, fast
}

// components returns all known components, sorted.
func (x *index) components() []string {
	known := map[string]bool{}
	for appid := range x.tokens {
		known[appid] = true
	}
	for appid := range x.State.Components {
		known[appid] = true
	}
	appids := make([]string, 0, len(known))
	for appid := range known {
		appids = append(appids, appid)
	}
	slices.Sort(appids)
	return appids
}
