package wechat_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

func TestRequestForTheQuota(t *testing.T) {
	requests := make(chan *http.Request, 1)
	bodies := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- r
		bodies <- string(body)
		// The answer of WeChat's documentation, with figures in the places of its zeros.
		io.WriteString(w, `{"errcode":0,"errmsg":"ok","quota":{"daily_limit":10000,"used":123,"remain":9877},"rate_limit":{"call_count":1000,"refresh_second":60}}`)
	}))
	defer server.Close()
	client := newClient(t, wechat.Config{BaseURLs: []string{server.URL + "/gateway/"}})
	quota, err := client.Quota(t.Context(), preauth.NewSecret(token))
	want := wechat.Quota{DailyLimit: 10000, Used: 123, Remaining: 9877, RateCalls: 1000, RateWindow: time.Minute}
	if err != nil || quota != want {
		t.Errorf("%+v, %v; want %+v", quota, err, want)
	}
	r, body := <-requests, <-bodies
	if r.Method != http.MethodPost || r.URL.Path != "/gateway/cgi-bin/openapi/quota/get" || r.URL.RawQuery != "access_token="+url.QueryEscape(token) {
		t.Errorf("%s %s", r.Method, r.URL)
	}
	if want := `{"cgi_path":"/cgi-bin/component/api_create_preauthcode"}`; body != want {
		t.Errorf("body %s, want %s", body, want)
	}
}

func TestRepliesAboutTheQuota(t *testing.T) {
	ok := wechat.Quota{DailyLimit: 100, Used: 40, Remaining: 60}
	rated := ok
	rated.RateCalls, rated.RateWindow = 30, time.Minute
	for _, test := range []struct {
		name   string
		status int
		body   string
		want   wechat.Quota
		class  preauth.Class // "" for a quota
		says   string
	}{
		{"as usual", 200, `{"errcode":0,"errmsg":"ok","quota":{"daily_limit":100,"used":40,"remain":60},"rate_limit":{"call_count":30,"refresh_second":60}}`, rated, "", ""},
		{"without a rate", 200, `{"errcode":0,"quota":{"daily_limit":100,"used":40,"remain":60}}`, ok, "", ""},
		{"a rate without a time", 200, `{"quota":{"daily_limit":100,"used":40,"remain":60},"rate_limit":{"call_count":30}}`, ok, "", ""},
		{"numbers in strings", 200, `{"errcode":"0","quota":{"daily_limit":"100","used":"40","remain":"60"}}`, ok, "", ""},
		{"nothing left", 200, `{"quota":{"daily_limit":100,"used":100,"remain":0}}`, wechat.Quota{DailyLimit: 100, Used: 100}, "", ""},
		{"without used", 200, `{"quota":{"daily_limit":100,"remain":60}}`, wechat.Quota{DailyLimit: 100, Remaining: 60}, "", ""},

		// The sample of WeChat's documentation. Taken for a quota, it would stop all calls.
		{
			"one call a day, and one a minute", 200, `{"quota":{"daily_limit":1,"remain":1},"rate_limit":{"call_count":1,"refresh_second":60}}`,
			wechat.Quota{DailyLimit: 1, Remaining: 1, RateCalls: 1, RateWindow: time.Minute},
			"", "",
		},
		{"a rate without calls", 200, `{"quota":{"daily_limit":100,"used":40,"remain":60},"rate_limit":{"call_count":0,"refresh_second":60}}`, ok, "", ""},
		{"as many as can be", 200, `{"quota":{"daily_limit":2147483648,"remain":0}}`, wechat.Quota{DailyLimit: 1 << 31}, "", ""},
		{"as long as can be", 200, `{"quota":{"daily_limit":100,"remain":60}}` + strings.Repeat(" ", 64<<10-41), wechat.Quota{DailyLimit: 100, Remaining: 60}, "", ""},

		{"a byte longer", 200, `{"quota":{"daily_limit":100,"remain":60}}` + strings.Repeat(" ", 64<<10-40), wechat.Quota{}, preauth.ClassBadReply, "longer"},
		{"more than can be", 200, `{"quota":{"daily_limit":2147483649,"remain":0}}`, wechat.Quota{}, preauth.ClassBadReply, "daily_limit is not a whole number from 1 to 2147483648"},
		{"errcode twice", 200, `{"errcode":0,"errcode":0,"errmsg":"ok so far","quota":{"daily_limit":100,"remain":60}}`, wechat.Quota{}, preauth.ClassBadReply, "ok so far: errcode appears twice"},
		{"WeChat's own words beside zeros", 200, `{"errmsg":"ok so far","quota":{"daily_limit":0}}`, wechat.Quota{}, preauth.ClassBadReply, "ok so far"},
		{"WeChat's own words beside a quota", 502, `{"errmsg":"ok so far","quota":{"daily_limit":100,"remain":60}}`, wechat.Quota{}, preauth.ClassTransient, "ok so far"},
		{"zeros", 200, `{"errcode":0,"errmsg":"ok","quota":{"daily_limit":0,"used":0,"remain":0}}`, wechat.Quota{}, preauth.ClassBadReply, "daily_limit"},
		{"no remain", 200, `{"quota":{"daily_limit":100,"used":40}}`, wechat.Quota{}, preauth.ClassBadReply, "remain is missing"},
		{"remain null", 200, `{"quota":{"daily_limit":100,"used":40,"remain":null}}`, wechat.Quota{}, preauth.ClassBadReply, "remain is missing"},
		{"remain twice", 200, `{"quota":{"daily_limit":100,"remain":0,"remain":60}}`, wechat.Quota{}, preauth.ClassBadReply, "remain appears twice"},
		{"quota twice", 200, `{"quota":{"daily_limit":100,"remain":0},"quota":{"remain":60}}`, wechat.Quota{}, preauth.ClassBadReply, "remain appears twice"},
		{"remain negative", 200, `{"quota":{"daily_limit":100,"remain":-1}}`, wechat.Quota{}, preauth.ClassBadReply, "remain"},
		{"remain a fraction", 200, `{"quota":{"daily_limit":100,"remain":1.5}}`, wechat.Quota{}, preauth.ClassBadReply, "remain"},
		{"remain enormous", 200, `{"quota":{"daily_limit":100,"remain":1e400}}`, wechat.Quota{}, preauth.ClassBadReply, "remain"},
		{"remain no number", 200, `{"quota":{"daily_limit":100,"remain":"much"}}`, wechat.Quota{}, preauth.ClassBadReply, "remain is not a number"},
		{"a code instead", 200, `{"pre_auth_code":"preauthcode@@@x","expires_in":1800}`, wechat.Quota{}, preauth.ClassBadReply, "daily_limit is missing"},
		{"no JSON", 200, `<html>`, wechat.Quota{}, preauth.ClassBadReply, "JSON"},
		{"too long", 200, `{"quota":` + strings.Repeat(" ", 64<<10) + `{"daily_limit":100,"remain":60}}`, wechat.Quota{}, preauth.ClassBadReply, "longer"},
		{"not found", 404, `404 page not found`, wechat.Quota{}, preauth.ClassBadReply, "HTTP 404"},
		{"an error of the gateway", 502, `{"quota":{"daily_limit":100,"remain":60}}`, wechat.Quota{}, preauth.ClassTransient, "HTTP 502"},
		{"token rejected", 200, `{"errcode":40001,"errmsg":"invalid credential rid: 1-2-3"}`, wechat.Quota{}, preauth.ClassTokenRejected, "errcode 40001: invalid credential rid: 1-2-3"},
		{"not one's own", 200, `{"errcode":76022,"errmsg":"no permission"}`, wechat.Quota{}, preauth.ClassUnknown, "errcode 76022"},
	} {
		t.Run(test.name, func(t *testing.T) {
			quota, err := wechat.ParseQuota(test.status, []byte(test.body), preauth.NewSecret(token))
			if quota != test.want {
				t.Errorf("%+v, want %+v", quota, test.want)
			}
			if test.class == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			e, ok := errors.AsType[*wechat.Error](err)
			if !ok || e.Class != test.class || !strings.HasPrefix(err.Error(), "wechat: no quota: ") || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want class %s and %q", err, test.class, test.says)
			}
		})
	}
}

func TestQuotaIsAskedOfTheNextHost(t *testing.T) {
	down, server := start(t, wechattest.Options{}), start(t, wechattest.Options{DailyQuota: 10})
	down.Close()
	client := newClient(t, wechat.Config{BaseURLs: []string{down.URL(), server.URL()}})
	if quota, err := client.Quota(t.Context(), preauth.NewSecret(token)); err != nil || quota.Remaining != 10 {
		t.Errorf("%+v, %v", quota, err)
	}
	server.Close()
	_, err := client.Quota(t.Context(), preauth.NewSecret(token))
	if e, ok := errors.AsType[*wechat.Error](err); !ok || e.Class != preauth.ClassTransient {
		t.Errorf("%v, want transient", err)
	}
}

// A quota is either refused or one that calls can be counted against.
func FuzzQuota(f *testing.F) {
	for _, body := range []string{
		`{"errcode":0,"errmsg":"ok","quota":{"daily_limit":100,"used":40,"remain":60},"rate_limit":{"call_count":30,"refresh_second":60}}`,
		`{"quota":{"daily_limit":"100","used":null,"remain":"6e1"}}`,
		`{"errcode":76022,"errmsg":"` + token + `"}`,
		`{"quota":[]}`,
	} {
		f.Add(200, []byte(body))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		quota, err := wechat.ParseQuota(status, body, preauth.NewSecret(token))
		if err != nil {
			saysNothing(t, err, token)
			if quota != (wechat.Quota{}) {
				t.Errorf("%+v came with %v", quota, err)
			}
			return
		}
		if quota.DailyLimit < 1 || quota.Used < 0 || quota.Remaining < 0 || quota.RateCalls < 0 || (quota.RateCalls == 0) != (quota.RateWindow == 0) {
			t.Errorf("%+v", quota)
		}
	})
}
