package wechat

import (
	"cmp"
	"net/url"
	"strconv"
	"strings"

	"preauth"
)

// WeChat's authorization pages.
const (
	pcPage     = "https://mp.weixin.qq.com/cgi-bin/componentloginpage"
	mobilePage = "https://open.weixin.qq.com/wxaopen/safe/bindcomponent"
)

// bothKinds is the auth_type for official accounts and mini programs. The pages require an
// auth_type; for the plug-in, and formerly for the pages, WeChat documents this default.
const bothKinds = 3

// AuthorizationLinks returns the links to WeChat's pages on which the owner of an account
// authorizes the component appid. If options is zero, there are none. Without a RedirectURI there
// are only the parameters of the mini-program plug-in. From the other pages WeChat sends the owner
// back to the RedirectURI, with auth_code and expires_in added to its query.
//
// AuthorizationLinks checks nothing; package preauth checks the options when it parses a request.
//
// The parameters of a URL are in the order of WeChat's documentation: component_appid,
// pre_auth_code, redirect_uri, auth_type, biz_appid, category_id_list. On the mobile page, action
// and no_scan come first. WeChat requires an auth_type even beside a biz_appid, which wins over it.
func AuthorizationLinks(appid string, code preauth.Secret, options preauth.LinkOptions) preauth.Links {
	if options == (preauth.LinkOptions{}) {
		return preauth.Links{}
	}
	authType := cmp.Or(options.AuthType, bothKinds)
	links := preauth.Links{Plugin: preauth.Plugin{
		PlatformAppID: appid, PreAuthCode: code, AuthType: authType, BizAppID: options.BizAppID,
	}}
	if options.RedirectURI == "" {
		return links
	}
	query := "component_appid=" + escape(appid) +
		"&pre_auth_code=" + escape(code.Reveal()) +
		"&redirect_uri=" + escape(options.RedirectURI) +
		"&auth_type=" + strconv.Itoa(authType)
	if options.BizAppID != "" {
		query += "&biz_appid=" + escape(options.BizAppID)
	}
	if options.CategoryIDList != "" {
		query += "&category_id_list=" + escape(options.CategoryIDList)
	}
	links.PC = preauth.NewSecret(pcPage + "?" + query)
	links.Mobile = preauth.NewSecret(mobilePage + "?action=bindcomponent&no_scan=1&" + query + "#wechat_redirect")
	return links
}

// escape escapes a value of a query. A space becomes %20, which more parsers understand than "+".
func escape(value string) string {
	return strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
}
