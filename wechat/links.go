package wechat

import (
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

// AuthorizationLinks returns the URLs of the pages on which the owner of an account authorizes the
// component appid. Afterwards WeChat sends the owner to options.RedirectURI, with auth_code and
// expires_in added to its query.
//
// AuthorizationLinks checks nothing; package preauth checks the options when it parses a request.
// If there is a BizAppID, the links leave out the AuthType, because WeChat lets the account win.
//
// The parameters are in the order of WeChat's documentation: component_appid, pre_auth_code,
// redirect_uri, then auth_type or biz_appid. On the mobile page, action and no_scan come first.
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

// escape escapes a value of a query. A space becomes %20, which more parsers understand than "+".
func escape(value string) string {
	return strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
}
