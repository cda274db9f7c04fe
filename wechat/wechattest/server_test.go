package wechattest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"preauth"
	"preauth/internal/leak"
	"preauth/wechat/wechattest"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

const (
	appid   = "wx0123456789abcdef"
	another = "wxfedcba9876543210"
	token   = "61_W3mEQkP0VbZc5x5vJ8F1G7kPOq2yq0TtX8mZ9nRk4sLw7uYh1dCf3gAeBi6jVo2N"
	path    = "/cgi-bin/component/api_create_preauthcode"
)

func start(t *testing.T, options wechattest.Options) *wechattest.Server {
	t.Helper()
	server, err := wechattest.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

// answer is what a caller gets: a reply of WeChat or an error of the connection.
type answer struct {
	Code      string `json:"pre_auth_code"`
	ExpiresIn any    `json:"expires_in"`
	ErrCode   int    `json:"errcode"`
	ErrMsg    string `json:"errmsg"`
	status    int
	header    http.Header
	text      string
	err       error
}

// send makes a request on a new connection.
func send(ctx context.Context, method, address, body string) (got answer) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	res, err := transport.RoundTrip(r)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	got.text, got.err, got.status, got.header = string(text), err, res.StatusCode, res.Header
	_ = json.Unmarshal(text, &got)
	return got
}

func call(t *testing.T, server *wechattest.Server, appid, token string) answer {
	return send(t.Context(), http.MethodPost, server.URL()+path+"?component_access_token="+url.QueryEscape(token), request(appid))
}

func request(appid string) string { return `{"component_appid":"` + appid + `"}` }

func TestCodes(t *testing.T) {
	for _, length := range []int{78, 100} {
		server := start(t, wechattest.Options{CodeLength: length, CodeLife: 600 * time.Second})
		server.SetToken(appid, preauth.NewSecret(token))
		form := regexp.MustCompile(fmt.Sprintf(`^preauthcode@@@[A-Za-z0-9_-]{%d}$`, length-14))
		seen := make(map[string]bool)
		for range 20 {
			got := call(t, server, appid, token)
			if got.err != nil || !form.MatchString(got.Code) || got.ExpiresIn != 600.0 || seen[got.Code] {
				t.Fatalf("%+v", got)
			}
			seen[got.Code] = true
		}
		for i, code := range server.Issued(appid) {
			if !seen[code.Reveal()] {
				t.Errorf("code %d of the list was issued to nobody", i)
			}
		}
		if n := len(server.Issued("")); n != 20 || len(server.Issued(another)) != 0 {
			t.Errorf("%d codes are listed, want 20", n)
		}
	}
}

func TestWhatWeChatRefuses(t *testing.T) {
	now := time.Now()
	server := start(t, wechattest.Options{Now: func() time.Time { return now }})
	server.SetToken(appid, preauth.NewSecret(token))
	query := "?component_access_token=" + token
	rid := fmt.Sprintf(` rid: %08x-[0-9a-f]{8}-[0-9a-f]{8}$`, now.Unix())
	for _, test := range []struct {
		name, method, query, body string
		errCode                   int
		errMsg                    string
	}{
		{"nothing", "POST", query, request(appid), 0, ""},
		{"nothing under the other name", "POST", "?access_token=" + token, request(appid), 0, ""},
		{"GET", "GET", query, request(appid), 43002, "require POST method"},
		{"no token", "POST", "", request(appid), 41001, "access_token missing"},
		{"an empty token", "POST", "?component_access_token=", request(appid), 41001, "access_token missing"},
		{"a token it never issued", "POST", query + "x", request(appid), 40001, "invalid credential"},
		{"a token cut off", "POST", query[:len(query)-1], request(appid), 40001, "invalid credential"},
		{"no body", "POST", query, "", 44002, "empty post data"},
		{"no JSON", "POST", query, "component_appid=" + appid, 47001, "data format error"},
		{"no appid", "POST", query, "{}", 41002, "appid missing"},
		{"another component", "POST", query, request(another), 40013, "invalid appid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := send(t.Context(), test.method, server.URL()+path+test.query, test.body)
			if got.err != nil || got.status != http.StatusOK || got.ErrCode != test.errCode {
				t.Fatalf("%+v, want errcode %d", got, test.errCode)
			}
			if test.errCode == 0 {
				if got.Code == "" || strings.Contains(got.text, "err") {
					t.Errorf("%s is no success", got.text)
				}
				return
			}
			if !strings.HasPrefix(got.ErrMsg, test.errMsg) || !regexp.MustCompile(rid).MatchString(got.ErrMsg) || got.Code != "" {
				t.Errorf("%s, want %s and a rid", got.text, test.errMsg)
			}
		})
	}
	if got := send(t.Context(), "POST", server.URL()+"/cgi-bin/token"+query, request(appid)); got.status != http.StatusNotFound {
		t.Errorf("another path: %+v", got)
	}
}

func TestTokensEnd(t *testing.T) {
	now := time.Now()
	server := start(t, wechattest.Options{Now: func() time.Time { return now }})
	first, second := preauth.NewSecret(token+"-first"), preauth.NewSecret(token+"-second")
	expect := func(after time.Duration, secret preauth.Secret, errCode int) {
		t.Helper()
		now = now.Add(after)
		if got := call(t, server, appid, secret.Reveal()); got.ErrCode != errCode || (errCode == 0) != (got.Code != "") {
			t.Errorf("%s, want errcode %d", got.text, errCode)
		}
	}
	server.SetToken(appid, first)
	expect(110*time.Minute, first, 0)
	server.SetToken(appid, second)
	expect(0, second, 0)
	expect(5*time.Minute-1, first, 0)
	expect(1, first, 40001)
	expect(115*time.Minute-1, second, 0)
	expect(1, second, 42001)
	server.SetToken(appid, second)
	expect(time.Minute, second, 0)

	abrupt := start(t, wechattest.Options{Overlap: -1})
	abrupt.SetToken(appid, first)
	abrupt.SetToken(appid, second)
	if got := call(t, abrupt, appid, first.Reveal()); got.ErrCode != 40001 {
		t.Errorf("without overlap: %s, want errcode 40001", got.text)
	}
}

func TestAnyToken(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	for text, errCode := range map[string]int{
		token: 0, "t": 0, strings.Repeat("t", 2048): 0, strings.Repeat("t", 2049): 40001, "a token": 40001, "": 41001,
		"令牌": 0, strings.Repeat("令", 682): 0, strings.Repeat("令", 683): 40001, "令\u3000牌": 40001, "token\x00": 40001, "token\xff": 40001,
	} {
		if got := call(t, server, another, text); got.ErrCode != errCode {
			t.Errorf("token of %d characters: %s, want errcode %d", len(text), got.text, errCode)
		}
	}
	server.SetToken(appid, preauth.NewSecret(token))
	if got := call(t, server, another, token); got.ErrCode != 40013 {
		t.Errorf("a token that it knows for another component's: %s", got.text)
	}
}

func TestQuotas(t *testing.T) {
	now := time.Date(2026, 3, 1, 15, 58, 30, 0, time.UTC) // 23:58:30 in China
	server := start(t, wechattest.Options{DailyQuota: 3, MinuteLimit: 2, AnyToken: true, Now: func() time.Time { return now }})
	for i, step := range []struct {
		appid   string
		after   time.Duration
		errCode int
	}{
		{appid, 0, 0},
		{appid, 0, 0},
		{appid, 29 * time.Second, 45011},
		{another, 0, 0},
		{appid, time.Second, 0},
		{appid, 0, 45009},
		{appid, 59 * time.Second, 45009},
		{appid, time.Second, 0}, // midnight
	} {
		now = now.Add(step.after)
		if got := call(t, server, step.appid, token); got.ErrCode != step.errCode {
			t.Errorf("step %d: %s, want errcode %d", i+1, got.text, step.errCode)
		}
	}
}

func TestWhatIsLeftOfAQuota(t *testing.T) {
	const quotaPath = "/cgi-bin/openapi/quota/get?access_token="
	const ask = `{"cgi_path":"` + path + `"}`
	now := time.Date(2026, 3, 1, 15, 58, 30, 0, time.UTC) // 23:58:30 in China
	server := start(t, wechattest.Options{DailyQuota: 5, MinuteLimit: 3, QuotaLag: 1, Now: func() time.Time { return now }})
	server.SetToken(appid, preauth.NewSecret(token))
	server.SetToken(another, preauth.NewSecret("another"))
	server.SetDailyQuota(another, 0)
	left := func(used, remain int) string {
		return fmt.Sprintf(`{"errcode":0,"errmsg":"ok","quota":{"daily_limit":5,"used":%d,"remain":%d},"rate_limit":{"call_count":3,"refresh_second":60}}`, used, remain)
	}
	question := func(token, body string) string {
		t.Helper()
		got := send(t.Context(), "POST", server.URL()+quotaPath+token, body)
		if got.err != nil {
			t.Fatal(got.err)
		}
		return got.text
	}
	says := func(when, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	refuses := func(when, got string, errCode int) {
		t.Helper()
		if !strings.HasPrefix(got, fmt.Sprintf(`{"errcode":%d,`, errCode)) {
			t.Errorf("%s: %s, want errcode %d", when, got, errCode)
		}
	}
	says("at first", question(token, ask), left(0, 5))
	for range 3 {
		call(t, server, appid, token)
	}
	says("after three calls, of which one is not counted yet", question(token, ask), left(2, 3))
	server.SetDailyQuota(appid, 3)
	if got := call(t, server, appid, token); got.ErrCode != 45009 {
		t.Errorf("beyond a smaller quota: %s", got.text)
	}
	server.SetDailyQuota(appid, 5)
	now = now.Add(2 * time.Minute)
	says("on the next day", question(token, ask), left(0, 5))

	refuses("another path", question(token, `{"cgi_path":"/cgi-bin/clear_quota"}`), 76021)
	refuses("a component without a quota", question("another", ask), 76022)
	refuses("a wrong token", question("wrong", ask), 40001)
	refuses("no JSON", question(token, "{"), 47001)
	server.FailQuestions(wechattest.Error(-1, ""))
	refuses("a fault", question(token, ask), -1)
	if got := call(t, server, appid, token); got.Code == "" {
		t.Errorf("a fault of the questions hits a call: %s", got.text)
	}
	server.FailQuestions(wechattest.Fault{})
	server.Next(appid, wechattest.Error(-1, ""))
	says("a fault of a call", question(token, ask), left(0, 5))
	if n, all, codes := server.Questions(appid), server.Questions(""), server.Count(appid); n != 7 || all != 9 || codes != 5 {
		t.Errorf("%d questions of the component, %d in all, %d calls", n, all, codes)
	}
}

func TestAddresses(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	server.AllowAddresses(netip.MustParsePrefix("203.0.113.0/24"))
	got := call(t, server, appid, token)
	if got.ErrCode != 61004 || !strings.HasPrefix(got.ErrMsg, "access clientip is not registered requestIP: 127.0.0.1 rid: ") {
		t.Errorf("from elsewhere: %s", got.text)
	}
	server.AllowAddresses(netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("127.0.0.0/8"))
	if got := call(t, server, appid, token); got.Code == "" {
		t.Errorf("from a network on the list: %s", got.text)
	}
	server.AllowAddresses()
	if got := call(t, server, appid, token); got.Code == "" {
		t.Errorf("without a list: %s", got.text)
	}
	server.Next("", wechattest.Error(40164, ""))
	if got := call(t, server, appid, token); !strings.HasPrefix(got.ErrMsg, "invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist rid: ") {
		t.Errorf("errcode 40164: %s", got.text)
	}
}

func TestWhichCallsAFaultIsFor(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	fault := func(n int) wechattest.Fault { return wechattest.Error(n, "") }
	server.Every(func(call wechattest.Call) wechattest.Fault {
		if call.AppID == appid && call.N%2 == 0 && call.Token.Equal(preauth.NewSecret(token)) {
			return fault(9)
		}
		return wechattest.Fault{}
	})
	server.Next("", fault(5), fault(6))
	server.Next(appid, fault(1), wechattest.Fault{})
	server.Next(appid, fault(3))
	for i, step := range []struct {
		appid   string
		errCode int
	}{
		{appid, 1}, {another, 5}, {appid, 0}, {appid, 3}, {appid, 6}, {appid, 0}, {appid, 9}, {another, 0}, {another, 0}, {appid, 0}, {appid, 9},
	} {
		// The component's first five calls take faults from the queues. Every decides the others.
		if got := call(t, server, step.appid, token); got.err != nil || got.ErrCode != step.errCode {
			t.Errorf("step %d: %+v, want errcode %d", i+1, got, step.errCode)
		}
	}
	server.Every(nil)
	call(t, server, appid, token)
	if got := call(t, server, appid, token); got.ErrCode != 0 {
		t.Errorf("after the end of Every: %s", got.text)
	}
}

func TestFaults(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	for _, test := range []struct {
		name   string
		fault  wechattest.Fault
		issued bool
		as     func(answer) bool
	}{
		{"none", wechattest.Fault{}, true, func(a answer) bool {
			return a.Code != "" && a.header.Get("Content-Type") == "application/json; encoding=utf-8"
		}},
		{"an error", wechattest.Error(48001, ""), false, func(a answer) bool { return strings.HasPrefix(a.ErrMsg, "api unauthorized rid: ") }},
		{"an error in other words", wechattest.Error(7, "no"), false, func(a answer) bool { return strings.HasPrefix(a.ErrMsg, "no rid: ") }},
		{"an error with a status", wechattest.Fault{ErrCode: 7, Status: 412}, false, func(a answer) bool { return a.status == 412 && a.ErrCode == 7 }},
		{"a status", wechattest.HTTPStatus(502), false, func(a answer) bool { return a.status == 502 && a.text == "Bad Gateway" }},
		{"a redirect", wechattest.Redirect("/x"), false, func(a answer) bool { return a.status == 307 && a.header.Get("Location") == "/x" }},
		{"a web page", wechattest.HTML(), false, func(a answer) bool {
			return a.status == 200 && strings.Contains(a.text, "<html>") && strings.HasPrefix(a.header.Get("Content-Type"), "text/html")
		}},
		{"garbage", wechattest.Garbage(), false, func(a answer) bool { return a.err == nil && !json.Valid([]byte(a.text)) }},
		{"truncated JSON", wechattest.TruncatedJSON(), false, func(a answer) bool {
			return a.err == nil && strings.HasPrefix(a.text, "{") && !json.Valid([]byte(a.text))
		}},
		{"a huge reply", wechattest.Huge(), true, func(a answer) bool { return a.Code != "" && len(a.text) > 1<<20 }},
		{"an empty code", wechattest.EmptyCode(), true, func(a answer) bool { return a.Code == "" && strings.Contains(a.text, `"pre_auth_code":""`) }},
		{"no expires_in", wechattest.WithoutExpiresIn(), true, func(a answer) bool { return a.Code != "" && !strings.Contains(a.text, "expires_in") }},
		{"expires_in in a string", wechattest.ExpiresIn(`"1800"`), true, func(a answer) bool { return a.ExpiresIn == "1800" }},
		{"errcode 0", wechattest.WithErrCodeZero(), true, func(a answer) bool { return a.Code != "" && strings.Contains(a.text, `"errcode":0,"errmsg":"ok"`) }},
		{"a reset before", wechattest.Fault{Reset: wechattest.ResetBefore}, false, func(a answer) bool { return a.err != nil && a.status == 0 }},
		{"a reset after", wechattest.Fault{Reset: wechattest.ResetAfter}, true, func(a answer) bool { return a.err != nil && a.status == 0 }},
		{"a body cut off", wechattest.Fault{CutBody: true}, true, func(a answer) bool { return errors.Is(a.err, io.ErrUnexpectedEOF) && a.status == 200 && a.text != "" }},
		{"a delay", wechattest.Fault{Delay: time.Millisecond}, true, func(a answer) bool { return a.Code != "" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := server.Count(appid)
			issued := len(server.Issued(appid))
			server.Next(appid, test.fault)
			if got := call(t, server, appid, token); !test.as(got) {
				t.Errorf("%+v", got)
			}
			if server.Count(appid) != before+1 {
				t.Error("the call is not counted")
			}
			if got := len(server.Issued(appid)) - issued; (got == 1) != test.issued {
				t.Errorf("%d codes were issued", got)
			}
		})
	}
}

func TestCallsTellWhatArrived(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	server := start(t, wechattest.Options{AnyToken: true, Now: func() time.Time { return now }})
	first := call(t, server, appid, token)
	server.Next("", wechattest.HTTPStatus(502))
	call(t, server, another, token)
	send(t.Context(), "POST", server.URL()+path+"?access_token=t", request(appid))
	server.Next("", wechattest.Fault{Reset: wechattest.ResetAfter})
	call(t, server, appid, token)
	send(t.Context(), "POST", server.URL()+path, "")

	type seen struct {
		appid, token, parameter string
		n, status, errCode      int
		issued                  bool
	}
	var got []seen
	for _, c := range server.Calls("") {
		got = append(got, seen{c.AppID, c.Token.Reveal(), c.Parameter, c.N, c.Status, c.ErrCode, !c.Code.IsZero()})
		if !c.Time.Equal(now) || c.Remote != netip.MustParseAddr("127.0.0.1") || c.UserAgent != "Go-http-client/1.1" {
			t.Errorf("%v from %v by %s", c.Time, c.Remote, c.UserAgent)
		}
	}
	want := []seen{
		{appid, token, "component_access_token", 1, 200, 0, true},
		{another, token, "component_access_token", 1, 502, 0, false},
		{appid, "t", "access_token", 2, 200, 0, true},
		{appid, token, "component_access_token", 3, 0, 0, true},
		{"", "", "", 1, 200, 41001, false},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("calls\n%v, want\n%v", got, want)
	}
	if calls := server.Calls(appid); len(calls) != 3 || calls[0].Code.Reveal() != first.Code {
		t.Errorf("%d calls of the component, want 3", len(calls))
	}
	if server.Count("") != 5 || server.Count(appid) != 3 || server.Count(another) != 1 || server.Count("wx") != 0 {
		t.Errorf("counts %d, %d, %d, %d", server.Count(""), server.Count(appid), server.Count(another), server.Count("wx"))
	}
	if text := fmt.Sprintf("%v %+v %#v", server.Calls(""), server.Calls(""), server.Calls("")); strings.Contains(text, token) || strings.Contains(text, first.Code) {
		t.Error("a printed call says its token or code")
	}
}

func TestLastCallsAreKept(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true, KeepCalls: 3})
	for range 20 {
		call(t, server, appid, token)
		calls := server.Calls(appid)
		n := server.Count(appid)
		if len(calls) > 6 || len(calls) < min(n, 3) || calls[len(calls)-1].N != n {
			t.Fatalf("%d calls are kept of %d", len(calls), n)
		}
	}
}

func TestHeldOnArrival(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	hold := wechattest.NewHold()
	server.Next(appid, wechattest.Fault{Hold: hold})
	gaveUp, giveUp := context.WithCancel(t.Context())
	done := make(chan answer)
	go func() {
		done <- send(gaveUp, "POST", server.URL()+path+"?component_access_token="+token, request(appid))
	}()
	<-hold.Reached()
	if n := server.Count(appid); n != 0 {
		t.Errorf("%d calls are decided while the only one is held", n)
	}
	giveUp()
	if got := <-done; !errors.Is(got.err, context.Canceled) {
		t.Fatalf("%+v", got)
	}
	hold.Release()
	hold.Release()
	if err := server.Wait(t.Context(), appid, 1); err != nil {
		t.Fatal(err)
	}
	if len(server.Issued(appid)) != 1 {
		t.Error("the call of a client that gave up had no effect")
	}
}

func TestHeldBeforeTheAnswer(t *testing.T) {
	for name, fault := range map[string]func(*wechattest.Hold) wechattest.Fault{
		"whole":           func(hold *wechattest.Hold) wechattest.Fault { return wechattest.Fault{HoldAnswer: hold} },
		"within the body": func(hold *wechattest.Hold) wechattest.Fault { return wechattest.Fault{HoldBody: hold} },
		"and before a reset": func(hold *wechattest.Hold) wechattest.Fault {
			return wechattest.Fault{HoldAnswer: hold, Reset: wechattest.ResetAfter}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := start(t, wechattest.Options{AnyToken: true})
			hold := wechattest.NewHold()
			server.Next(appid, fault(hold))
			done := make(chan answer, 1)
			go func() { done <- call(t, server, appid, token) }()
			<-hold.Reached()
			issued := server.Issued(appid)
			if len(issued) != 1 {
				t.Fatalf("%d codes are issued", len(issued))
			}
			select {
			case got := <-done:
				t.Fatalf("the answer is here: %+v", got)
			default:
			}
			hold.Release()
			got := <-done
			if lost := strings.Contains(name, "reset"); lost != (got.err != nil) || !lost && got.Code != issued[0].Reveal() {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestWait(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() {
			if err := server.Wait(t.Context(), appid, 2); err != nil {
				t.Error(err)
			}
			if n := server.Count(appid); n < 2 {
				t.Errorf("it waited for %d calls only", n)
			}
		})
	}
	for range 2 {
		call(t, server, another, token)
		call(t, server, appid, token)
	}
	waiting.Wait()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := server.Wait(ctx, "", 5); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "4 of 5 calls") {
		t.Errorf("err = %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	hold := wechattest.NewHold()
	server.Next(appid, wechattest.Fault{Hold: hold}, wechattest.Fault{HoldBody: hold}, wechattest.Fault{Delay: time.Hour})
	done := make(chan answer)
	for range 3 {
		go func() { done <- call(t, server, appid, token) }()
	}
	waited := make(chan error)
	go func() { waited <- server.Wait(t.Context(), appid, 100) }()
	<-hold.Reached()
	if err := server.Wait(t.Context(), appid, 1); err != nil { // the one that is held in its body
		t.Fatal(err)
	}
	server.Close()
	server.Close()
	for range 3 {
		if got := <-done; got.err == nil {
			t.Errorf("an answer after the end: %+v", got)
		}
	}
	if err := <-waited; err == nil || !strings.Contains(err.Error(), "of 100 calls when the server was closed") {
		t.Errorf("err = %v", err)
	}
	if got := call(t, server, appid, token); got.err == nil {
		t.Errorf("a closed server answers: %+v", got)
	}
}

func TestStartRefusesTheImpossible(t *testing.T) {
	taken := start(t, wechattest.Options{})
	for _, test := range []struct {
		name    string
		options wechattest.Options
		says    string
	}{
		{"an address in use", wechattest.Options{Listen: strings.TrimPrefix(taken.URL(), "http://")}, "in use"},
		{"a length that no code has", wechattest.Options{CodeLength: 64}, "CodeLength"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, err := wechattest.Start(test.options)
			if err == nil {
				server.Close()
				t.Fatal("it was taken")
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
		})
	}
}
