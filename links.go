package preauth

import (
	"net/url"
	"slices"
	"strings"
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
