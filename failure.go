package preauth

import (
	"cmp"
	"time"

	"github.com/nats-io/nats.go"
)

// Failure announces that a component got no new code, or that the service could not use an
// authorization. The service publishes it on
// "preauth.failed.<appid>", and the NATS server copies it to "preauth.failed".
//
// While a failure lasts, it is announced again only when the attempt count doubles, and once more
// when the service gives up. It carries no token, no code and nothing from the body of the token
// event.
type Failure struct {
	// AppID is the component_appid. It is "" if the token event names no valid one.
	AppID string
	// Class is the kind of failure.
	Class Class
	// ErrCode is WeChat's errcode, 0 if WeChat gave none.
	ErrCode int
	// ErrMsg says what is wrong: WeChat's errmsg, or the service's own words if WeChat sent none.
	ErrMsg string
	// RID is the request id that WeChat's support asks for, "" if WeChat gave none.
	RID string
	// RequestIP is the address that WeChat saw and refused. It is "" unless Class is
	// [ClassAddressNotAllowed].
	RequestIP string
	// Stream and StreamSequence identify the event; "nats stream get" takes them.
	Stream         string
	StreamSequence uint64
	// Attempt counts the failed calls since the last code. Each new token counts from 1 again. It is
	// 0 if WeChat was not called.
	Attempt int
	// RetryAt is when the service tries again, in UTC. It is zero if the service waits for a newer
	// token.
	RetryAt time.Time
	// OccurredAt is when the failure happened, in UTC with microseconds.
	OccurredAt time.Time
}

// Subject returns the subject on which the failure is announced: failed, such as "preauth.failed",
// and the AppID or [NoAppID].
func (f Failure) Subject(failed string) string { return SubjectFor(failed, cmp.Or(f.AppID, NoAppID)) }

// Encode returns the body.
func (f Failure) Encode() []byte { return f.fields().end() }

func (f Failure) fields() object {
	return newObject(512).
		text("component_appid", f.AppID).
		text("class", string(f.Class)).
		int("errcode", int64(f.ErrCode)).
		text("errmsg", f.ErrMsg).
		text("rid", f.RID).
		text("request_ip", f.RequestIP).
		text("stream", f.Stream).
		uint("stream_sequence", f.StreamSequence).
		int("attempt", int64(f.Attempt)).
		time("retry_at", f.RetryAt).
		time("occurred_at", f.OccurredAt)
}

// FailureHeader returns the headers of an announced failure, like [Update.Header]. id must be the
// same each time the same failure is published. An empty appid becomes [NoAppID].
func FailureHeader(id, source, appid string, occurredAt time.Time) nats.Header {
	return cloudEventHeader(id, "preauth.failed", source, cmp.Or(appid, NoAppID), occurredAt)
}

// ParseFailure parses the body of a [Failure]. An error wraps [ErrInvalid].
func ParseFailure(body []byte) (Failure, error) {
	var (
		f                   Failure
		retryAt, occurredAt instant
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &f.AppID},
		{name: "class", into: (*string)(&f.Class)},
		{name: "errcode", into: &f.ErrCode},
		{name: "errmsg", into: &f.ErrMsg},
		{name: "rid", into: &f.RID},
		{name: "request_ip", into: &f.RequestIP},
		{name: "stream", into: &f.Stream},
		{name: "stream_sequence", into: &f.StreamSequence},
		{name: "attempt", into: &f.Attempt},
		{name: "retry_at", into: &retryAt},
		{name: "occurred_at", into: &occurredAt},
	})
	if err != nil {
		return Failure{}, err
	}
	if f.AppID != "" {
		if err := CheckAppID(f.AppID); err != nil {
			return Failure{}, err
		}
	}
	if f.Class == "" {
		return Failure{}, invalid("a failure needs a class")
	}
	f.RetryAt, f.OccurredAt = retryAt.Time, occurredAt.Time
	return f, nil
}
