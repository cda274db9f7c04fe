package wechat_test

import (
	"net/url"
	"testing"

	"preauth"
	"preauth/wechat"
)

func TestAuthorizationLinks(t *testing.T) {
	const (
		pc     = "https://mp.weixin.qq.com/cgi-bin/componentloginpage?"
		mobile = "https://open.weixin.qq.com/wxaopen/safe/bindcomponent?action=bindcomponent&no_scan=1&"
		code   = "preauthcode@@@Ab-_+/=&"
		head   = "component_appid=wx0123456789abcdef&pre_auth_code=preauthcode%40%40%40Ab-_%2B%2F%3D%26&redirect_uri="
	)
	for _, test := range []struct {
		name    string
		options preauth.LinkOptions
		query   string
	}{
		{
			"without an auth_type",
			preauth.LinkOptions{RedirectURI: "https://example.com/callback"},
			head + "https%3A%2F%2Fexample.com%2Fcallback&auth_type=3",
		},
		{
			"official accounts",
			preauth.LinkOptions{RedirectURI: "https://example.com/", AuthType: 1},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=1",
		},
		{
			"mini programs",
			preauth.LinkOptions{RedirectURI: "https://example.com/", AuthType: 2},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=2",
		},
		{
			"both",
			preauth.LinkOptions{RedirectURI: "https://example.com/", AuthType: 3},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=3",
		},
		{
			"推客",
			preauth.LinkOptions{RedirectURI: "https://example.com/", AuthType: 4},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=4",
		},
		{
			"视频号",
			preauth.LinkOptions{RedirectURI: "https://example.com/", AuthType: 5},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=5",
		},
		{
			"all",
			preauth.LinkOptions{RedirectURI: "https://example.com/", AuthType: 6},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=6",
		},
		{
			"带货助手",
			preauth.LinkOptions{RedirectURI: "https://example.com/", AuthType: 8},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=8",
		},
		{
			"one account",
			preauth.LinkOptions{RedirectURI: "https://example.com/", BizAppID: "wxfedcba9876543210"},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=3&biz_appid=wxfedcba9876543210",
		},
		{
			"one account, which wins over the kind",
			preauth.LinkOptions{RedirectURI: "https://example.com/", AuthType: 1, BizAppID: "wxfedcba9876543210"},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=1&biz_appid=wxfedcba9876543210",
		},
		{
			"one permission set",
			preauth.LinkOptions{RedirectURI: "https://example.com/", CategoryIDList: "99"},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=3&category_id_list=99",
		},
		{
			"everything",
			preauth.LinkOptions{RedirectURI: "https://example.com/", AuthType: 2, BizAppID: "wx1", CategoryIDList: "1|17|99"},
			head + "https%3A%2F%2Fexample.com%2F&auth_type=2&biz_appid=wx1&category_id_list=1%7C17%7C99",
		},
		{
			"a redirect_uri with a query and a fragment of its own",
			preauth.LinkOptions{RedirectURI: "http://example.com:8080/回调?a=1&b=2 3+4%20#x", AuthType: 6},
			head + "http%3A%2F%2Fexample.com%3A8080%2F%E5%9B%9E%E8%B0%83%3Fa%3D1%26b%3D2%203%2B4%2520%23x&auth_type=6",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			links := wechat.AuthorizationLinks(appid, preauth.NewSecret(code), test.options)
			if got, want := links.PC.Reveal(), pc+test.query; got != want {
				t.Errorf("PC\n%s, want\n%s", got, want)
			}
			if got, want := links.Mobile.Reveal(), mobile+test.query+"#wechat_redirect"; got != want {
				t.Errorf("mobile\n%s, want\n%s", got, want)
			}
			u, err := url.Parse(links.Mobile.Reveal())
			if err != nil {
				t.Fatal(err)
			}
			if u.Query().Get("pre_auth_code") != code || u.Query().Get("redirect_uri") != test.options.RedirectURI ||
				u.Query().Get("category_id_list") != test.options.CategoryIDList || u.Fragment != "wechat_redirect" {
				t.Errorf("read back: %q", u)
			}
		})
	}
}
