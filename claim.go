package preauth

import (
	"time"
	"unicode"
	"unicode/utf8"
)

// The lengths in characters of the longest claim id and reference taken.
const (
	MaxClaimID   = 128
	MaxReference = 256
)

// ClaimRequest asks for a code of one's own: one that was never announced, is never looked up and
// never given to another claim. WeChat lets a code serve a single authorization, so each visitor who
// is sent to WeChat needs one.
type ClaimRequest struct {
	// AppID is the component_appid.
	AppID string
	// ClaimID makes the request safe to repeat: the same id of the same component gets the same code
	// as long as that is valid, and a new one afterwards. An empty id gets a new code each time.
	ClaimID string
	// Reference is kept with the claim, for whoever resolves the code: the visitor, an order. Another
	// reference under the same claim id is refused.
	Reference string
	// MinTTL is the life that the code must have left, rounded up to whole seconds on the wire. A
	// repeated claim id whose code has less left gets a new code. Without it, a code that the claim id
	// gets for the first time has a minute left at least, or a tenth of its life if that is less.
	MinTTL time.Duration
	// LinkOptions ask for the links.
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

// check returns what the service would answer with [StatusBadRequest].
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

// checkText checks a text of the caller's own choice, which is kept in the database.
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
	// PreAuthCode is the code, which nobody else was or will be given.
	PreAuthCode Secret
	// IssuedAt and ExpiresAt bound the life of the code, in UTC with microseconds. ExpiresAt is
	// what decides.
	IssuedAt, ExpiresAt time.Time
	// ExpiresIn is the life that the code had left when the answer was sent, in whole seconds.
	ExpiresIn time.Duration
	// ClaimID is that of the request, or one that the service made up.
	ClaimID string
	// Reference is that of the request.
	Reference string
	// ClaimedAt is when the code was given to the claim id first, in UTC.
	ClaimedAt time.Time
	// Links are the authorization links; empty unless the request had a RedirectURI.
	Links Links
}

// Encode returns the body.
func (c Claim) Encode() []byte {
	return newObject(512).
		text("component_appid", c.AppID).
		text("pre_auth_code", c.PreAuthCode.Reveal()).
		time("issued_at", c.IssuedAt).
		time("expires_at", c.ExpiresAt).
		left("expires_in", c.ExpiresIn).
		text("claim_id", c.ClaimID).
		text("reference", c.Reference).
		time("claimed_at", c.ClaimedAt).
		object("links", c.Links.encode()).
		end()
}

// ParseClaim reads the answer to a claim. An error wraps [ErrInvalid].
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
	c.Links = Links{PC: NewSecret(links.PC), Mobile: NewSecret(links.Mobile)}
	return c, nil
}
