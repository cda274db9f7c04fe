package repo

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"preauth"
)

// Outcome is the result of working on a token: a Code, a Failure, or neither if the token was
// announced again while the code made with it has life left. If that code is no longer current when
// the outcome is saved, the component becomes due at once.
type Outcome struct {
	// AppID is the component_appid, "" only for a bad event that names no valid one.
	AppID string
	// Token is the token that was worked on. Its zero value means a bad event: the Failure goes into
	// the outbox, and no component changes.
	Token Token
	// Cause is why the token was worked on.
	Cause   preauth.Cause
	Code    *Code
	Failure *preauth.Failure
	// DueAt is when to work on the component next. The zero time means: not before a newer token comes.
	DueAt time.Time
	// At is when the outcome was produced, by the service's clock.
	At time.Time
	// MinRevision is the highest revision known to be announced. A new code gets a higher one, so that
	// revisions keep growing after the database was restored from a backup. If Code is the current code
	// already, it gets a higher revision too, and is announced again.
	MinRevision uint64
	// FailureID is the message id of the failure, 1 to 350 characters without white space. It must be
	// the same when the same outcome is saved again. A failure with an empty one is recorded in the
	// component's row and not announced; a bad event must have one.
	FailureID string
	// TraceParent is the W3C trace context of what led to the outcome, up to 64 bytes. It goes with what
	// is announced.
	TraceParent string
}

// Status is what Save did with an [Outcome].
type Status string

const (
	// Saved means that the outcome is committed, by this call or an earlier one.
	Saved Status = "saved"
	// Superseded means that nothing was written, because the component is up to date with this event or
	// a newer one.
	Superseded Status = "superseded"
	// Refused means that nothing was written and never can be: see [Result.Err]. The other outcomes of
	// the call are not affected.
	Refused Status = "refused"
)

// Result is the answer to an [Outcome].
type Result struct {
	Status Status
	// Announcement is to be published now, and then deleted from the outbox. It is nil if there is
	// nothing to publish, or a later outcome of the same call has replaced the code.
	Announcement *Announcement
	// Revision is that of the outcome's code, or else of the component's newest code, 0 if it has none.
	Revision uint64
	// Err is what is wrong with a Refused outcome, such as [ErrKnownCode]. It holds no code.
	Err error
}

// isBadEvent reports whether the outcome belongs to an event that could not be parsed.
func (o Outcome) isBadEvent() bool { return o.Token == Token{} }

// stored returns o with its times as the database returns them.
func (o Outcome) stored() Outcome {
	o.Token, o.DueAt, o.At = o.Token.stored(), stored(o.DueAt), stored(o.At)
	if o.Code != nil {
		code := o.Code.stored()
		o.Code = &code
	}
	return o
}

// The room that the schema has.
const (
	maxStream      = 255
	maxCode        = 512
	maxCause       = 16
	maxTraceParent = 64
	maxMessageID   = 350 // the service's have at most 317: the stream's name has up to 255
)

// check returns why o cannot be saved.
func (o Outcome) check() error {
	var problem string
	switch {
	case !isStorable(o.At):
		problem = "At is missing or beyond the years 1000 to 9999"
	case !o.DueAt.IsZero() && !isStorable(o.DueAt):
		problem = "DueAt is beyond the years 1000 to 9999"
	case o.Code != nil && o.Failure != nil:
		problem = "there is a code and a failure: give only one"
	case o.Code != nil && (o.Cause == "" || len(o.Cause) > maxCause):
		problem = fmt.Sprintf("Cause must have 1 to %d bytes", maxCause)
	case len(o.TraceParent) > maxTraceParent:
		problem = fmt.Sprintf("TraceParent must have at most %d bytes", maxTraceParent)
	case o.MinRevision >= math.MaxInt64:
		problem = "MinRevision leaves no room for another revision"
	case o.isBadEvent() && o.Failure == nil:
		problem = "Token is missing: only a failure can do without"
	case (o.AppID != "" || !o.isBadEvent()) && preauth.CheckAppID(o.AppID) != nil:
		problem = "AppID cannot be a component_appid"
	}
	if problem == "" && !o.isBadEvent() {
		problem = o.Token.problem()
	}
	if problem == "" && o.Code != nil {
		problem = o.Code.problem()
	}
	if problem == "" && o.Failure != nil {
		problem = o.failureProblem()
	}
	if problem != "" {
		return errors.New("repo: impossible outcome: " + problem)
	}
	return nil
}

func (t Token) problem() string {
	switch p := t.Position; {
	case p.Stream == "" || utf8.RuneCountInString(p.Stream) > maxStream || !utf8.ValidString(p.Stream):
		return fmt.Sprintf("Token.Position.Stream must have 1 to %d characters of UTF-8", maxStream)
	case !isStorable(p.Time) || !isStorable(p.StreamCreated):
		return "Token.Position has a time that is missing or beyond the years 1000 to 9999"
	case !t.ExpiresAt.IsZero() && !isStorable(t.ExpiresAt):
		return "Token.ExpiresAt is beyond the years 1000 to 9999"
	}
	return ""
}

func (c Code) problem() string {
	switch {
	case c.PreAuthCode.IsZero() || len(c.PreAuthCode.Reveal()) > maxCode:
		return fmt.Sprintf("the code must have 1 to %d bytes", maxCode)
	case !isStorable(c.IssuedAt) || !isStorable(c.ExpiresAt):
		return "Code has a time that is missing or beyond the years 1000 to 9999"
	}
	return ""
}

func (o Outcome) failureProblem() string {
	impossible := func(r rune) bool { return r == utf8.RuneError || unicode.IsSpace(r) || unicode.IsControl(r) }
	switch {
	case o.FailureID == "" && o.isBadEvent() || utf8.RuneCountInString(o.FailureID) > maxMessageID || strings.ContainsFunc(o.FailureID, impossible):
		return fmt.Sprintf("FailureID must have 1 to %d characters and no white space", maxMessageID)
	case o.Failure.AppID != o.AppID:
		return "Failure.AppID is not AppID"
	case o.Failure.Class == "":
		return "Failure has no class"
	case o.Failure.Attempt < 0 || o.Failure.Attempt > math.MaxInt32:
		return fmt.Sprintf("Failure.Attempt must be 0 to %d", math.MaxInt32)
	case len(o.Failure.Encode()) > preauth.MaxBody:
		return fmt.Sprintf("Failure has more than %d bytes: cut ErrMsg", preauth.MaxBody)
	}
	return ""
}

// isStorable reports whether a DATETIME can hold t.
func isStorable(t time.Time) bool {
	year := t.UTC().Year()
	return year >= 1000 && year <= 9999 // that of the zero time is 1
}
