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

// wireFailure is the body of a failure.
type wireFailure struct {
	AppID          string  `json:"component_appid,omitempty"`
	Class          Class   `json:"class"`
	ErrCode        int     `json:"errcode,omitempty"`
	ErrMsg         string  `json:"errmsg,omitempty"`
	RID            string  `json:"rid,omitempty"`
	RequestIP      string  `json:"request_ip,omitempty"`
	Stream         string  `json:"stream,omitempty"`
	StreamSequence uint64  `json:"stream_sequence,omitempty"`
	Attempt        int     `json:"attempt,omitempty"`
	RetryAt        instant `json:"retry_at,omitzero"`
	OccurredAt     instant `json:"occurred_at"`
}

// Subject returns where the failure is announced below the given subject.
func (f Failure) Subject(failed string) string { return Of(failed, cmp.Or(f.AppID, NoAppID)) }

// Encode returns the body.
func (f Failure) Encode() []byte {
	return encode(wireFailure{
		AppID: f.AppID, Class: f.Class, ErrCode: f.ErrCode, ErrMsg: f.ErrMsg, RID: f.RID, RequestIP: f.RequestIP,
		Stream: f.Stream, StreamSequence: f.StreamSequence, Attempt: f.Attempt,
		RetryAt: instant{f.RetryAt}, OccurredAt: instant{f.OccurredAt},
	})
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
