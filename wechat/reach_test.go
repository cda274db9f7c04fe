package wechat_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

func TestReach(t *testing.T) {
	server := start(t, wechattest.Options{})
	away := httptest.NewServer(nil)
	away.Close()
	portal := httptest.NewServer(http.RedirectHandler("/login", http.StatusFound))
	defer portal.Close()
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL(), away.URL, portal.URL}})

	got := client.Reach(t.Context())
	if len(got) != 3 {
		t.Fatalf("%d answers", len(got))
	}
	if r := got[0]; r.Err != nil || r.Local != "127.0.0.1" || time.Since(r.Date) > time.Minute || r.Host == "" {
		t.Errorf("WeChat: %+v", r)
	}
	if r := got[1]; r.Err == nil || r.Err.Class != preauth.ClassTransient || !strings.Contains(r.Err.Error(), "connection refused") || r.Local != "" {
		t.Errorf("a host that is away: %+v", r)
	}
	if r := got[2]; r.Err == nil || r.Err.Class != preauth.ClassBadReply {
		t.Errorf("something else than WeChat: %+v", r)
	}
	if n := len(server.Issued(appid)); n != 0 {
		t.Errorf("%d codes were made", n)
	}

	server.Next("", wechattest.Error(40001, ""))
	if r := client.Reach(t.Context())[0]; r.Err != nil {
		t.Errorf("WeChat, with another of its words for no token: %+v", r)
	}
	server.Next("", wechattest.Fault{Status: http.StatusNotFound, Body: `{"errcode":41001}`})
	if r := client.Reach(t.Context())[0]; r.Err == nil || !strings.HasPrefix(r.Err.Error(), "wechat: no answer: request: HTTP 404") {
		t.Errorf("a page that is not there: %+v", r)
	}

	server.Next("", wechattest.Fault{ErrCode: 61004})
	if r := client.Reach(t.Context())[0]; r.Err == nil || r.Err.Class != preauth.ClassAddressNotAllowed || r.Err.RequestIP != "127.0.0.1" {
		t.Errorf("an address that is not allowed: %+v", r)
	}
}
