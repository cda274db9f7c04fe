package wechattest_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/wechat/wechattest"
)

const tokenPath = "/cgi-bin/component/api_component_token"

// ticketOf has a ticket pushed and returns it.
func ticketOf(t *testing.T, server *wechattest.Server, pushes <-chan pushed) string {
	t.Helper()
	server.PushTicket("wx1")
	var push struct{ InfoType, ComponentVerifyTicket, PreAuthCode string }
	text := next(t, pushes).text
	if err := xml.Unmarshal(text, &push); err != nil || push.InfoType != "component_verify_ticket" || push.ComponentVerifyTicket == "" {
		t.Fatalf("%v in %s", err, text)
	}
	if strings.Contains(string(text), "PreAuthCode") {
		t.Errorf("a ticket has a code: %s", text)
	}
	return push.ComponentVerifyTicket
}

// A platform gets a token for its secret and a living ticket, and for nothing else.
func TestTokens(t *testing.T) {
	now := time.Date(2026, time.March, 14, 9, 0, 0, 0, time.UTC)
	server := start(t, wechattest.Options{Now: func() time.Time { return now }})
	pushes := receiver(t, server)
	first := ticketOf(t, server, pushes)
	now = now.Add(time.Hour)
	second := ticketOf(t, server, pushes)

	ask := func(method, body string) answer { return send(t.Context(), method, server.URL()+tokenPath, body) }
	request := func(appid, secret, ticket string) string {
		return fmt.Sprintf(`{"component_appid":%q,"component_appsecret":%q,"component_verify_ticket":%q}`, appid, secret, ticket)
	}
	for _, test := range []struct {
		what, method, body string
		errCode            int
	}{
		{"the newest ticket", http.MethodPost, request("wx1", "a-secret", second), 0},
		{"the ticket before", http.MethodPost, request("wx1", "a-secret", first), 0},
		{"GET", http.MethodGet, "", 43002},
		{"no body", http.MethodPost, "", 44002},
		{"half a body", http.MethodPost, "{", 47001},
		{"no appid", http.MethodPost, request("", "a-secret", first), 41002},
		{"no secret", http.MethodPost, request("wx1", "", first), 41004},
		{"another platform", http.MethodPost, request("wx2", "a-secret", first), 61011},
		{"another secret", http.MethodPost, request("wx1", "b-secret", first), 40125},
		{"another ticket", http.MethodPost, request("wx1", "a-secret", "ticket@@@x"), 61006},
		{"no ticket", http.MethodPost, request("wx1", "a-secret", ""), 61006},
	} {
		if got := ask(test.method, test.body); got.err != nil || got.ErrCode != test.errCode {
			t.Errorf("%s: errcode %d, %v, want %d", test.what, got.ErrCode, got.err, test.errCode)
		}
	}

	var token struct {
		Token     string `json:"component_access_token"`
		ExpiresIn int    `json:"expires_in"`
	}
	got := ask(http.MethodPost, request("wx1", "a-secret", second))
	if err := json.Unmarshal([]byte(got.text), &token); err != nil || len(token.Token) < 64 || token.ExpiresIn != 7200 {
		t.Fatalf("%v in %s", err, got.text)
	}
	if got := call(t, server, "wx1", token.Token); got.ErrCode != 0 {
		t.Errorf("the token gets errcode %d", got.ErrCode)
	}
	if tokens := server.Tokens("wx1"); len(tokens) != 3 || tokens[2].Reveal() != token.Token {
		t.Errorf("%d tokens are known, or other ones", len(tokens))
	}

	now = now.Add(11 * time.Hour) // the first ticket is twelve hours old
	if got := ask(http.MethodPost, request("wx1", "a-secret", first)); got.ErrCode != 61005 {
		t.Errorf("an old ticket: errcode %d", got.ErrCode)
	}
	server.FailTokens(wechattest.Error(-1, ""))
	if got := ask(http.MethodPost, request("wx1", "a-secret", second)); got.ErrCode != -1 {
		t.Errorf("told to fail: errcode %d", got.ErrCode)
	}
	server.FailTokens(wechattest.Fault{Reset: wechattest.ResetAfter})
	if got := ask(http.MethodPost, request("wx1", "a-secret", second)); got.err == nil {
		t.Error("told to hang up, it answers")
	}
	server.FailTokens(wechattest.Fault{})
	server.AllowAddresses(netip.MustParsePrefix("203.0.113.0/24"))
	if got := ask(http.MethodPost, request("wx1", "a-secret", second)); got.ErrCode != 61004 {
		t.Errorf("from elsewhere: errcode %d", got.ErrCode)
	}
}

func TestUnauthorizedIsPushed(t *testing.T) {
	server := start(t, wechattest.Options{})
	pushes := receiver(t, server)
	server.PushUnauthorized("wx1", "wxa")
	var push struct{ InfoType, AuthorizerAppid, PreAuthCode string }
	if text := next(t, pushes).text; xml.Unmarshal(text, &push) != nil || push.InfoType != "unauthorized" || push.AuthorizerAppid != "wxa" || push.PreAuthCode != "" {
		t.Errorf("pushed was %s", text)
	}
}

// A platform that WeChat could not push to is refused, and one that takes no pushes gets none.
func TestRegister(t *testing.T) {
	server := start(t, wechattest.Options{})
	for says, change := range map[string]func(*wechattest.Platform){
		"EncodingAESKey": func(p *wechattest.Platform) { p.EncodingAESKey = preauth.NewSecret("short") },
		"PushURL":        func(p *wechattest.Platform) { p.PushURL = "/push" },
		"AppID":          func(p *wechattest.Platform) { p.AppID = "" },
	} {
		p := platformAt("http://127.0.0.1:1/push")
		change(&p)
		if err := server.Register(p); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if err := server.Register(wechattest.Platform{AppID: "wx1"}); err != nil {
		t.Errorf("without pushes: %v", err)
	}
	server.PushTicket("wx1")
	server.PushTicket("wx2")
}

// The form of the page authorizes, and leads back to the platform with an auth_code.
func TestAuthorizeOnThePage(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	pushes := receiver(t, server)
	code := issue(t, server, "wx1")
	link := server.URL() + "/cgi-bin/componentloginpage?" + url.Values{
		"component_appid": {"wx1"}, "pre_auth_code": {code.Reveal()}, "redirect_uri": {"https://example.com/back?a=1"}, "auth_type": {"3"},
	}.Encode()
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	post := func(link, account string) (status int, location string) {
		t.Helper()
		response, err := client.PostForm(link, url.Values{"authorizer_appid": {account}})
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.StatusCode, response.Header.Get("Location")
	}
	if status, _ := post(link, ""); status != http.StatusBadRequest {
		t.Errorf("without an account: status %d", status)
	}
	status, location := post(link, "wxa")
	back, err := url.Parse(location)
	if err != nil || status != http.StatusSeeOther {
		t.Fatal(status, err)
	}
	query := back.Query()
	if back.Host != "example.com" || query.Get("a") != "1" || len(query.Get("auth_code")) < 64 || query.Get("expires_in") != "3600" {
		t.Errorf("it leads back to %s", back)
	}
	if text := string(next(t, pushes).text); !strings.Contains(text, query.Get("auth_code")) || !strings.Contains(text, "[wxa]") {
		t.Errorf("pushed was %s", text)
	}
	for _, refused := range []struct{ what, link, account string }{
		{"a second account", link, "wxb"},
		{"another component", strings.Replace(link, "component_appid=wx1", "component_appid=wx2", 1), "wxa"},
	} {
		if status, _ := post(refused.link, refused.account); status != http.StatusBadRequest {
			t.Errorf("%s: status %d", refused.what, status)
		}
	}
}
