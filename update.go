package preauth

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Cause says why a code became current.
type Cause string

// The causes as they appear on the wire.
const (
	// CauseToken is a new token.
	CauseToken Cause = "token"
	// CauseRenewal is a renewal ahead of the code's expiry, with the same token.
	CauseRenewal Cause = "renewal"
	// CauseDemand is a look-up that wanted more life than the current code had left, or an operator who
	// wanted a new code.
	CauseDemand Cause = "demand"
	// CauseSpent is an authorization, which the code before served.
	CauseSpent Cause = "spent"
)

// MaxRevision is the highest possible revision: 2^53 - 1, the largest integer that JavaScript, and
// every other reader that keeps numbers as float64, can tell from its neighbours.
const MaxRevision = 1<<53 - 1

// Update announces the current code of a component, or that it is spent. The service publishes it on
// "preauth.updated.<appid>", at least once and with the same Nats-Msg-Id each time, and the NATS
// server copies it to "preauth.updated".
type Update struct {
	// AppID is the component_appid.
	AppID string
	// PreAuthCode is the code. Every subscriber sees it, but WeChat lets it serve a single
	// authorization: claim a code for each visitor instead.
	PreAuthCode Secret
	// IssuedAt and ExpiresAt bound the life of the code, in UTC with microseconds. A spent code ends
	// with its authorization.
	IssuedAt, ExpiresAt time.Time
	// Revision counts the component's updates from 1 to [MaxRevision] and only grows. Ignore an
	// Update whose Revision is not above the last one you saw: it is late or repeated.
	Revision uint64
	// Cause says why the code became current. A newer service may send causes that are not listed
	// here.
	Cause Cause
	// Spent means that somebody authorized with the code, which the Update before announced. Nobody
	// can use it any more, and the next code is being made.
	Spent bool
	// TraceParent is the W3C trace context of the event that led to the Update, "" if that had none.
	// It is in the headers, not in the body.
	TraceParent string
}

// Usable reports whether the code can serve an authorization now, as far as the Update says. The
// Update before it is of no use in either case.
func (u Update) Usable(now time.Time) bool { return !u.Spent && now.Before(u.ExpiresAt) }

// MessageID returns the Nats-Msg-Id and CloudEvents id of the announcement: "<appid>.<revision>".
func (u Update) MessageID() string { return u.AppID + "." + strconv.FormatUint(u.Revision, 10) }

// Encode returns the body. Its expires_in is the code's whole life in seconds, so that a repeated
// announcement has the same body. Readers use expires_at.
func (u Update) Encode() []byte {
	return newObject(384).
		text("component_appid", u.AppID).
		text("pre_auth_code", u.PreAuthCode.Reveal()).
		time("issued_at", u.IssuedAt).
		time("expires_at", u.ExpiresAt).
		expiresIn(u.ExpiresAt.Sub(u.IssuedAt)).
		uint("revision", u.Revision).
		text("cause", string(u.Cause)).
		flag("spent", u.Spent).
		end()
}

// Header returns the headers of the announcement: the Nats-Msg-Id, the CloudEvents attributes in
// binary mode, and the TraceParent. source is the CloudEvents source, a URI reference that identifies
// the deployment.
func (u Update) Header(source string) nats.Header {
	at := u.IssuedAt
	if u.Spent {
		at = u.ExpiresAt
	}
	return AddTraceParent(cloudEventHeader(u.MessageID(), "preauth.updated", source, u.AppID, at), u.TraceParent)
}

// cloudEventHeader returns the attributes of a CloudEvent in binary mode and the message id by
// which JetStream drops duplicates.
func cloudEventHeader(id, eventType, source, subject string, at time.Time) nats.Header {
	return nats.Header{
		nats.MsgIdHdr: {id},
		// The NATS binding of CloudEvents has the content type in an attribute; some readers look
		// for content-type, as in its HTTP binding.
		"ce-datacontenttype": {"application/json"},
		"content-type":       {"application/json"},
		"ce-specversion":     {"1.0"},
		"ce-id":              {id},
		"ce-type":            {eventType},
		"ce-source":          {source},
		"ce-subject":         {subject},
		"ce-time":            {microseconds(at).Format(time.RFC3339Nano)},
	}
}

// ParseUpdate parses the body of an [Update]. An error wraps [ErrInvalid]. Anybody who may publish
// on the subject can send a body that parses: only the service's database knows which revision is
// current.
func ParseUpdate(body []byte) (Update, error) {
	var (
		u                   Update
		code                string
		issuedAt, expiresAt instant
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &u.AppID},
		{name: "pre_auth_code", into: &code},
		{name: "issued_at", into: &issuedAt},
		{name: "expires_at", into: &expiresAt},
		{name: "revision", into: &u.Revision},
		{name: "cause", into: (*string)(&u.Cause)},
		{name: "spent", into: &u.Spent},
	})
	if err != nil {
		return Update{}, err
	}
	if err := CheckAppID(u.AppID); err != nil {
		return Update{}, err
	}
	if code == "" || expiresAt.IsZero() || u.Revision == 0 {
		return Update{}, invalid("an update needs pre_auth_code, expires_at and revision")
	}
	if u.Revision > MaxRevision {
		return Update{}, invalid("revision must be 1 to %d", uint64(MaxRevision))
	}
	u.PreAuthCode, u.IssuedAt, u.ExpiresAt = NewSecret(code), issuedAt.Time, expiresAt.Time
	return u, nil
}
