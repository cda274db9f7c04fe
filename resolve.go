package preauth

import "time"

// ResolveRequest asks which claim a code was given to. WeChat's "authorized" push carries the code
// as PreAuthCode.
type ResolveRequest struct {
	// PreAuthCode is the code: 1 to [MaxCode] bytes.
	PreAuthCode Secret
}

// Encode returns the body. It contains the code.
func (r ResolveRequest) Encode() []byte {
	return newObject(256).text("pre_auth_code", r.PreAuthCode.Reveal()).end()
}

// MaxCode is the longest pre_auth_code in a [ResolveRequest], in bytes. WeChat's codes have 78 or
// 100.
const MaxCode = 512

// check returns an error that wraps [ErrInvalid] if the service would refuse the request.
func (r ResolveRequest) check() error {
	if n := len(r.PreAuthCode.Reveal()); n == 0 || n > MaxCode {
		return invalid("pre_auth_code must have 1 to %d bytes: set it to the code to resolve", MaxCode)
	}
	return nil
}

// Resolved describes the claim that a code was given to.
type Resolved struct {
	// AppID is the component_appid.
	AppID string
	// ClaimID and Reference are those of the claim.
	ClaimID, Reference string
	// ClaimedAt is when the claim first got the code. IssuedAt and ExpiresAt bound the life of the
	// code. All are in UTC with microseconds.
	ClaimedAt, IssuedAt, ExpiresAt time.Time
}

// Encode returns the body. It does not contain the code.
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

// ParseResolved parses the answer to a [ResolveRequest]. An error wraps [ErrInvalid].
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
