package preauth

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// DefaultTokenLife is the life of a token whose event states none. WeChat's own tokens live for
	// 7,200 s.
	DefaultTokenLife = 2 * time.Hour
	// MaxTokenLife is the longest life that an event may state. Anything longer is a mistake, such
	// as milliseconds in place of seconds.
	MaxTokenLife = 24 * time.Hour
	// MaxToken is the longest token, in bytes. WeChat's documentation asks for room for 512, and
	// tokens of about 150 were seen.
	MaxToken = 2048
)

// TokenEvent announces a new component_access_token. A token service publishes it on
// "component.token.updated.<appid>".
type TokenEvent struct {
	// AppID is the component_appid.
	AppID string
	// Token is the component_access_token: 1 to [MaxToken] bytes of UTF-8 without white space or
	// control characters.
	Token Secret
	// IssuedAt is when WeChat issued the token. The zero time stands for the time at which the
	// stream stores the event, and so does a time after that.
	IssuedAt time.Time
	// ExpiresAt is when the token expires, at most [MaxTokenLife] after IssuedAt. The zero time
	// stands for [DefaultTokenLife] after IssuedAt.
	ExpiresAt time.Time
	// TraceParent is the W3C trace context of the event, which the service passes on to the update.
	// It is in the headers, not in the body. [Client.Announce] leaves out one that is not valid.
	TraceParent string
}

// Encode returns the body of the event in plain JSON. It contains the token.
func (e TokenEvent) Encode() []byte {
	return newObject(512).
		text("component_appid", e.AppID).
		text("component_access_token", e.Token.Reveal()).
		time("issued_at", e.IssuedAt).
		time("expires_at", e.ExpiresAt).
		end()
}

// Check returns an error that wraps [ErrInvalid] if the service would refuse the event. It does not
// look at the clock, so an ExpiresAt without an IssuedAt may still turn out to be too far away when
// the event arrives. [Client.Announce] checks that too.
func (e TokenEvent) Check() error {
	if err := CheckAppID(e.AppID); err != nil {
		return err
	}
	if err := checkToken(e.Token.Reveal()); err != nil {
		return err
	}
	if !isInstant(e.IssuedAt) {
		return invalid("issued_at must be in the years 1970 to 9999")
	}
	if !isInstant(e.ExpiresAt) {
		return invalid("expires_at must be in the years 1970 to 9999")
	}
	if !e.IssuedAt.IsZero() && !e.ExpiresAt.IsZero() {
		return checkLife(microseconds(e.ExpiresAt).Sub(microseconds(e.IssuedAt)), "expires_at")
	}
	return nil
}

// checkAt is Check for an event that arrives now.
func (e TokenEvent) checkAt(now time.Time) error {
	if err := e.Check(); err != nil {
		return err
	}
	_, _, err := tokenLife(microseconds(e.IssuedAt), microseconds(e.ExpiresAt), nil, microseconds(now))
	return err
}

// tokenLife returns when the life of a token begins and ends. Zero times and nil stand for what the
// event does not state. received is when the event arrived.
func tokenLife(issuedAt, expiresAt time.Time, expiresIn *int64, received time.Time) (from, to time.Time, err error) {
	from = received
	if !issuedAt.IsZero() && issuedAt.Before(received) {
		from = issuedAt
	}
	switch {
	case !expiresAt.IsZero():
		if issuedAt.IsZero() && !expiresAt.After(received) {
			// The token expired before the event arrived, and its issue time is anybody's guess.
			from = expiresAt.Add(-DefaultTokenLife)
		}
		return from, expiresAt, checkLife(expiresAt.Sub(from), "expires_at")
	case expiresIn != nil:
		// Bounded first, so that the product does not overflow.
		life := time.Duration(min(max(*expiresIn, 0), int64(MaxTokenLife/time.Second)+1)) * time.Second
		return from, from.Add(life), checkLife(life, "expires_in")
	default:
		return from, from.Add(DefaultTokenLife), nil
	}
}

func checkToken(token string) error {
	unusable := func(r rune) bool { return r == utf8.RuneError || unicode.IsSpace(r) || unicode.IsControl(r) }
	switch {
	case token == "":
		return invalid("component_access_token is missing or empty: set it to the token")
	case len(token) > MaxToken:
		return invalid("component_access_token has %d bytes: the limit is %d", len(token), MaxToken)
	case strings.ContainsFunc(token, unusable):
		return invalid("component_access_token must be UTF-8 without white space or control characters")
	}
	return nil
}

func checkLife(life time.Duration, stated string) error {
	if life <= 0 || life > MaxTokenLife {
		return invalid("%s must give the token a life of more than 0 and at most %d seconds", stated, MaxTokenLife/time.Second)
	}
	return nil
}
