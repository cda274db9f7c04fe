package wechat_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"preauth"
	"preauth/internal/leak"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

const appid = "wx0123456789abcdef"

// token has the form and length of a real one, and characters that a URL must escape.
const token = "61_W3mEQkP0VbZc5x5vJ8F1G7kPOq2yq0TtX8mZ9nRk4sLw7uYh1dCf3gAeBi6jVo2N+pM/qS=rT&uU%vW" +
	"0xYz1aBc2dEf3gHi4jKl5mNo6pQr7sTu8vWx9yZa0bCd1eFg2hIj3kLm4nOp5"

func start(t testing.TB, options wechattest.Options) *wechattest.Server {
	t.Helper()
	server, err := wechattest.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	server.SetToken(appid, preauth.NewSecret(token))
	return server
}

func newClient(t testing.TB, config wechat.Config) *wechat.Client {
	t.Helper()
	client, err := wechat.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func call(client *wechat.Client, ctx context.Context) (wechat.Code, error) {
	return client.CreatePreAuthCode(ctx, appid, preauth.NewSecret(token))
}

// failure returns the *Error of a call that must fail, and checks that it discloses nothing.
func failure(t testing.TB, code wechat.Code, err error) *wechat.Error {
	t.Helper()
	e, ok := errors.AsType[*wechat.Error](err)
	if !ok {
		t.Fatalf("err = %v, want an *Error", err)
	}
	if !code.PreAuthCode.IsZero() || code.ExpiresIn != 0 {
		t.Errorf("a code came with the error %v", err)
	}
	saysNothing(t, err, token)
	if strings.Contains(err.Error(), "%!") {
		t.Errorf("%q has a slip of its format", err)
	}
	return e
}

// saysNothing checks that no 16 consecutive bytes of a secret, plain or URL-escaped, appear in any
// text of an error and of what it wraps.
func saysNothing(t testing.TB, err error, secrets ...string) {
	t.Helper()
	var said strings.Builder
	var walk func(error)
	walk = func(err error) {
		fmt.Fprintf(&said, "%v\n%+v\n%#v\n%q\n", err, err, err, err)
		slog.New(slog.NewTextHandler(&said, nil)).Error("failed", "err", err)
		slog.New(slog.NewJSONHandler(&said, nil)).Error("failed", "err", err)
		body, _ := json.Marshal(err)
		said.Write(body)
		switch err := err.(type) { //nolint:errorlint // visits each error of the tree by itself
		case interface{ Unwrap() error }:
			if inner := err.Unwrap(); inner != nil {
				walk(inner)
			}
		case interface{ Unwrap() []error }:
			for _, inner := range err.Unwrap() {
				walk(inner)
			}
		}
	}
	walk(err)
	for _, secret := range secrets {
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
			for i := range max(len(form)-15, 1) {
				if part := form[i:min(i+16, len(form))]; strings.Contains(said.String(), part) {
					t.Fatalf("an error says %q of a secret:\n%s", part, said.String())
				}
			}
		}
	}
}

func TestRequest(t *testing.T) {
	requests := make(chan *http.Request, 1)
	bodies := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- r
		bodies <- string(body)
		io.WriteString(w, `{"pre_auth_code":"preauthcode@@@x","expires_in":1800}`)
	}))
	defer server.Close()

	for _, test := range []struct {
		name      string
		config    wechat.Config
		path      string
		userAgent string
	}{
		{
			"by default",
			wechat.Config{BaseURLs: []string{server.URL}},
			"/cgi-bin/component/api_create_preauthcode", "preauth",
		},
		{
			"elsewhere",
			wechat.Config{BaseURLs: []string{server.URL + "/gateway/"}, Path: "/api/create", UserAgent: "platform/2.1 (~ops)"},
			"/gateway/api/create", "platform/2.1 (~ops)",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := call(newClient(t, test.config), t.Context()); err != nil {
				t.Fatal(err)
			}
			r, body := <-requests, <-bodies
			if want := "component_access_token=" + url.QueryEscape(token); r.URL.RawQuery != want {
				t.Errorf("query %q, want %q", r.URL.RawQuery, want)
			}
			if r.Method != http.MethodPost || r.URL.Path != test.path {
				t.Errorf("%s %s, want POST %s", r.Method, r.URL.Path, test.path)
			}
			if want := `{"component_appid":"` + appid + `"}`; body != want {
				t.Errorf("body %s, want %s", body, want)
			}
			if got := r.Header.Get("Content-Type"); got != "application/json" {
				t.Errorf("Content-Type %q", got)
			}
			if got := r.Header.Get("User-Agent"); got != test.userAgent {
				t.Errorf("User-Agent %q, want %q", got, test.userAgent)
			}
			if got := r.Header.Get("Accept-Encoding"); got != "" {
				t.Errorf("Accept-Encoding %q: a compressed reply could be larger than it looks", got)
			}
		})
	}
}

func TestDocumentedHostsThroughTheProxy(t *testing.T) {
	if os.Getenv("WECHAT_TEST_BEHIND_PROXY") != "" {
		code, err := call(newClient(t, wechat.Config{}), t.Context())
		_ = failure(t, code, err)
		return
	}
	// net/http reads the proxy from the environment once in a process, so the client runs in
	// another one. The proxy learns where its client wants to go, and refuses.
	asked := make(chan string, 2)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.RequestURI
		w.WriteHeader(http.StatusForbidden)
	}))
	defer proxy.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	behind := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$")
	behind.Env = append(os.Environ(), "WECHAT_TEST_BEHIND_PROXY=1", "HTTPS_PROXY="+proxy.URL, "NO_PROXY=")
	if out, err := behind.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"CONNECT api.weixin.qq.com:443", "CONNECT api2.weixin.qq.com:443"} {
		select {
		case got := <-asked:
			if got != want {
				t.Errorf("the proxy was asked to %s, want %s", got, want)
			}
		default:
			t.Errorf("the proxy was not asked to %s", want)
		}
	}
}

func TestEveryErrorCode(t *testing.T) {
	// This table is the specification of the one in the code.
	table := map[preauth.Class][]int{
		preauth.ClassTransient:         {-1},
		preauth.ClassThrottled:         {45011},
		preauth.ClassQuota:             {45009, 48006},
		preauth.ClassTokenRejected:     {40001, 40014, 42001, 42006, 61005, 61006, 40091, 40094},
		preauth.ClassAddressNotAllowed: {61004, 40164, 45035, 40090, 40187},
		preauth.ClassConfiguration: {
			40013, 40125, 41004, 48001, 48004, 50002, 61000, 61001, 61003, 61007, 61011, 61014, 61016, 61024, 61028,
		},
		preauth.ClassRequest: {41001, 41002, 41018, 41021, 43002, 43003, 44002, 47001, 47002},
		preauth.ClassUnknown: {1, 40002, 40163, 61023, 89000, 2147483648},
	}
	server, second := start(t, wechattest.Options{}), start(t, wechattest.Options{})
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL(), second.URL()}})
	listed := 0
	for class, codes := range table {
		if class != preauth.ClassUnknown {
			listed += len(codes)
		}
		for _, errCode := range codes {
			t.Run(fmt.Sprintf("%s/%d", class, errCode), func(t *testing.T) {
				before := server.Count(appid)
				server.Next(appid, wechattest.Error(errCode, "the words of WeChat"))
				code, err := call(client, t.Context())
				e := failure(t, code, err)
				if e.Class != class || e.ErrCode != errCode || e.Status != http.StatusOK {
					t.Errorf("class %s, errcode %d, status %d; want %s, %d, 200", e.Class, e.ErrCode, e.Status, class, errCode)
				}
				if e.RID == "" || e.ErrMsg != "the words of WeChat rid: "+e.RID {
					t.Errorf("errmsg %q, rid %q", e.ErrMsg, e.RID)
				}
				if e.Err != nil {
					t.Errorf("err %v beside WeChat's own words", e.Err)
				}
				for _, want := range []string{string(class), fmt.Sprint(errCode), e.ErrMsg, e.Host} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("the text %q lacks %q", err, want)
					}
				}
				if calls := server.Count(appid) - before; calls != 1 || second.Count("") != 0 {
					t.Errorf("%d calls to the host that answered and %d to the next; want 1 and 0", calls, second.Count(""))
				}
			})
		}
	}
	if got := len(wechat.Classes()); got != listed {
		t.Errorf("the code's table has %d codes and this one %d", got, listed)
	}
}

func TestRefusalsOfWeChatItself(t *testing.T) {
	server := start(t, wechattest.Options{DailyQuota: 1})
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL()}})
	for _, test := range []struct {
		name, appid, token string
		errCode            int
		class              preauth.Class
	}{
		{"no token", appid, "", 41001, preauth.ClassRequest},
		{"a token cut off", appid, token[:60], 40001, preauth.ClassTokenRejected},
		{"a placeholder before the token", appid, "COMPONENT_ACCESS_TOKEN" + token, 40001, preauth.ClassTokenRejected},
		{"another component's token", "wxfedcba9876543210", token, 40013, preauth.ClassConfiguration},
		{"no appid", "", token, 41002, preauth.ClassRequest},
		{"within the quota", appid, token, 0, ""},
		{"the quota used up", appid, token, 45009, preauth.ClassQuota},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, err := client.CreatePreAuthCode(t.Context(), test.appid, preauth.NewSecret(test.token))
			if test.errCode == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if e := failure(t, code, err); e.ErrCode != test.errCode || e.Class != test.class {
				t.Errorf("errcode %d, class %s; want %d, %s", e.ErrCode, e.Class, test.errCode, test.class)
			}
		})
	}
}

func TestAddressNotAllowedNamesTheAddress(t *testing.T) {
	server := start(t, wechattest.Options{})
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL()}})
	for _, errCode := range []int{61004, 40164, 45035} {
		server.Next(appid, wechattest.Error(errCode, ""))
		code, err := call(client, t.Context())
		if e := failure(t, code, err); e.RequestIP != "127.0.0.1" {
			t.Errorf("errcode %d: request ip %q in %q, want 127.0.0.1", errCode, e.RequestIP, e.ErrMsg)
		}
	}
	// An address in the errmsg of another class was not refused.
	server.Next(appid, wechattest.Error(48001, "no such thing, ip 203.0.113.9"))
	code, err := call(client, t.Context())
	if e := failure(t, code, err); e.RequestIP != "" {
		t.Errorf("request ip %q for class %s", e.RequestIP, e.Class)
	}
}

func TestReplies(t *testing.T) {
	server, second := start(t, wechattest.Options{}), start(t, wechattest.Options{})
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL(), second.URL()}})
	status := func(status int, body string) wechattest.Fault { return wechattest.Fault{Status: status, Body: body} }
	success := `{"pre_auth_code":"preauthcode@@@abc","expires_in":1800}`
	for _, test := range []struct {
		name    string
		fault   wechattest.Fault
		class   preauth.Class // "" for a success
		errCode int
		says    string // part of the error's text
	}{
		{"as usual", wechattest.Fault{}, "", 0, ""},
		{"with errcode 0 and ok", wechattest.WithErrCodeZero(), "", 0, ""},
		{"with errcode 0 in a string", wechattest.Fault{Reply: map[string]any{"errcode": "0"}}, "", 0, ""},
		{"with an errmsg alone", wechattest.Fault{Reply: map[string]any{"errmsg": "ok"}}, "", 0, ""},
		{"with unknown members", wechattest.Fault{Reply: map[string]any{"more": map[string]any{"expires_in": 0}}}, "", 0, ""},
		{"with a content type of its own", wechattest.Fault{Header: http.Header{"Content-Type": {"text/plain"}}}, "", 0, ""},
		{"expires_in in a string", wechattest.ExpiresIn(`"1800"`), "", 0, ""},
		{"201", status(201, success), "", 0, ""},
		{"299", status(299, success), "", 0, ""},

		{"no expires_in", wechattest.WithoutExpiresIn(), preauth.ClassBadReply, 0, "no expires_in"},
		{"expires_in null", wechattest.ExpiresIn(`null`), preauth.ClassBadReply, 0, "no expires_in"},
		{"expires_in 0", wechattest.ExpiresIn(`0`), preauth.ClassBadReply, 0, "less than a second"},
		{"expires_in negative", wechattest.ExpiresIn(`-1800`), preauth.ClassBadReply, 0, "less than a second"},
		{"expires_in no number", wechattest.ExpiresIn(`"soon"`), preauth.ClassBadReply, 0, "is not a number"},
		{"empty code", wechattest.EmptyCode(), preauth.ClassBadReply, 0, "no pre_auth_code"},
		{"code null", wechattest.Fault{Reply: map[string]any{"pre_auth_code": json.RawMessage("null")}}, preauth.ClassBadReply, 0, "no pre_auth_code"},
		{"code a number", wechattest.Fault{Reply: map[string]any{"pre_auth_code": 7}}, preauth.ClassBadReply, 0, "no pre_auth_code"},
		{"errcode 0 without a code", status(200, `{"errcode":0,"errmsg":"ok"}`), preauth.ClassBadReply, 0, "no pre_auth_code"},
		{"empty object", status(200, `{}`), preauth.ClassBadReply, 0, "no pre_auth_code"},
		{"HTML", wechattest.HTML(), preauth.ClassBadReply, 0, `of "text/html; charset=utf-8"`},
		{"garbage", wechattest.Garbage(), preauth.ClassBadReply, 0, "not a JSON object"},
		{"truncated JSON", wechattest.TruncatedJSON(), preauth.ClassBadReply, 0, "not a JSON object"},
		{"two objects", status(200, success+success), preauth.ClassBadReply, 0, "not a JSON object"},
		{"an array", status(200, `[`+success+`]`), preauth.ClassBadReply, 0, "not a JSON object"},
		{"huge", wechattest.Huge(), preauth.ClassBadReply, 0, "longer than 65536 bytes"},
		{"no content", wechattest.HTTPStatus(204), preauth.ClassBadReply, 0, "HTTP 204"},
		{"redirect", wechattest.Redirect("/?component_access_token=" + url.QueryEscape(token)), preauth.ClassBadReply, 0, "redirect"},
		{"redirect with a code", status(302, success), preauth.ClassBadReply, 0, "redirect"},
		{"300", wechattest.HTTPStatus(300), preauth.ClassBadReply, 0, "redirect"},
		{"399", wechattest.HTTPStatus(399), preauth.ClassBadReply, 0, "redirect"},

		{"400 with a code", status(400, success), preauth.ClassBadReply, 0, "HTTP 400"},
		{"403", wechattest.HTTPStatus(403), preauth.ClassBadReply, 0, "HTTP 403"},
		{"404 of a web server", status(404, "<html>"), preauth.ClassBadReply, 0, "HTTP 404"},
		{"412 with an errcode", wechattest.Fault{Status: 412, ErrCode: 40001}, preauth.ClassTokenRejected, 40001, "HTTP 412"},
		{"429", wechattest.HTTPStatus(429), preauth.ClassTransient, 0, "HTTP 429"},
		{"500", wechattest.HTTPStatus(500), preauth.ClassTransient, 0, "HTTP 500"},
		{"502 with a web page", status(502, "<html>"), preauth.ClassTransient, 0, "HTTP 502"},
		{"503 with a code", status(503, success), preauth.ClassTransient, 0, "HTTP 503"},
		{"503 with an errcode", wechattest.Fault{Status: 503, ErrCode: 40001}, preauth.ClassTransient, 40001, "40001"},

		{"errcode without errmsg", status(200, `{"errcode":45009}`), preauth.ClassQuota, 45009, "45009"},
		{"errcode in a string", status(200, `{"errcode":"45011","errmsg":"slower"}`), preauth.ClassThrottled, 45011, "slower"},
		{"errmsg no string", status(200, `{"errcode":40001,"errmsg":{"text":"no"}}`), preauth.ClassTokenRejected, 40001, "40001"},
		{"errcode with a code", wechattest.Fault{Reply: map[string]any{"errcode": 40001}}, preauth.ClassTokenRejected, 40001, "40001"},
		{"errcode no number", wechattest.Fault{Reply: map[string]any{"errcode": true}}, preauth.ClassBadReply, 0, "errcode is not a number"},
		{"errcode no whole number", wechattest.Fault{Reply: map[string]any{"errcode": 0.5}}, preauth.ClassBadReply, 0, "errcode is not a whole number"},

		{"two errcodes", status(200, `{"errcode":40001,"pre_auth_code":"x","expires_in":9,"errcode":0}`), preauth.ClassBadReply, 0, "errcode appears twice"},
		{"two codes", status(200, `{"pre_auth_code":"x","expires_in":9,"pre_auth_code":"y"}`), preauth.ClassBadReply, 0, "appears twice"},
		{"two codes in other capitals", status(200, `{"pre_auth_code":"x","expires_in":9,"PRE_AUTH_CODE":"y"}`), preauth.ClassBadReply, 0, "appears twice"},
		{"two lives", status(200, `{"pre_auth_code":"x","expires_in":9,"expires_in":8}`), preauth.ClassBadReply, 0, "appears twice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server.Next(appid, test.fault)
			code, err := call(client, t.Context())
			if second.Count("") != 0 {
				t.Fatal("an answer made the client ask the next host")
			}
			if test.class == "" {
				if err != nil {
					t.Fatal(err)
				}
				if code.PreAuthCode.IsZero() || code.ExpiresIn != 1800*time.Second {
					t.Errorf("code %q for %v", code.PreAuthCode.Reveal(), code.ExpiresIn)
				}
				return
			}
			e := failure(t, code, err)
			if e.Class != test.class || e.ErrCode != test.errCode || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v\nclass %s, errcode %d; want %s, %d and %q", err, e.Class, e.ErrCode, test.class, test.errCode, test.says)
			}
			if strings.Contains(err.Error(), "redirect") != (e.Status/100 == 3) {
				t.Errorf("status %d: %v", e.Status, err)
			}
		})
	}
}

func TestSuccessIsWhatWasIssued(t *testing.T) {
	for _, length := range []int{78, 100} {
		server := start(t, wechattest.Options{CodeLength: length, CodeLife: 600 * time.Second})
		client := newClient(t, wechat.Config{BaseURLs: []string{server.URL()}})
		code, err := call(client, t.Context())
		if err != nil {
			t.Fatal(err)
		}
		issued := server.Issued(appid)
		if len(issued) != 1 || !issued[0].Equal(code.PreAuthCode) || len(code.PreAuthCode.Reveal()) != length {
			t.Errorf("%d codes were issued, and this is not it: %s", len(issued), code.PreAuthCode.Reveal())
		}
		if code.ExpiresIn != 10*time.Minute {
			t.Errorf("it lives for %v, want 10m", code.ExpiresIn)
		}
	}
}

// refusing returns an address that refuses connections.
func refusing(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return "http://" + listener.Addr().String()
}

// listen listens on the address that it returns, and runs serve for each connection.
func listen(t *testing.T, serve func(net.Conn)) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	return listener.Addr().String()
}

func TestNextHostAfterNetworkFailure(t *testing.T) {
	t.Parallel()
	faulty := func(fault wechattest.Fault) func(*testing.T) string {
		return func(t *testing.T) string {
			server := start(t, wechattest.Options{})
			server.Every(func(wechattest.Call) wechattest.Fault { return fault })
			return server.URL()
		}
	}
	answering := func(answer string) func(*testing.T) string {
		return func(t *testing.T) string {
			return "http://" + listen(t, func(conn net.Conn) {
				if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.Copy(io.Discard, r.Body)
					_, _ = io.WriteString(conn, answer)
				}
			})
		}
	}
	mute := func(scheme string) func(*testing.T) string {
		return func(t *testing.T) string {
			return scheme + listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		}
	}
	for _, test := range []struct {
		name  string
		first func(*testing.T) string
		says  string
	}{
		{"connection refused", refusing, "connection refused"},
		{"reset before the call had its effect", faulty(wechattest.Fault{Reset: wechattest.ResetBefore}), ""},
		{"reset after the call had its effect", faulty(wechattest.Fault{Reset: wechattest.ResetAfter}), ""},
		{"closed before the status line", answering(""), "EOF"},
		{"no HTTP", answering("SSH-2.0-OpenSSH_9.6\r\n\r\n"), "malformed HTTP"},
		{"body cut off", faulty(wechattest.Fault{CutBody: true}), "unexpected EOF"},
		{"silent", faulty(wechattest.Fault{Hold: wechattest.NewHold()}), "no answer within"},
		{"silent in the body", faulty(wechattest.Fault{HoldBody: wechattest.NewHold()}), "no answer within"},
		{"silent in the handshake", mute("https://"), "timeout"},
		{"a certificate of nobody", func(t *testing.T) string {
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.StartTLS()
			t.Cleanup(server.Close)
			return server.URL
		}, "certificate"},
		{"no TLS", func(t *testing.T) string {
			return strings.Replace(faulty(wechattest.Fault{})(t), "http://", "https://", 1)
		}, "TLS handshake"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			first, second := test.first(t), start(t, wechattest.Options{})
			silent := strings.HasPrefix(test.name, "silent")
			timeout := time.Minute
			if silent {
				timeout = 5 * time.Second // the test waits this long, and the next host must answer within it
			}
			config := wechat.Config{BaseURLs: []string{first, second.URL()}, Timeout: timeout}

			code, err := call(newClient(t, config), t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if issued := second.Issued(appid); len(issued) != 1 || !issued[0].Equal(code.PreAuthCode) {
				t.Error("the code is not the next host's")
			}

			config.BaseURLs = []string{first, refusing(t)}
			code, err = call(newClient(t, config), t.Context())
			e := failure(t, code, err)
			if e.Class != preauth.ClassTransient || e.Status != 0 || e.Host != "" || e.ErrCode != 0 {
				t.Errorf("%#v, want transient and nothing of an answer", e)
			}
			for _, base := range config.BaseURLs {
				if host := strings.TrimPrefix(strings.TrimPrefix(base, "http://"), "https://"); !strings.Contains(err.Error(), host) {
					t.Errorf("%q does not name the host %s", err, host)
				}
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				t.Errorf("%q blames the context of the call", err)
			}
			if errors.Is(err, os.ErrDeadlineExceeded) != silent {
				t.Errorf("%q is a time-out: %v, want %v", err, !silent, silent)
			}
		})
	}
}

func TestHostsAreAskedInOrderAndOnceEach(t *testing.T) {
	var hosts []*wechattest.Server
	var config wechat.Config
	for range 4 {
		server := start(t, wechattest.Options{})
		hosts = append(hosts, server)
		config.BaseURLs = append(config.BaseURLs, server.URL())
	}
	hosts[0].Next("", wechattest.Fault{}, wechattest.Fault{Reset: wechattest.ResetBefore})
	hosts[1].Next("", wechattest.Fault{Reset: wechattest.ResetAfter})
	client := newClient(t, config)
	for range 3 {
		if _, err := call(client, t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// The first host answers the first call, the third host the second call, and the first host the
	// third call, because a host that failed once is not avoided. The reset comes on a reused
	// connection, after which net/http must not repeat the request by itself.
	for i, want := range []int{3, 1, 1, 0} {
		if got := hosts[i].Count(""); got != want {
			t.Errorf("host %d had %d calls, want %d", i+1, got, want)
		}
	}
}

func TestUnreachableHostLeavesTimeForTheNext(t *testing.T) {
	t.Parallel()
	mute := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	server := start(t, wechattest.Options{})
	client := newClient(t, wechat.Config{BaseURLs: []string{"https://" + mute, server.URL()}, Timeout: 20 * time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := call(client, ctx); err != nil {
		t.Errorf("no code within the time-out of one host: %v", err)
	}
}

func TestHostMayThink(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // only then does the server notice that the client has gone
		select {
		case <-r.Context().Done():
		case <-time.After(wechat.DefaultTimeout / 10):
			io.WriteString(w, `{"pre_auth_code":"preauthcode@@@x","expires_in":1800}`)
		}
	}))
	defer server.Close()
	if _, err := call(newClient(t, wechat.Config{BaseURLs: []string{server.URL}}), t.Context()); err != nil {
		t.Error(err)
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	type arrangement struct {
		server *wechattest.Server
		hold   *wechattest.Hold
		cancel context.CancelCauseFunc
	}
	for _, test := range []struct {
		name  string
		fault func(*wechattest.Hold) wechattest.Fault
		end   func(context.Context, arrangement) (context.Context, context.CancelFunc)
		want  error
	}{
		{
			"cancelled while WeChat thinks",
			func(hold *wechattest.Hold) wechattest.Fault { return wechattest.Fault{Hold: hold} },
			nil, context.Canceled,
		},
		{
			"cancelled in the middle of the reply",
			func(hold *wechattest.Hold) wechattest.Fault { return wechattest.Fault{HoldBody: hold} },
			nil, context.Canceled,
		},
		{
			"out of time",
			func(hold *wechattest.Hold) wechattest.Fault { return wechattest.Fault{Hold: hold} },
			func(ctx context.Context, _ arrangement) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 300*time.Millisecond)
			}, context.DeadlineExceeded,
		},
		{
			"out of time before it began", nil,
			func(ctx context.Context, _ arrangement) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, -time.Second)
			}, context.DeadlineExceeded,
		},
		{
			"cancelled before it began", nil,
			func(ctx context.Context, a arrangement) (context.Context, context.CancelFunc) {
				a.cancel(errors.New("the reason is " + token))
				return ctx, func() {}
			}, context.Canceled,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server, second := start(t, wechattest.Options{}), start(t, wechattest.Options{})
			client := newClient(t, wechat.Config{BaseURLs: []string{server.URL(), second.URL()}, Timeout: time.Minute})
			hold := wechattest.NewHold()
			if test.fault != nil {
				server.Next("", test.fault(hold))
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if test.end == nil {
				go func() {
					<-hold.Reached()
					cancel(errors.New("the reason is " + token))
				}()
			} else {
				var stop context.CancelFunc
				ctx, stop = test.end(ctx, arrangement{server, hold, cancel})
				defer stop()
			}
			code, err := call(client, ctx)
			e := failure(t, code, err)
			if !errors.Is(err, test.want) || e.Class != preauth.ClassTransient {
				t.Errorf("%v of class %s, want %v and transient", err, e.Class, test.want)
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v blames the host", err)
			}
			if second.Count("") != 0 || strings.Contains(err.Error(), strings.TrimPrefix(second.URL(), "http://")) {
				t.Errorf("the next host was tried for a call that nobody waits for: %v", err)
			}
		})
	}
}

func TestNoErrorSaysASecret(t *testing.T) {
	t.Parallel()
	const issued = "preauthcode@@@blzWgoI6xZdn4fqdDH-5HsJfmTiiNrvGHeg22SZMxsmOMlGhCna5C7lgjhR1kTAY7wdyiOlq7Cab-zizPTyoVg"
	const odd = "a/code/of/no/known/form"
	escaped := url.QueryEscape(token)
	echo := func(before string) string { // answers with the first line of the request
		return "http://" + listen(t, func(conn net.Conn) {
			in := bufio.NewReader(conn)
			line, _ := in.ReadString('\n')
			_, _ = io.WriteString(conn, before+line+"\r\n\r\n")
		})
	}
	script := func(fault wechattest.Fault) string {
		server := start(t, wechattest.Options{})
		server.Every(func(wechattest.Call) wechattest.Fault { return fault })
		server.FailQuestions(fault)
		return server.URL()
	}
	body := func(body string) string { return script(wechattest.Fault{Body: body}) }
	errMsg := func(words string) string { return script(wechattest.Error(40001, words)) }
	for _, test := range []struct{ name, url string }{
		{"token in errmsg", errMsg("invalid credential " + token + ", try another")},
		{"token in errmsg, escaped", errMsg("invalid credential " + escaped)},
		{"token in errmsg, escaped for a path", errMsg("invalid credential " + url.PathEscape(token))},
		{"token in errmsg, a little of it escaped for a path", errMsg("invalid credential " + url.PathEscape(token[60:84]))},
		{"token in errmsg, half", errMsg("invalid credential " + token[:40] + " or " + token[60:])},
		{"token in errmsg, in small pieces", errMsg(token[:16] + " or " + token[60:76] + "\n" + escaped[30:50])},
		{"token in errmsg, split by what nobody sees", errMsg("invalid credential " + token[:30] + "\u200b" + token[30:60] + "\x00" + token[60:])},
		{"token at the end of what is kept", errMsg(strings.Repeat("long words ", 44) + token)},
		{"token in the place of the rid", body(`{"errcode":40001,"errmsg":"no rid: ` + token[:80] + `"}`)},
		{"token as the address", body(`{"errcode":61004,"errmsg":"no requestIP: ` + token[:80] + `"}`)},
		{"code in errmsg", errMsg("used already: " + issued)},
		{"code in errmsg, escaped", errMsg("used already: " + url.QueryEscape(issued))},
		{"code beside an error", body(`{"errcode":40001,"errmsg":"not ` + issued + `","pre_auth_code":"` + issued + `"}`)},
		{"odd code beside an error", body(`{"errcode":40001,"errmsg":"not ` + odd + `","pre_auth_code":"` + odd + `"}`)},
		{"code too long", body(`{"pre_auth_code":"` + strings.Repeat(issued, 6) + `","expires_in":1800}`)},
		{"code with a space", body(`{"pre_auth_code":"` + issued + ` ","expires_in":1800}`)},
		{"token as errcode", body(`{"errcode":"` + token + `"}`)},
		{"code as expires_in", body(`{"pre_auth_code":"x","expires_in":"` + issued + `"}`)},
		{"web page with the address", body("<a href='/?component_access_token=" + escaped + "'>" + token + "</a>")},
		{"content type", script(wechattest.Fault{Body: "no", Header: http.Header{"Content-Type": {"text/" + token}}})},
		{"content type, escaped", script(wechattest.Fault{Body: "no", Header: http.Header{"Content-Type": {escaped}}})},
		{"redirect", script(wechattest.Redirect("http://127.0.0.1/?component_access_token=" + escaped))},
		{"redirect to nowhere", script(wechattest.Redirect("http://[::1]:namedport/" + escaped))},
		{"echo as the status line", echo("")},
		{"echo as the status", echo("HTTP/1.1 2OO ")},
		{"echo as a header", echo("HTTP/1.1 200 OK\r\n")},
		{"echo as the length", echo("HTTP/1.1 200 OK\r\nContent-Length: ")},
		{"echo as an encoding", echo("HTTP/1.1 200 OK\r\nTransfer-Encoding: ")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, wechat.Config{BaseURLs: []string{test.url}, Timeout: time.Minute})
			code, err := call(client, t.Context())
			saysNothing(t, err, token, issued, odd)
			e := failure(t, code, err)
			if len(e.ErrMsg) > 512 {
				t.Errorf("errmsg of %d bytes", len(e.ErrMsg))
			}
			if strings.ContainsAny(err.Error(), "\r\n\x00\u200b") {
				t.Errorf("control characters in %q", err)
			}
			if _, err := client.Quota(t.Context(), preauth.NewSecret(token)); err == nil {
				t.Error("there is a quota")
			} else {
				saysNothing(t, err, token, issued)
			}
		})
	}
}

func TestShortSecretsAreCutOutToo(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	server.Next("", wechattest.Error(40001, "invalid credential tok+en and tok%2Ben rid"))
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL()}})
	_, err := client.CreatePreAuthCode(t.Context(), appid, preauth.NewSecret("tok+en"))
	saysNothing(t, err, "tok+en")
	if want := "invalid credential [redacted] and [redacted] rid rid: "; !strings.Contains(err.Error(), want) {
		t.Errorf("%q lacks %q", err, want)
	}
}

func TestEndlessReplyEndsTheCall(t *testing.T) {
	sent := make(chan int, 1)
	address := listen(t, func(conn net.Conn) {
		_, err := http.ReadRequest(bufio.NewReader(conn))
		total := 0
		for text := "HTTP/1.1 200 OK\r\n\r\n{"; err == nil && total < 1<<30; text = strings.Repeat(" ", 4096) {
			_, err = io.WriteString(conn, text)
			total += len(text)
		}
		sent <- total
	})
	client := newClient(t, wechat.Config{BaseURLs: []string{"http://" + address}, Timeout: time.Minute})
	code, err := call(client, t.Context())
	if e := failure(t, code, err); e.Class != preauth.ClassBadReply || !strings.Contains(err.Error(), "longer than 65536 bytes") {
		t.Errorf("%v, want a bad_reply that is too long", err)
	}
	// The socket buffers hold some megabytes that the client never reads.
	if total := <-sent; total > 64<<20 {
		t.Errorf("the client took %d bytes", total)
	}
}

func TestSwitchingProtocolsEndsTheCall(t *testing.T) {
	address := listen(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn)
		}
	})
	client := newClient(t, wechat.Config{BaseURLs: []string{"http://" + address}})
	code, err := call(client, t.Context())
	if e := failure(t, code, err); e.Class != preauth.ClassBadReply || e.Status != 101 {
		t.Errorf("%v, want a bad_reply of status 101", err)
	}
}

// A server sees that the client closes the connection that it kept for the next call.
func TestCloseClosesIdleConnections(t *testing.T) {
	idle, closed := make(chan bool, 1), make(chan bool, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"pre_auth_code":"preauthcode@@@x","expires_in":1800}`)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			idle <- true
		}
		if state == http.StateClosed {
			closed <- true
		}
	}
	server.Start()
	defer server.Close()
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL}, Timeout: time.Minute})
	if _, err := call(client, t.Context()); err != nil {
		t.Fatal(err)
	}
	<-idle
	select {
	case <-closed:
		t.Fatal("the connection was not kept")
	case <-time.After(time.Second):
	}
	client.Close()
	select {
	case <-closed:
	case <-time.After(20 * time.Second): // sooner than it would be closed for being idle
		t.Fatal("the connection is still open")
	}
	if _, err := call(client, t.Context()); err != nil {
		t.Errorf("a call after Close: %v", err)
	}
}

// With HTTP/2, calls would share a connection, and one that died would fail them all.
func TestNoHTTP2(t *testing.T) {
	offered := make(chan []string, 1)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		offered <- hello.SupportedProtos
		return nil, nil //nolint:nilnil // means the server's own configuration
	}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	code, err := call(newClient(t, wechat.Config{BaseURLs: []string{server.URL}, Timeout: time.Minute}), t.Context())
	if e := failure(t, code, err); e.Class != preauth.ClassTransient { // the certificate is nobody's
		t.Errorf("class %s", e.Class)
	}
	if protos := <-offered; slices.Contains(protos, "h2") {
		t.Errorf("the client offers %q", protos)
	}
}

func TestDefaultNumberOfConnections(t *testing.T) {
	const calls = wechat.DefaultMaxConnections + 50
	var opened, arrived atomic.Int64
	full := make(chan bool)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if arrived.Add(1) == wechat.DefaultMaxConnections {
			close(full)
		}
		<-full // so that no connection is free before all that are allowed are open
		io.WriteString(w, `{"pre_auth_code":"preauthcode@@@x","expires_in":1800}`)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL}, Timeout: time.Minute})
	var running sync.WaitGroup
	for range calls {
		running.Go(func() {
			if _, err := call(client, t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if got := opened.Load(); got != wechat.DefaultMaxConnections {
		t.Errorf("%d connections for %d concurrent calls, want %d", got, calls, wechat.DefaultMaxConnections)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	const atOnce, rounds = 16, 8
	var opened atomic.Int64
	var arrived sync.WaitGroup
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived.Done()
		arrived.Wait() // so that all calls of a round are in flight at once
		io.WriteString(w, `{"pre_auth_code":"preauthcode@@@x","expires_in":1800}`)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL}, MaxConnections: atOnce, Timeout: time.Minute})
	for range rounds {
		arrived.Add(atOnce)
		var calls sync.WaitGroup
		for range atOnce {
			calls.Go(func() {
				if _, err := call(client, t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
	}
	if got := opened.Load(); got > atOnce {
		t.Errorf("%d connections for %d calls at once", got, atOnce)
	}
}

func TestConcurrentCallsGetCodesOfTheirOwn(t *testing.T) {
	server := start(t, wechattest.Options{})
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL()}, MaxConnections: 4, Timeout: time.Minute})
	const calls = 64
	codes := make(chan string, calls)
	var running sync.WaitGroup
	for range calls {
		running.Go(func() {
			code, err := call(client, t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			codes <- code.PreAuthCode.Reveal()
		})
	}
	running.Wait()
	close(codes)
	seen := make(map[string]bool)
	for code := range codes {
		seen[code] = true
	}
	if len(seen) != calls {
		t.Errorf("%d different codes from %d calls", len(seen), calls)
	}
}

func TestNewRefusesTheImpossible(t *testing.T) {
	for _, test := range []struct {
		name   string
		config wechat.Config
		says   string
	}{
		{"no scheme", wechat.Config{BaseURLs: []string{"api.weixin.qq.com"}}, "BaseURLs[0]"},
		{"another scheme", wechat.Config{BaseURLs: []string{wechat.MainHost, "ftp://api2.weixin.qq.com"}}, "BaseURLs[1]"},
		{"no host", wechat.Config{BaseURLs: []string{"https://:443"}}, "BaseURLs[0]"},
		{"empty", wechat.Config{BaseURLs: []string{""}}, "BaseURLs[0]"},
		{"a query", wechat.Config{BaseURLs: []string{wechat.MainHost + "/?x=1"}}, "BaseURLs[0]"},
		{"a fragment", wechat.Config{BaseURLs: []string{wechat.MainHost + "#x"}}, "BaseURLs[0]"},
		{"a password", wechat.Config{BaseURLs: []string{"https://me:" + token[:20] + "@api.weixin.qq.com"}}, "BaseURLs[0]"},
		{"no address", wechat.Config{BaseURLs: []string{"https://api.weixin.qq.com:" + token[:20]}}, "BaseURLs[0]"},
		{"path without slash", wechat.Config{Path: "cgi-bin/x"}, "Path"},
		{"path with a host", wechat.Config{Path: "//example.com/x"}, "Path"},
		{"path with a query", wechat.Config{Path: "/x?component_access_token=COMPONENT_ACCESS_TOKEN"}, "Path"},
		{"path that cannot be escaped", wechat.Config{Path: "/%zz"}, "Path"},
		{"negative time-out", wechat.Config{Timeout: -1}, "Timeout"},
		{"negative connections", wechat.Config{MaxConnections: -1}, "MaxConnections"},
		{"user agent with a DEL", wechat.Config{UserAgent: "a\x7f"}, "UserAgent"},
		{"user agent of two lines", wechat.Config{UserAgent: "a\r\nb: c"}, "UserAgent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, err := wechat.New(test.config)
			if err == nil {
				client.Close()
				t.Fatal("New accepted it")
			}
			if !strings.Contains(err.Error(), "wechat: "+test.says) || strings.Contains(err.Error(), token[:20]) {
				t.Errorf("%q, want it to name %s", err, test.says)
			}
		})
	}
}

func BenchmarkCreatePreAuthCode(b *testing.B) {
	server := start(b, wechattest.Options{KeepCalls: 1})
	client := newClient(b, wechat.Config{BaseURLs: []string{server.URL()}})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := call(client, b.Context()); err != nil {
				b.Error(err)
			}
		}
	})
}
