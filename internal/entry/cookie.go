package entry

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"preauth"
)

// For each link, a cookie keeps the codes that the page showed in this browser. So an open page can
// ask whether somebody has authorized with them, and a visitor who opens the link again after that
// is told so instead of getting another code. Only the page is sent the cookies, and no script can
// read them.

const (
	cookiePrefix = "preauth_"
	// maxCodes is how many codes of a link a browser keeps. Somebody may still authorize with the code
	// before the current one.
	maxCodes = 2
	// maxCookies is how many links of a component a browser keeps, so that its requests stay small.
	maxCookies = 8
)

// cookieName returns the name of the cookie of a link.
func cookieName(l preauth.EntryLink) string {
	return fmt.Sprintf("%s%x", cookiePrefix, sha256.Sum256([]byte(l.ClaimID)))[:len(cookiePrefix)+16]
}

// shownCodes returns the codes that a browser was shown for a link, the latest first. They come from
// outside, like all of a request.
func shownCodes(r *http.Request, l preauth.EntryLink) (codes []preauth.Secret) {
	cookie, err := r.Cookie(cookieName(l))
	if err != nil {
		return nil
	}
	for encoded := range strings.SplitSeq(cookie.Value, ".") {
		code, err := base64.RawURLEncoding.DecodeString(encoded)
		if err == nil && len(code) > 0 && len(code) <= preauth.MaxCode && len(codes) < maxCodes {
			codes = append(codes, preauth.NewSecret(string(code)))
		}
	}
	return codes
}

// keepCode has the browser keep a code of a link beside those that it was shown before, as long as
// the page may be asked for it.
func (p *Page) keepCode(w http.ResponseWriter, r *http.Request, v *visit, code preauth.Secret) {
	shown := slices.DeleteFunc(v.shown, func(other preauth.Secret) bool { return other.Reveal() == code.Reveal() })
	v.shown = append([]preauth.Secret{code}, shown[:min(len(shown), maxCodes-1)]...)
	var encoded []string
	for _, code := range v.shown {
		encoded = append(encoded, base64.RawURLEncoding.EncodeToString([]byte(code.Reveal())))
	}
	cookie := http.Cookie{ //nolint:gosec // it is secure where the page is
		Name: cookieName(v.link), Value: strings.Join(encoded, "."), Path: preauth.EntryPath + v.link.AppID,
		MaxAge: int(time.Until(v.link.ExpiresAt.Add(askLonger)) / time.Second),
		Secure: strings.HasPrefix(p.origin, "https:"), HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	http.SetCookie(w, &cookie)
	others := slices.DeleteFunc(r.Cookies(), func(c *http.Cookie) bool {
		return !strings.HasPrefix(c.Name, cookiePrefix) || c.Name == cookie.Name
	})
	for _, oldest := range others[:max(0, len(others)-maxCookies+1)] { // as browsers order them
		cookie.Name, cookie.Value, cookie.MaxAge = oldest.Name, "", -1
		http.SetCookie(w, &cookie)
	}
}
