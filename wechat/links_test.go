package wechat_test

import (
	"net/url"
	"reflect"
	"strconv"
	"testing"

	"preauth"
	"preauth/wechat"
)

// The expected links are those of WeChat's page "授权流程技术说明".
func TestAuthorizationLinks(t *testing.T) {
	const (
		pc     = "https://mp.weixin.qq.com/cgi-bin/componentloginpage?"
		mobile = "https://open.weixin.qq.com/wxaopen/safe/bindcomponent?action=bindcomponent&no_scan=1&"
		code   = "preauthcode@@@Ab-_+/=&"
		head   = "component_appid=wx0123456789abcdef&pre_auth_code=preauthcode%40%40%40Ab-_%2B%2F%3D%26&redirect_uri="
		back   = "https://example.com/"
		biz    = "wxfedcba9876543210"
	)
	type test struct {
		options  preauth.LinkOptions
		query    string
		authType int
	}
	tests := map[string]test{
		"no auth_type": {
			preauth.LinkOptions{RedirectURI: "https://example.com/callback"},
			"https%3A%2F%2Fexample.com%2Fcallback&auth_type=3", 3,
		},
		"one account": {
			preauth.LinkOptions{RedirectURI: back, BizAppID: biz},
			"https%3A%2F%2Fexample.com%2F&auth_type=3&biz_appid=wxfedcba9876543210", 3,
		},
		"one account, which wins over the kind": {
			preauth.LinkOptions{RedirectURI: back, AuthType: 1, BizAppID: biz},
			"https%3A%2F%2Fexample.com%2F&auth_type=1&biz_appid=wxfedcba9876543210", 1,
		},
		"one permission set": {
			preauth.LinkOptions{RedirectURI: back, CategoryIDList: "99"},
			"https%3A%2F%2Fexample.com%2F&auth_type=3&category_id_list=99", 3,
		},
		"everything": {
			preauth.LinkOptions{RedirectURI: back, AuthType: 2, BizAppID: biz, CategoryIDList: "1|17|99"},
			"https%3A%2F%2Fexample.com%2F&auth_type=2&biz_appid=wxfedcba9876543210&category_id_list=1%7C17%7C99", 2,
		},
		"a redirect_uri with a query and a fragment of its own": {
			preauth.LinkOptions{RedirectURI: "http://example.com:8080/回调?a=1&b=2 3+4%20#x", AuthType: 6},
			"http%3A%2F%2Fexample.com%3A8080%2F%E5%9B%9E%E8%B0%83%3Fa%3D1%26b%3D2%203%2B4%2520%23x&auth_type=6", 6,
		},
	}
	for _, authType := range []int{1, 2, 3, 4, 5, 6, 8} {
		tests["auth_type "+strconv.Itoa(authType)] = test{
			preauth.LinkOptions{RedirectURI: back, AuthType: authType},
			"https%3A%2F%2Fexample.com%2F&auth_type=" + strconv.Itoa(authType), authType,
		}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			links := wechat.AuthorizationLinks(appid, preauth.NewSecret(code), test.options)
			if got, want := links.PC.Reveal(), pc+head+test.query; got != want {
				t.Errorf("PC\n%s, want\n%s", got, want)
			}
			if got, want := links.Mobile.Reveal(), mobile+head+test.query+"#wechat_redirect"; got != want {
				t.Errorf("mobile\n%s, want\n%s", got, want)
			}
			plugin := preauth.Plugin{
				PlatformAppID: appid, PreAuthCode: preauth.NewSecret(code), AuthType: test.authType, BizAppID: test.options.BizAppID,
			}
			if !reflect.DeepEqual(links.Plugin, plugin) {
				t.Errorf("plug-in %+v, want %+v", links.Plugin, plugin)
			}
			u, err := url.Parse(links.Mobile.Reveal())
			if err != nil {
				t.Fatal(err)
			}
			if u.Query().Get("pre_auth_code") != code || u.Query().Get("redirect_uri") != test.options.RedirectURI ||
				u.Query().Get("category_id_list") != test.options.CategoryIDList || u.Fragment != "wechat_redirect" {
				t.Errorf("read back: %q", u)
			}

			test.options.RedirectURI = ""
			links = wechat.AuthorizationLinks(appid, preauth.NewSecret(code), test.options)
			want := preauth.Links{Plugin: plugin}
			if test.options == (preauth.LinkOptions{}) {
				want = preauth.Links{}
			}
			if !reflect.DeepEqual(links, want) {
				t.Errorf("without a redirect_uri %+v, want %+v", links, want)
			}
		})
	}
}
