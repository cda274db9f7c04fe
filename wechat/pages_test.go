package wechat_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// open opens a page of WeChat at the stand-in, and returns what the page says and whether WeChat
// takes the link.
func open(t *testing.T, server *wechattest.Server, link string) (text string, ok bool) {
	t.Helper()
	for _, host := range []string{"https://mp.weixin.qq.com/", "https://open.weixin.qq.com/"} {
		link = strings.Replace(link, host, server.URL()+"/", 1)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body), res.StatusCode == http.StatusOK
}

func issue(t *testing.T, server *wechattest.Server) preauth.Secret {
	t.Helper()
	code, err := call(newClient(t, wechat.Config{BaseURLs: []string{server.URL()}}), t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return code.PreAuthCode
}

// WeChat's pages and its plug-in take every link that options can ask for, and get the options as
// they were asked for.
func TestLinksAreComplete(t *testing.T) {
	server := start(t, wechattest.Options{})
	code := issue(t, server)
	visits := 0
	check := func(what, refused string, options preauth.LinkOptions) {
		t.Helper()
		if refused != "" {
			t.Errorf("%s for %+v: %s", what, options, refused)
			return
		}
		all := server.Visits()
		if len(all) != visits+1 {
			t.Fatalf("%d visits, want %d", len(all), visits+1)
		}
		visits++
		if v := all[visits-1]; v.AppID != appid || !v.PreAuthCode.Equal(code) || v.Options != options {
			t.Errorf("%s for %+v asks for %+v", what, options, v)
		}
	}
	for _, authType := range []int{0, 1, 2, 3, 4, 5, 6, 8} {
		for _, biz := range []string{"", "wxfedcba9876543210"} {
			for _, categories := range []string{"", "99", "1|17|99"} {
				for _, back := range []string{"", "https://example.com", "http://example.com:8080/back?a=1&b=2%203+4&c=%7C#x", "https://例子.com/回调?x=预"} {
					options := preauth.LinkOptions{RedirectURI: back, AuthType: authType, BizAppID: biz, CategoryIDList: categories}
					links := wechat.AuthorizationLinks(appid, code, options)
					if options == (preauth.LinkOptions{}) {
						if !reflect.DeepEqual(links, preauth.Links{}) {
							t.Error("there are links that nobody asked for")
						}
						continue
					}
					if options.AuthType == 0 {
						options.AuthType = 3
					}
					if back != "" {
						for what, link := range map[string]preauth.Secret{"PC": links.PC, "mobile": links.Mobile} {
							refused, ok := open(t, server, link.Reveal())
							if ok {
								refused = ""
							}
							check(what, refused, options)
						}
					}
					err := server.OpenAuthorizeAccount(links.Plugin)
					if options.AuthType > 3 {
						if err == nil {
							t.Errorf("the plug-in takes the auth_type %d, which WeChat does not document for it", options.AuthType)
						}
						continue
					}
					refused := ""
					if err != nil {
						refused = err.Error()
					}
					options.RedirectURI, options.CategoryIDList = "", "" // which the plug-in does not take
					check("plug-in", refused, options)
				}
			}
		}
	}
	if visits == 0 {
		t.Error("no page was opened")
	}
}

// The stand-in's pages refuse what WeChat refuses. Otherwise links that they take would prove
// nothing.
func TestIncompleteLinksAreRefused(t *testing.T) {
	now := time.Now()
	server := start(t, wechattest.Options{Now: func() time.Time { return now }})
	code := issue(t, server)
	options := preauth.LinkOptions{RedirectURI: "https://example.com/back", AuthType: 3, BizAppID: "wx9", CategoryIDList: "1|17"}
	links := wechat.AuthorizationLinks(appid, code, options)
	refused := func(name, link, says string) {
		t.Helper()
		if text, ok := open(t, server, link); ok || !strings.Contains(text, says) {
			t.Errorf("%s: %q, want a refusal that says %q", name, text, says)
		}
	}
	change := func(link preauth.Secret, name, value string) string {
		u, err := url.Parse(link.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		query := u.Query()
		query.Del(name)
		if value != "-" {
			query.Set(name, value)
		}
		u.RawQuery = query.Encode()
		return u.String()
	}
	for what, link := range map[string]preauth.Secret{"PC": links.PC, "mobile": links.Mobile} {
		if text, ok := open(t, server, link.Reveal()); !ok {
			t.Errorf("%s: %s", what, text)
		}
		for _, test := range []struct{ name, value, says string }{
			{"component_appid", "-", "component_appid"},
			{"component_appid", "wx2", "another component_appid"},
			{"pre_auth_code", "-", "pre_auth_code"},
			{"pre_auth_code", strings.TrimPrefix(code.Reveal(), "preauthcode@@@"), wechattest.ErrCodeUnknown.Error()},
			{"redirect_uri", "-", "redirect_uri"},
			{"redirect_uri", "/back", "redirect_uri"},
			{"redirect_uri", "example.com/back", "redirect_uri"},
			{"auth_type", "-", "auth_type"},
			{"auth_type", "0", "auth_type"},
			{"auth_type", "7", "auth_type"},
			{"auth_type", "3,4", "auth_type"},
			{"biz_appid", "", "biz_appid"},
			{"biz_appid", "wx 9", "biz_appid"},
			{"category_id_list", "", "category_id_list"},
			{"category_id_list", "1,17", "category_id_list"},
			{"category_id_list", "1|", "category_id_list"},
			{"scope", "all", "scope"},
		} {
			refused(fmt.Sprintf("%s with %s %q", what, test.name, test.value), change(link, test.name, test.value), test.says)
		}
		refused(what+" with two", link.Reveal()[:strings.Index(link.Reveal()+"#", "#")]+"&auth_type=1", "auth_type appears twice")
	}
	refused("mobile without action", change(links.Mobile, "action", "-"), "action")
	refused("mobile without no_scan", change(links.Mobile, "no_scan", "0"), "no_scan")
	refused("PC with action", change(links.PC, "action", "bindcomponent"), "action")
	raw := strings.Replace(links.PC.Reveal(), url.QueryEscape(options.RedirectURI), options.RedirectURI+"?a=1&b=2", 1)
	refused("PC with a redirect_uri that is not escaped", raw, "b is not a parameter")

	now = now.Add(30 * time.Minute)
	refused("PC with a dead code", links.PC.Reveal(), wechattest.ErrCodeExpired.Error())
	if err := server.OpenAuthorizeAccount(links.Plugin); !errors.Is(err, wechattest.ErrCodeExpired) {
		t.Errorf("plug-in with a dead code: %v", err)
	}
}
