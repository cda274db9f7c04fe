package entry_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/entry"
	"preauth/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

const (
	code    = "preauthcode@@@Q7Zk2vN0sLr4yXw8uTq1bHe6cJm3pGd5fAaVi9"
	windows = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
	wechat  = "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/116.0.0.0 Mobile Safari/537.36 MicroMessenger/8.0.47"
)

var key = preauth.NewSecret("5f4dcc3b5aa765d61d8327deb882cf99")

// site is an entry page, with the answers that it gets.
type site struct {
	t      *testing.T
	server *httptest.Server
	log    bytes.Buffer

	mu        sync.Mutex
	claims    []preauth.ClaimRequest
	resolved  []string
	code      string        // that claims get
	left      time.Duration // of the first code; the next one is new
	failed    error
	failedFor time.Duration // by the MinTTL of claims that fail, 0 for all
	used      string        // the code that somebody authorized with
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteWith(t, 100_000)
}

// newSiteWith returns a site that takes so many visits in a second.
func newSiteWith(t *testing.T, perSecond int) *site {
	t.Helper()
	s := &site{t: t, code: code, left: 1500 * time.Second}
	page, err := entry.New(entry.Source{
		Keys: func() []preauth.Secret { return []preauth.Secret{key} }, RedirectURI: "https://auth.example.com/done?a=b", Rate: perSecond,
		Claim: s.claim, Resolve: s.resolve,
	}, slog.New(slog.NewTextHandler(io.MultiWriter(&s.log, t.Output()), nil)))
	if err != nil {
		t.Fatal(err)
	}
	s.server = httptest.NewTLSServer(page)
	t.Cleanup(s.server.Close)
	return s
}

func (s *site) claim(_ context.Context, r preauth.ClaimRequest) (preauth.Claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims = append(s.claims, r)
	if s.failed != nil && (s.failedFor == 0 || s.failedFor == r.MinTTL) {
		return preauth.Claim{}, s.failed
	}
	left := s.left
	if r.MinTTL >= left {
		left = 30 * time.Minute
	}
	at := time.Now().Add(left)
	return preauth.Claim{
		AppID: r.AppID, ClaimID: r.ClaimID, Reference: r.Reference, PreAuthCode: preauth.NewSecret(s.code),
		IssuedAt: at.Add(-30 * time.Minute), ExpiresAt: at, ExpiresIn: left,
		Links: preauth.Links{
			PC:     preauth.NewSecret("https://mp.weixin.qq.com/cgi-bin/componentloginpage?component_appid=wx1&pre_auth_code=" + s.code),
			Mobile: preauth.NewSecret("https://open.weixin.qq.com/wxaopen/safe/bindcomponent?action=bindcomponent&no_scan=1&pre_auth_code=" + s.code + "#wechat_redirect"),
		},
	}, nil
}

func (s *site) resolve(_ context.Context, asked preauth.Secret) (preauth.Resolved, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resolved = append(s.resolved, asked.Reveal())
	if s.failed != nil {
		return preauth.Resolved{}, s.failed
	}
	found := preauth.Resolved{AppID: "wx1", ClaimID: "visitor-1"}
	switch asked.Reveal() {
	case "unknown":
		return preauth.Resolved{}, &preauth.Error{Code: preauth.StatusNotFound}
	case "another's":
		found.ClaimID, found.AuthorizedAt = "visitor-2", time.Now()
	case s.used:
		found.AuthorizedAt = time.Now()
	}
	return found, nil
}

func link() preauth.EntryLink {
	return preauth.EntryLink{AppID: "wx1", ClaimID: "visitor-1", Reference: "order 7", AuthType: 2, ExpiresAt: time.Now().Add(time.Hour)}
}

func signed(t *testing.T, l preauth.EntryLink) string {
	t.Helper()
	text, err := l.Sign("https://auth.example.com", key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(text, "https://auth.example.com")
}

// signedText signs what a link may not say.
func signedText(text string) string {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write([]byte(text))
	return fmt.Sprintf("%s&signature=%x", text, mac.Sum(nil))
}

// answer is what a visitor gets.
type answer struct {
	status int
	header http.Header
	body   string
}

func (s *site) send(method, target, agent string, languages ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+target, http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("User-Agent", agent)
	r.Header["Accept-Language"] = languages
	response, err := s.server.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(content)}
}

func (s *site) get(target, agent string, languages ...string) answer {
	s.t.Helper()
	return s.send(http.MethodGet, target, agent, languages...)
}

func TestVisitorOnAComputer(t *testing.T) {
	s := newSite(t)
	target := signed(t, link())
	got := s.get(target, windows)
	if got.status != http.StatusOK {
		t.Fatalf("%d: %s", got.status, got.body)
	}
	for _, want := range []string{`href="https://mp.weixin.qq.com/`, "<svg ", "20:00", "requested by auth.example.com", `data-left="1200"`, `content="60"`} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %s in %s", want, got.body)
		}
	}
	want := preauth.ClaimRequest{
		AppID: "wx1", ClaimID: "visitor-1", Reference: "order 7",
		LinkOptions: preauth.LinkOptions{RedirectURI: "https://auth.example.com/done?a=b", AuthType: 2},
	}
	if len(s.claims) != 1 || s.claims[0] != want {
		t.Errorf("claimed %+v", s.claims)
	}
	// The code is in the link to WeChat and nowhere else.
	if n := strings.Count(got.body, "preauthcode"); n != 1 || strings.Contains(s.log.String(), "preauthcode") {
		t.Errorf("the code is there %d times: %s %s", n, got.body, s.log.String())
	}
}

func TestVisitorOnAPhoneGoesOn(t *testing.T) {
	s := newSite(t)
	target := signed(t, link())
	for agent, phone := range map[string]bool{
		wechat: true,
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1":                          true,
		"Mozilla/5.0 (Phone; OpenHarmony 5.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/114.0.0.0 Safari/537.36 ArkWeb/4.1.6.1 Mobile":                                 true,
		"Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/116.0.0.0 Safari/537.36 MicroMessenger/7.0.20 NetType/WIFI WindowsWechat(0x63090a13)": false,
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) MicroMessenger/6.8.0 MacWechat/3.8.7(0x13080710) XWEB/1191 Flue":         false,
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36":                                                            false,
		"": false,
	} {
		got := s.get(target, agent)
		onPhone := strings.Contains(got.body, `href="https://open.weixin.qq.com/`) && !strings.Contains(got.body, "<svg ")
		if onPhone != phone || got.status != http.StatusOK {
			t.Errorf("%s: %d, phone: %v, want %v", agent, got.status, onPhone, phone)
		}
	}
	want := `<noscript><meta http-equiv="refresh" content="1; url=https://open.weixin.qq.com/wxaopen/safe/bindcomponent?action=bindcomponent&amp;no_scan=1&amp;pre_auth_code=preauthcode@@@`
	if got := s.get(target, wechat); !strings.Contains(got.body, want) {
		t.Errorf("without a script nothing goes on: %s", got.body)
	}
}

// A program that checks links gets no code.
func TestHeadClaimsNothing(t *testing.T) {
	s := newSite(t)
	if got := s.send(http.MethodHead, signed(t, link()), windows); got.status != http.StatusOK || len(s.claims) > 0 {
		t.Errorf("%d, %d claims", got.status, len(s.claims))
	}
	if got := s.send(http.MethodHead, "/authorize/wx1?forged", windows); got.status != http.StatusForbidden {
		t.Errorf("a forged link: %d", got.status)
	}
}

func TestLanguages(t *testing.T) {
	s := newSite(t)
	english, chinese := link(), link()
	english.Language, chinese.Language = "en", "zh-Hant-TW"
	for _, test := range []struct{ target, accept, want string }{
		{signed(t, link()), "zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans"},
		{signed(t, link()), "de", "en"},
		{signed(t, link()), "", "en"},
		{signed(t, link()) + "&lang=zh", "en", "zh-Hans"},
		{signed(t, english), "zh-CN", "en"},
		{signed(t, chinese), "en", "zh-Hans"},
		{signed(t, chinese) + "&lang=en", "zh-CN", "en"},
		{"/authorize/wx1", "zh-CN", "zh-Hans"}, // although it is forged
	} {
		got := s.get(test.target, windows, test.accept)
		if got.header.Get("Content-Language") != test.want || !strings.Contains(got.body, `<html lang="`+test.want+`">`) {
			t.Errorf("%+v: %s", test, got.header.Get("Content-Language"))
		}
	}
	// The other language is a link that is signed as well, without what was added to this one.
	target := signed(t, link())
	got := s.get(target+"&lang=en&from=timeline", windows)
	other := regexp.MustCompile(`href="(/authorize/[^"]*lang=zh)"`).FindStringSubmatch(got.body)
	if other == nil || html.UnescapeString(other[1]) != target+"&lang=zh" {
		t.Errorf("%q in %s", other, got.body)
	}
}

func TestHeadersProtectThePage(t *testing.T) {
	s := newSite(t)
	for _, target := range []string{signed(t, link()), "/authorize/wx1?forged"} {
		got := s.get(target, windows)
		for name, want := range map[string]string{
			"Referrer-Policy": "origin", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "X-Robots-Tag": "noindex",
		} {
			if got.header.Get(name) != want {
				t.Errorf("%s: %q", name, got.header.Get(name))
			}
		}
		policy := got.header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("the policy %q lacks %q", policy, want)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
			t.Error(policy)
		}
		if outside := regexp.MustCompile(`(src|href|action)="(https?:)?//`).FindAllString(strings.ReplaceAll(got.body, `href="https://mp.weixin.qq.com`, ""), -1); outside != nil {
			t.Errorf("it uses something outside: %q", outside)
		}
	}
}

func TestLinksThatAreRefused(t *testing.T) {
	s := newSite(t)
	target := signed(t, link())
	long := link()
	long.ExpiresAt = time.Now().Add(time.Second)
	expired := signed(t, long)
	for name, test := range map[string]struct {
		target string
		status int
		says   string
	}{
		"changed":         {strings.Replace(target, "order+7", "order+8", 1), http.StatusForbidden, "not valid"},
		"another account": {strings.Replace(target, "wx1", "wx2", 1), http.StatusForbidden, "not valid"},
		"cut off":         {target[:len(target)-1], http.StatusForbidden, "not valid"},
		"no signature":    {"/authorize/wx1", http.StatusForbidden, "not valid"},
		"hostile":         {"/authorize/wx1?%22%3E%3Cscript%3Ealert(1)%3C/script%3E", http.StatusForbidden, "not valid"},
		"encoded path":    {strings.Replace(target, "wx1", "%771", 1), http.StatusForbidden, "not valid"},
		"expired":         {expired, http.StatusGone, "has expired"},
		"long expired":    {signedText(fmt.Sprint("/authorize/wx1?claim_id=visitor-1&expires=", time.Now().Add(-time.Hour).Unix())), http.StatusGone, "has expired"},
	} {
		deadline := time.Now().Add(30 * time.Second)
		got := s.get(test.target, wechat)
		for name == "expired" && got.status == http.StatusOK && time.Now().Before(deadline) {
			got = s.get(test.target, wechat)
		}
		if got.status != test.status || !strings.Contains(got.body, test.says) || got.header.Get("Retry-After") != "" {
			t.Errorf("%s: %d: %s", name, got.status, got.body)
		}
		if strings.Contains(got.body, "weixin") || strings.Contains(got.body, "<script>alert") || strings.Contains(got.body, "data-left") || strings.Contains(got.body, "refresh") {
			t.Errorf("%s: %s", name, got.body)
		}
		if name == "expired" {
			test.status = http.StatusNoContent // an open page may still ask
		}
		if got := s.send(http.MethodPost, test.target, wechat); got.status != test.status {
			t.Errorf("%s, with POST: %d", name, got.status)
		}
	}
	for _, claim := range s.claims {
		if claim.Reference != "order 7" || claim.AppID != "wx1" {
			t.Errorf("claimed %+v", claim)
		}
	}
	if len(s.resolved) > 0 {
		t.Errorf("asked for %q", s.resolved)
	}
}

func TestServiceHasNoCode(t *testing.T) {
	s := newSite(t)
	target := signed(t, link())
	for name, test := range map[string]struct {
		failed        error
		status        int
		says          string
		least, latest int // of Retry-After
	}{
		"unknown component": {&preauth.Error{Code: preauth.StatusNotFound, Message: "untold"}, http.StatusServiceUnavailable, "unknown_component", 30, 30},
		"no token":          {&preauth.Error{Code: preauth.StatusUnavailable, Class: preauth.ClassTokenExpired, Message: "untold"}, http.StatusServiceUnavailable, "token_expired", 30, 30},
		"again soon":        {&preauth.Error{Code: preauth.StatusUnavailable, Class: preauth.ClassTransient, RetryAt: time.Now().Add(-time.Second)}, http.StatusServiceUnavailable, "transient", 5, 5},
		"again in a while":  {&preauth.Error{Code: preauth.StatusUnavailable, Class: preauth.ClassThrottled, RetryAt: time.Now().Add(50 * time.Second)}, http.StatusServiceUnavailable, "throttled", 5, 50},
		"again tomorrow":    {&preauth.Error{Code: preauth.StatusUnavailable, Class: preauth.ClassQuota, RetryAt: time.Now().Add(8 * time.Hour)}, http.StatusServiceUnavailable, "quota", 60, 60},
		"a new one is made": {&preauth.Error{Code: preauth.StatusUnavailable, Message: "untold"}, http.StatusServiceUnavailable, "does not answer", 5, 5},
		"busy":              {&preauth.Error{Code: preauth.StatusTooMany, Message: "untold"}, http.StatusServiceUnavailable, "does not answer", 5, 5},
		"database away":     {&preauth.Error{Code: preauth.StatusInternal, Message: "untold"}, http.StatusServiceUnavailable, "does not answer", 5, 5},
		"service away":      {nats.ErrNoResponders, http.StatusServiceUnavailable, "does not answer", 5, 5},
		"too late":          {context.DeadlineExceeded, http.StatusServiceUnavailable, "does not answer", 5, 5},
		"broken answer":     {fmt.Errorf("preauth: claim: %w: the answer is about another claim", preauth.ErrInvalid), http.StatusBadGateway, "our fault, not yours", 30, 30},
		"of other versions": {&preauth.Error{Code: preauth.StatusBadRequest, Message: "untold"}, http.StatusBadGateway, "our fault, not yours", 30, 30},
		"conflict":          {&preauth.Error{Code: preauth.StatusConflict, Message: "untold"}, http.StatusConflict, "was replaced", 0, 0},
	} {
		s.failed = test.failed
		got := s.get(target, windows)
		after, _ := strconv.Atoi(got.header.Get("Retry-After"))
		if got.status != test.status || !strings.Contains(got.body, test.says) || after < test.least || after > test.latest {
			t.Errorf("%s: %d, again after %d: %s", name, got.status, after, got.body)
		}
		// With and without a script the page tries again by itself.
		again := strconv.Itoa(after)
		if after > 0 && (!strings.Contains(got.body, `data-left="`+again+`"`) || !strings.Contains(got.body, `<meta http-equiv="refresh" content="`+again+`">`)) {
			t.Errorf("%s: it does not try again: %s", name, got.body)
		}
		if strings.Contains(got.body, "untold") || strings.Contains(got.body, "another claim") || strings.Contains(got.body, "weixin") {
			t.Errorf("%s: %s", name, got.body)
		}
		if !strings.Contains(s.log.String(), test.failed.Error()) {
			t.Errorf("%s: not in the log", name)
		}
	}
	if got := s.send(http.MethodPost, target, windows); got.status != http.StatusNoContent {
		t.Errorf("nobody knows whether somebody authorized: %d", got.status)
	}
}

// The page of one component fails again and again while that of another works: it is logged once,
// with the component.
func TestComponentsFailByThemselves(t *testing.T) {
	s := newSite(t)
	other := link()
	other.AppID = "wx2"
	fails, works := signed(t, link()), signed(t, other)
	for range 3 {
		s.failed = &preauth.Error{Code: preauth.StatusNotFound, Message: "untold"}
		s.get(fails, windows)
		s.failed = nil
		s.get(works, windows)
	}
	if n := strings.Count(s.log.String(), "entry page without a code"); n != 1 || !strings.Contains(s.log.String(), "component_appid=wx1") {
		t.Errorf("%d lines about one component:\n%s", n, s.log.String())
	}
	s.get(fails, windows)
	s.failed = &preauth.Error{Code: preauth.StatusNotFound, Message: "untold"}
	s.get(fails, windows)
	s.get(works, windows)
	if n := strings.Count(s.log.String(), "entry page without a code"); n != 3 || !strings.Contains(s.log.String(), "component_appid=wx2") {
		t.Errorf("%d lines, want one more about what worked meanwhile, and one about the other component:\n%s", n, s.log.String())
	}
}

func TestBackendThatSignsNonsenseIsToldSo(t *testing.T) {
	s := newSite(t)
	got := s.get(signedText(fmt.Sprint("/authorize/wx1?expires=", time.Now().Add(time.Minute).Unix())), windows)
	if got.status != http.StatusBadRequest || !strings.Contains(got.body, "needs a claim_id") {
		t.Errorf("%d: %s", got.status, got.body)
	}
}

// A code is shown while enough of its life is left for a phone that opens the same link. Then there
// is another one.
func TestCodeThatIsAboutToExpire(t *testing.T) {
	s := newSite(t)
	target := signed(t, link())
	s.left = 301 * time.Second
	if got := s.get(target, windows); !strings.Contains(got.body, `data-left="1"`) {
		t.Error(got.body)
	}
	s.left = 300 * time.Second
	if got := s.get(target, windows); !strings.Contains(got.body, `data-left="1500"`) {
		t.Error(got.body)
	}
	if last := s.claims[len(s.claims)-1]; last.MinTTL != 300*time.Second || last.ClaimID != "visitor-1" {
		t.Errorf("claimed %+v", last)
	}
	// If there is none, the rest of this one may do.
	s.failed, s.failedFor = &preauth.Error{Code: preauth.StatusUnavailable, Class: preauth.ClassQuota}, 300*time.Second
	if got := s.get(target, windows); got.status != http.StatusOK || !strings.Contains(got.body, `data-left="300"`) {
		t.Errorf("%d: %s", got.status, got.body)
	}
	// The page does not outlive its link.
	s.failed, s.left = nil, 30*time.Minute
	short := link()
	short.ExpiresAt = time.Now().Add(100 * time.Second)
	got := s.get(signed(t, short), windows)
	left := regexp.MustCompile(`data-left="(\d+)"`).FindStringSubmatch(got.body)
	if n, err := strconv.Atoi(left[1]); err != nil || n > 100 {
		t.Errorf("%q", left)
	}
}

// newBrowser has the requests from now on come from one browser, which keeps cookies. Without it,
// each comes from another one.
func (s *site) newBrowser() http.CookieJar {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server.Client().Jar = jar
	return jar
}

// isDone expects that the page says, or does not say, that somebody has authorized: when it is asked,
// and when the link is opened again, for which no other code is claimed.
func (s *site) isDone(target string, want bool) {
	s.t.Helper()
	claims, status := len(s.claims), http.StatusNoContent
	if want {
		status = http.StatusOK
	}
	got := s.send(http.MethodPost, target, windows, "zh")
	if got.status != status || strings.Contains(got.body, "授权成功") != want || strings.Contains(got.body, "data-asks") {
		s.t.Errorf("an open page that asks gets %d: %s", got.status, got.body)
	}
	if len(s.claims) > claims {
		s.t.Errorf("asking claimed %+v", s.claims)
	}
	if got := s.get(target, windows); strings.Contains(got.body, "Authorized") != want || want && got.status != http.StatusOK {
		s.t.Errorf("who opens the link again gets %d: %s", got.status, got.body)
	}
	if want && len(s.claims) > claims {
		s.t.Errorf("claimed for somebody who has authorized: %+v", s.claims)
	}
}

func TestBrowserThatHadTheCodeLearnsThatItIsDone(t *testing.T) {
	s := newSite(t)
	s.newBrowser()
	target := signed(t, link())
	s.isDone(target, false) // without a code
	if len(s.resolved) > 0 {
		t.Errorf("asked for %q", s.resolved)
	}
	for _, next := range []string{"another's", "unknown", "first", "second", "last"} {
		s.code = next
		s.isDone(target, false)
	}
	s.used = "first"
	s.isDone(target, false) // only the last two codes are asked for
	for _, s.used = range []string{"second", "last"} {
		s.isDone(target, true)
	}

	other := link()
	other.ClaimID = "visitor-2"
	s.isDone(signed(t, other), false)
	s.newBrowser()
	s.isDone(target, false) // the contract does not tell
	if got := s.send(http.MethodPut, target, windows); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") == "" {
		t.Errorf("%d", got.status)
	}
	if s.log.Len() > 0 {
		t.Errorf("the log says %s", s.log.String())
	}
	s.failed = nats.ErrNoResponders
	if got := s.send(http.MethodPost, target, windows); got.status != http.StatusNoContent || !strings.Contains(s.log.String(), "no responders") {
		t.Errorf("nobody knows whether somebody authorized: %d, %s", got.status, s.log.String())
	}
}

// A page that is open when its link expires still learns whether somebody authorized, and gets no
// code.
func TestOpenPageAsksLongerThanItsLinkIsGood(t *testing.T) {
	s := newSite(t)
	s.newBrowser()
	short := link()
	short.ExpiresAt = time.Now().Add(2 * time.Second)
	target := signed(t, short)
	got := s.get(target, windows)
	for deadline := time.Now().Add(30 * time.Second); got.status == http.StatusOK && time.Now().Before(deadline); {
		got = s.get(target, windows)
	}
	if got.status != http.StatusGone || len(s.claims) > 0 && !strings.Contains(got.body, "data-asks") || strings.Contains(got.body, "weixin") {
		t.Errorf("%d: %s", got.status, got.body)
	}
	s.isDone(target, false)
	s.used = code
	s.isDone(target, len(s.claims) > 0) // on a very slow machine the link has expired before it was opened
}

func TestCookieIsOnlyForThePage(t *testing.T) {
	s := newSite(t)
	got := s.get(signed(t, link()), windows)
	cookies := (&http.Response{Header: got.header}).Cookies()
	if len(cookies) != 1 {
		t.Fatalf("%q", got.header)
	}
	c := cookies[0]
	if c.Path != "/authorize/wx1" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Domain != "" || c.MaxAge > 7200 || c.MaxAge < 7000 {
		t.Errorf("%+v", c)
	}
	// A browser keeps a few links, however many it opens, and nothing but codes.
	jar := s.newBrowser()
	at, err := url.Parse(s.server.URL + "/authorize/wx1")
	if err != nil {
		t.Fatal(err)
	}
	var last string
	for i := range 20 {
		l := link()
		l.ClaimID = fmt.Sprint("visitor-", i)
		last = signed(t, l)
		s.get(last, windows)
	}
	if kept := jar.Cookies(at); len(kept) != 8 {
		t.Errorf("%d links are kept", len(kept))
	}
	s.send(http.MethodPost, last, windows)
	if !slices.Equal(s.resolved, []string{code}) {
		t.Errorf("asked for %q", s.resolved)
	}
	encode := base64.RawURLEncoding.EncodeToString
	for value, want := range map[string][]string{
		"": nil, "!": nil, "..": nil, encode(bytes.Repeat([]byte("x"), 513)): nil,
		encode([]byte("a")) + "." + encode([]byte("b")) + "." + encode([]byte("c")): {"a", "b"},
	} {
		c.Value, s.resolved = value, nil
		jar.SetCookies(at, []*http.Cookie{c})
		if got := s.send(http.MethodPost, signed(t, link()), windows); got.status != http.StatusNoContent || !slices.Equal(s.resolved, want) {
			t.Errorf("%.20q: %d, asked for %q", value, got.status, s.resolved)
		}
	}
}

// Beyond the limit, visitors are told to wait, and their pages go on by themselves. Forged links cost
// nobody anything, and open pages that ask do not keep out who comes.
func TestTooManyVisitors(t *testing.T) {
	s := newSiteWith(t, 1)
	visitor := func(i int) string {
		l := link()
		l.ClaimID = fmt.Sprint("visitor-", i)
		return signed(t, l)
	}
	// limited repeats a request of another visitor each time, until it is beyond the limit.
	limited := func(method string) (got answer) {
		t.Helper()
		for i := range 1000 {
			if got = s.send(method, visitor(i), windows, "zh"); got.status == http.StatusTooManyRequests {
				return got
			}
		}
		t.Fatalf("there is no limit: %d", got.status)
		return got
	}
	got := limited(http.MethodGet)
	claims := len(s.claims)
	again := got.header.Get("Retry-After")
	if n, err := strconv.Atoi(again); err != nil || n < 5 || n > 10 {
		t.Errorf("again after %q", again)
	}
	for _, want := range []string{"请稍候", `data-left="` + again + `"`, `<meta http-equiv="refresh" content="` + again + `">`} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %s in %s", want, got.body)
		}
	}
	if got := s.send(http.MethodPost, visitor(0), windows); got.status != http.StatusNoContent {
		t.Errorf("the visits keep a page from asking: %d", got.status)
	}
	limited(http.MethodPost)
	for range 50 {
		if got := s.get("/authorize/wx1?forged", windows); got.status != http.StatusForbidden {
			t.Fatalf("a forged link gets %d", got.status)
		}
	}
	if len(s.claims) != claims {
		t.Error("a code was claimed beyond the limit")
	}
	for deadline := time.Now().Add(time.Minute); ; { // a second later there is room
		if got = s.get(visitor(0), windows); got.status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the limit does not end: %d", got.status)
		}
	}
}

// One link that is opened again and again leaves room for the others.
func TestOneLinkDoesNotTakeAllTheRoom(t *testing.T) {
	s := newSiteWith(t, 40)
	target, tries := signed(t, link()), 0
	for s.get(target, windows).status == http.StatusOK {
		if tries++; tries > 1000 {
			t.Fatal("a link has no limit")
		}
	}
	for i := range 20 {
		other := link()
		other.ClaimID = fmt.Sprint("another-", i)
		if got := s.get(signed(t, other), windows); got.status != http.StatusOK {
			t.Errorf("after %d visits with one link, another one gets %d", tries, got.status)
		}
	}
}

func TestRedirectURIIsChecked(t *testing.T) {
	for uri, says := range map[string]string{
		"": "is missing", "auth.example.com/done": "absolute http or https", "ftp://auth.example.com": "absolute http or https",
		"https://auth.example.com/" + strings.Repeat("x", 1024): "the limit is 1024",
	} {
		_, err := entry.New(entry.Source{RedirectURI: uri}, slog.New(slog.DiscardHandler))
		if !errors.Is(err, preauth.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.30s: %v", uri, err)
		}
	}
}
