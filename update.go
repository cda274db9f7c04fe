package preauth

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Cause says what made a code current.
type Cause string

// The causes as they appear on the wire.
const (
	// CauseToken is a token event.
	CauseToken Cause = "token"
	// CauseRenewal is the renewal of a code ahead of its expiry, with the same token.
	CauseRenewal Cause = "renewal"
	// CauseDemand is a look-up that no code had enough life left for.
	CauseDemand Cause = "demand"
)

// Update announces the current code of a component. It is published on "preauth.updated.<appid>"
// and copied by the server to "preauth.updated", at least once, with the same Nats-Msg-Id each time.
type Update struct {
	// AppID is the component_appid.
	AppID string
	// PreAuthCode is the code. Everybody who subscribes sees it, and WeChat lets it serve a single
	// authorization.
	PreAuthCode Secret
	// IssuedAt and ExpiresAt bound the life of the code, in UTC with microseconds.
	IssuedAt, ExpiresAt time.Time
	// Revision counts the codes of the component and only grows: an Update with a smaller Revision
	// than one already seen is late and to be ignored.
	Revision uint64
	// Cause says what made the code current.
	Cause Cause
}

// MessageID identifies the announcement: the component and the revision. It is the Nats-Msg-Id and
// the CloudEvents id.
func (u Update) MessageID() string { return u.AppID + "." + strconv.FormatUint(u.Revision, 10) }

// Encode returns the body. Its expires_in is the whole life in seconds, so that the same update has
// the same body whenever it is published; expires_at decides.
func (u Update) Encode() []byte {
	return newObject(384).
		text("component_appid", u.AppID).
		text("pre_auth_code", u.PreAuthCode.Reveal()).
		time("issued_at", u.IssuedAt).
		time("expires_at", u.ExpiresAt).
		left("expires_in", u.ExpiresAt.Sub(u.IssuedAt)).
		uint("revision", u.Revision).
		text("cause", string(u.Cause)).
		end()
}

// Header returns the headers of the announcement: the message id, and the CloudEvents attributes in
// binary mode. source is the CloudEvents source, a URI reference that names the deployment.
func (u Update) Header(source string) nats.Header {
	return cloudEventHeader(u.MessageID(), "preauth.updated", source, u.AppID, u.IssuedAt)
}

// cloudEventHeader returns the attributes of a CloudEvent in binary mode, and the message id that
// JetStream drops repetitions by.
func cloudEventHeader(id, eventType, source, subject string, at time.Time) nats.Header {
	return nats.Header{
		nats.MsgIdHdr:    {id},
		"content-type":   {"application/json"},
		"ce-specversion": {"1.0"},
		"ce-id":          {id},
		"ce-type":        {eventType},
		"ce-source":      {source},
		"ce-subject":     {subject},
		"ce-time":        {microseconds(at).Format(time.RFC3339Nano)},
	}
}

// ParseUpdate reads the body of an announcement. An error wraps [ErrInvalid].
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
	u.PreAuthCode, u.IssuedAt, u.ExpiresAt = NewSecret(code), issuedAt.Time, expiresAt.Time
	return u, nil
}
