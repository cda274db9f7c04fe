package wechat

import (
	"net/url"
	"strconv"
	"strings"

	"preauth"
)

// The pages that an account's owner is sent to.
const (
	pcPage     = "https://mp.weixin.qq.com/cgi-bin/componentloginpage"
	mobilePage = "https://open.weixin.qq.com/wxaopen/safe/bindcomponent"
)

// AuthorizationLinks returns the addresses to which the owner of an account is sent to authorize the
// component appid. They carry the code, which serves one authorization, and are secrets like it.
//
// It takes values that have passed the checks of package preauth and checks nothing itself. A
// biz_appid wins over the auth_type, which is then left out: WeChat takes one of them. Afterwards
// WeChat sends the owner to the redirect_uri with auth_code and expires_in added to its query.
//
// The order of the parameters is WeChat's own: component_appid, pre_auth_code, redirect_uri,
// auth_type or biz_appid; the mobile page has action and no_scan before them.
func AuthorizationLinks(appid string, code preauth.Secret, options preauth.LinkOptions) preauth.Links {
	query := "component_appid=" + escape(appid) +
		"&pre_auth_code=" + escape(code.Reveal()) +
		"&redirect_uri=" + escape(options.RedirectURI)
	switch {
	case options.BizAppID != "":
		query += "&biz_appid=" + escape(options.BizAppID)
	case options.AuthType != 0:
		query += "&auth_type=" + strconv.Itoa(options.AuthType)
	}
	return preauth.Links{
		PC:     preauth.NewSecret(pcPage + "?" + query),
		Mobile: preauth.NewSecret(mobilePage + "?action=bindcomponent&no_scan=1&" + query + "#wechat_redirect"),
	}
}

// escape escapes a value of a query. A space becomes %20, which more readers understand than "+".
func escape(value string) string {
	return strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
}
