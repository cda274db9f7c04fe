package preauth

import (
	"cmp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
)

const (
	// DefaultTokenLife is the life of a component_access_token whose event states none: WeChat's
	// own 7,200 s.
	DefaultTokenLife = 2 * time.Hour
	// MaxTokenLife bounds what an event may state; a longer life is a mistake in its unit.
	MaxTokenLife = 24 * time.Hour
	// MaxToken is the length in bytes of the longest token taken. WeChat asks for room for 512;
	// about 150 were seen.
	MaxToken = 2048
)

// TokenEvent announces a new component_access_token of a component.
type TokenEvent struct {
	// AppID is the component_appid.
	AppID string
	// Token is the component_access_token, 1 to [MaxToken] bytes.
	Token Secret
	// IssuedAt is when WeChat issued the token, in UTC. The zero time means when the event was
	// published.
	IssuedAt time.Time
	// ExpiresAt is when the token dies, in UTC. The zero time means [DefaultTokenLife] after
	// IssuedAt.
	ExpiresAt time.Time
}

// Encode returns the event as a plain JSON body. It contains the token.
func (e TokenEvent) Encode() []byte {
	return newObject(512).
		text("component_appid", e.AppID).
		text("component_access_token", e.Token.Reveal()).
		time("issued_at", e.IssuedAt).
		time("expires_at", e.ExpiresAt).
		end()
}

// Check returns an error that wraps [ErrInvalid] if the service would refuse the event. It does not
// look at the clock: that a token has expired, or is said to expire in a year, comes out on arrival
// where only one of the times is given.
func (e TokenEvent) Check() error {
	if err := CheckAppID(e.AppID); err != nil {
		return err
	}
	if err := checkToken(e.Token.Reveal()); err != nil {
		return err
	}
	if !isInstant(e.IssuedAt) {
		return invalid("issued_at must be of the years 1970 to 9999")
	}
	if !isInstant(e.ExpiresAt) {
		return invalid("expires_at must be of the years 1970 to 9999")
	}
	if !e.IssuedAt.IsZero() && !e.ExpiresAt.IsZero() {
		return checkLife(microseconds(e.ExpiresAt).Sub(microseconds(e.IssuedAt)), "expires_at")
	}
	return nil
}

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
	e.IssuedAt, e.ExpiresAt, err = said.life(microseconds(received))
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

// life returns the bounds of the token's life.
func (s *statedToken) life(received time.Time) (issuedAt, expiresAt time.Time, err error) {
	issuedAt = received
	if !s.issuedAt.IsZero() && s.issuedAt.Before(received) {
		issuedAt = s.issuedAt.Time
	}
	switch {
	case !s.expiresAt.IsZero():
		expiresAt = s.expiresAt.Time
		if s.issuedAt.IsZero() && !expiresAt.After(received) {
			// Not impossible: the token died on its way here, and was issued before that.
			issuedAt = expiresAt.Add(-DefaultTokenLife)
		}
		return issuedAt, expiresAt, checkLife(expiresAt.Sub(issuedAt), "expires_at")
	case s.expiresIn != nil:
		// Bounded before it is multiplied: a huge number must not wrap round.
		life := time.Duration(min(max(*s.expiresIn, 0), int64(MaxTokenLife/time.Second)+1)) * time.Second
		return issuedAt, issuedAt.Add(life), checkLife(life, "expires_in")
	default:
		return issuedAt, issuedAt.Add(DefaultTokenLife), nil
	}
}

func checkToken(token string) error {
	unusable := func(r rune) bool { return r == utf8.RuneError || unicode.IsSpace(r) || unicode.IsControl(r) }
	switch {
	case token == "":
		return invalid("component_access_token is missing or empty: put the token there")
	case len(token) > MaxToken:
		return invalid("component_access_token has %d bytes: the limit is %d", len(token), MaxToken)
	case strings.ContainsFunc(token, unusable):
		return invalid("component_access_token must be UTF-8 without white space and control characters")
	}
	return nil
}

func checkLife(life time.Duration, stated string) error {
	if life <= 0 || life > MaxTokenLife {
		return invalid("%s must give the token a life of more than 0 and at most %d seconds", stated, MaxTokenLife/time.Second)
	}
	return nil
}
