package preauth

import (
	"encoding/json"
	"time"
)

// State is how a component fares, by the rules of docs/contract.md.
type State string

// The states as they appear on the wire.
const (
	// StateValid means that everything works.
	StateValid State = "valid"
	// StateExpiring means that the renewal of the current code is overdue, and no attempt has failed.
	StateExpiring State = "expiring"
	// StateFailing means that the last attempt with the living token brought no code.
	StateFailing State = "failing"
	// StateNoToken means that no token is alive. No code can be made before the next one.
	StateNoToken State = "no_token"
)

// States returns all states.
func States() []State { return []State{StateValid, StateExpiring, StateFailing, StateNoToken} }

// StatusRequest asks how components fare: one by its AppID, or all that match the other fields, page
// by page.
type StatusRequest struct {
	// AppID is the component_appid. With it, the other fields have to be zero.
	AppID string
	// State keeps the components in this state, "" those in any.
	State State
	// Prefix keeps the components whose component_appid begins with it.
	Prefix string
	// After is the Next of the page before, "" for the first page.
	After string
}

// Encode returns the body.
func (r StatusRequest) Encode() []byte {
	return newObject(128).
		text("component_appid", r.AppID).
		text("state", string(r.State)).
		text("prefix", r.Prefix).
		text("after", r.After).
		end()
}

// check returns an error that wraps [ErrInvalid] if the service would refuse the request.
func (r StatusRequest) check() error {
	switch {
	case r.AppID != "" && r != StatusRequest{AppID: r.AppID}:
		return invalid("component_appid asks for one component: leave out state, prefix and after")
	case r.AppID != "":
		return CheckAppID(r.AppID)
	case r.Prefix != "" && !isAppID(r.Prefix):
		return invalid("prefix must be the beginning of a component_appid")
	case r.After != "" && !isAppID(r.After):
		return invalid("after must be the next of an answer")
	}
	switch r.State {
	case "", StateValid, StateExpiring, StateFailing, StateNoToken:
		return nil
	default:
		return invalid("state must be valid, expiring, failing or no_token")
	}
}

// Status is how a component fares. It has neither its token nor its code.
type Status struct {
	// AppID is the component_appid.
	AppID string
	// State follows from the other fields and the time of the answer.
	State State
	// Revision is that of the newest update, 0 before the first.
	Revision uint64
	// Cause, IssuedAt and ExpiresAt are those of the current code, in UTC. They are zero before the
	// first. The code may have expired.
	Cause               Cause
	IssuedAt, ExpiresAt time.Time
	// Spent means that somebody authorized with the current code.
	Spent bool
	// DueAt is when the service works on the component next, to renew its code or to try again, in
	// UTC. It is zero if the service waits for a newer token.
	DueAt time.Time
	// TokenExpiresAt is when the newest token expires, in UTC. It may have.
	TokenExpiresAt time.Time
	// Spares are the codes made ahead of claims that have not expired.
	Spares int
	// Attempts counts the failed calls since the last code, as [Failure.Attempt] does.
	Attempts int
	// Failure is the last failure, nil after a success.
	Failure *Failure
	// Advice says what the failure asks for, in English and for a person. It is "" without one.
	Advice string
	// Quota is what WeChat says is left of today's quota. It is nil if the replica that answers does
	// not know.
	Quota *Quota
}

// Quota is what WeChat said of the calls of a component in a day.
type Quota struct {
	// Limit is how many calls are allowed in a day, and Remaining how many of them are left, less those
	// that the replica made since WeChat said so.
	Limit, Remaining int
}

func (q *Quota) encode() object {
	if q == nil {
		return nil
	}
	return newObject(64).count("limit", int64(q.Limit)).count("remaining", int64(q.Remaining))
}

// wireQuota is a [Quota] as it is parsed.
type wireQuota struct {
	Limit     int `json:"limit"`
	Remaining int `json:"remaining"`
}

func (w *wireQuota) quota() *Quota {
	if w == nil {
		return nil
	}
	return &Quota{w.Limit, w.Remaining}
}

// Encode returns the body.
func (s Status) Encode() []byte { return s.fields().end() }

func (s Status) fields() object {
	o := newObject(512).
		text("component_appid", s.AppID).
		text("state", string(s.State)).
		uint("revision", s.Revision).
		text("cause", string(s.Cause)).
		time("issued_at", s.IssuedAt).
		time("expires_at", s.ExpiresAt).
		flag("spent", s.Spent).
		time("due_at", s.DueAt).
		time("token_expires_at", s.TokenExpiresAt).
		count("spares", int64(s.Spares)).
		int("attempts", int64(s.Attempts))
	if s.Failure != nil {
		o = o.object("failure", s.Failure.fields())
	}
	return o.text("advice", s.Advice).object("quota", s.Quota.encode())
}

// ParseStatus parses the answer to a [StatusRequest] with an AppID, and to a [RenewRequest]. An error
// wraps [ErrInvalid].
func ParseStatus(body []byte) (Status, error) {
	var (
		s                                          Status
		issuedAt, expiresAt, dueAt, tokenExpiresAt instant
		failure                                    json.RawMessage
		quota                                      *wireQuota
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &s.AppID},
		{name: "state", into: (*string)(&s.State)},
		{name: "revision", into: &s.Revision},
		{name: "cause", into: (*string)(&s.Cause)},
		{name: "issued_at", into: &issuedAt},
		{name: "expires_at", into: &expiresAt},
		{name: "spent", into: &s.Spent},
		{name: "due_at", into: &dueAt},
		{name: "token_expires_at", into: &tokenExpiresAt},
		{name: "spares", into: &s.Spares},
		{name: "attempts", into: &s.Attempts},
		{name: "failure", into: &failure},
		{name: "advice", into: &s.Advice},
		{name: "quota", into: &quota},
	})
	if err != nil {
		return Status{}, err
	}
	if err := CheckAppID(s.AppID); err != nil {
		return Status{}, err
	}
	if s.State == "" {
		return Status{}, invalid("a status needs a state")
	}
	if isPresent(failure) {
		f, err := ParseFailure(failure)
		if err != nil {
			return Status{}, err
		}
		s.Failure = &f
	}
	s.IssuedAt, s.ExpiresAt, s.DueAt, s.TokenExpiresAt = issuedAt.Time, expiresAt.Time, dueAt.Time, tokenExpiresAt.Time
	s.Quota = quota.quota()
	return s, nil
}

// isPresent reports whether a member was there and not null.
func isPresent(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// StatusPage is a page of the components that a [StatusRequest] without an AppID matches.
type StatusPage struct {
	// Summary is about all components, whatever the request keeps. It is nil on all pages but the first.
	Summary *Summary
	// Components are sorted by their AppID.
	Components []Status
	// Next is the After of the request for the next page, "" after the last one.
	Next string
}

// Summary counts all components and what the service has for them.
type Summary struct {
	// Components is the number of components that a valid token event ever named, and the next four
	// those in each state.
	Components, Valid, Expiring, Failing, NoToken int
	// Spares are the codes made ahead of claims that have not expired.
	Spares int
	// CodeExpiresAt and TokenExpiresAt are when the first current code and the first token expire, of
	// those that have not, in UTC. They are zero if there is none.
	CodeExpiresAt, TokenExpiresAt time.Time
	// Outbox is how many announcements no stream has stored yet, and OutboxSince when the oldest was
	// committed, in UTC.
	Outbox      int
	OutboxSince time.Time
}

func (s *Summary) encode() object {
	if s == nil {
		return nil
	}
	return newObject(256).
		count("components", int64(s.Components)).
		count("valid", int64(s.Valid)).
		count("expiring", int64(s.Expiring)).
		count("failing", int64(s.Failing)).
		count("no_token", int64(s.NoToken)).
		count("spares", int64(s.Spares)).
		time("code_expires_at", s.CodeExpiresAt).
		time("token_expires_at", s.TokenExpiresAt).
		count("outbox", int64(s.Outbox)).
		time("outbox_since", s.OutboxSince)
}

// wireSummary is a [Summary] as it is parsed.
type wireSummary struct {
	Components     int     `json:"components"`
	Valid          int     `json:"valid"`
	Expiring       int     `json:"expiring"`
	Failing        int     `json:"failing"`
	NoToken        int     `json:"no_token"`
	Spares         int     `json:"spares"`
	CodeExpiresAt  instant `json:"code_expires_at"`
	TokenExpiresAt instant `json:"token_expires_at"`
	Outbox         int     `json:"outbox"`
	OutboxSince    instant `json:"outbox_since"`
}

func (w *wireSummary) summary() *Summary {
	if w == nil {
		return nil
	}
	return &Summary{
		w.Components, w.Valid, w.Expiring, w.Failing, w.NoToken, w.Spares, w.CodeExpiresAt.Time, w.TokenExpiresAt.Time,
		w.Outbox, w.OutboxSince.Time,
	}
}

// Encode returns the body. The service ends a page before it has more than [MaxBody] bytes.
func (p StatusPage) Encode() []byte {
	components := make([]object, len(p.Components))
	for i, s := range p.Components {
		components[i] = s.fields()
	}
	return newObject(1024).
		object("summary", p.Summary.encode()).
		objects("components", components).
		text("next", p.Next).
		end()
}

// ParseStatusPage parses the answer to a [StatusRequest] without an AppID. An error wraps
// [ErrInvalid].
func ParseStatusPage(body []byte) (StatusPage, error) {
	var (
		p          StatusPage
		summary    *wireSummary
		components []json.RawMessage
	)
	err := decodeObject(body, []member{
		{name: "summary", into: &summary},
		{name: "components", into: &components},
		{name: "next", into: &p.Next},
	})
	if err != nil {
		return StatusPage{}, err
	}
	for _, component := range components {
		s, err := ParseStatus(component)
		if err != nil {
			return StatusPage{}, err
		}
		p.Components = append(p.Components, s)
	}
	if p.Next != "" && !isAppID(p.Next) {
		return StatusPage{}, invalid("next must be a component_appid")
	}
	p.Summary = summary.summary()
	return p, nil
}

// RenewRequest asks the service to work on a component now: to renew its code, or to try again.
type RenewRequest struct {
	// AppID is the component_appid.
	AppID string
}

// Encode returns the body.
func (r RenewRequest) Encode() []byte { return newObject(64).text("component_appid", r.AppID).end() }

// Replica is how a replica of the service fares.
type Replica struct {
	// ID is the replica's in the NATS micro service, and Version is that of its build.
	ID, Version string
	// StartedAt is when it began to answer requests, in UTC.
	StartedAt time.Time
	// Ready means that it does all its work. Otherwise Reasons say what it does not do, and why.
	Ready   bool
	Reasons []string
	// Codes and Tokens are the components whose code and whose token it has in memory, and Lag the
	// messages of the streams that it has yet to take into memory.
	Codes, Tokens int
	Lag           uint64
	// Quota is that of the component with the smallest part left, of those that WeChat has told this
	// replica of today; nil if there is none.
	Quota *Quota
}

// Encode returns what the replica itself says: all but ID, Version and StartedAt, which the micro
// service says for it.
func (r Replica) Encode() []byte {
	o := newObject(256).name("ready")
	if r.Ready {
		o = append(o, "true"...)
	} else {
		o = append(o, "false"...)
	}
	return o.texts("reasons", r.Reasons).
		count("codes", int64(r.Codes)).
		count("tokens", int64(r.Tokens)).
		uint("lag", r.Lag).
		object("quota", r.Quota.encode()).
		end()
}

// ParseReplica parses what [Replica.Encode] writes. An error wraps [ErrInvalid].
func ParseReplica(body []byte) (Replica, error) {
	var (
		r     Replica
		quota *wireQuota
	)
	err := decodeObject(body, []member{
		{name: "ready", into: &r.Ready},
		{name: "reasons", into: &r.Reasons},
		{name: "codes", into: &r.Codes},
		{name: "tokens", into: &r.Tokens},
		{name: "lag", into: &r.Lag},
		{name: "quota", into: &quota},
	})
	if err != nil {
		return Replica{}, err
	}
	if len(r.Reasons) == 0 {
		r.Reasons = nil
	}
	r.Quota = quota.quota()
	return r, nil
}
