package preauth

import "time"

// LookupRequest asks for the current code of a component.
type LookupRequest struct {
	// AppID is the component_appid.
	AppID string
	// MinTTL is the life that the code must have left, rounded up to whole seconds on the wire; 0
	// means that it has not expired.
	MinTTL time.Duration
	// MinRevision is the smallest revision that is good enough, 0 for any. A subscriber that saw a
	// revision passes it to never read an older one.
	MinRevision uint64
	// LinkOptions ask for the links.
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

// check returns what the service would answer with [StatusBadRequest].
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
	// PreAuthCode is the current code, which everybody who looks up is given.
	PreAuthCode Secret
	// IssuedAt and ExpiresAt bound the life of the code, in UTC with microseconds. ExpiresAt is
	// what decides.
	IssuedAt, ExpiresAt time.Time
	// ExpiresIn is the life that the code had left when the answer was sent, in whole seconds.
	ExpiresIn time.Duration
	// Revision is that of the [Update] that announced the code.
	Revision uint64
	// Links are the authorization links; empty unless the request had a RedirectURI.
	Links Links
}

// Encode returns the body.
func (l Lookup) Encode() []byte { return l.Append(make([]byte, 0, 320)) }

// Append appends the body to b.
func (l Lookup) Append(b []byte) []byte {
	return object(append(b, '{')).
		text("component_appid", l.AppID).
		text("pre_auth_code", l.PreAuthCode.Reveal()).
		time("issued_at", l.IssuedAt).
		time("expires_at", l.ExpiresAt).
		left("expires_in", l.ExpiresIn).
		uint("revision", l.Revision).
		object("links", l.Links.encode()).
		end()
}

// ParseLookup reads the answer to a look-up. An error wraps [ErrInvalid].
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
	l.Links = Links{PC: NewSecret(links.PC), Mobile: NewSecret(links.Mobile)}
	return l, nil
}
