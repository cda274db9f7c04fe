package preauth

import (
	"cmp"
	"time"

	"github.com/nats-io/nats.go"
)

// ParseAuthorizationEvent parses an [AuthorizationEvent], in the forms in which [ParseTokenEvent]
// reads token events.
//
// appid is the component in the message's subject, "" if the subject names none. received is the
// time at which the stream stored the message: AuthorizedAt is never later, and it is received if
// the event states none. It is in UTC with microseconds. TraceParent is that of the headers, "" if
// they have no valid one.
//
// An error wraps [ErrInvalid]. The event then has only an AppID: that of the one valid component
// which subject and body name, as far as they can be parsed, or "".
func ParseAuthorizationEvent(appid string, header nats.Header, body []byte, received time.Time) (AuthorizationEvent, error) {
	var fields authorizationFields
	err := decodeEvent(&fields, (*authorizationFields).members, header, body)
	named, appidErr := fields.appid.agreeWith(appid)
	if err = cmp.Or(err, appidErr); err != nil {
		return AuthorizationEvent{AppID: named}, err
	}
	e := AuthorizationEvent{
		AppID: named, PreAuthCode: NewSecret(fields.code), AuthorizerAppID: fields.authorizer, InfoType: fields.infoType,
		AuthorizedAt: fields.authorizedAt.Time, TraceParent: TraceParent(header),
	}
	if err := e.Check(); err != nil {
		return AuthorizationEvent{AppID: named}, err
	}
	if received = microseconds(received); e.AuthorizedAt.IsZero() || e.AuthorizedAt.After(received) {
		e.AuthorizedAt = received
	}
	return e, nil
}

// authorizationFields are the members of an AuthorizationEvent as they are in the message.
type authorizationFields struct {
	appid                      bodyAppID
	code, authorizer, infoType string
	authorizedAt               instant
}

func (f *authorizationFields) members() []member {
	return []member{
		{name: "component_appid", into: &f.appid},
		{name: "pre_auth_code", into: &f.code},
		{name: "authorizer_appid", into: &f.authorizer},
		{name: "info_type", into: &f.infoType},
		{name: "authorized_at", into: &f.authorizedAt},
	}
}
