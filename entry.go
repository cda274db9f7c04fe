package preauth

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// EntryPath is where the gateway serves the entry page. The appid follows it.
const EntryPath = "/authorize/"

const (
	// MaxEntryLink is the longest link to the entry page, in bytes without the scheme and the host. A
	// longer one makes a QR code that telephones cannot read.
	MaxEntryLink = 1024
	// MaxEntryLife is for how long a link to the entry page may be good.
	MaxEntryLife = 24 * time.Hour
	// MinEntryKey is the least size of a key that signs such links, in bytes.
	MinEntryKey = 32
	// MaxEntryKey is the largest size of such a key, in bytes.
	MaxEntryKey = 256
)

var (
	// ErrEntrySignature means that none of the keys signed the link, or that it was changed since.
	ErrEntrySignature = errors.New("the entry link is not signed with one of the keys, or was changed")
	// ErrEntryExpired means that the link was good and is not any more.
	ErrEntryExpired = errors.New("the entry link has expired")
)

// entryClocks is how far the clocks of the program that signs a link and of the gateway may differ.
const entryClocks = 5 * time.Minute

// entrySignature separates what is signed from the signature.
const entrySignature = "&signature="

// EntryLink is a link to the entry page, which the gateway serves on the platform's own domain and
// which sends a visitor on to WeChat with a code that is claimed for this link. A backend makes one
// for each visitor. Everybody who has the link can authorize as that visitor until it expires, and
// can read what is in it: it is signed, not encrypted.
//
// The link is EntryPath, the appid, the query, and "&signature=" with the HMAC-SHA256 of all that
// precedes it, in hex. The names of the parameters are claim_id, reference, auth_type, biz_appid,
// category_id_list, lang and expires. Where WeChat sends the owner afterwards is a setting of the
// gateway.
type EntryLink struct {
	// AppID is the component_appid.
	AppID string
	// ClaimID and Reference are those of the [ClaimRequest]. The ClaimID is required: links with the
	// same one lead to the same code.
	ClaimID, Reference string
	// AuthType, BizAppID and CategoryIDList are those of the [LinkOptions].
	AuthType                 int
	BizAppID, CategoryIDList string
	// Language is the one of the page, such as "en" or "zh-CN". By default the browser says.
	Language string
	// ExpiresAt is when the link stops working, at most [MaxEntryLife] from now. The link has whole
	// seconds.
	ExpiresAt time.Time
}

// Sign returns the link. base has the scheme and the host of the platform's domain, such as
// "https://auth.example.com". key is one of the gateway's file. An error wraps [ErrInvalid].
func (l EntryLink) Sign(base string, key Secret) (string, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || strings.TrimSuffix(base, "/") != u.Scheme+"://"+u.Host {
		return "", invalid("the base of an entry link must be a scheme and a host, such as https://auth.example.com")
	}
	if err := checkEntryKey(key); err != nil {
		return "", err
	}
	if err := l.check(time.Now(), 0); err != nil {
		return "", err
	}
	query := url.Values{"claim_id": {l.ClaimID}, "expires": {strconv.FormatInt(l.ExpiresAt.Unix(), 10)}}
	for name, value := range map[string]string{
		"reference": l.Reference, "biz_appid": l.BizAppID, "category_id_list": l.CategoryIDList, "lang": l.Language,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if l.AuthType != 0 {
		query.Set("auth_type", strconv.Itoa(l.AuthType))
	}
	signed := EntryPath + l.AppID + "?" + query.Encode()
	link := signed + entrySignature + signEntry(signed, key)
	if err := checkEntryLength(link); err != nil {
		return "", err
	}
	return u.Scheme + "://" + u.Host + link, nil
}

// ParseEntryLink returns what a link says that one of the keys signed. target is the link from
// EntryPath on, as it was requested. What follows the signature is not signed and comes back as
// extra: WeChat adds parameters of its own to links that are shared.
//
// The error is [ErrEntrySignature] or [ErrEntryExpired], or wraps [ErrInvalid] if a key signed what
// makes no sense. With [ErrEntryExpired] the link is returned as well.
func ParseEntryLink(target string, keys []Secret, now time.Time) (link EntryLink, extra string, err error) {
	signed, signature, _ := strings.Cut(target, entrySignature)
	signature, _, found := strings.Cut(signature, "&")
	if found {
		extra = target[len(signed)+len(entrySignature)+len(signature):]
	}
	good := false
	for _, key := range keys {
		good = hmac.Equal([]byte(signature), []byte(signEntry(signed, key))) || good
	}
	if !good {
		return EntryLink{}, extra, ErrEntrySignature
	}
	if link, err = parseEntry(signed); err != nil {
		return EntryLink{}, extra, err
	}
	if err := checkEntryLength(strings.TrimSuffix(target, extra)); err != nil {
		return EntryLink{}, extra, err
	}
	if !link.ExpiresAt.IsZero() && !link.ExpiresAt.After(now) {
		return link, extra, ErrEntryExpired
	}
	if err := link.check(now, entryClocks); err != nil {
		return EntryLink{}, extra, err
	}
	return link, extra, nil
}

// parseEntry parses what is signed.
func parseEntry(signed string) (EntryLink, error) {
	path, query, _ := strings.Cut(signed, "?")
	appid, ok := strings.CutPrefix(path, EntryPath)
	if !ok {
		return EntryLink{}, invalid("the signed part of an entry link must begin with %s and the component_appid", EntryPath)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return EntryLink{}, invalid("the query of the entry link must be URL-encoded")
	}
	l := EntryLink{AppID: appid}
	for name, all := range values {
		if len(all) > 1 {
			return EntryLink{}, invalid("a parameter of the entry link appears twice: send each once")
		}
		value := all[0]
		switch name {
		case "claim_id":
			l.ClaimID = value
		case "reference":
			l.Reference = value
		case "biz_appid":
			l.BizAppID = value
		case "category_id_list":
			l.CategoryIDList = value
		case "lang":
			l.Language = value
		case "auth_type":
			if l.AuthType, err = strconv.Atoi(value); err != nil && value != "" {
				return EntryLink{}, invalid("auth_type must be a number")
			}
		case "expires":
			seconds, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return EntryLink{}, invalid("expires must be a time in seconds since 1970")
			}
			l.ExpiresAt = time.Unix(seconds, 0).UTC()
		default:
			return EntryLink{}, invalid("the entry link has another parameter than claim_id, reference, auth_type, biz_appid, category_id_list, lang, expires")
		}
	}
	return l, nil
}

// check returns an error that wraps [ErrInvalid] if the link cannot be used. The clock of the program
// that signed it may be ahead by clocks.
func (l EntryLink) check(now time.Time, clocks time.Duration) error {
	switch {
	case l.ClaimID == "":
		return invalid("the entry link needs a claim_id: one for each visitor")
	case !l.ExpiresAt.After(now):
		return invalid("the entry link needs expires, in the future and in seconds since 1970")
	case l.ExpiresAt.Sub(now) > MaxEntryLife+clocks:
		return invalid("the entry link expires in more than %d h: take less, in seconds since 1970", MaxEntryLife/time.Hour)
	case len(l.Language) > 35 || strings.Trim(l.Language, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "":
		return invalid("lang must be a language such as en or zh-CN")
	}
	return ClaimRequest{
		AppID: l.AppID, ClaimID: l.ClaimID, Reference: l.Reference,
		LinkOptions: LinkOptions{AuthType: l.AuthType, BizAppID: l.BizAppID, CategoryIDList: l.CategoryIDList},
	}.check()
}

func checkEntryLength(link string) error {
	if len(link) > MaxEntryLink {
		return invalid("the entry link has %d bytes without scheme and host, of at most %d: shorten claim_id or reference", len(link), MaxEntryLink)
	}
	return nil
}

// signEntry returns the signature.
func signEntry(signed string, key Secret) string {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write([]byte(signed))
	return hex.EncodeToString(mac.Sum(nil))
}

// ParseEntryKeys parses the file with the keys of entry links: one a line. Empty lines and lines that
// begin with # do not count. All keys verify: put a new one into each gateway's file before anybody
// signs with it, and take the old one out when its last link has expired. An error wraps
// [ErrInvalid].
func ParseEntryKeys(file []byte) ([]Secret, error) {
	var keys []Secret
	number := 0
	for line := range bytes.Lines(file) {
		number++
		key := NewSecret(string(bytes.TrimRight(line, "\r\n")))
		if key.IsZero() || strings.HasPrefix(key.Reveal(), "#") {
			continue
		}
		if err := checkEntryKey(key); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, invalid("there is no key: put the output of \"openssl rand -hex 32\" into the file")
	}
	return keys, nil
}

func checkEntryKey(key Secret) error {
	text := key.Reveal()
	if n := len(text); n < MinEntryKey || n > MaxEntryKey {
		return invalid("a key of entry links has %d bytes: it must have %d to %d, such as the output of \"openssl rand -hex 32\"", n, MinEntryKey, MaxEntryKey)
	}
	if strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return invalid("a key of entry links must have printable ASCII without spaces only")
	}
	return nil
}
