package preauth

import "time"

// ResolveRequest asks what a code was used for. WeChat's "authorized" push carries the code
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
	return checkCode(r.PreAuthCode, "the code to resolve")
}

// checkCode checks a pre_auth_code. what says which one the member should have.
func checkCode(code Secret, what string) error {
	if n := len(code.Reveal()); n == 0 || n > MaxCode {
		return invalid("pre_auth_code must have 1 to %d bytes: set it to %s", MaxCode, what)
	}
	return nil
}

// Resolved says what a code was used for: a claim, or announcements. It has either a ClaimID or a
// Revision.
type Resolved struct {
	// AppID is the component_appid.
	AppID string
	// ClaimID and Reference are those of the claim. They are "" for a code that was announced.
	ClaimID, Reference string
	// ClaimedAt is when the claim first got the code. It is zero for a code that was announced.
	ClaimedAt time.Time
	// Revision is the one of the code's last [Update]. It is 0 for a code that was claimed.
	Revision uint64
	// IssuedAt and ExpiresAt bound the life of the code, as WeChat gave it.
	IssuedAt, ExpiresAt time.Time
	// AuthorizerAppID is the account that authorized with the code, and AuthorizedAt is when. They
	// are zero until the service is told.
	AuthorizerAppID string
	AuthorizedAt    time.Time
}

// Encode returns the body. It does not contain the code.
func (r Resolved) Encode() []byte {
	return newObject(384).
		text("component_appid", r.AppID).
		text("claim_id", r.ClaimID).
		text("reference", r.Reference).
		time("claimed_at", r.ClaimedAt).
		uint("revision", r.Revision).
		time("issued_at", r.IssuedAt).
		time("expires_at", r.ExpiresAt).
		text("authorizer_appid", r.AuthorizerAppID).
		time("authorized_at", r.AuthorizedAt).
		end()
}

// ParseResolved parses the answer to a [ResolveRequest]. An error wraps [ErrInvalid].
func ParseResolved(body []byte) (Resolved, error) {
	var (
		r                                            Resolved
		claimedAt, issuedAt, expiresAt, authorizedAt instant
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &r.AppID},
		{name: "claim_id", into: &r.ClaimID},
		{name: "reference", into: &r.Reference},
		{name: "claimed_at", into: &claimedAt},
		{name: "revision", into: &r.Revision},
		{name: "issued_at", into: &issuedAt},
		{name: "expires_at", into: &expiresAt},
		{name: "authorizer_appid", into: &r.AuthorizerAppID},
		{name: "authorized_at", into: &authorizedAt},
	})
	if err != nil {
		return Resolved{}, err
	}
	if err := CheckAppID(r.AppID); err != nil {
		return Resolved{}, err
	}
	if r.ClaimID == "" && r.Revision == 0 {
		return Resolved{}, invalid("the answer to resolve needs claim_id or revision")
	}
	r.ClaimedAt, r.IssuedAt, r.ExpiresAt, r.AuthorizedAt = claimedAt.Time, issuedAt.Time, expiresAt.Time, authorizedAt.Time
	return r, nil
}
