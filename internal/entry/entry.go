// Package entry serves the entry page: the page on the platform's own domain from which a visitor
// goes on to WeChat, which looks at the referring page. A backend signs a link for each visitor
// ([preauth.EntryLink]), and the page claims a code for exactly that link.
//
// On a computer the page shows a QR code of its own link, so that a phone comes from the right
// domain too. On a phone it goes on by itself. It is plain HTML, and has the code only in its links
// to WeChat and in a cookie. Where the browser runs its script, an open page renews itself and says
// when somebody has authorized.
package entry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"preauth"
	"preauth/internal/outage"
)

// Source is what the page needs.
type Source struct {
	// Keys returns the keys that sign links.
	Keys func() []preauth.Secret
	// RedirectURI is where WeChat sends the owner afterwards. The page is on the same host.
	RedirectURI string
	// Rate is how many visits there may be in a second, and at once. Open pages may ask as often.
	Rate int
	// Claim and Resolve are those of the client.
	Claim   func(context.Context, preauth.ClaimRequest) (preauth.Claim, error)
	Resolve func(context.Context, preauth.Secret) (preauth.Resolved, error)
}

// Page is the entry page, to be served at [preauth.EntryPath] and an appid. Make it with [New].
type Page struct {
	source Source
	origin string // scheme and host of the page
	host   string
	limits *limits
	log    *outage.Defects
}

// New returns the page.
func New(source Source, log *slog.Logger) (*Page, error) {
	u, err := CheckRedirectURI(source.RedirectURI)
	if err != nil {
		return nil, fmt.Errorf("entry: %w", err)
	}
	return &Page{source: source, origin: u.Scheme + "://" + u.Host, host: u.Hostname(), limits: newLimits(source.Rate), log: outage.NewDefects(log, time.Now)}, nil
}

// CheckRedirectURI parses an address that WeChat may send the owner to. An error wraps
// [preauth.ErrInvalid].
func CheckRedirectURI(uri string) (*url.URL, error) {
	if uri == "" {
		return nil, fmt.Errorf("%w: redirect_uri is missing: give the address to which WeChat sends the owner afterwards", preauth.ErrInvalid)
	}
	request := preauth.ClaimRequest{AppID: "wx", LinkOptions: preauth.LinkOptions{RedirectURI: uri}}
	if _, err := preauth.ParseClaimRequest("", request.Encode()); err != nil {
		return nil, err
	}
	return url.Parse(uri)
}

// visit is a request for the page.
type visit struct {
	link preauth.EntryLink
	// path is the link without what follows its signature, which may name another language.
	path, language string
	accept         string
	phone          bool
	// shown are the codes that the page showed this browser before, the latest first.
	shown []preauth.Secret
}

// phones tells the browsers that go on to WeChat's page for phones by their User-Agent. WeChat
// has one for computers too.
var (
	phones    = regexp.MustCompile(`Mobile|Android|iPhone|iPad|OpenHarmony|MicroMessenger`)
	computers = regexp.MustCompile(`WindowsWechat|MacWechat`)
)

// askLonger is how long an open page may go on asking after its link has expired. The code that it
// showed last lives for half an hour, and the authorization is announced a little later.
const askLonger = time.Hour

// ServeHTTP answers GET with the page. An open page asks with POST whether somebody has authorized:
// 204 means not yet.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w.Header())
	agent := r.UserAgent()
	v := visit{accept: r.Header.Get("Accept-Language"), phone: phones.MatchString(agent) && !computers.MatchString(agent)}
	target := r.URL.EscapedPath() + "?" + r.URL.RawQuery
	link, extra, err := preauth.ParseEntryLink(target, p.source.Keys(), time.Now())
	v.link, v.path, v.language = link, strings.TrimSuffix(target, extra), link.Language
	if added, err := url.ParseQuery(extra); err == nil && added.Get("lang") != "" {
		v.language = added.Get("lang")
	}
	expired := errors.Is(err, preauth.ErrEntryExpired)
	if expired && time.Since(link.ExpiresAt) < askLonger {
		err = nil
	}
	if err == nil {
		v.shown = shownCodes(r, link)
	}
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "this page is read with GET", http.StatusMethodNotAllowed)
	case err != nil:
		p.write(w, v, refusedLink(err))
	case r.Method == http.MethodHead && !expired: // of a program that checks links, for which no code is claimed
		w.WriteHeader(http.StatusOK)
	case !p.limits.allow(r.Method, v.path):
		p.write(w, v, busy())
	case p.authorized(r.Context(), v):
		p.write(w, v, answer{status: http.StatusOK, Kind: "done"})
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusNoContent)
	case expired:
		p.write(w, v, refusedLink(preauth.ErrEntryExpired))
	default:
		p.serveLinks(w, r, v)
	}
}

// protect sets what protects the page in a browser. WeChat looks at the domain that it is opened
// from, so the browser tells that, and no more.
func protect(header http.Header) {
	header.Set("Content-Security-Policy", policy)
	header.Set("Referrer-Policy", "origin")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY") // WeChat's older browsers know no frame-ancestors
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("X-Robots-Tag", "noindex")
	header.Set("Cache-Control", "no-store")
}

func (p *Page) serveLinks(w http.ResponseWriter, r *http.Request, v visit) {
	claim, left, err := p.claim(r.Context(), v.link)
	p.note(r.Context(), v.link, "entry page without a code", err)
	if err != nil {
		p.write(w, v, noCode(err))
		return
	}
	left = min(left, time.Until(v.link.ExpiresAt))
	p.keepCode(w, r, &v, claim.PreAuthCode)
	if v.phone {
		p.write(w, v, answer{status: http.StatusOK, Kind: "phone", Go: claim.Links.Mobile.Reveal(), Left: left})
		return
	}
	code, err := drawQR(p.origin + v.path)
	if err != nil {
		p.note(r.Context(), v.link, "entry page without a QR code", err)
		p.write(w, v, broken)
		return
	}
	p.write(w, v, answer{status: http.StatusOK, Kind: "computer", Go: claim.Links.PC.Reveal(), QR: code, Left: left})
}

// claim claims a code for a link. left is for how long the page shows it: while there is enough of
// its life left for somebody to open the link on a phone, get the same code and use it.
func (p *Page) claim(ctx context.Context, link preauth.EntryLink) (claim preauth.Claim, left time.Duration, err error) {
	request := preauth.ClaimRequest{
		AppID: link.AppID, ClaimID: link.ClaimID, Reference: link.Reference,
		LinkOptions: preauth.LinkOptions{
			RedirectURI: p.source.RedirectURI, AuthType: link.AuthType, BizAppID: link.BizAppID, CategoryIDList: link.CategoryIDList,
		},
	}
	if claim, err = p.source.Claim(ctx, request); err != nil {
		return preauth.Claim{}, 0, err
	}
	use := timeToUse(claim)
	if claim.ExpiresIn > use {
		return claim, claim.ExpiresIn - use, nil
	}
	request.MinTTL = use
	if next, err := p.source.Claim(ctx, request); err == nil {
		return next, max(next.ExpiresIn-use, time.Second), nil
	}
	return claim, claim.ExpiresIn, nil // an old code is better than none
}

// timeToUse returns how much of its life a code must have left for a visitor to use it: a sixth.
func timeToUse(c preauth.Claim) time.Duration { return c.ExpiresAt.Sub(c.IssuedAt) / 6 }

// authorized reports whether somebody is known to have authorized with a code that the page showed
// this browser.
func (p *Page) authorized(ctx context.Context, v visit) bool {
	for _, code := range v.shown {
		found, err := p.source.Resolve(ctx, code)
		if unknown, ok := errors.AsType[*preauth.Error](err); ok && unknown.Code == preauth.StatusNotFound {
			err = nil
		}
		p.note(ctx, v.link, "entry page does not know whether a code was used", err)
		if err != nil {
			return false // the other one would be as unlucky
		}
		if found.AppID == v.link.AppID && found.ClaimID == v.link.ClaimID && !found.AuthorizedAt.IsZero() {
			return true
		}
	}
	return false
}

// note logs why a visit failed, unless the visitor left. Each component fails by itself.
func (p *Page) note(ctx context.Context, link preauth.EntryLink, what string, err error) {
	if !errors.Is(ctx.Err(), context.Canceled) {
		p.log.Log(ctx, slog.LevelWarn, what, err, slog.String("component_appid", link.AppID))
	}
}

// The page tries again by itself, in between these times. Later is when nobody knows better, and an
// operator may have to act first.
const (
	soon, later = 5 * time.Second, 30 * time.Second
	latest      = time.Minute
)

// broken is what the page says if something is wrong that neither the visitor nor the link can help.
var broken = answer{status: http.StatusBadGateway, Kind: "broken", Left: later}

// refusedLink returns what the page says of an error of [preauth.ParseEntryLink].
func refusedLink(err error) answer {
	switch {
	case errors.Is(err, preauth.ErrEntrySignature):
		return answer{status: http.StatusForbidden, Kind: "forged"}
	case errors.Is(err, preauth.ErrEntryExpired):
		return answer{status: http.StatusGone, Kind: "expired"}
	default: // Only who has a key gets here, and wants to know.
		return answer{status: http.StatusBadRequest, Kind: "wrong", Detail: strings.TrimPrefix(err.Error(), preauth.ErrInvalid.Error()+": ")}
	}
}

// noCode returns what the page says of an error of a claim.
func noCode(err error) answer {
	failed, ok := errors.AsType[*preauth.Error](err)
	switch {
	case ok && failed.Code == preauth.StatusBadRequest, errors.Is(err, preauth.ErrInvalid):
		return broken // the link was checked, so the service and the gateway do not understand each other
	case ok && failed.Code == preauth.StatusConflict:
		return answer{status: http.StatusConflict, Kind: "conflict"}
	case ok && failed.Code == preauth.StatusNotFound:
		return answer{status: http.StatusServiceUnavailable, Kind: "unready", Detail: "unknown_component", Left: later}
	case ok && failed.Class != "":
		left := later
		if !failed.RetryAt.IsZero() {
			left = min(max(time.Until(failed.RetryAt), soon), latest)
		}
		return answer{status: http.StatusServiceUnavailable, Kind: "unready", Detail: string(failed.Class), Left: left}
	default:
		return answer{status: http.StatusServiceUnavailable, Kind: "away", Left: soon}
	}
}

// retryAfter sets the header of a page that will try again.
func retryAfter(header http.Header, a answer) {
	if a.Left > 0 && a.status >= http.StatusBadRequest {
		header.Set("Retry-After", strconv.Itoa(a.Seconds()))
	}
}
