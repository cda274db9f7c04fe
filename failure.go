package preauth

import (
	"cmp"
	"time"

	"github.com/nats-io/nats.go"
)

// Failure announces that a component got no new code. It is published on "preauth.failed.<appid>"
// and copied by the server to "preauth.failed", while the service still tries, less and less often as long
// as nothing changes, and once when it gives up. It carries no token, no code and nothing of the body of the event that it is about.
type Failure struct {
	// AppID is the component_appid, "" for an event that names no valid one.
	AppID string
	// Class says what kind of failure it is.
	Class Class
	// ErrCode is WeChat's errcode, 0 if WeChat gave none.
	ErrCode int
	// ErrMsg says what is wrong, in WeChat's words or the service's own.
	ErrMsg string
	// RID is WeChat's handle for its support, "" if WeChat gave none.
	RID string
	// RequestIP is the address that WeChat saw and refused, "" for any other failure.
	RequestIP string
	// Stream and StreamSequence name the token event, as "nats stream get" takes them.
	Stream         string
	StreamSequence uint64
	// Attempt counts the calls in vain since the last success, 0 if WeChat was not asked.
	Attempt int
	// RetryAt is when the service tries again, in UTC; the zero time when it has given up until a
	// newer token comes.
	RetryAt time.Time
	// OccurredAt is when it happened, in UTC.
	OccurredAt time.Time
}

// Subject returns where the failure is announced below the given subject.
func (f Failure) Subject(failed string) string { return SubjectFor(failed, cmp.Or(f.AppID, NoAppID)) }

// Encode returns the body.
func (f Failure) Encode() []byte {
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
		time("occurred_at", f.OccurredAt).
		end()
}

// FailureHeader returns the headers of an announced failure: see [Update.Header]. id is the same
// each time the same failure is published.
func FailureHeader(id, source, appid string, occurredAt time.Time) nats.Header {
	return cloudEventHeader(id, "preauth.failed", source, cmp.Or(appid, NoAppID), occurredAt)
}

// ParseFailure reads the body of a failure. An error wraps [ErrInvalid].
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
