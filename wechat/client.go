// Package wechat is the client for the one call of WeChat's open platform that preauth exists for,
// api_create_preauthcode, and builds the authorization links that a pre_auth_code is used in.
//
// Every failure is an [*Error] with a [preauth.Class], which says what ends it. No token and no code
// is in the text of an error or of anything that it wraps: words that come from WeChat, or from
// whatever answered in its place, are searched for both before they become part of one.
//
// A code serves one authorization and codes do not displace one another, so a call whose answer was
// lost may be repeated: nothing is harmed but the quota.
//
// The facts about WeChat come from its documentation of the call, from staff answers in its
// developer forum and from replies captured in public SDKs.
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

// What a [Config] means where it says nothing.
const (
	// MainHost and RecoveryHost are the hosts that WeChat documents for its whole API: the second is
	// for when the first cannot be reached.
	MainHost     = "https://api.weixin.qq.com"
	RecoveryHost = "https://api2.weixin.qq.com"

	DefaultPath           = "/cgi-bin/component/api_create_preauthcode"
	DefaultTimeout        = 5 * time.Second
	DefaultMaxConnections = 100
	DefaultUserAgent      = "preauth"
)

// maxReply is the size in bytes of the longest reply read. A real one has about 150.
const maxReply = 64 << 10

// Config says where WeChat is. The zero Config is WeChat's documented hosts.
type Config struct {
	// BaseURLs are tried in order. The next one is asked when a host did not deliver a whole HTTP
	// response: connection refused or reset, TLS, a name that does not resolve, a time-out. Whatever
	// a host answers, an error too, is WeChat's answer and final. Default: [MainHost], [RecoveryHost].
	BaseURLs []string
	// Path follows each base URL. Default: [DefaultPath].
	Path string
	// Timeout bounds the request to one host from waiting for a connection to the end of the body.
	// Half of it is the limit for connecting, so that a host which cannot be reached leaves time for
	// the next. The whole call is bounded by its context alone: one shorter than Timeout may leave
	// none. Default: [DefaultTimeout].
	Timeout time.Duration
	// MaxConnections is the number of connections to one host, all of which are kept for re-use.
	// More calls at once wait for one, within Timeout. Default: [DefaultMaxConnections].
	MaxConnections int
	// UserAgent is the User-Agent header. Default: [DefaultUserAgent].
	UserAgent string
}

// Client calls WeChat. It is safe for concurrent use. It follows the environment's HTTPS_PROXY, which
// is a usual way to leave from the one address on WeChat's allow-list.
type Client struct {
	hosts     []host
	timeout   time.Duration
	header    http.Header // shared by all requests, which do not change it
	transport *http.Transport
}

// host is one of the addresses under which WeChat answers.
type host struct {
	name     string // as errors call it
	endpoint string // the whole address without the query
}

// New returns a client, or an error that names the field of the Config to change.
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
		return nil, fmt.Errorf("wechat: Path must begin with one / and have no query and no fragment, such as %s", DefaultPath)
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
			return nil, fmt.Errorf("wechat: BaseURLs[%d] must be an https or http address without user, query and fragment, such as %s", i, MainHost)
		}
		hosts = append(hosts, host{name: u.Host, endpoint: strings.TrimRight(base, "/") + config.Path})
	}

	dialer := &net.Dialer{Timeout: config.Timeout / 2}
	protocols := new(http.Protocols)
	// One connection serves one call at a time: a call that timed out takes its connection with it,
	// and no other call has to find out again that it is dead, as all would on HTTP/2.
	protocols.SetHTTP1(true)
	return &Client{
		hosts:   hosts,
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
			// Shorter than servers usually wait: who closes first is not surprised by the other.
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxReply,
		},
	}, nil
}

// Close closes the connections that are not in use. A call after Close opens new ones.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// CreatePreAuthCode asks WeChat for a new code of the component appid with its
// component_access_token. One call is at most one request to each host, and none is sent again.
//
// The error is always an [*Error]. errors.Is finds [context.Canceled] or [context.DeadlineExceeded]
// in it when ctx ended the call, and never for another reason: a host's own time-out is an
// [os.ErrDeadlineExceeded].
func (c *Client) CreatePreAuthCode(ctx context.Context, appid string, token preauth.Secret) (Code, error) {
	body, err := json.Marshal(struct {
		AppID string `json:"component_appid"`
	}{appid})
	if err != nil {
		return Code{}, &Error{Class: preauth.ClassRequest, Err: errors.New("the request does not marshal")}
	}
	// The documentation's newer pages name the parameter access_token; the older and every public SDK
	// component_access_token. WeChat takes both.
	query := url.Values{"component_access_token": {token.Reveal()}}.Encode()

	var unreached error
	for _, host := range c.hosts {
		reply, err := c.post(ctx, host, query, body)
		if err == nil {
			return reply.read(host.name, token)
		}
		err = fmt.Errorf("%s: %w", host.name, newCensor(token.Reveal()).error(err))
		if unreached != nil {
			err = fmt.Errorf("%w; %w", unreached, err)
		}
		unreached = err
		if ctx.Err() != nil {
			break
		}
	}
	return Code{}, &Error{Class: preauth.ClassTransient, Err: unreached}
}

// post sends the request to one host and reads its whole reply. It follows no redirect: the token
// would travel along.
func (c *Client) post(ctx context.Context, host host, query string, body []byte) (reply, error) {
	hostCtx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	failed := func(err error) (reply, error) {
		timeout, ok := errors.AsType[net.Error](err)
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case hostCtx.Err() != nil:
			err = timeoutError(fmt.Sprintf("no answer within %v", c.timeout))
		case ok && timeout.Timeout(): // some of these call themselves context.DeadlineExceeded
			err = timeoutError(err.Error())
		}
		return reply{}, err
	}
	req, err := http.NewRequestWithContext(hostCtx, http.MethodPost, host.endpoint, bytes.NewReader(body))
	if err != nil {
		return failed(err)
	}
	req.URL.RawQuery = query
	req.Header = c.header
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return failed(err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols { // its body is the connection, which no context ends
		return reply{status: res.StatusCode}, nil
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	if err != nil {
		return failed(fmt.Errorf("reading the reply: %w", err))
	}
	return reply{status: res.StatusCode, contentType: res.Header.Get("Content-Type"), body: text}, nil
}

// timeoutError is the failure of a host to be reached or to answer in time.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Unwrap() error   { return os.ErrDeadlineExceeded }
