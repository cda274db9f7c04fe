package main

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

// wechatSettings reach WeChat.
type wechatSettings struct {
	URLs    []string      `name:"wechat-url" env:"PREAUTH_WECHAT_URL" default:"https://api.weixin.qq.com,https://api2.weixin.qq.com" help:"Base URLs of the API, tried in this order when one cannot be reached."`
	Path    string        `name:"wechat-path" env:"PREAUTH_WECHAT_PATH" default:"/cgi-bin/component/api_create_preauthcode" help:"Path of the call below the base URL."`
	Timeout time.Duration `name:"wechat-timeout" env:"PREAUTH_WECHAT_TIMEOUT" default:"3s" range:"100ms..1m" help:"Time for one call to one host. More than the request time-out leaves a look-up that waits no time for the next host."`
	Calls   int           `name:"wechat-calls" env:"PREAUTH_WECHAT_CALLS" default:"64" range:"1..10000" help:"Calls under way at once, per replica."`

	CallsPerSecond int `name:"calls-per-second" env:"PREAUTH_CALLS_PER_SECOND" default:"200" range:"1..100000" help:"Calls per second, per replica."`
	CallsPerDay    int `name:"calls-per-day" env:"PREAUTH_CALLS_PER_DAY" default:"10000" range:"100..100000000" help:"Calls per day for one component, per replica, a tenth of them at once. Spares are made while half of that is left; the last tenth is for token events and renewals."`
}

// client returns the client for WeChat, which the environment's HTTPS_PROXY applies to.
func (s wechatSettings) client() (*wechat.Client, error) {
	var errs []error
	for i := range s.URLs {
		s.URLs[i] = strings.TrimSpace(s.URLs[i])
	}
	// net/http passes over one that it cannot read, and calls would leave from an address that WeChat refuses.
	if proxy := cmp.Or(os.Getenv("HTTPS_PROXY"), os.Getenv("https_proxy")); proxy != "" && !isProxy(proxy) {
		errs = append(errs, refuse("$HTTPS_PROXY must be an address such as http://proxy.example.com:3128, with what is special in a password as %%XX"))
	}
	if len(s.URLs) == 0 {
		errs = append(errs, refuse("--wechat-url ($PREAUTH_WECHAT_URL) must be one base URL at least, such as %s", wechat.MainHost))
	}
	if s.Path == "" {
		errs = append(errs, refuse("--wechat-path ($PREAUTH_WECHAT_PATH) must be a path, such as %s", wechat.DefaultPath))
	}
	// One by one, so that the error can name the flag.
	if _, err := wechat.New(wechat.Config{BaseURLs: s.URLs}); err != nil {
		errs = append(errs, refuse("--wechat-url ($PREAUTH_WECHAT_URL): %w", err))
	}
	if _, err := wechat.New(wechat.Config{Path: s.Path}); err != nil {
		errs = append(errs, refuse("--wechat-path ($PREAUTH_WECHAT_PATH): %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return wechat.New(wechat.Config{BaseURLs: s.URLs, Path: s.Path, Timeout: s.Timeout, MaxConnections: s.Calls})
}

// isProxy reports whether net/http can read the address of a proxy, and does not find another in it.
func isProxy(text string) bool {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	return err == nil && u.Hostname() != "" && isPort(u.Port()) && strings.Trim(u.Path, "/") == "" && !strings.ContainsAny(text, "?#") &&
		slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme)
}
