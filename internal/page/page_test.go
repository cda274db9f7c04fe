package page_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/leak"
	"preauth/internal/natsserver"
	"preauth/internal/page"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen. No machine is too slow for it.
const patience = 30 * time.Second

// site is a page, and what it shows.
type site struct {
	t      *testing.T
	nats   *natsserver.Server
	nc     *nats.Conn
	server *httptest.Server

	mu         sync.Mutex
	components map[preauth.State][]preauth.Status
	replica    preauth.Replica
	away       error          // MySQL is
	asked      map[string]int // how often, by what
}

var errAway = errors.New("repo: census: database unavailable")

func newSite(t *testing.T, config string) *site {
	t.Helper()
	server, err := natsserver.Start(natsserver.Options{StoreDir: t.TempDir(), Config: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	nc, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	s := &site{
		t: t, nats: server, nc: nc, components: map[preauth.State][]preauth.Status{}, asked: map[string]int{},
		replica: preauth.Replica{ID: "here", Version: "1.2.3", StartedAt: time.Now(), Ready: true},
	}
	shown, err := page.New(page.Source{
		Summary: s.summary, Statuses: s.statuses, Status: s.status, Subjects: preauth.DefaultSubjects(),
		Replica: func() preauth.Replica {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.replica
		},
	}, nc, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8180}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shown.Close)
	s.server = httptest.NewServer(shown.Handler())
	t.Cleanup(s.server.Close)
	return s
}

// asks notes a question to MySQL.
func (s *site) asks(what string) error {
	s.asked[what]++
	return s.away
}

func (s *site) summary(context.Context) (preauth.Summary, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	summary := preauth.Summary{
		Valid: len(s.components[preauth.StateValid]), Expiring: len(s.components[preauth.StateExpiring]),
		Failing: len(s.components[preauth.StateFailing]), NoToken: len(s.components[preauth.StateNoToken]),
	}
	summary.Components = summary.Valid + summary.Expiring + summary.Failing + summary.NoToken
	return summary, s.asks("summary")
}

func (s *site) statuses(_ context.Context, request preauth.StatusRequest, limit int) (found []preauth.Status, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, status := range s.components[request.State] {
		if status.AppID > request.After && strings.HasPrefix(status.AppID, request.Prefix) && len(found) < limit {
			found = append(found, status)
		}
	}
	return found, s.asks("statuses")
}

func (s *site) status(_ context.Context, appid string) (preauth.Status, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, all := range s.components {
		for _, status := range all {
			if status.AppID == appid {
				return status, true, s.asks("status")
			}
		}
	}
	return preauth.Status{}, false, s.asks("status")
}

// has makes n components in a state.
func (s *site) has(state preauth.State, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.components[state] = nil
	for i := range n {
		status := preauth.Status{
			AppID: fmt.Sprintf("wx%s%05d", strings.ReplaceAll(string(state), "_", ""), i), State: state, Revision: 7, Cause: preauth.CauseRenewal,
			IssuedAt: now, ExpiresAt: now.Add(time.Minute), DueAt: now.Add(30 * time.Second), TokenExpiresAt: now.Add(time.Hour),
		}
		if state == preauth.StateFailing {
			status.Failure = &preauth.Failure{
				AppID: status.AppID, Class: preauth.ClassAddressNotAllowed, ErrCode: 61004, ErrMsg: "<b>not registered</b>", RequestIP: "203.0.113.9", Attempt: 3,
				OccurredAt: now,
			}
		}
		s.components[state] = append(s.components[state], status)
	}
}

// change changes what the page shows.
func (s *site) change(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// get returns the answer to a request. headers are pairs of names and values.
func (s *site) get(path string, headers ...string) (status int, header http.Header, body string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := s.server.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s: status %d, %v", path, resp.StatusCode, err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// shows requires that the page at a path comes to say all of the texts.
func (s *site) shows(path string, texts ...string) {
	s.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		_, _, body := s.get(path)
		missing := ""
		for _, text := range texts {
			if !strings.Contains(body, text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("%s never says %q", path, missing)
		}
	}
}

func TestWorstComesFirst(t *testing.T) {
	s := newSite(t, "")
	s.shows("/", "No component yet", "component.token.updated")
	s.has(preauth.StateValid, 3)
	s.shows("/", "All components are valid")
	s.has(preauth.StateNoToken, 2)
	s.has(preauth.StateFailing, 1)
	s.shows("/", "1 of 6 components is failing", "<title>1 failing · preauth</title>", "Address not allowed", "61004", "attempt 3",
		"add 203.0.113.9 to the component&#39;s IP allow-list", "&lt;b&gt;not registered&lt;/b&gt;", "have the token service announce the current token")
	_, _, body := s.get("/")
	failing, noToken, valid := strings.Index(body, "wxfailing00000"), strings.Index(body, "wxnotoken00000"), strings.Index(body, "wxvalid00000")
	if failing < 0 || noToken < failing || valid < noToken {
		t.Errorf("failing at %d, no token at %d, valid at %d", failing, noToken, valid)
	}
	if strings.Contains(body, "some-expiring") {
		t.Error("a state that nothing is in is listed")
	}
	s.has(preauth.StateFailing, 2)
	s.shows("/", "2 of 7 components are failing")
}

// Pages are linked, and the links bear the filter and the language that was chosen.
func TestManyComponentsAreOnPages(t *testing.T) {
	s := newSite(t, "")
	s.has(preauth.StateValid, 250)
	s.has(preauth.StateFailing, 21)
	s.shows("/", `id="row-wxfailing00019"`, `href="/?state=failing">All that are in this state`, `id="row-wxvalid00099"`,
		`href="/?after=wxvalid00099&amp;state=valid">Next page`)
	_, _, body := s.get("/")
	if strings.Contains(body, "row-wxfailing00020") || strings.Contains(body, "row-wxvalid00100") {
		t.Error("the first page has more than it should")
	}
	s.shows("/?after=wxvalid00199&state=valid&lang=en", `id="row-wxvalid00249"`, `href="/?lang=en&amp;state=valid">← First page`)
	_, _, body = s.get("/?after=wxvalid00199&state=valid&lang=en")
	if strings.Contains(body, "Next page") || strings.Contains(body, "row-wxfailing") || strings.Contains(body, "row-wxvalid00199") {
		t.Error("the last page has more than it should")
	}
	s.shows("/?prefix=wxvalid0002", `id="row-wxvalid00020"`)
	_, _, body = s.get("/?prefix=wxvalid0002")
	if n := strings.Count(body, `<tr role="row" id="row-`); n != 10 {
		t.Errorf("%d components begin with the prefix, want 10", n)
	}
	s.shows("/?prefix=other", "No component matches.")
	for _, path := range []string{"/?state=well", "/?prefix=%3Cb%3E", "/?after=%27"} {
		status, _, body := s.get(path)
		if status != http.StatusBadRequest || !strings.Contains(body, "must be") {
			t.Errorf("%s: status %d, %s", path, status, body)
		}
	}
}

// An impossible appid is not asked for, and takes no room among what was read.
func TestImpossibleAppIDsPushOutNothing(t *testing.T) {
	s := newSite(t, "")
	s.has(preauth.StateValid, 1)
	s.shows("/components/wxvalid00000", "Revision")
	s.mu.Lock()
	s.away = errAway
	s.mu.Unlock()
	for i := range 300 {
		if status, _, _ := s.get(fmt.Sprintf("/components/%%3Cb%%3E%d", i)); status != http.StatusNotFound {
			t.Fatalf("status %d", status)
		}
	}
	s.shows("/components/wxvalid00000", "Revision")
}

func TestPageOfAComponent(t *testing.T) {
	s := newSite(t, "")
	s.has(preauth.StateFailing, 1)
	s.shows("/components/wxfailing00000", "Address not allowed", "address_not_allowed", "preauth renew wxfailing00000", "add 203.0.113.9 to", "Revision")
	for _, path := range []string{"/components/wxother", "/components/%3Cb%3E", "/components/" + strings.Repeat("x", 100)} {
		status, _, body := s.get(path)
		if status != http.StatusNotFound || !strings.Contains(body, "No valid token event ever named this component.") {
			t.Errorf("%s: status %d, %s", path, status, body)
		}
	}
	if status, _, _ := s.get("/components/"); status != http.StatusNotFound {
		t.Errorf("no component at all: status %d", status)
	}
}

func TestBrowserOnlyRunsWhatThePageIsMadeOf(t *testing.T) {
	s := newSite(t, "")
	for _, path := range []string{"/", "/components/wx1", "/page.css", "/page.js", "/icon.svg", "/other"} {
		_, header, body := s.get(path)
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
				"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if strings.Contains(body, "style=") || strings.Contains(body, "onclick") || strings.Contains(body, "://") && strings.HasSuffix(path, "/") {
			t.Errorf("%s has what the policy forbids", path)
		}
	}
}

// A site that has its own name point here must not read the page in its visitors' browsers.
func TestPageOnLoopbackHasNoOtherName(t *testing.T) {
	s := newSite(t, "")
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8180": 200, "LOCALHOST.:8180": 200, "preauth.localhost:8180": 200, "127.0.0.1:8180": 200,
		"[::1]:8180": 200, "[::1]": 200, "10.0.0.7:8180": 200,
		"rebound.example:8180": 421, "rebound.example": 421, "localhost.rebound.example": 421, "127.0.0.1.rebound.example:8180": 421, "notlocalhost": 421,
	} {
		for _, path := range []string{"/", "/page.js"} {
			if status, _, body := s.get(path, "Host", host); status != want || want == 421 && !strings.Contains(body, "Open it as localhost") {
				t.Errorf("%s as %s: status %d, want %d", path, host, status, want)
			}
		}
	}
	status, _, _ := s.get("/events", "Host", "rebound.example")
	if status != 421 {
		t.Errorf("/events: status %d", status)
	}
}

func TestLanguages(t *testing.T) {
	s := newSite(t, "")
	s.has(preauth.StateFailing, 1)
	const english, chinese = "1 of 1 components is failing", "1 个平台中有 1 个失败"
	for _, test := range []struct{ path, accept, want string }{
		{"/", "", english},
		{"/", "en-GB,en;q=0.9", english},
		{"/", "fr", english},
		{"/", "zh-CN,zh;q=0.9,en;q=0.8", chinese},
		{"/", "zh", chinese},
		{"/", "fr, zh;q=0.5, en;q=0.4", chinese},
		{"/", "en, zh;q=0.5", english},
		{"/?lang=zh", "en", chinese},
		{"/?lang=en", "zh-CN", english},
		{"/?lang=xx", "zh-CN", chinese},
	} {
		_, header, body := s.get(test.path, "Accept-Language", test.accept)
		if !strings.Contains(body, test.want) || !strings.Contains(body, `<html lang="`+header.Get("Content-Language")+`"`) {
			t.Errorf("%s for %q does not say %q", test.path, test.accept, test.want)
		}
	}
	_, _, body := s.get("/?lang=zh&state=failing")
	for _, want := range []string{`href="/?lang=en&amp;state=failing"`, `href="/components/wxfailing00000?lang=zh"`, "请在微信开放平台把 203.0.113.9 加入"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not have %s", want)
		}
	}
}

// Many who look cost as much as one, and 10,000 components as many questions as 100.
func TestWhatAllSeeIsReadOnce(t *testing.T) {
	s := newSite(t, "")
	questions := func(components int) int {
		s.has(preauth.StateValid, components)
		s.has(preauth.StateFailing, components/50)
		s.shows("/", fmt.Sprintf(`"count">%d`, components/50)) // what was read before is old
		s.change(func() { clear(s.asked) })
		began := time.Now()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { s.get("/") })
		}
		all.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		reads := int(time.Since(began)/time.Second) + 1 // of which one may have begun before
		if most := 3 * (reads + 1); s.asked["summary"]+s.asked["statuses"] > most {
			t.Errorf("%d components: %v questions within %v, want at most %d", components, s.asked, time.Since(began), most)
		}
		return s.asked["summary"] + s.asked["statuses"]
	}
	questions(100)
	questions(10_000)
	s.change(func() { clear(s.asked) })
	select { // nobody looks
	case <-time.After(1500 * time.Millisecond):
	case <-t.Context().Done():
	}
	s.change(func() {
		if len(s.asked) > 0 {
			t.Errorf("while nobody looks, MySQL is asked for %v", s.asked)
		}
	})
}

func TestPageWithoutMySQLShowsWhatItKnew(t *testing.T) {
	s := newSite(t, "")
	s.change(func() { s.away = errAway })
	s.shows("/", "How the components fare is not known", "MySQL cannot be read now", errAway.Error())
	s.shows("/components/wxvalid00000", "MySQL cannot be read now")
	s.change(func() { s.away = nil })
	s.has(preauth.StateValid, 1)
	s.shows("/", "All components are valid", "row-wxvalid00000")
	const living = "A living code"
	s.shows("/components/wxvalid00000", living)
	s.change(func() {
		s.away = errAway
		s.replica.Ready, s.replica.Reasons = false, []string{"MySQL: repo: check: database unavailable"}
	})
	s.shows("/", "How the components fare is not known", "row-wxvalid00000", "What is shown was read at", errAway.Error(),
		"This replica does not do all its work", "MySQL: repo: check: database unavailable")
	s.shows("/components/wxvalid00000", "MySQL cannot be read now", "Revision")
	if _, _, body := s.get("/components/wxvalid00000"); strings.Contains(body, living) {
		t.Error("the component counts as valid while nobody knows")
	}
	s.change(func() { s.away = nil })
	s.has(preauth.StateValid, 2)
	s.shows("/", "row-wxvalid00001")
}

const code = "preauthcode@@@N0tToBeSh0wn"

// announce publishes what the service announces.
func (s *site) announce(subject string, body []byte) {
	s.t.Helper()
	if err := s.nc.Publish(subject, body); err != nil {
		s.t.Fatal(err)
	}
	if err := s.nc.Flush(); err != nil {
		s.t.Fatal(err)
	}
}

func TestEventsAreShownWithoutSecrets(t *testing.T) {
	s := newSite(t, "")
	s.shows("/", "Nothing was announced since this replica started.")
	now := time.Now().UTC().Truncate(time.Second)
	update := preauth.Update{
		AppID: "wx1", PreAuthCode: preauth.NewSecret(code), IssuedAt: now, ExpiresAt: now.Add(time.Minute), Revision: 41, Cause: preauth.CauseToken,
	}
	s.announce("preauth.updated", update.Encode())
	update.Revision, update.Spent = 42, true
	s.announce("preauth.updated", update.Encode())
	s.announce("preauth.failed", preauth.Failure{AppID: "wx2", Class: preauth.ClassQuota, ErrCode: 45009, OccurredAt: now}.Encode())
	s.announce("preauth.failed", preauth.Failure{Class: preauth.ClassBadEvent, ErrMsg: "the body must be a JSON object", OccurredAt: now}.Encode())
	s.announce("preauth.authorized", preauth.Authorized{
		AppID: "wx1", ClaimID: "visitor-of-shop", Reference: "order-of-shop", AuthorizerAppID: "wxofshop", AuthorizedAt: now, IssuedAt: now, ExpiresAt: now,
	}.Encode())
	s.announce("preauth.updated", []byte("another's "+code))
	s.shows("/", "new code, revision 41", "code spent, revision 42", "Quota of the day used up", "Event not understood", "an account authorized")
	s.shows("/components/wx1?lang=en", "No valid token event ever named")
	s.has(preauth.StateValid, 1)
	update.AppID = "wxvalid00000"
	s.announce("preauth.updated", update.Encode())
	s.shows("/components/wxvalid00000", "code spent, revision 42")
	for _, path := range []string{"/", "/components/wxvalid00000"} {
		_, _, body := s.get(path)
		for _, secret := range []string{"N0tToBeSh0wn", "shop", "another"} {
			if strings.Contains(body, secret) {
				t.Errorf("%s shows %q", path, secret)
			}
		}
	}
	// The newest hundred stay.
	for i := range 150 {
		update.AppID, update.Revision = "wx1", uint64(1000+i)
		s.announce("preauth.updated", update.Encode())
	}
	s.shows("/", "revision 1149")
	_, _, body := s.get("/")
	if n := strings.Count(body, `<li id="event-`); n != 100 || strings.Contains(body, "revision 1049<") {
		t.Errorf("%d events are shown, want the last 100", n)
	}
}

// What NATS does not let the page hear, and that it does not answer, the page says.
func TestPageSaysWhatNATSWithholds(t *testing.T) {
	s := newSite(t, `
accounts: { A: { jetstream: enabled, users: [{user: a, password: a, permissions: {subscribe: {deny: ["preauth.failed", "preauth.authorized"]}}}] } }
no_auth_user: a
`)
	s.shows("/", "NATS does not let this replica hear everything", "<code>preauth.failed</code> <code>preauth.authorized</code></p>", "this one")
	s.shows("/", "Other replicas are not known", "no responders")
	s.nats.Stop()
	s.shows("/", "there is no connection to NATS", "this one")
}

// A page that is open hears of a change within about a second, and not more often.
func TestOpenPagesHearOfChanges(t *testing.T) {
	s := newSite(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := s.listen(ctx)
	next := func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(patience):
			t.Fatalf("not told of %s", what)
		}
	}
	next("the beginning")
	for len(changes) > 0 { // the replicas did not answer, for example
		<-changes
	}
	for what, change := range map[string]func(){
		"a component":     func() { s.has(preauth.StateValid, 1) },
		"MySQL away":      func() { s.change(func() { s.away = errAway }) },
		"MySQL back":      func() { s.change(func() { s.away = nil }) },
		"a reason":        func() { s.change(func() { s.replica.Reasons = []string{"NATS"} }) },
		"an announcement": func() { s.announce("preauth.updated", nil) },
	} {
		change()
		next(what)
	}
	began, told := time.Now(), 0
	for time.Since(began) < 3*time.Second {
		s.announce("preauth.updated", nil)
		select {
		case <-changes:
			told++
		case <-time.After(10 * time.Millisecond):
		}
	}
	if told < 1 || told > 5 {
		t.Errorf("told %d times within 3 s of endless changes, want about once a second", told)
	}
}

// listen opens the stream of changes until ctx ends.
func (s *site) listen(ctx context.Context) <-chan struct{} {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+"/events", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.server.Client().Do(req) //nolint:bodyclose // who reads it closes it
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("status %d, %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	changes := make(chan struct{}, 100)
	go func() {
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if lines.Text() == "event: change" {
				changes <- struct{}{}
			}
		}
	}()
	return changes
}

func TestOpenPagesAreBounded(t *testing.T) {
	s := newSite(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 100 {
		s.listen(ctx)
	}
	if status, header, _ := s.get("/events"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("one more is answered with status %d", status)
	}
	s.shows("/", "No component yet")
	cancel() // all go away
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.server.URL+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		resp, err := s.server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no place gets free")
		}
	}
}
