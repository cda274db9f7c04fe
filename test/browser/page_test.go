package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"preauth"
	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
	"preauth/wechat/wechattest"
)

// The tests share a database server, a Chromium and its internet.
var (
	mysql   *mysqlserver.Server
	browser *chrome
	outside *internet
)

func TestMain(m *testing.M) {
	var err error
	outside = startInternet()
	if mysql, err = mysqlserver.Start(context.Background(), mysqlserver.TestOptions()); err == nil {
		browser, err = startChrome(context.Background(), outside.rules())
	}
	status := 1
	if err == nil {
		status = m.Run()
		browser.stop()
	}
	outside.server.Close()
	if mysql != nil {
		err = errors.Join(err, mysql.Close())
	}
	if err == nil && status == 0 {
		err = leak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

var desktop = look{width: 1280, height: 900}

var databases atomic.Int64

// newSystem starts a service with one replica.
func newSystem(t *testing.T) *system {
	t.Helper()
	return newSystemWith(t, 0)
}

// newSystemWith starts a service whose codes live for life, as long as WeChat's by default.
func newSystemWith(t *testing.T, life time.Duration) *system {
	t.Helper()
	s, err := start(t.Context(), options{
		mysql: mysql, name: fmt.Sprintf("browser_%d_%d", os.Getpid(), databases.Add(1)), replicas: 1, codeLife: life,
		log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// has announces a token of each component, and waits for their codes.
func (s *system) has(t *testing.T, appids ...string) {
	t.Helper()
	for _, appid := range appids {
		if err := s.announce(t.Context(), appid, secret+appid, time.Hour); err != nil {
			t.Fatal(err)
		}
		s.is(t, appid, preauth.StateValid)
	}
}

func (s *system) is(t *testing.T, appid string, state preauth.State) {
	t.Helper()
	if err := s.await(t.Context(), appid, state); err != nil {
		t.Fatal(err)
	}
}

// secret is in each token.
const secret = "N0tToBeSh0wn"

// visit opens a page. In the end the browser must have said nothing against it.
func visit(t *testing.T, l look, url string) *visitor {
	t.Helper()
	tab, err := browser.open(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if found := tab.found(); len(found) > 0 {
			t.Errorf("the browser says: %q", found)
		}
		tab.stop()
	})
	v := &visitor{tab, t}
	v.does(chromedp.Navigate(url))
	return v
}

// visitor uses the page as people do.
type visitor struct {
	*tab
	t *testing.T
}

func (v *visitor) does(actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	if err := v.do(actions...); err != nil {
		v.t.Fatal(err)
	}
}

// sees waits until an expression is true.
func (v *visitor) sees(expression string) {
	v.t.Helper()
	if err := v.await(expression); err != nil {
		v.t.Fatal(err)
	}
}

// reads waits until an element says a text.
func (v *visitor) reads(selector, text string) {
	v.t.Helper()
	v.sees(fmt.Sprintf(`(document.querySelector(%q)?.innerText ?? "").includes(%q)`, selector, text))
}

func valueOf[T any](v *visitor, expression string) T {
	v.t.Helper()
	value, err := ask[T](v.tab, expression)
	if err != nil {
		v.t.Fatal(err)
	}
	return value
}

// A page that stays open shows a component come, fail, say what to do, and recover.
func TestOpenPageFollowsAFailureAndItsEnd(t *testing.T) {
	s := newSystem(t)
	v := visit(t, desktop, s.first)
	v.reads("#hero", "No component yet")
	valueOf[bool](v, `window.unloaded = false; addEventListener("pagehide", () => window.unloaded = true); true`)
	s.has(t, "wx1", "wx2")
	v.reads("#hero", "All components are valid")
	v.reads("#row-wx1", "59m")
	v.reads("#tile-valid", "2")
	v.reads("#events", "new code, revision 1")

	// What has the focus, and what is typed, stays while the page changes below it.
	v.does(chromedp.SendKeys("#prefix", "wx"))
	s.wechat.Every(func(wechattest.Call) wechattest.Fault {
		return wechattest.Error(61004, "access clientip is not registered requestIP: 203.0.113.9")
	})
	if err := s.announce(t.Context(), "wx2", secret+"-next", time.Hour); err != nil {
		t.Fatal(err)
	}
	v.reads("#hero", "1 of 2 components is failing")
	v.reads("#some-failing", "Address not allowed")
	v.reads("#row-wx2", "Add 203.0.113.9 to the component's IP allow-list")
	v.reads("#events", "Address not allowed")
	v.sees(`document.querySelector("#status").textContent.includes("1 of 2 components is failing")`) // for a screen reader
	v.sees(`document.title === "1 failing · preauth"`)
	v.sees(`document.activeElement.id === "prefix" && document.activeElement.value === "wx"`)

	// The page of the component says it too, and how to try again.
	w := visit(t, desktop, s.first+"/components/wx2")
	w.reads("#failure", "61004")
	w.reads("#commands", "preauth renew wx2")
	// In one step: the page may replace an element between the look for it and the focus.
	v.sees(`(document.querySelector("#to-wx2")?.focus(), document.activeElement.id === "to-wx2")`)
	s.wechat.Every(nil)
	if _, err := s.client.Renew(t.Context(), "wx2"); err != nil {
		t.Fatal(err)
	}
	w.sees(`document.querySelector("#failure") === null`)
	w.reads("#hero", "valid")
	v.reads("#hero", "All components are valid")
	v.sees(`document.querySelector("#some-failing") === null && document.querySelector("#row-wx2") !== null`)
	v.sees(`document.activeElement.id === "to-wx2"`) // though the row is in another table
	if valueOf[bool](v, "window.unloaded") {
		t.Error("the page was loaded again")
	}
}

func TestCountdownsCount(t *testing.T) {
	s := newSystem(t)
	s.has(t, "wx1")
	v := visit(t, desktop, s.first)
	v.sees(`document.querySelector("#live.on") !== null`)
	valueOf[bool](v, "window.fetch = () => new Promise(() => {}); true") // it counts by itself
	for range 3 {
		left := valueOf[string](v, `document.querySelector("#row-wx1 time").textContent`)
		if !strings.Contains(left, "m ") || !strings.HasSuffix(left, "s") {
			t.Errorf("what is left of a code's life is %q", left)
		}
		v.sees(fmt.Sprintf(`document.querySelector("#row-wx1 time").textContent !== %q`, left))
	}
	v.sees(`Number(document.querySelector("#row-wx1 .life .left").getAttribute("width")) < 100`)
}

// States other than those of the tests above: a token that died, and a renewal that is overdue.
func TestOtherStates(t *testing.T) {
	s := newSystem(t)
	if err := s.announce(t.Context(), "wxdead", secret, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	s.has(t, "wxlate")
	hold := wechattest.NewHold()
	defer hold.Release()
	s.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Fault{Hold: hold} })
	for _, statement := range []string{
		"UPDATE pre_auth_code SET issued_at = DATE_SUB(issued_at, INTERVAL 2 HOUR) WHERE appid = 'wxlate' AND slot = 0",
		"UPDATE component SET due_at = created_at WHERE appid = 'wxlate'",
	} {
		if _, err := s.db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	s.is(t, "wxdead", preauth.StateNoToken)
	s.is(t, "wxlate", preauth.StateExpiring)
	v := visit(t, desktop, s.first)
	v.reads("#hero", "1 of 2 components has no token")
	v.reads("#row-wxdead", "expired")
	v.reads("#some-no_token", "Have the token service announce the current token")
	v.reads("#some-expiring", "The renewal is overdue")
	v.reads("#tile-expiring", "1")
	hold.Release()
	v.sees(`document.querySelector("#some-expiring") === null`)
	v.reads("#some-valid", "wxlate")
}

func TestPageWithoutScript(t *testing.T) {
	s := newSystem(t)
	s.has(t, "wx1")
	l := desktop
	l.withoutScript = true
	v := visit(t, l, s.first)
	text := func(selector string) string {
		t.Helper()
		text, err := get(v.tab, chromedp.Text(selector))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if got := text("#hero"); !strings.Contains(got, "All components are valid") {
		t.Errorf("it says %q", got)
	}
	if got := text("#row-wx1"); !strings.Contains(got, time.Now().UTC().Add(30*time.Minute).Format("15:")) && !strings.Contains(got, ":") {
		t.Errorf("a row says %q, want the times", got)
	}
	if got := text("body"); !strings.Contains(got, "Times are UTC") {
		t.Error("it does not say what the times are")
	}
	s.has(t, "wx2")
	if err := eventually(t.Context(), func() error {
		if err := v.do(chromedp.Reload()); err != nil {
			return err
		}
		if got := text("#sections"); !strings.Contains(got, "wx2") {
			return fmt.Errorf("after it is loaded again, it says %q", got)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	v.does(chromedp.Click("#to-wx2"))
	v.does(chromedp.WaitVisible("#code"))
}

func TestLanguageOfTheBrowser(t *testing.T) {
	s := newSystem(t)
	s.has(t, "wx1")
	l := desktop
	l.language = "zh-CN,zh;q=0.9"
	v := visit(t, l, s.first)
	v.reads("#hero", "全部平台正常")
	v.sees(`document.documentElement.lang === "zh-Hans"`)
	v.reads("#row-wx1", "分")
	v.reads("#live", "实时")
	v.does(chromedp.Click("#lang-en"))
	v.reads("#hero", "All components are valid")
	v.does(chromedp.Click("#to-wx1")) // the choice stays
	v.reads("#code", "Current code")
	v.reads("#live", "live")
}

// On a phone nothing is wider than the screen, and a row has its headers as labels.
func TestPhone(t *testing.T) {
	s := newSystem(t)
	long := "wx" + strings.Repeat("0123456789", 6)
	s.has(t, "wx1", long)
	s.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(48001, strings.Repeat("x", 150)) })
	if err := s.announce(t.Context(), long, secret+"-next", time.Hour); err != nil {
		t.Fatal(err)
	}
	s.is(t, long, preauth.StateFailing)
	for _, language := range []string{"en", "zh"} {
		for _, path := range []string{"/", "/components/" + long} {
			v := visit(t, look{width: 360, height: 780, language: language}, s.first+path)
			v.sees(`document.querySelector("#live.on") !== null`)
			if wide := valueOf[int](v, "document.documentElement.scrollWidth"); wide > 360 {
				t.Errorf("%s in %s is %d pixels wide: %s", path, language, wide, valueOf[string](v,
					`[...document.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > 361).map(e => e.tagName + "." + e.className + "#" + e.id).join(" ")`))
			}
		}
	}
	v := visit(t, look{width: 360, height: 780}, s.first)
	if label := valueOf[string](v, `getComputedStyle(document.querySelector("#row-wx1 td"), "::before").content`); !strings.Contains(label, "Code expires") {
		t.Errorf("the label of a cell is %s", label)
	}
	// It stays a table for screen readers.
	if role := valueOf[string](v, `document.querySelector("#row-wx1").closest("[role=table]") && document.querySelector("#row-wx1 td").getAttribute("role")`); role != "cell" {
		t.Errorf("a cell is a %q", role)
	}
}

// contrasts returns the texts with less contrast to what is behind them than WCAG's AA asks for.
const contrasts = `(() => {
	const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
	const rgb = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
	const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
	const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255]; };
	return [...document.querySelectorAll("body *")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.checkVisibility()).map(e => {
		const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
		return [(a + .05) / (b + .05), e];
	}).filter(([ratio]) => ratio < 4.5).map(([ratio, e]) => ratio.toFixed(2) + " " + e.tagName + "." + e.className + ": " + e.textContent.slice(0, 30));
})()`

func TestDarkAndLight(t *testing.T) {
	s := newSystem(t)
	if err := s.populate(t.Context()); err != nil {
		t.Fatal(err)
	}
	var grounds []string
	for _, dark := range []bool{false, true} {
		for _, path := range []string{"/", "/components/" + blocked} {
			l := desktop
			l.dark = dark
			v := visit(t, l, s.first+path)
			grounds = append(grounds, valueOf[string](v, "getComputedStyle(document.body).backgroundColor"))
			if weak := valueOf[[]string](v, contrasts); len(weak) > 0 {
				t.Errorf("%s, dark %v: too little contrast: %q", path, dark, weak)
			}
		}
	}
	if grounds[0] == grounds[2] {
		t.Errorf("dark and light have the same ground: %q", grounds)
	}
}

// With the Tab key one gets to everything, in the order in which it is read, and sees where one is.
func TestKeyboard(t *testing.T) {
	s := newSystem(t)
	s.has(t, "wx1", "wx2")
	v := visit(t, desktop, s.first)
	v.sees(`document.querySelector("#live.on") !== null && document.querySelectorAll("#events li").length === 2`)
	want := []string{
		"", "home", "lang-zh", "tile-failing", "tile-no_token", "tile-expiring", "tile-valid", "state", "prefix", "apply", "to-wx1", "to-wx2",
	}
	var got []string
	for range want {
		v.does(chromedp.KeyEvent(kb.Tab))
		got = append(got, valueOf[string](v, "document.activeElement.id"))
		if shown := valueOf[string](v, `getComputedStyle(document.activeElement).outlineStyle`); shown == "none" {
			t.Errorf("nothing shows that %q has the focus", got[len(got)-1])
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the order is %q, want %q", got, want)
	}
	v.does(chromedp.KeyEvent(kb.Enter))
	v.reads("#headline", "wx2")
	// What has no visible name has one for screen readers.
	nameless := valueOf[[]string](v, `[...document.querySelectorAll("a, button, input, select, nav, section, table")].filter(e =>
		!(e.innerText?.trim() || e.ariaLabel || e.getAttribute("aria-labelledby") || e.labels?.length)).map(e => e.outerHTML)`)
	if len(nameless) > 0 {
		t.Errorf("without a name: %q", nameless)
	}
}

func TestFilter(t *testing.T) {
	s := newSystem(t)
	s.has(t, "wxa1", "wxa2", "wxb1")
	v := visit(t, desktop, s.first)
	v.does(chromedp.SendKeys("#prefix", "wxb"), chromedp.Click("#apply"))
	v.sees(`document.querySelector("#row-wxb1") !== null && document.querySelector("#row-wxa1") === null`)
	v.does(chromedp.Click("#clear"))
	v.sees(`document.querySelectorAll("tbody tr").length === 3`)
	v.does(chromedp.Click("#tile-failing"))
	v.reads("#nobody", "No component matches.")
	v.sees(`document.querySelector("#state").value === "failing" && document.querySelector("#tile-failing").getAttribute("aria-current") === "page"`)
}

// Nothing that the page has in the browser is a token, a code, a claim or who authorized with it.
func TestNothingSecretGetsToTheBrowser(t *testing.T) {
	s := newSystem(t)
	s.has(t, "wx1")
	claim, err := s.client.Claim(t.Context(), preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor-of-shop", Reference: "order-of-shop"})
	if err != nil {
		t.Fatal(err)
	}
	v := visit(t, desktop, s.first)
	v.sees(`document.querySelector("#live.on") !== null`)
	event := preauth.AuthorizationEvent{AppID: "wx1", PreAuthCode: claim.PreAuthCode, AuthorizerAppID: "wxofshop"}
	if err := s.client.AnnounceAuthorization(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	v.reads("#events", "an account authorized")
	for _, path := range []string{"/", "/components/wx1"} {
		v.does(chromedp.Navigate(s.first + path))
		v.reads("#events", "an account authorized")
		html := valueOf[string](v, "document.documentElement.outerHTML")
		secrets := []string{secret, "of-shop", "wxofshop", "preauthcode"}
		for _, code := range s.wechat.Issued("wx1") {
			secrets = append(secrets, code.Reveal())
		}
		for _, text := range secrets {
			if strings.Contains(html, text) {
				t.Errorf("%s has %q", path, text)
			}
		}
	}
}

// A page that is open when the service goes away says so.
func TestServiceThatGoesAway(t *testing.T) {
	s := newSystem(t)
	s.has(t, "wx1")
	v := visit(t, desktop, s.first)
	v.reads("#live", "live")
	s.cancel()
	v.reads("#live", "connection lost, trying again")
	v.reads("#row-wx1", "m ")
	v.found() // that it cannot connect
	v.stop()
}

// With NATS away the page shows what MySQL has, and says what it does not know.
func TestPageWithoutNATS(t *testing.T) {
	s := newSystem(t)
	s.has(t, "wx1")
	v := visit(t, desktop, s.first)
	v.reads("#hero", "All components are valid")
	s.nats.Stop()
	v.reads("#not-ready", "NATS")
	v.reads("#replicas-unknown", "there is no connection to NATS")
	v.reads("#row-wx1", "m ")
	if err := s.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	v.sees(`document.querySelector("#not-ready") === null && document.querySelector("#replicas-unknown") === null`)
}

// digits has ten rows, of which 10,000 are made.
const digits = "(SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 " +
	"UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"

// insert makes so many components, wx00000 and on, each with a code.
func (s *system) insert(t *testing.T, components int) {
	t.Helper()
	now := time.Now().UTC()
	expires := now.Add(time.Hour)
	numbers := fmt.Sprintf("FROM (SELECT 1000 * a.n + 100 * b.n + 10 * c.n + d.n AS i FROM %[1]s AS a, %[1]s AS b, %[1]s AS c, %[1]s AS d) AS numbers WHERE i < ?", digits)
	const appid = "CONCAT('wx', LPAD(i, 5, '0'))"
	for _, insert := range []struct {
		statement string
		args      []any
	}{
		{
			"INSERT INTO component (appid, revision, token_expires_at, due_at, created_at, updated_at) SELECT " + appid + ", 1, ?, ?, ?, ? ",
			[]any{expires, expires, now, now},
		},
		{
			"INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at) SELECT " + appid +
				", 1, CONCAT('code', i), 'token', UNHEX(REPEAT('00', 32)), ?, ? ",
			[]any{now, expires},
		},
	} {
		if _, err := s.db.ExecContext(t.Context(), insert.statement+numbers, append(insert.args, components)...); err != nil {
			t.Fatal(err)
		}
	}
}

// 10,000 components take little longer than 100: the first page, the next one, and a change.
func TestTenThousandComponentsStayQuick(t *testing.T) {
	took := map[int]time.Duration{}
	for _, components := range []int{100, 10_000} {
		s := newSystem(t)
		s.insert(t, components)
		v := visit(t, desktop, s.first)
		v.reads("#hero", "All components are valid")
		v.sees(`document.querySelectorAll("#some-valid tbody tr").length === 100`)
		// The median of several, each after what was read before is old.
		var times []time.Duration
		for range 7 {
			v.sees(`document.querySelector("#live.on") !== null`)
			v.does(chromedp.Navigate(s.first + "/?state=valid&after=wx00000"))
			v.does(chromedp.Navigate(s.first))
			times = append(times, time.Duration(valueOf[float64](v, `performance.getEntriesByType("navigation")[0].responseEnd`)*float64(time.Millisecond)))
		}
		slices.Sort(times)
		took[components] = times[len(times)/2]
		t.Logf("%d components: %v until the page is there", components, took[components])
		if components > 100 {
			v.does(chromedp.Click("#more-valid"))
			v.sees(`document.querySelector("#row-wx00100") !== null && document.querySelector("#row-wx00099") === null`)
			s.has(t, "wx00150") // the change shows on the page on which it is
			v.sees(`document.querySelector("#row-wx00150").innerText.includes("2")`)
		}
	}
	if limit := 3*took[100] + 250*time.Millisecond; took[10_000] > limit {
		t.Errorf("10,000 components take %v, want at most %v, since 100 take %v", took[10_000], limit, took[100])
	}
}
