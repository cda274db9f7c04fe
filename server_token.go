package preauth

import (
	"cmp"
	"time"

	"github.com/nats-io/nats.go"
)

// ParseTokenEvent parses a token event: plain JSON, or a CloudEvent 1.0 in binary or structured mode
// (https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md). A
// body with a member specversion is a structured CloudEvent even if no header says so. Attributes of
// a CloudEvent, such as its subject, name no component.
//
// appid is the component in the message's subject, "" if the subject names none. received is the
// time at which the stream stored the message. The token's life is determined as follows:
//
//   - It begins at issued_at. Without an issued_at, or with one after received, it begins at
//     received: the publisher's clock is ahead.
//   - It ends at expires_at or, without one, expires_in after it began. With neither it lasts for
//     [DefaultTokenLife].
//   - An expires_at that is not after received, without an issued_at, belongs to a token that
//     expired before its event arrived. Its life is taken to have been [DefaultTokenLife].
//
// The event has both times, in UTC with microseconds. It may have expired already. Its TraceParent
// is that of the headers, "" if they have no valid one. An error wraps [ErrInvalid]. The event then
// has only an AppID: that of the one valid component which subject and body name, as far as they can
// be parsed, or "".
func ParseTokenEvent(appid string, header nats.Header, body []byte, received time.Time) (TokenEvent, error) {
	var fields tokenFields
	err := decodeEvent(&fields, (*tokenFields).members, header, body)
	named, appidErr := fields.appid.agreeWith(appid)
	e := TokenEvent{AppID: named}
	if err = cmp.Or(err, appidErr); err != nil {
		return e, err
	}
	if err := checkToken(fields.token); err != nil {
		return e, err
	}
	issuedAt, expiresAt, err := tokenLife(fields.issuedAt.Time, fields.expiresAt.Time, fields.expiresIn, microseconds(received))
	if err != nil {
		return e, err
	}
	return TokenEvent{
		AppID: named, Token: NewSecret(fields.token), IssuedAt: issuedAt, ExpiresAt: expiresAt, TraceParent: TraceParent(header),
	}, nil
}

// tokenFields are the members of a token event as they are in the message.
type tokenFields struct {
	appid               bodyAppID
	token               string
	issuedAt, expiresAt instant
	expiresIn           *int64
}

func (f *tokenFields) members() []member {
	return []member{
		{name: "component_appid", into: &f.appid},
		{name: "component_access_token", into: &f.token},
		{name: "issued_at", into: &f.issuedAt},
		{name: "expires_at", into: &f.expiresAt},
		{name: "expires_in", into: &f.expiresIn},
	}
}
