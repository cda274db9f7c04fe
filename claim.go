package preauth

import (
	"time"
	"unicode"
	"unicode/utf8"
)

// The limits of texts in a [ClaimRequest], in characters.
const (
	MaxClaimID   = 128
	MaxReference = 256
)

// ClaimRequest asks for a code that nobody else gets: one that was never announced, is never looked
// up and is never given to another claim. WeChat lets a code serve a single authorization, so claim
// one for each visitor whom you send to WeChat.
type ClaimRequest struct {
	// AppID is the component_appid.
	AppID string
	// ClaimID makes the request safe to repeat: the same component and ClaimID get the same code
	// while that is valid, and then a new one. It has at most [MaxClaimID] characters and no
	// control characters. Without a ClaimID each request gets a new code.
	ClaimID string
	// Reference is stored with the claim and returned by [Client.Resolve]; use it for the visitor
	// or the order. It has at most [MaxReference] characters and no control characters. A repeated
	// ClaimID with another Reference is refused with [StatusConflict].
	Reference string
	// MinTTL is the life that the code must have left, at most [MaxTokenLife] and on the wire
	// rounded up to whole seconds. If the code of a repeated ClaimID has less left, the claim gets
	// a new code. With 0, a code that is given for the first time has at least a minute left, or a
	// tenth of its life if that is less.
	MinTTL time.Duration
	// LinkOptions ask for links to WeChat's authorization pages in the answer.
	LinkOptions
}

// Encode returns the body.
func (r ClaimRequest) Encode() []byte {
	return r.LinkOptions.encode(newObject(256).
		text("component_appid", r.AppID).
		text("claim_id", r.ClaimID).
		text("reference", r.Reference).
		int("min_ttl", roundedUp(r.MinTTL))).
		end()
}

// check returns an error that wraps [ErrInvalid] if the service would refuse the request.
func (r ClaimRequest) check() error {
	if err := CheckAppID(r.AppID); err != nil {
		return err
	}
	if err := checkText("claim_id", r.ClaimID, MaxClaimID); err != nil {
		return err
	}
	if err := checkText("reference", r.Reference, MaxReference); err != nil {
		return err
	}
	if _, err := seconds(roundedUp(r.MinTTL), "min_ttl"); err != nil {
		return err
	}
	return r.LinkOptions.check()
}

// checkText checks a text that the caller chose and that the database stores.
func checkText(member, text string, limit int) error {
	if n := utf8.RuneCountInString(text); n > limit {
		return invalid("%s has %d characters: the limit is %d", member, n, limit)
	}
	for _, c := range text {
		if unicode.IsControl(c) || c == utf8.RuneError {
			return invalid("%s must be UTF-8 without control characters", member)
		}
	}
	return nil
}

// Claim is the answer to a claim.
type Claim struct {
	// AppID is the component_appid.
	AppID string
	// PreAuthCode is the code. Nobody else was given it or will be.
	PreAuthCode Secret
	// IssuedAt and ExpiresAt bound the life of the code, in UTC with microseconds.
	IssuedAt, ExpiresAt time.Time
	// ExpiresIn is the life that the code had left when the answer was sent, in whole seconds.
	// Prefer ExpiresAt, which does not depend on when the answer arrived.
	ExpiresIn time.Duration
	// ClaimID is the one in the request. If that had none, it is one that the service made up.
	ClaimID string
	// Reference is the one in the request.
	Reference string
	// ClaimedAt is when the claim first got this code, in UTC with microseconds.
	ClaimedAt time.Time
	// Links are the links that the request's LinkOptions asked for.
	Links Links
}

// Encode returns the body.
func (c Claim) Encode() []byte {
	return newObject(512).
		text("component_appid", c.AppID).
		text("pre_auth_code", c.PreAuthCode.Reveal()).
		time("issued_at", c.IssuedAt).
		time("expires_at", c.ExpiresAt).
		expiresIn(c.ExpiresIn).
		text("claim_id", c.ClaimID).
		text("reference", c.Reference).
		time("claimed_at", c.ClaimedAt).
		object("links", c.Links.encode()).
		end()
}

// ParseClaim parses the answer to a [ClaimRequest]. An error wraps [ErrInvalid].
func ParseClaim(body []byte) (Claim, error) {
	var (
		c                              Claim
		code                           string
		expiresIn                      int64
		issuedAt, expiresAt, claimedAt instant
		links                          wireLinks
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &c.AppID},
		{name: "pre_auth_code", into: &code},
		{name: "issued_at", into: &issuedAt},
		{name: "expires_at", into: &expiresAt},
		{name: "expires_in", into: &expiresIn},
		{name: "claim_id", into: &c.ClaimID},
		{name: "reference", into: &c.Reference},
		{name: "claimed_at", into: &claimedAt},
		{name: "links", into: &links},
	})
	if err != nil {
		return Claim{}, err
	}
	if err := CheckAppID(c.AppID); err != nil {
		return Claim{}, err
	}
	if code == "" || expiresAt.IsZero() || c.ClaimID == "" {
		return Claim{}, invalid("the answer to a claim needs pre_auth_code, expires_at and claim_id")
	}
	if c.ExpiresIn, err = seconds(expiresIn, "expires_in"); err != nil {
		return Claim{}, err
	}
	c.PreAuthCode, c.IssuedAt, c.ExpiresAt, c.ClaimedAt = NewSecret(code), issuedAt.Time, expiresAt.Time, claimedAt.Time
	c.Links = links.links()
	return c, nil
}
