package preauth

import (
	"math"
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
		int("min_ttl", int64(math.Ceil(r.MinTTL.Seconds())))).
		end()
}

// ParseClaimRequest reads a claim. appid is the component that the subject names, "" if it names
// none; then the body has to, and otherwise the body may be empty. An error wraps [ErrInvalid].
func ParseClaimRequest(appid string, body []byte) (ClaimRequest, error) {
	var (
		r      ClaimRequest
		inBody string
		minTTL int64
	)
	if len(body) > 0 {
		err := decodeObject(body, []member{
			{name: "component_appid", into: &inBody},
			{name: "claim_id", into: &r.ClaimID},
			{name: "reference", into: &r.Reference},
			{name: "min_ttl", into: &minTTL},
			{name: "redirect_uri", into: &r.RedirectURI},
			{name: "auth_type", into: &r.AuthType},
			{name: "biz_appid", into: &r.BizAppID},
		})
		if err != nil {
			return ClaimRequest{}, err
		}
	}
	var err error
	if r.AppID, err = sameAppID(appid, inBody); err != nil {
		return ClaimRequest{}, err
	}
	if err := checkText("claim_id", r.ClaimID, MaxClaimID); err != nil {
		return ClaimRequest{}, err
	}
	if err := checkText("reference", r.Reference, MaxReference); err != nil {
		return ClaimRequest{}, err
	}
	if r.MinTTL, err = seconds(minTTL, "min_ttl"); err != nil {
		return ClaimRequest{}, err
	}
	if err := r.LinkOptions.check(); err != nil {
		return ClaimRequest{}, err
	}
	return r, nil
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

// ResolveRequest asks which claim a code was given to: the PreAuthCode of WeChat's "authorized"
// push, for example.
type ResolveRequest struct {
	PreAuthCode Secret
}

// Encode returns the body. It contains the code.
func (r ResolveRequest) Encode() []byte {
	return newObject(256).text("pre_auth_code", r.PreAuthCode.Reveal()).end()
}

// MaxCode is the length in bytes of the longest pre_auth_code. WeChat's have 78 or 100.
const MaxCode = 512

// ParseResolveRequest reads the request to resolve a code. An error wraps [ErrInvalid].
func ParseResolveRequest(body []byte) (ResolveRequest, error) {
	var code string
	if err := decodeObject(body, []member{{name: "pre_auth_code", into: &code}}); err != nil {
		return ResolveRequest{}, err
	}
	if code == "" || len(code) > MaxCode {
		return ResolveRequest{}, invalid("pre_auth_code must have 1 to %d bytes: name the code to resolve", MaxCode)
	}
	return ResolveRequest{NewSecret(code)}, nil
}

// Resolved is the claim that a code was given to.
type Resolved struct {
	// AppID is the component_appid.
	AppID string
	// ClaimID and Reference are those of the claim.
	ClaimID, Reference string
	// ClaimedAt is when the code was given to it; IssuedAt and ExpiresAt bound the life of the code.
	// All are in UTC.
	ClaimedAt, IssuedAt, ExpiresAt time.Time
}

// Encode returns the body. The code is not in it.
func (r Resolved) Encode() []byte {
	return newObject(384).
		text("component_appid", r.AppID).
		text("claim_id", r.ClaimID).
		text("reference", r.Reference).
		time("claimed_at", r.ClaimedAt).
		time("issued_at", r.IssuedAt).
		time("expires_at", r.ExpiresAt).
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

// ParseResolved reads the answer to the request to resolve a code. An error wraps [ErrInvalid].
func ParseResolved(body []byte) (Resolved, error) {
	var (
		r                              Resolved
		claimedAt, issuedAt, expiresAt instant
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &r.AppID},
		{name: "claim_id", into: &r.ClaimID},
		{name: "reference", into: &r.Reference},
		{name: "claimed_at", into: &claimedAt},
		{name: "issued_at", into: &issuedAt},
		{name: "expires_at", into: &expiresAt},
	})
	if err != nil {
		return Resolved{}, err
	}
	if err := CheckAppID(r.AppID); err != nil {
		return Resolved{}, err
	}
	if r.ClaimID == "" {
		return Resolved{}, invalid("the answer to resolve needs claim_id")
	}
	r.ClaimedAt, r.IssuedAt, r.ExpiresAt = claimedAt.Time, issuedAt.Time, expiresAt.Time
	return r, nil
}
