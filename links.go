package preauth

import (
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The limits of texts in [LinkOptions], in characters.
const (
	MaxRedirectURI    = 1024
	MaxCategoryIDList = 256
)

// authTypes are WeChat's values of auth_type: 1 official account, 2 mini program, 3 both, 4 推客
// (promoter), 5 视频号 (Channels), 6 all, 8 带货助手 (sales assistant).
var authTypes = []int{1, 2, 3, 4, 5, 6, 8}

// LinkOptions ask for links to WeChat's authorization pages. If all options are zero, the answer
// has no links.
type LinkOptions struct {
	// RedirectURI is where WeChat sends the account's owner after the authorization: an absolute
	// http or https URL of at most [MaxRedirectURI] characters, with spaces and unprintable
	// characters escaped. Without it there are no links for browsers; the mini-program plug-in does
	// not need it.
	RedirectURI string
	// AuthType is WeChat's auth_type, which says what kinds of account may be authorized: 1
	// official account, 2 mini program, 3 both, 4 推客, 5 视频号, 6 all, 8 带货助手. 0 counts as 3.
	AuthType int
	// BizAppID is the appid of the only account that may be authorized. It wins over AuthType.
	BizAppID string
	// CategoryIDList has the ids of the permission sets to authorize, separated by "|": "99" or
	// "1|17|99". By default it is all sets that the platform has published. It has at most
	// [MaxCategoryIDList] characters. The plug-in does not take it.
	CategoryIDList string
}

// Links lead to WeChat's authorization pages. Each of them contains the code.
//
// WeChat looks at the referring page: send visitors to a link from a page on the platform's
// registered domain, which is that of RedirectURI. A bare redirect from elsewhere, or a link that
// is typed or mailed, fails.
type Links struct {
	// PC is the URL for a desktop browser, where it shows a QR code.
	PC Secret
	// Mobile is the URL for WeChat's own browser on a phone.
	Mobile Secret
	// Plugin is for a mini program of the platform.
	Plugin Plugin
}

// Plugin has the parameters of openAuthorizeAccount, a method of WeChat's mini-program plug-in
// miniprogram-thirdparty-plugin. In JSON they have the names that the method takes.
type Plugin struct {
	// PlatformAppID is the component_appid.
	PlatformAppID string
	// PreAuthCode is the code.
	PreAuthCode Secret
	// AuthType is that of the [LinkOptions], or 3. WeChat documents 1 to 3 for the plug-in.
	AuthType int
	// BizAppID is that of the [LinkOptions].
	BizAppID string
}

func (o LinkOptions) encode(into object) object {
	return into.text("redirect_uri", o.RedirectURI).int("auth_type", int64(o.AuthType)).text("biz_appid", o.BizAppID).
		text("category_id_list", o.CategoryIDList)
}

func (o LinkOptions) check() error {
	if o.AuthType != 0 && !slices.Contains(authTypes, o.AuthType) {
		return invalid("auth_type must be one of %v", authTypes)
	}
	if o.BizAppID != "" && !isAppID(o.BizAppID) {
		return invalid("biz_appid must be the appid of one account: letters, digits, '_' and '-'")
	}
	if o.CategoryIDList != "" && !isCategoryIDList(o.CategoryIDList) {
		return invalid("category_id_list must be ids of permission sets separated by '|', such as 1|17|99, in at most %d characters", MaxCategoryIDList)
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
		return invalid("redirect_uri must be an absolute http or https URL, with spaces and unprintable characters escaped")
	}
	return nil
}

// isCategoryIDList reports whether text is one or more decimal numbers separated by "|".
func isCategoryIDList(text string) bool {
	if len(text) > MaxCategoryIDList {
		return false
	}
	for id := range strings.SplitSeq(text, "|") {
		if id == "" || strings.Trim(id, "0123456789") != "" {
			return false
		}
	}
	return true
}

// wireLinks are [Links] as they are parsed.
type wireLinks struct {
	PC     string `json:"pc"`
	Mobile string `json:"mobile"`
	Plugin struct {
		PlatformAppID string `json:"platformAppID"` //nolint:tagliatelle // WeChat's names
		PreAuthCode   string `json:"preAuthCode"`   //nolint:tagliatelle // WeChat's names
		AuthType      int    `json:"authType"`      //nolint:tagliatelle // WeChat's names
		BizAppID      string `json:"bizAppid"`      //nolint:tagliatelle // WeChat's names
	} `json:"plugin"`
}

func (w wireLinks) links() Links {
	return Links{
		PC: NewSecret(w.PC), Mobile: NewSecret(w.Mobile),
		Plugin: Plugin{
			PlatformAppID: w.Plugin.PlatformAppID, PreAuthCode: NewSecret(w.Plugin.PreAuthCode),
			AuthType: w.Plugin.AuthType, BizAppID: w.Plugin.BizAppID,
		},
	}
}

// encode returns the links as an object, and nil if there are none.
func (l Links) encode() object {
	plugin := l.Plugin.encode()
	if l.PC.IsZero() && l.Mobile.IsZero() && plugin == nil {
		return nil
	}
	return newObject(512).text("pc", l.PC.Reveal()).text("mobile", l.Mobile.Reveal()).object("plugin", plugin)
}

// encode returns the parameters as an object, and nil if there are none.
func (p Plugin) encode() object {
	if p.PreAuthCode.IsZero() {
		return nil
	}
	return newObject(256).
		text("platformAppID", p.PlatformAppID).
		text("preAuthCode", p.PreAuthCode.Reveal()).
		int("authType", int64(p.AuthType)).
		text("bizAppid", p.BizAppID)
}
