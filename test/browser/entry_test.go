package main

import (
	"bytes"
	"errors"
	"fmt"
	"image/png"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"preauth"
	"preauth/wechat/wechattest"
)

// phone is WeChat's browser on a small one.
var phone = look{width: 320, height: 640, agent: wechatAgent}

// serveEntry puts the entry page of a system on the platform's domain.
func serveEntry(t *testing.T, s *system) {
	t.Helper()
	handler, err := s.gateway(slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		t.Fatal(err)
	}
	outside.connect(handler, at(s.wechat.URL()))
}

// linkOf returns the link of a visitor of wx1.
func linkOf(t *testing.T, visitor string) string {
	t.Helper()
	link, err := entryLink("wx1", visitor, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// codeOf returns the code in the link of an open page to WeChat.
func codeOf(v *visitor) string {
	v.t.Helper()
	return valueOf[string](v, `new URL(document.getElementById("go").href).searchParams.get("pre_auth_code")`)
}

// arrivals waits until WeChat's pages were visited n times.
func arrivals(t *testing.T, n int) []arrival {
	t.Helper()
	var found []arrival
	err := eventually(t.Context(), func() error {
		if found = outside.arrived(); len(found) < n {
			return fmt.Errorf("WeChat's pages were visited %d times, want %d", len(found), n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// scan reads the QR code on a page.
func scan(v *visitor) string {
	v.t.Helper()
	picture, err := get(v.tab, chromedp.Screenshot("main svg"))
	if err != nil {
		v.t.Fatal(err)
	}
	decoded, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		v.t.Fatal(err)
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(decoded)
	if err != nil {
		v.t.Fatal(err)
	}
	read, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true})
	if err != nil {
		v.t.Fatalf("no telephone can read the QR code: %v", err)
	}
	return read.GetText()
}

// A visitor on a computer scans the page's own link, or goes on to WeChat's page for computers, which
// is opened from the platform's domain.
func TestEntryOnAComputer(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	s.has(t, "wx1")
	link := linkOf(t, "visitor-1")
	for _, l := range []look{desktop, {width: 1280, height: 900, dark: true}, {width: 320, height: 640, language: "zh-CN"}} {
		v := visit(t, l, link+"&from=singlemessage")
		if got := scan(v); got != link {
			t.Errorf("%+v: the QR code says %s, want %s", l, got, link)
		}
		// Not all readers are as good: black on white, with the light zone around it that the standard wants.
		v.sees(`(([light, dark]) => getComputedStyle(light).fill === "rgb(255, 255, 255)" && getComputedStyle(dark).fill === "rgb(0, 0, 0)" &&
			dark.getBBox().x === 4 && dark.getBBox().y === 4 && dark.getBBox().width === light.getBBox().width - 8)(document.querySelectorAll("svg path"))`)
		if wide := valueOf[int](v, "document.documentElement.scrollWidth"); int64(wide) > l.width {
			t.Errorf("%+v: it is %d pixels wide", l, wide)
		}
		if low := valueOf[[]string](v, contrasts); len(low) > 0 {
			t.Errorf("%+v: hard to read: %q", l, low)
		}
	}
	v := visit(t, desktop, link)
	before := valueOf[string](v, `document.querySelector(".left").textContent`)
	v.sees(fmt.Sprintf(`/^2[0-9]:[0-9]{2}$/.test(document.querySelector(".left").textContent) && document.querySelector(".left").textContent !== %q`, before))
	code := codeOf(v)
	v.does(chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Tab))
	v.sees(`document.activeElement.id === "go" && getComputedStyle(document.activeElement).outlineStyle === "solid"`)
	v.does(chromedp.KeyEvent(kb.Enter))
	if got, want := arrivals(t, 1)[0], (arrival{"mp.weixin.qq.com", code, platform + "/"}); got != want {
		t.Errorf("WeChat saw %+v, want %+v", got, want)
	}
	v.reads("body", "Authorize wx1")
	visits := s.wechat.Visits()
	if len(visits) != 1 || visits[0].Options.RedirectURI != platform+"/done" || visits[0].AppID != "wx1" {
		t.Errorf("WeChat took %+v", visits)
	}
	resolved, err := s.client.Resolve(t.Context(), preauth.NewSecret(code))
	if err != nil || resolved.ClaimID != "visitor-1" || resolved.Reference != "order 7" {
		t.Errorf("%+v, %v", resolved, err)
	}
}

// A visitor in WeChat need not do anything, with and without a script. Who comes back may stay.
func TestEntryOnAPhone(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	s.has(t, "wx1")
	for i, withoutScript := range []bool{false, true} {
		l := phone
		l.withoutScript = withoutScript
		v := visit(t, l, linkOf(t, "visitor-1"))
		got := arrivals(t, i+1)[i]
		if got.host != "open.weixin.qq.com" || got.referer != platform+"/" || got.code == "" {
			t.Errorf("without a script: %v: WeChat saw %+v", withoutScript, got)
		}
		if withoutScript {
			continue
		}
		v.reads("body", "Authorize wx1")
		valueOf[bool](v, "setTimeout(() => history.back()), true")
		v.reads("main", "copy the link that brought you here")
		if wide := valueOf[int](v, "document.documentElement.scrollWidth"); wide > 320 {
			t.Errorf("it is %d pixels wide", wide)
		}
		if low := valueOf[[]string](v, contrasts); len(low) > 0 {
			t.Errorf("hard to read: %q", low)
		}
		v.sees(`performance.now() > 2000 && document.querySelector("main.phone") !== null`) // it had the time to go on
		if n := len(outside.arrived()); n != 1 {
			t.Errorf("who came back was sent on again: %d visits", n)
		}
	}
}

// Without a script the page has all that a visitor needs, and loads itself again.
func TestEntryWithoutScript(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	s.has(t, "wx1")
	l := desktop
	l.withoutScript = true
	link := linkOf(t, "visitor-1")
	v := visit(t, l, link)
	if got := scan(v); got != link {
		t.Errorf("the QR code says %s", got)
	}
	v.does(chromedp.Click("#go"))
	if got := arrivals(t, 1)[0]; got.host != "mp.weixin.qq.com" || got.referer != platform+"/" {
		t.Errorf("WeChat saw %+v", got)
	}

	s.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(-1, "system error") })
	s.exhaust(t)
	v = visit(t, l, linkOf(t, "visitor-2"))
	s.wechat.Every(nil)
	v.found() // that there is no code yet
	v.does(chromedp.WaitVisible("main svg"))
}

// exhaust claims the spares of wx1, until there are none.
func (s *system) exhaust(t *testing.T) {
	t.Helper()
	for i := range 100 {
		_, err := s.client.Claim(t.Context(), preauth.ClaimRequest{AppID: "wx1", ClaimID: fmt.Sprint("another-", i)})
		if failed, ok := errors.AsType[*preauth.Error](err); ok && failed.Code == preauth.StatusUnavailable {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("there is no end to the spares")
}

// Everybody with the same link gets the same code, and nobody else does.
func TestEntryOfAnotherVisitor(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	s.has(t, "wx1")
	link := linkOf(t, "visitor-1")
	first, same, second := visit(t, desktop, link), visit(t, desktop, link), visit(t, desktop, linkOf(t, "visitor-2"))
	if codeOf(first) != codeOf(same) || codeOf(first) == codeOf(second) {
		t.Errorf("the same link: %v, another one: %v", codeOf(first) == codeOf(same), codeOf(first) == codeOf(second))
	}
	visit(t, phone, link)
	if got := arrivals(t, 1)[0]; got.code != codeOf(first) {
		t.Error("the phone that scanned the link has another code")
	}
}

// An open page gets a new code before the old one runs out, and says when somebody has authorized,
// also with the one before.
func TestEntryRenewsAndSaysWhenItIsDone(t *testing.T) {
	s := newSystemWith(t, 15*time.Second)
	serveEntry(t, s)
	s.has(t, "wx1")
	v := visit(t, desktop, linkOf(t, "visitor-1"))
	valueOf[bool](v, `window.unloaded = false; addEventListener("pagehide", () => window.unloaded = true); document.getElementById("go").focus(); true`)
	first := codeOf(v)
	v.sees(fmt.Sprintf(`new URL(document.getElementById("go").href).searchParams.get("pre_auth_code") !== %q`, first))
	v.sees(`document.activeElement.id === "go"`)
	s.authorizes(t, first)
	v.reads("main", "You can close this page.")
	v.sees(`document.querySelector("#said").textContent === "Authorized" && document.title.startsWith("Authorized") && document.activeElement.tagName === "MAIN"`)
	v.sees(`document.querySelector("#go, svg") === null`)
	if valueOf[bool](v, "window.unloaded") {
		t.Error("the page was loaded again")
	}
	// Who opens the link again in this browser learns it too, and gets no other code.
	v.does(chromedp.Reload())
	v.reads("h1", "Authorized")
	if cookies := valueOf[string](v, "document.cookie"); cookies != "" {
		t.Errorf("scripts can read %s", cookies)
	}
}

// A phone that comes back from WeChat's page after the authorization is not sent there again.
func TestEntryOfAPhoneThatIsDone(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	s.has(t, "wx1")
	link := linkOf(t, "visitor-1")
	v := visit(t, phone, link)
	s.authorizes(t, arrivals(t, 1)[0].code)
	v.does(chromedp.Navigate(link))
	v.reads("h1", "Authorized")
	if n := len(outside.arrived()); n != 1 {
		t.Errorf("WeChat's page was visited %d times", n)
	}
}

// A page that is open when its link expires says so, and still learns that somebody has authorized.
func TestEntryOutlivesItsLink(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	s.has(t, "wx1")
	code := ""
	var v *visitor
	for life := 5 * time.Second; code == ""; life *= 2 { // a slow machine may be late for a short link
		link, err := entryLink("wx1", "visitor-1", life)
		if err != nil {
			t.Fatal(err)
		}
		v = visit(t, desktop, link)
		code = valueOf[string](v, `document.getElementById("go") ? new URL(document.getElementById("go").href).searchParams.get("pre_auth_code") : ""`)
	}
	v.reads("h1", "This link has expired")
	s.authorizes(t, code)
	v.reads("h1", "Authorized")
	v.found() // that the link was gone
}

// authorizes has an account authorize with a code of wx1, and announces it.
func (s *system) authorizes(t *testing.T, code string) {
	t.Helper()
	if err := s.wechat.Authorize(preauth.NewSecret(code), "wxvisitor"); err != nil && !errors.Is(err, wechattest.ErrCodeExpired) {
		t.Fatal(err)
	}
	err := s.client.AnnounceAuthorization(t.Context(), preauth.AuthorizationEvent{AppID: "wx1", PreAuthCode: preauth.NewSecret(code), AuthorizerAppID: "wxvisitor"})
	if err != nil {
		t.Fatal(err)
	}
	err = eventually(t.Context(), func() error {
		resolved, err := s.client.Resolve(t.Context(), preauth.NewSecret(code))
		if err == nil && resolved.AuthorizedAt.IsZero() {
			err = errors.New("the service does not know yet that somebody authorized")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What is wrong with a link is said in plain words, and no code is claimed for it.
func TestEntryWithABadLink(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	s.has(t, "wx1")
	short, err := entryLink("wx1", "visitor-1", 4*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	link := linkOf(t, "visitor-2")
	v := visit(t, desktop, short)
	v.reads("main", "This link has expired") // while it is open, or from the start
	v.found()                                // that it is gone
	for _, test := range []struct{ link, language, says string }{
		{strings.Replace(link, "order+7", "order+8", 1), "en", "This link is not valid"},
		{link[:len(link)-1], "zh", "链接无效"},
		{short, "en", "This link has expired"},
		{short + "&lang=zh", "en", "链接已过期"},
	} {
		for _, l := range []look{desktop, phone} {
			l.language = test.language
			w := visit(t, l, test.link)
			w.reads("h1", test.says)
			if low := valueOf[[]string](w, contrasts); len(low) > 0 {
				t.Errorf("hard to read: %q", low)
			}
			w.sees(`document.querySelector("#go, svg") === null`)
			w.found() // the status
		}
	}
	if n := len(outside.arrived()); n > 0 {
		t.Errorf("WeChat's pages were visited %d times", n)
	}
}

// A page that is opened while there is no code, or that loses the gateway, goes on by itself when
// that is over.
func TestEntryRecovers(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	v := visit(t, desktop, linkOf(t, "visitor-1"))
	v.reads("main", "Authorization is not possible right now")
	v.reads("main", "unknown_component")
	s.has(t, "wx1")
	v.does(chromedp.Click("#retry"))
	v.reads("main", "Scan with WeChat")
	v.found() // the status before

	s.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(-1, "system error") })
	s.exhaust(t)
	w := visit(t, desktop, linkOf(t, "visitor-2"))
	w.reads("main", "This page tries again by itself")
	onPhone := visit(t, phone, linkOf(t, "visitor-3"))
	onPhone.reads("main", "This page tries again by itself")
	s.wechat.Every(nil)
	w.reads("main", "Scan with WeChat")
	w.found()
	arrivals(t, 1)
	onPhone.found()

	var away atomic.Bool
	away.Store(true)
	handler := outside.platform
	outside.connect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(w, "<h1>Bad Gateway</h1>", http.StatusBadGateway)
			return
		}
		handler.ServeHTTP(w, r)
	}), at(s.wechat.URL()))
	v.reads("body", "No connection. Trying again.")
	v.reads("main", "Scan with WeChat")
	away.Store(false)
	v.sees(`document.getElementById("lost").hidden`)
	v.found()
	w.found()
}

// A page that may not ask now keeps what it shows.
func TestEntryThatAsksTooOften(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	s.has(t, "wx1")
	var asked atomic.Int64
	handler := outside.platform
	outside.connect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			asked.Add(1)
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `<main class="busy"><h1>Please wait a moment</h1></main>`)
			return
		}
		handler.ServeHTTP(w, r)
	}), at(s.wechat.URL()))
	v := visit(t, desktop, linkOf(t, "visitor-1"))
	err := eventually(t.Context(), func() error {
		if asked.Load() < 2 { // so the first answer has been taken
			return errors.New("the page does not ask")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	v.sees(`document.querySelector("main.computer #go") !== null && document.getElementById("lost").hidden`)
	v.found() // the status
}

func TestEntryInAnotherLanguage(t *testing.T) {
	s := newSystem(t)
	serveEntry(t, s)
	s.has(t, "wx1")
	l := desktop
	l.language = "zh-CN,zh;q=0.9"
	v := visit(t, l, linkOf(t, "visitor-1"))
	v.reads("main", "请用微信扫码")
	code := codeOf(v)
	v.does(chromedp.Click("nav a"))
	v.reads("main", "Scan with WeChat")
	if codeOf(v) != code {
		t.Error("another language has another code")
	}
}
