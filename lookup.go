package preauth

import "time"

// LookupRequest asks for the current code of a component.
type LookupRequest struct {
	// AppID is the component_appid.
	AppID string
	// MinTTL is the life that the code must have left, at most [MaxTokenLife] and on the wire
	// rounded up to whole seconds. With 0, any code that has not expired will do.
	MinTTL time.Duration
	// MinRevision is the lowest revision that will do, 0 for any. Set it to the last revision that
	// you saw, so that you never read an older code.
	MinRevision uint64
	// LinkOptions ask for links to WeChat's authorization pages in the answer.
	LinkOptions
}

// Encode returns the body.
func (r LookupRequest) Encode() []byte {
	return r.LinkOptions.encode(newObject(256).
		text("component_appid", r.AppID).
		int("min_ttl", roundedUp(r.MinTTL)).
		uint("min_revision", r.MinRevision)).
		end()
}

// check returns an error that wraps [ErrInvalid] if the service would refuse the request.
func (r LookupRequest) check() error {
	if err := CheckAppID(r.AppID); err != nil {
		return err
	}
	if _, err := seconds(roundedUp(r.MinTTL), "min_ttl"); err != nil {
		return err
	}
	return r.LinkOptions.check()
}

// Lookup is the answer to a look-up.
type Lookup struct {
	// AppID is the component_appid.
	AppID string
	// PreAuthCode is the current code. Every look-up returns it until the next one replaces it.
	PreAuthCode Secret
	// IssuedAt and ExpiresAt bound the life of the code, in UTC with microseconds.
	IssuedAt, ExpiresAt time.Time
	// ExpiresIn is the life that the code had left when the answer was sent, in whole seconds.
	// Prefer ExpiresAt, which does not depend on when the answer arrived.
	ExpiresIn time.Duration
	// Revision is the revision of the [Update] that announced the code.
	Revision uint64
	// Links are the links that the request's LinkOptions asked for.
	Links Links
}

// Encode returns the body.
func (l Lookup) Encode() []byte {
	return object(l.fixed(make([]byte, 0, 320))).expiresIn(l.ExpiresIn).end()
}

// fixed appends the body without its end, and without the member expires_in, which stands last.
func (l Lookup) fixed(b []byte) []byte {
	return object(append(b, '{')).
		text("component_appid", l.AppID).
		text("pre_auth_code", l.PreAuthCode.Reveal()).
		time("issued_at", l.IssuedAt).
		time("expires_at", l.ExpiresAt).
		uint("revision", l.Revision).
		object("links", l.Links.encode())
}

// ParseLookup parses the answer to a [LookupRequest]. An error wraps [ErrInvalid].
func ParseLookup(body []byte) (Lookup, error) {
	var (
		l                   Lookup
		code                string
		expiresIn           int64
		issuedAt, expiresAt instant
		links               wireLinks
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &l.AppID},
		{name: "pre_auth_code", into: &code},
		{name: "issued_at", into: &issuedAt},
		{name: "expires_at", into: &expiresAt},
		{name: "expires_in", into: &expiresIn},
		{name: "revision", into: &l.Revision},
		{name: "links", into: &links},
	})
	if err != nil {
		return Lookup{}, err
	}
	if err := CheckAppID(l.AppID); err != nil {
		return Lookup{}, err
	}
	if code == "" || expiresAt.IsZero() {
		return Lookup{}, invalid("the answer to a look-up needs pre_auth_code and expires_at")
	}
	if l.ExpiresIn, err = seconds(expiresIn, "expires_in"); err != nil {
		return Lookup{}, err
	}
	l.PreAuthCode, l.IssuedAt, l.ExpiresAt = NewSecret(code), issuedAt.Time, expiresAt.Time
	l.Links = links.links()
	return l, nil
}
