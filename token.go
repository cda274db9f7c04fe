package preauth

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
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

// checkAt is Check with a look at the clock: it also refuses a life that is too long from now on.
func (e TokenEvent) checkAt(now time.Time) error {
	if err := e.Check(); err != nil {
		return err
	}
	_, _, err := tokenLife(microseconds(e.IssuedAt), microseconds(e.ExpiresAt), nil, microseconds(now))
	return err
}

// tokenLife returns the bounds of a token's life from what its event states: zero times and nil stand for what it
// does not.
func tokenLife(issuedAt, expiresAt time.Time, expiresIn *int64, received time.Time) (from, to time.Time, err error) {
	from = received
	if !issuedAt.IsZero() && issuedAt.Before(received) {
		from = issuedAt
	}
	switch {
	case !expiresAt.IsZero():
		if issuedAt.IsZero() && !expiresAt.After(received) {
			// Not impossible: the token died on its way here, and was issued before that.
			from = expiresAt.Add(-DefaultTokenLife)
		}
		return from, expiresAt, checkLife(expiresAt.Sub(from), "expires_at")
	case expiresIn != nil:
		// Bounded before it is multiplied: a huge number must not wrap round.
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
