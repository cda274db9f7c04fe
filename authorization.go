package preauth

import (
	"time"

	"github.com/nats-io/nats.go"
)

// The values of InfoType, which are those of WeChat's pushes.
const (
	// InfoAuthorized means that an account authorized the platform for the first time.
	InfoAuthorized = "authorized"
	// InfoUpdateAuthorized means that an account changed what it authorized before.
	InfoUpdateAuthorized = "updateauthorized"
)

// AuthorizationEvent tells the service that an account authorized the platform with a code. The
// receiver of WeChat's pushes publishes one on "component.authorized.<appid>" for each push
// "authorized" or "updateauthorized" that carries a PreAuthCode. It never carries the push's
// AuthorizationCode.
type AuthorizationEvent struct {
	// AppID is the component_appid: the push's AppId.
	AppID string
	// PreAuthCode is the push's PreAuthCode: 1 to [MaxCode] bytes.
	PreAuthCode Secret
	// AuthorizerAppID is the account that authorized: the push's AuthorizerAppid. It has the form of
	// an appid: see [CheckAppID].
	AuthorizerAppID string
	// InfoType is the push's InfoType: [InfoAuthorized], [InfoUpdateAuthorized] or "".
	InfoType string
	// AuthorizedAt is when the account authorized: the push's CreateTime. The zero time stands for
	// the time at which the stream stores the event, and so does a time after that.
	AuthorizedAt time.Time
	// TraceParent is the W3C trace context of the event, which the service passes on. It is in the
	// headers, not in the body. [Client.AnnounceAuthorization] leaves out one that is not valid.
	TraceParent string
}

// Encode returns the body of the event in plain JSON. It contains the code.
func (e AuthorizationEvent) Encode() []byte {
	return newObject(384).
		text("component_appid", e.AppID).
		text("pre_auth_code", e.PreAuthCode.Reveal()).
		text("authorizer_appid", e.AuthorizerAppID).
		text("info_type", e.InfoType).
		time("authorized_at", e.AuthorizedAt).
		end()
}

// Check returns an error that wraps [ErrInvalid] if the service would refuse the event.
func (e AuthorizationEvent) Check() error {
	if err := CheckAppID(e.AppID); err != nil {
		return err
	}
	if err := checkCode(e.PreAuthCode, "the push's PreAuthCode"); err != nil {
		return err
	}
	if !isAppID(e.AuthorizerAppID) {
		return invalid("authorizer_appid must be the appid of the account that authorized: 1 to 64 letters, digits, '_' or '-'")
	}
	switch e.InfoType {
	case "", InfoAuthorized, InfoUpdateAuthorized:
	default:
		return invalid("info_type must be %s or %s: publish no event for other pushes", InfoAuthorized, InfoUpdateAuthorized)
	}
	if !isInstant(e.AuthorizedAt) {
		return invalid("authorized_at must be in the years 1970 to 9999")
	}
	return nil
}

// Authorized announces that an account authorized with a code, which is spent from then on. The
// service publishes it on "preauth.authorized.<appid>" once for each code, at least once and with
// the same Nats-Msg-Id each time, and the NATS server copies it to "preauth.authorized". It does not
// carry the code.
type Authorized struct {
	// AppID is the component_appid.
	AppID string
	// ClaimID, Reference and ClaimedAt are those of the claim that the code was given to. They are
	// zero if it was given to none.
	ClaimID, Reference string
	ClaimedAt          time.Time
	// Revision is the one of the code's last [Update]: of the one that says it is spent, if it was the
	// current code. It is 0 if the code was never announced.
	Revision uint64
	// AuthorizerAppID is the account that authorized.
	AuthorizerAppID string
	// InfoType is the one of the [AuthorizationEvent].
	InfoType string
	// AuthorizedAt is when the account authorized. IssuedAt and ExpiresAt bound the life of the
	// code, as WeChat gave it. All are in UTC with microseconds.
	AuthorizedAt, IssuedAt, ExpiresAt time.Time
	// TraceParent is the W3C trace context of the AuthorizationEvent, "" if that had none. It is in
	// the headers, not in the body.
	TraceParent string
}

// Encode returns the body.
func (a Authorized) Encode() []byte {
	return newObject(512).
		text("component_appid", a.AppID).
		text("claim_id", a.ClaimID).
		text("reference", a.Reference).
		time("claimed_at", a.ClaimedAt).
		uint("revision", a.Revision).
		text("authorizer_appid", a.AuthorizerAppID).
		text("info_type", a.InfoType).
		time("authorized_at", a.AuthorizedAt).
		time("issued_at", a.IssuedAt).
		time("expires_at", a.ExpiresAt).
		end()
}

// Header returns the headers of the announcement, like [Update.Header]. id must be the same each
// time that the same announcement is published.
func (a Authorized) Header(id, source string) nats.Header {
	return AddTraceParent(cloudEventHeader(id, "preauth.authorized", source, a.AppID, a.AuthorizedAt), a.TraceParent)
}

// ParseAuthorized parses the body of an [Authorized]. An error wraps [ErrInvalid].
func ParseAuthorized(body []byte) (Authorized, error) {
	var (
		a                                            Authorized
		claimedAt, authorizedAt, issuedAt, expiresAt instant
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &a.AppID},
		{name: "claim_id", into: &a.ClaimID},
		{name: "reference", into: &a.Reference},
		{name: "claimed_at", into: &claimedAt},
		{name: "revision", into: &a.Revision},
		{name: "authorizer_appid", into: &a.AuthorizerAppID},
		{name: "info_type", into: &a.InfoType},
		{name: "authorized_at", into: &authorizedAt},
		{name: "issued_at", into: &issuedAt},
		{name: "expires_at", into: &expiresAt},
	})
	if err != nil {
		return Authorized{}, err
	}
	if err := CheckAppID(a.AppID); err != nil {
		return Authorized{}, err
	}
	if a.AuthorizerAppID == "" || authorizedAt.IsZero() {
		return Authorized{}, invalid("an authorization needs authorizer_appid and authorized_at")
	}
	a.ClaimedAt, a.AuthorizedAt, a.IssuedAt, a.ExpiresAt = claimedAt.Time, authorizedAt.Time, issuedAt.Time, expiresAt.Time
	return a, nil
}
