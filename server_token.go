package preauth

import (
	"cmp"
	"time"

	"github.com/nats-io/nats.go"
)

// ParseTokenEvent reads a token event: plain JSON, or a CloudEvent 1.0 in binary or structured mode
// (https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md).
//
// appid is the component that the message's subject names, "" if it names none. received is the
// stream's time stamp of the message: a life stated as expires_in starts at issued_at, or else at
// received; an issued_at after received is a skewed clock's and counts as received. Where both are
// stated, expires_at decides and expires_in is not looked at. An expires_at that is not after received,
// without an issued_at, is that of a token which died on its way: it is taken to have lived for
// [DefaultTokenLife].
//
// The event returned has both its times, in UTC with microseconds. It may have expired already. On
// an error, which wraps [ErrInvalid], the event still has the AppID if what can be read of subject
// and body names one valid component.
func ParseTokenEvent(appid string, header nats.Header, body []byte, received time.Time) (TokenEvent, error) {
	var said statedToken
	err := said.read(header, body)

	var e TokenEvent
	named, nameErr := sameAppID(appid, said.appid)
	if nameErr == nil {
		e.AppID = named
	}
	if err = cmp.Or(err, nameErr); err != nil {
		return e, err
	}
	if err := checkToken(said.token); err != nil {
		return e, err
	}
	e.Token = NewSecret(said.token)
	e.IssuedAt, e.ExpiresAt, err = tokenLife(said.issuedAt.Time, said.expiresAt.Time, said.expiresIn, microseconds(received))
	return e, err
}

// statedToken is what a token event says, before anything is concluded from it.
type statedToken struct {
	appid, token        string
	issuedAt, expiresAt instant
	expiresIn           *int64
}

func (s *statedToken) members() []member {
	return []member{
		{name: "component_appid", into: &s.appid},
		{name: "component_access_token", into: &s.token},
		{name: "issued_at", into: &s.issuedAt},
		{name: "expires_at", into: &s.expiresAt},
		{name: "expires_in", into: &s.expiresIn},
	}
}

// read finds the event data in a message and reads it.
func (s *statedToken) read(header nats.Header, body []byte) error {
	mode, err := contentModeOf(header)
	if err != nil {
		return err
	}
	var envelope cloudEvent
	switch mode {
	case binaryMode:
		return decodeObject(body, s.members())
	case structuredMode:
		err = decodeObject(body, envelope.members())
	case unstatedMode:
		either := append(make([]member, 0, 8), s.members()...) // room for both, without an allocation
		err = decodeObject(body, append(either, envelope.members()...))
		if envelope.specVersion == nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	data, err := envelope.payload()
	if err != nil {
		return err
	}
	*s = statedToken{} // an extension attribute of the envelope says nothing about the token
	return decodeObject(data, s.members())
}
