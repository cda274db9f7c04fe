package app

import (
	"cmp"
	"errors"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"preauth/wechat"
)

// WeChat is how to call WeChat.
type WeChat struct {
	URLs    []string      `name:"wechat-url" env:"PREAUTH_WECHAT_URL" default:"https://api.weixin.qq.com,https://api2.weixin.qq.com" help:"Base URLs of the API. If one cannot be reached, the next is tried."`
	Path    string        `name:"wechat-path" env:"PREAUTH_WECHAT_PATH" default:"/cgi-bin/component/api_create_preauthcode" hidden:"" help:"Path of the call, below the base URL."`
	Timeout time.Duration `name:"wechat-timeout" env:"PREAUTH_WECHAT_TIMEOUT" default:"3s" range:"100ms..1m" help:"Time limit of one call to one host. Keep it below the request timeout, or a look-up that waits has no time for the next host."`
	Calls   int           `name:"wechat-calls" env:"PREAUTH_WECHAT_CALLS" default:"64" range:"1..10000" help:"Concurrent calls, per replica."`

	CallsPerSecond int `name:"calls-per-second" env:"PREAUTH_CALLS_PER_SECOND" default:"200" range:"1..100000" help:"Calls per second, per replica."`
	CallsPerDay    int `name:"calls-per-day" env:"PREAUTH_CALLS_PER_DAY" default:"10000" range:"100..100000000" help:"Calls per day for one component, per replica, where WeChat does not say what is left of its own quota. A tenth of them may be made at once, the rest spread over the day. Spares use at most half of that tenth; its last tenth is kept for token events and renewals."`
}

// client returns the client for WeChat. It uses the proxy that HTTPS_PROXY names.
func (s WeChat) client() (*wechat.Client, error) {
	var errs []error
	for i := range s.URLs {
		s.URLs[i] = strings.TrimSpace(s.URLs[i])
	}
	if _, err := proxy(); err != nil {
		errs = append(errs, err)
	}
	if len(s.URLs) == 0 {
		errs = append(errs, UsageErrorf("--wechat-url ($PREAUTH_WECHAT_URL) must be at least one base URL, such as %s", wechat.MainHost))
	}
	if s.Path == "" {
		errs = append(errs, UsageErrorf("--wechat-path ($PREAUTH_WECHAT_PATH) must be a path, such as %s", wechat.DefaultPath))
	}
	// Checked one by one, so that each error names its flag.
	if _, err := wechat.New(wechat.Config{BaseURLs: s.URLs}); err != nil {
		errs = append(errs, UsageErrorf("--wechat-url ($PREAUTH_WECHAT_URL): %w", err))
	}
	if _, err := wechat.New(wechat.Config{Path: s.Path}); err != nil {
		errs = append(errs, UsageErrorf("--wechat-path ($PREAUTH_WECHAT_PATH): %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return wechat.New(wechat.Config{BaseURLs: s.URLs, Path: s.Path, Timeout: s.Timeout, MaxConnections: s.Calls})
}

// proxy returns the host of the proxy that HTTPS_PROXY names, or "". net/http ignores a proxy that
// it cannot parse. Calls would then come from an address that WeChat refuses, so that is an error
// here.
func proxy() (host string, err error) {
	text := cmp.Or(os.Getenv("HTTPS_PROXY"), os.Getenv("https_proxy"))
	if text == "" {
		return "", nil
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !isPort(u.Port()) || strings.Trim(u.Path, "/") != "" || strings.ContainsAny(text, "?#") ||
		!slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
		return "", UsageErrorf("$HTTPS_PROXY must be an address such as http://proxy.example.com:3128, with special characters of a password as %%XX")
	}
	return u.Host, nil
}
