// Package wechat creates pre_auth_codes through WeChat's api_create_preauthcode, asks how many more
// WeChat gives today, and builds the authorization links in which they are used.
//
// Every failed call returns an [*Error] with a [preauth.Class], which says what ends the failure.
// Neither the error nor anything it wraps contains a token or a code: text from WeChat, or from
// whatever answered in its place, is searched for both and redacted.
//
// A call may be repeated after its answer was lost. WeChat lets several codes of a component exist
// side by side, so the repetition costs quota and does no other harm.
//
// What this package assumes about WeChat comes from WeChat's documentation of the call, from staff
// answers in its developer forum and from replies captured in public SDKs.
package wechat

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"preauth"
)

// The defaults of a [Config].
const (
	// MainHost and RecoveryHost are the hosts that WeChat documents for its whole API. RecoveryHost
	// is for when MainHost cannot be reached.
	MainHost     = "https://api.weixin.qq.com"
	RecoveryHost = "https://api2.weixin.qq.com"

	DefaultPath           = "/cgi-bin/component/api_create_preauthcode"
	DefaultTimeout        = 5 * time.Second
	DefaultMaxConnections = 100
	DefaultUserAgent      = "preauth"
)

// quotaPath is the path of the call that tells what is left of another call's quota.
const quotaPath = "/cgi-bin/openapi/quota/get"

// maxReply is the largest reply that the client reads, in bytes. WeChat's have about 150.
const maxReply = 64 << 10

// Config configures a [Client]. The zero Config calls WeChat's documented hosts.
type Config struct {
	// BaseURLs are tried in order. The client tries the next one if a host does not deliver a
	// complete HTTP response: the connection is refused or reset, TLS fails, the name does not
	// resolve, the time is up. A complete response is WeChat's answer and final, even if it is an
	// error. Default: [MainHost], [RecoveryHost].
	BaseURLs []string
	// Path is the path of the call that creates a code, below each base URL. Default: [DefaultPath].
	Path string
	// Timeout bounds the request to one host, from waiting for a connection to the end of the body.
	// Connecting takes at most half of it, so that an unreachable host leaves time for the next one
	// if the context of the call lasts for Timeout. The whole call is bounded by its context alone.
	// Default: [DefaultTimeout].
	Timeout time.Duration
	// MaxConnections is the maximum number of connections to one host. Idle ones are kept for
	// re-use. Further concurrent calls wait for a free connection, within Timeout. Default:
	// [DefaultMaxConnections].
	MaxConnections int
	// UserAgent is the User-Agent header: printable ASCII. Default: [DefaultUserAgent].
	UserAgent string
}

// Client calls WeChat. It is safe for concurrent use. It honours HTTPS_PROXY and NO_PROXY: a proxy
// is a common way to call from the one address on WeChat's allow-list.
type Client struct {
	hosts     []host
	path      string
	timeout   time.Duration
	header    http.Header // shared by all requests; nobody changes it
	transport *http.Transport
}

// host is one of WeChat's hosts.
type host struct {
	name string // for errors
	base string // the URL that paths are appended to
}

// New returns a client. The error names the field of the Config to change.
func New(config Config) (*Client, error) {
	if len(config.BaseURLs) == 0 {
		config.BaseURLs = []string{MainHost, RecoveryHost}
	}
	config.Path = cmp.Or(config.Path, DefaultPath)
	config.Timeout = cmp.Or(config.Timeout, DefaultTimeout)
	config.MaxConnections = cmp.Or(config.MaxConnections, DefaultMaxConnections)
	config.UserAgent = cmp.Or(config.UserAgent, DefaultUserAgent)

	path, err := url.Parse(config.Path)
	switch {
	case err != nil || !strings.HasPrefix(config.Path, "/") || path.Host != "" || strings.ContainsAny(config.Path, "?#"):
		return nil, fmt.Errorf("wechat: Path must begin with one / and have no query or fragment, such as %s", DefaultPath)
	case config.Timeout < 0:
		return nil, fmt.Errorf("wechat: Timeout must be positive, such as %v; it is %v", DefaultTimeout, config.Timeout)
	case config.MaxConnections < 0:
		return nil, fmt.Errorf("wechat: MaxConnections must be positive, such as %d; it is %d", DefaultMaxConnections, config.MaxConnections)
	case slices.ContainsFunc([]byte(config.UserAgent), func(c byte) bool { return c < ' ' || c > '~' }):
		return nil, errors.New("wechat: UserAgent must be printable ASCII")
	}
	var hosts []host
	for i, base := range config.BaseURLs {
		u, err := url.Parse(base)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" ||
			u.User != nil || strings.ContainsAny(base, "?#") {
			return nil, fmt.Errorf("wechat: BaseURLs[%d] must be an https or http URL without user, query or fragment, such as %s", i, MainHost)
		}
		hosts = append(hosts, host{name: u.Host, base: strings.TrimRight(base, "/")})
	}

	dialer := &net.Dialer{Timeout: config.Timeout / 2}
	protocols := new(http.Protocols)
	// With HTTP/1, a call that times out closes its connection. With HTTP/2, all later calls would
	// share the dead connection until each had timed out too.
	protocols.SetHTTP1(true)
	return &Client{
		hosts:   hosts,
		path:    config.Path,
		timeout: config.Timeout,
		header:  http.Header{"Content-Type": {"application/json"}, "User-Agent": {config.UserAgent}},
		transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         dialer.DialContext,
			TLSHandshakeTimeout: config.Timeout / 2,
			Protocols:           protocols,
			DisableCompression:  true,
			MaxConnsPerHost:     config.MaxConnections,
			MaxIdleConnsPerHost: config.MaxConnections,
			// Shorter than the idle time-out of servers, so that the client closes first and no
			// request meets a connection that the server is closing.
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxReply,
		},
	}, nil
}

// Close closes idle connections. A later call opens new ones.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// CreatePreAuthCode asks WeChat for a new code of a component. appid is the component_appid and
// token its component_access_token. The client sends at most one request to each host and repeats
// none.
//
// The error is always an [*Error]. It wraps [context.Canceled] or [context.DeadlineExceeded] only
// if ctx ended the call. If a host was too slow, it wraps [os.ErrDeadlineExceeded].
func (c *Client) CreatePreAuthCode(ctx context.Context, appid string, token preauth.Secret) (Code, error) {
	body, _ := json.Marshal(struct { //nolint:errchkjson // a string always marshals
		AppID string `json:"component_appid"`
	}{appid})
	// The newer pages of the documentation call the parameter access_token; the older ones and
	// every public SDK call it component_access_token. WeChat accepts both.
	query := url.Values{"component_access_token": {token.Reveal()}}.Encode()

	reply, host, err := c.ask(ctx, c.path, query, body, token)
	if err != nil {
		return Code{}, &Error{Class: preauth.ClassTransient, Err: err}
	}
	return reply.code(host, token)
}

// Quota asks WeChat what is left of today's calls of [Client.CreatePreAuthCode] for a component, by
// all programs that use it. token is its component_access_token. Ask seldom: the question has a quota
// of its own. Requests and errors are as those of CreatePreAuthCode.
func (c *Client) Quota(ctx context.Context, token preauth.Secret) (Quota, error) {
	body, _ := json.Marshal(struct { //nolint:errchkjson // a string always marshals
		Path string `json:"cgi_path"`
	}{c.path})
	query := url.Values{"access_token": {token.Reveal()}}.Encode()
	reply, host, err := c.ask(ctx, quotaPath, query, body, token)
	if err != nil {
		return Quota{}, &Error{what: quotaAnswer, Class: preauth.ClassTransient, Err: err}
	}
	return reply.quota(host, token)
}

// ask sends a request to one host after the other, until one delivers a whole reply, and returns the
// reply and the host's name. token is redacted in the error.
func (c *Client) ask(ctx context.Context, path, query string, body []byte, token preauth.Secret) (reply, string, error) {
	var failed error
	for _, host := range c.hosts {
		reply, err := c.post(ctx, host.base+path, query, body)
		if err == nil {
			return reply, host.name, nil
		}
		err = fmt.Errorf("%s: %w", host.name, newRedactor(token.Reveal()).error(err))
		if failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		failed = err
		if ctx.Err() != nil {
			break
		}
	}
	return reply{}, "", failed
}

// post sends the request to one host and reads the whole reply. It follows no redirects, which
// would take the token to another address.
func (c *Client) post(ctx context.Context, endpoint, query string, body []byte) (r reply, err error) {
	hostCtx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	fail := func(err error) (reply, error) {
		timeout, ok := errors.AsType[net.Error](err)
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case hostCtx.Err() != nil:
			err = fmt.Errorf("no answer within %v: %w", c.timeout, os.ErrDeadlineExceeded)
		case ok && timeout.Timeout():
			err = fmt.Errorf("%v: %w", err, os.ErrDeadlineExceeded) //nolint:errorlint // some are context.DeadlineExceeded
		}
		return reply{}, err
	}
	req, err := http.NewRequestWithContext(hostCtx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return fail(err)
	}
	endSpan := startSpan(ctx, req.URL)
	defer func() { endSpan(r.status, err) }()
	req.URL.RawQuery = query
	req.Header = c.header
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols { // the body is the connection, and no context ends reading it
		return reply{status: res.StatusCode}, nil
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	if err != nil {
		return fail(fmt.Errorf("reading the reply: %w", err))
	}
	return reply{status: res.StatusCode, contentType: res.Header.Get("Content-Type"), date: res.Header.Get("Date"), body: answer}, nil
}
