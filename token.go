package preauth

import (
	"encoding/base64"
	"encoding/json"
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

// wireToken is the body of a token event.
type wireToken struct {
	AppID     string  `json:"component_appid"`
	Token     string  `json:"component_access_token"`
	IssuedAt  instant `json:"issued_at,omitzero"`
	ExpiresAt instant `json:"expires_at,omitzero"`
}

// Encode returns the event as a plain JSON body. It contains the token.
func (e TokenEvent) Encode() []byte {
	return encode(wireToken{
		AppID: e.AppID, Token: e.Token.Reveal(), IssuedAt: instant{e.IssuedAt}, ExpiresAt: instant{e.ExpiresAt},
	})
}

// Check returns an error that wraps [ErrInvalid] if the service would refuse the event.
func (e TokenEvent) Check() error {
	if err := CheckAppID(e.AppID); err != nil {
		return err
	}
	if err := checkToken(e.Token.Reveal()); err != nil {
		return err
	}
	if !e.IssuedAt.IsZero() && !e.ExpiresAt.IsZero() {
		return checkLife(e.ExpiresAt.Sub(e.IssuedAt), "expires_at")
	}
	return nil
}

// ParseTokenEvent reads a token event: plain JSON, or a CloudEvent 1.0 in binary or structured mode
// (https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md).
//
// appid is the component that the message's subject names, "" if it names none. received is the
// stream's time stamp of the message: a life stated as expires_in starts at issued_at, or else at
// received; an issued_at after received is a skewed clock's and counts as received.
//
// The event returned has both its times, in UTC. It may have expired already. On an error, which
// wraps [ErrInvalid], the event still has the AppID if subject and body agree on a valid one.
func ParseTokenEvent(appid string, header nats.Header, body []byte, received time.Time) (TokenEvent, error) {
	e := TokenEvent{}
	if CheckAppID(appid) == nil {
		e.AppID = appid
	}
	data, err := cloudEventData(header, body)
	if err != nil {
		return e, err
	}
	var (
		inBody, token       string
		issuedAt, expiresAt instant
		expiresIn           *int64
	)
	err = decodeObject(data, false, map[string]any{
		"component_appid":        &inBody,
		"component_access_token": &token,
		"issued_at":              &issuedAt,
		"expires_at":             &expiresAt,
		"expires_in":             &expiresIn,
	})
	if err != nil {
		return e, err
	}
	e.AppID, err = sameAppID(appid, inBody)
	if err != nil {
		return e, err
	}
	if err := checkToken(token); err != nil {
		return e, err
	}
	e.Token = NewSecret(token)

	e.IssuedAt = received.UTC()
	if !issuedAt.IsZero() && issuedAt.Before(received) {
		e.IssuedAt = issuedAt.UTC()
	}
	switch {
	case !expiresAt.IsZero():
		e.ExpiresAt = expiresAt.UTC()
		err = checkLife(e.ExpiresAt.Sub(e.IssuedAt), "expires_at")
	case expiresIn != nil:
		// Checked before it is multiplied: a huge number must not wrap round.
		seconds := min(max(*expiresIn, -1), int64(MaxTokenLife/time.Second)+1)
		e.ExpiresAt = e.IssuedAt.Add(time.Duration(seconds) * time.Second)
		err = checkLife(time.Duration(seconds)*time.Second, "expires_in")
	default:
		e.ExpiresAt = e.IssuedAt.Add(DefaultTokenLife)
	}
	return e, err
}

func checkToken(token string) error {
	unusable := func(r rune) bool { return r == utf8.RuneError || unicode.IsSpace(r) || unicode.IsControl(r) }
	switch {
	case token == "":
		return invalid("component_access_token is missing or empty")
	case len(token) > MaxToken:
		return invalid("component_access_token has %d bytes: the limit is %d", len(token), MaxToken)
	case strings.ContainsFunc(token, unusable):
		return invalid("component_access_token must not hold white space or control characters")
	}
	return nil
}

func checkLife(life time.Duration, member string) error {
	if life <= 0 || life > MaxTokenLife {
		return invalid("%s must give the token a life of more than 0 and at most %d s", member, MaxTokenLife/time.Second)
	}
	return nil
}

// cloudEventData returns the event data inside a CloudEvent, and the body itself if the message is
// none.
func cloudEventData(header nats.Header, body []byte) ([]byte, error) {
	contentType, binary := "", false
	for name, values := range header { // NATS keeps the case of header names
		switch strings.ToLower(name) {
		case "content-type":
			contentType = strings.ToLower(strings.Join(values, ","))
		case "ce-specversion":
			binary = true
			if err := checkSpecVersion(strings.Join(values, ",")); err != nil {
				return nil, err
			}
		}
	}
	structured := strings.HasPrefix(contentType, "application/cloudevents")
	switch {
	case strings.HasPrefix(contentType, "application/cloudevents-batch"):
		return nil, invalid("CloudEvents batches are not taken: publish each event as a message of its own")
	case binary && !structured:
		return body, nil
	}

	// A publisher without headers can send a structured event too; its specversion tells it.
	var (
		specVersion, base64Data *string
		data                    json.RawMessage
	)
	err := decodeObject(body, true, map[string]any{"specversion": &specVersion, "data": &data, "data_base64": &base64Data})
	switch {
	case !structured && (err != nil || specVersion == nil):
		return body, nil // a plain event, whose own errors are told when it is read as one
	case err != nil:
		return nil, err
	case specVersion == nil:
		return nil, invalid("the CloudEvent has no specversion")
	}
	if err := checkSpecVersion(*specVersion); err != nil {
		return nil, err
	}
	switch {
	case (len(data) > 0) == (base64Data != nil):
		return nil, invalid("the CloudEvent needs either data or data_base64")
	case base64Data != nil:
		decoded, err := base64.StdEncoding.DecodeString(*base64Data)
		if err != nil {
			return nil, invalid("data_base64 is not base64")
		}
		return decoded, nil
	default:
		return data, nil
	}
}

func checkSpecVersion(version string) error {
	if version != "1.0" {
		return invalid("the CloudEvents specversion must be 1.0")
	}
	return nil
}
