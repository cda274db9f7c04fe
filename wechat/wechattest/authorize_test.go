package wechattest_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"preauth"
	"preauth/wechat/wechattest"
)

// issue has the server issue a code to a component.
func issue(t *testing.T, server *wechattest.Server, appid string) preauth.Secret {
	t.Helper()
	call(t, server, appid, "token-"+appid)
	codes := server.Issued(appid)
	if len(codes) == 0 {
		t.Fatal("no code was issued")
	}
	return codes[len(codes)-1]
}

// A code serves the first account that authorizes with it, as long as it lives.
func TestWhoMayAuthorize(t *testing.T) {
	now := time.Date(2026, time.March, 14, 9, 0, 0, 0, time.UTC)
	server := start(t, wechattest.Options{AnyToken: true, CodeLife: 30 * time.Minute, Now: func() time.Time { return now }})
	code, other := issue(t, server, "wx1"), issue(t, server, "wx1")
	for _, step := range []struct {
		what       string
		after      time.Duration
		code       preauth.Secret
		authorizer string
		want       error
	}{
		{"the first account", 0, code, "wxa", nil},
		{"the first account again", 0, code, "wxa", nil},
		{"a second account", 0, code, "wxb", wechattest.ErrCodeUsed},
		{"the second account, with a code of its own", 0, other, "wxb", nil},
		{"a code that was never issued", 0, preauth.NewSecret("preauthcode@@@x"), "wxa", wechattest.ErrCodeUnknown},
		{"no code", 0, preauth.Secret{}, "wxa", wechattest.ErrCodeUnknown},
		{"the last moment", 30*time.Minute - 1, code, "wxa", nil},
		{"an expired code", 1, code, "wxa", wechattest.ErrCodeExpired},
	} {
		now = now.Add(step.after)
		if err := server.Authorize(step.code, step.authorizer); !errors.Is(err, step.want) || (err == nil) != (step.want == nil) {
			t.Errorf("%s: got %v, want %v", step.what, err, step.want)
		}
	}
	if want := "预授权码已经被授权过，不能重复使用"; wechattest.ErrCodeUsed.Error() != want {
		t.Errorf("a second account reads %q, want %q", wechattest.ErrCodeUsed, want)
	}
}

// A pushed request, decrypted.
type pushed struct {
	signed string // the query
	text   []byte
}

const (
	pushToken = "a-token"
	aesKey    = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
)

// receiver registers a platform and takes its pushes. It answers with each of the given answers once,
// and then with "success".
func receiver(t *testing.T, server *wechattest.Server, answers ...http.HandlerFunc) <-chan pushed {
	t.Helper()
	pushes := make(chan pushed, 100)
	var count atomic.Int32
	receiving := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/push" || r.URL.Query().Get("own") != "1" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		pushes <- pushed{r.URL.RawQuery, opened(t, r.URL.Query(), body)}
		if n := int(count.Add(1)); n <= len(answers) {
			answers[n-1](w, r)
			return
		}
		_, _ = w.Write([]byte("success"))
	}))
	t.Cleanup(receiving.Close)
	if err := server.Register(platformAt(receiving.URL + "/push?own=1")); err != nil {
		t.Fatal(err)
	}
	return pushes
}

func platformAt(url string) wechattest.Platform {
	return wechattest.Platform{
		AppID: "wx1", AppSecret: preauth.NewSecret("a-secret"),
		PushURL: url, PushToken: preauth.NewSecret(pushToken), EncodingAESKey: preauth.NewSecret(aesKey),
	}
}

// opened returns the text of a push, as WeChat documents the way to it. The receiver calls it, so it
// must not end the test.
func opened(t *testing.T, query url.Values, body []byte) []byte {
	t.Helper()
	var envelope struct{ AppID, Encrypt string }
	if err := xml.Unmarshal(bytes.ReplaceAll(body, []byte("AppId"), []byte("AppID")), &envelope); err != nil || envelope.AppID != "wx1" {
		t.Errorf("%v in %s", err, body)
	}
	for name, texts := range map[string][]string{
		"signature":     {pushToken, query.Get("timestamp"), query.Get("nonce")},
		"msg_signature": {pushToken, query.Get("timestamp"), query.Get("nonce"), envelope.Encrypt},
	} {
		slices.Sort(texts)
		if want := fmt.Sprintf("%x", sha1.Sum([]byte(strings.Join(texts, "")))); query.Get(name) != want || query.Get("encrypt_type") != "aes" {
			t.Errorf("%s is %q, want %q", name, query.Get(name), want)
		}
	}
	text, err := base64.StdEncoding.DecodeString(envelope.Encrypt)
	if err != nil || len(text)%32 != 0 {
		t.Errorf("%d bytes, %v", len(text), err)
		return nil
	}
	key, _ := base64.StdEncoding.DecodeString(aesKey + "=")
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Error(err)
		return nil
	}
	cipher.NewCBCDecrypter(block, key[:16]).CryptBlocks(text, text)
	padding := text[len(text)-1]
	end := 20 + binary.BigEndian.Uint32(text[16:])
	if rest := string(text[end:]); rest != "wx1"+strings.Repeat(string(rune(padding)), int(padding)) {
		t.Errorf("the text ends with %q", rest)
	}
	return text[20:end]
}

func next(t *testing.T, pushes <-chan pushed) pushed {
	t.Helper()
	select {
	case push := <-pushes:
		return push
	case <-time.After(time.Minute):
		t.Fatal("no push came")
		return pushed{}
	}
}

func TestPush(t *testing.T) {
	now := time.Date(2026, time.March, 14, 9, 6, 30, 0, time.UTC)
	server := start(t, wechattest.Options{AnyToken: true, Now: func() time.Time { return now }})
	pushes := receiver(t, server)
	code, later := issue(t, server, "wx1"), issue(t, server, "wx1")
	for _, step := range []struct {
		code     preauth.Secret
		account  string
		infoType string
	}{
		{code, "wxa", "authorized"},
		{code, "wxa", "updateauthorized"},
		{later, "wxa", "updateauthorized"},
	} {
		if err := server.Authorize(step.code, step.account); err != nil {
			t.Fatal(err)
		}
		body := next(t, pushes).text
		var push struct {
			XMLName                      xml.Name `xml:"xml"`
			AppID                        string   `xml:"AppId"`
			CreateTime                   int64
			InfoType                     string
			AuthorizerAppid              string
			AuthorizationCode            string
			AuthorizationCodeExpiredTime int64
			PreAuthCode                  string
		}
		if err := xml.Unmarshal(body, &push); err != nil {
			t.Fatalf("%v\n%s", err, body)
		}
		if push.AppID != "wx1" || push.CreateTime != now.Unix() || push.InfoType != step.infoType || push.AuthorizerAppid != step.account ||
			len(push.AuthorizationCode) < 64 || push.AuthorizationCodeExpiredTime != now.Unix()+3600 || push.PreAuthCode != step.code.Reveal() {
			t.Errorf("pushed was %+v", push)
		}
	}
	if err := server.Authorize(code, "wxb"); err == nil {
		t.Error("a second account authorized")
	}
	server.Close() // waits for pushes under way
	if len(pushes) > 0 {
		t.Errorf("refused, and pushed:\n%s", (<-pushes).text)
	}
}

// A push is repeated until the receiver answers with "success".
func TestPushIsRepeated(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	pushes := receiver(t, server,
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) },
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	)
	if err := server.Authorize(issue(t, server, "wx1"), "wxa"); err != nil {
		t.Fatal(err)
	}
	first := next(t, pushes)
	for range 3 {
		if again := next(t, pushes); !reflect.DeepEqual(again, first) {
			t.Errorf("repeated was\n%+v\nfor\n%+v", again, first)
		}
	}
	server.Close()
	if len(pushes) > 0 {
		t.Error("the push was repeated after the success")
	}
}

// The end of the server ends a push that nobody takes.
func TestCloseEndsPushes(t *testing.T) {
	server := start(t, wechattest.Options{AnyToken: true})
	released := make(chan struct{})
	pushes := receiver(t, server, func(http.ResponseWriter, *http.Request) { <-released })
	t.Cleanup(func() { close(released) }) // before the receiver is closed, which waits for its handlers
	if err := server.Authorize(issue(t, server, "wx1"), "wxa"); err != nil {
		t.Fatal(err)
	}
	next(t, pushes)
	server.Close()
}
