package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
)

// internet serves, over TLS, the domains that the browser finds here: the platform's and WeChat's.
type internet struct {
	server *httptest.Server

	mu       sync.Mutex
	platform http.Handler // what is at https://auth.example.com
	wechat   http.Handler // what is at WeChat's domains
	arrivals []arrival
}

// platform is the address of the platform, on the domain that it has registered with WeChat.
const platform = "https://auth.example.com"

// arrival is a visit of WeChat's authorization pages.
type arrival struct {
	host, code string
	// referer is where the visitor came from, as WeChat sees it.
	referer string
}

func startInternet() *internet {
	i := &internet{}
	i.server = httptest.NewTLSServer(i)
	return i
}

// rules have Chromium find the domains here.
func (i *internet) rules() string {
	address := i.server.Listener.Addr()
	return fmt.Sprintf("MAP *.example.com %s, MAP *.weixin.qq.com %s", address, address)
}

// connect connects the domains to a platform and to WeChat.
func (i *internet) connect(platform, wechat http.Handler) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.platform, i.wechat, i.arrivals = platform, wechat, nil
}

// at returns what a server answers at a URL.
func at(server string) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		if u, err := url.Parse(server); err == nil {
			r.SetURL(u)
		}
	}}
}

// ServeHTTP answers as the host that the browser wants.
func (i *internet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/favicon.ico" { // for which browsers ask
		w.WriteHeader(http.StatusNoContent)
		return
	}
	i.mu.Lock()
	handler := i.platform
	if strings.HasSuffix(r.Host, ".weixin.qq.com") {
		handler = i.wechat
		i.arrivals = append(i.arrivals, arrival{r.Host, r.URL.Query().Get("pre_auth_code"), r.Referer()})
	}
	i.mu.Unlock()
	handler.ServeHTTP(w, r)
}

// arrived returns the visits of WeChat's pages so far.
func (i *internet) arrived() []arrival {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]arrival(nil), i.arrivals...)
}
