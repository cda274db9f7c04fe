package preauth

import (
	"math"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxRedirectURI is the length in characters of the longest redirect_uri taken.
const MaxRedirectURI = 1024

// authTypes are WeChat's values of auth_type: 1 official account, 2 mini program, 3 both, 4 and 5
// the two Channels roles, 6 all, 8 the sales assistant.
var authTypes = []int{1, 2, 3, 4, 5, 6, 8}

// LinkOptions ask for the authorization links ready to use. They are ignored, though checked, as
// long as RedirectURI is empty.
type LinkOptions struct {
	// RedirectURI is where WeChat sends the account's owner afterwards: an absolute http or https
	// address of at most [MaxRedirectURI] characters.
	RedirectURI string
	// AuthType is WeChat's auth_type, 1 to 6 or 8; 0 leaves it out.
	AuthType int
	// BizAppID is the one account that may be authorized; it wins over AuthType.
	BizAppID string
}

// Links are the addresses of WeChat's authorization pages. Both carry the code.
type Links struct {
	// PC is to be opened in a browser, which shows a QR code.
	PC Secret
	// Mobile is to be opened inside WeChat.
	Mobile Secret
}

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
		int("min_ttl", int64(math.Ceil(r.MinTTL.Seconds()))).
		uint("min_revision", r.MinRevision)).
		end()
}

// ParseLookupRequest reads a look-up. appid is the component that the subject names, "" if it names
// none; then the body has to, and otherwise the body may be empty. An error wraps [ErrInvalid].
func ParseLookupRequest(appid string, body []byte) (LookupRequest, error) {
	if len(body) == 0 { // as most are, which then costs no memory
		if err := CheckAppID(appid); err != nil {
			return LookupRequest{}, err
		}
		return LookupRequest{AppID: appid}, nil
	}
	var (
		r      LookupRequest
		inBody string
		minTTL int64
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &inBody},
		{name: "min_ttl", into: &minTTL},
		{name: "min_revision", into: &r.MinRevision},
		{name: "redirect_uri", into: &r.RedirectURI},
		{name: "auth_type", into: &r.AuthType},
		{name: "biz_appid", into: &r.BizAppID},
	})
	if err != nil {
		return LookupRequest{}, err
	}
	if r.AppID, err = sameAppID(appid, inBody); err != nil {
		return LookupRequest{}, err
	}
	if r.MinTTL, err = seconds(minTTL, "min_ttl"); err != nil {
		return LookupRequest{}, err
	}
	if err := r.LinkOptions.check(); err != nil {
		return LookupRequest{}, err
	}
	return r, nil
}

func (o LinkOptions) encode(into object) object {
	return into.text("redirect_uri", o.RedirectURI).int("auth_type", int64(o.AuthType)).text("biz_appid", o.BizAppID)
}

func (o LinkOptions) check() error {
	if o.AuthType != 0 && !slices.Contains(authTypes, o.AuthType) {
		return invalid("auth_type must be one of %v", authTypes)
	}
	if o.BizAppID != "" && !isAppID(o.BizAppID) {
		return invalid("biz_appid must be the appid of one account: letters, digits, '_' and '-'")
	}
	if o.RedirectURI == "" {
		return nil
	}
	if n := utf8.RuneCountInString(o.RedirectURI); n > MaxRedirectURI {
		return invalid("redirect_uri has %d characters: the limit is %d", n, MaxRedirectURI)
	}
	u, err := url.Parse(o.RedirectURI)
	unprintable := func(c rune) bool { return c == ' ' || !unicode.IsPrint(c) }
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" ||
		strings.ContainsFunc(o.RedirectURI, unprintable) {
		return invalid("redirect_uri must be an absolute http or https address, with anything unprintable escaped")
	}
	return nil
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

// wireLinks are the links as they are read.
type wireLinks struct {
	PC     string `json:"pc"`
	Mobile string `json:"mobile"`
}

func (l Links) encode() object {
	if l.PC.IsZero() && l.Mobile.IsZero() {
		return nil
	}
	return newObject(512).text("pc", l.PC.Reveal()).text("mobile", l.Mobile.Reveal())
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
