package main

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/natsserver"
)

// tencent stands in for a wxcloudrun-wxcomponent: it answers as its source says that it does.
type tencent struct {
	*httptest.Server

	mu       sync.Mutex
	token    string // what the data has; "" for no ticket
	raw      string // instead of an answer
	status   int
	password string
	jwt      string
	forgets  bool // each login at once
	logins   int
	asked    int
}

func startTencent(t *testing.T) *tencent {
	w := &tencent{token: "first" + secret, status: http.StatusOK, password: secret, jwt: secret + "1"}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

func (w *tencent) ServeHTTP(out http.ResponseWriter, in *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	answer := func(status, code int, data map[string]string) {
		out.Header().Set("Content-Type", "application/json; charset=utf-8")
		out.WriteHeader(status)
		_ = json.NewEncoder(out).Encode(struct {
			Code     int               `json:"code"`
			ErrorMsg string            `json:"errorMsg"` //nolint:tagliatelle // given
			Data     map[string]string `json:"data,omitempty"`
		}{code, secret, data})
	}
	var path string
	switch path = in.Method + " " + in.URL.Path; {
	case w.raw != "":
		out.WriteHeader(w.status)
		_, _ = io.WriteString(out, w.raw)
	case path == "PUT /wxcomponent/auth":
		w.logins++
		var login struct{ Username, Password string }
		sum := md5.Sum([]byte(w.password))
		if err := json.NewDecoder(in.Body).Decode(&login); err != nil || login.Username != "admin" || login.Password != hex.EncodeToString(sum[:]) {
			answer(http.StatusOK, 1006, nil)
			return
		}
		answer(http.StatusOK, 0, map[string]string{"jwt": w.jwt})
	case path == "GET /wxcomponent/admin/component-access-token" && (w.forgets || in.Header.Get("Authorization") != "Bearer "+w.jwt):
		answer(http.StatusOK, 1004, nil)
	case path != "GET /inner/component-access-token" && path != "GET /wxcomponent/admin/component-access-token":
		http.NotFound(out, in)
	case w.token == "":
		answer(http.StatusOK, 1007, nil)
	default:
		answer(http.StatusOK, 0, map[string]string{"token": w.token})
	}
}

func (w *tencent) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func TestTokenOfWxcomponent(t *testing.T) {
	b, w := startBroker(t, natsserver.Options{}), startTencent(t)
	bridge := startBridge(t, b.URL(), "", "wxcomponent", "wx1", "--wxcomponent-url="+w.URL+"/")
	event := b.await(t, "wx1", "first"+secret, 1)
	if left := time.Until(event.ExpiresAt); left > 2*time.Hour || left < 2*time.Hour-apptest.Patience {
		t.Errorf("the token lives %v more, want 2 h", left)
	}
	bridge.awaitReady(t, true)
	w.set(func() { w.token = "second" + secret })
	b.await(t, "wx1", "second"+secret, 1)
	b.await(t, "wx1", "first"+secret, 1)

	for says, change := range map[string]func(){
		"no component_verify_ticket yet": func() { w.token = "" },
		"HTTP 502, and no answer":        func() { w.raw, w.status = "<html>"+secret, http.StatusBadGateway },
		"another form":                   func() { w.raw, w.status = `{"code":0,"data":["`+secret+`"]}`, http.StatusOK },
		"has no token":                   func() { w.raw = `{"code":0,"data":{"jwt":"` + secret + `"}}` },
		"HTTP 200, and no answer":        func() { w.raw = `{"code":0,"data":"` + strings.Repeat(secret, 10000) + `"}` },
		"answers with code 1002":         func() { w.raw = `{"code":1002,"data":"` + secret + `"}` },
		"does not answer this machine":   func() { w.raw, w.status = `{"code":1000}`, http.StatusUnauthorized },
		"HTTP 500 with an answer":        func() { w.raw, w.status = `{"code":0,"data":{"token":"x`+secret+`"}}`, http.StatusInternalServerError },
		"HTTP 302":                       func() { w.raw, w.status = "elsewhere", http.StatusFound },
	} {
		w.set(change)
		apptest.Eventually(t, says, func() bool {
			status, body := bridge.get(t, "/readyz")
			return status == http.StatusServiceUnavailable && strings.Contains(body, "wxcomponent: ") && strings.Contains(body, says)
		})
		w.set(func() { w.raw, w.status = "", http.StatusOK })
	}
	w.set(func() { w.token = "third" + secret })
	b.await(t, "wx1", "third"+secret, 1)
	bridge.awaitReady(t, true)
	w.CloseClientConnections()
	w.set(func() { w.token = "with a space" })
	apptest.Eventually(t, "the token is refused", func() bool {
		_, body := bridge.get(t, "/readyz")
		return strings.Contains(body, "wxcomponent: not usable: preauth: announce: invalid: component_access_token must be")
	})
	w.set(func() { w.token = "fourth" + secret })
	b.await(t, "wx1", "fourth"+secret, 1)
}

func TestLoginAtWxcomponent(t *testing.T) {
	b, w := startBroker(t, natsserver.Options{}), startTencent(t)
	args := []string{"wxcomponent", "wx1", "--wxcomponent-url=" + w.URL, "--wxcomponent-user=admin"}
	bridge := startBridge(t, b.URL(), "", args[0], append(args[1:], "--wxcomponent-password="+secret)...)
	b.await(t, "wx1", "first"+secret, 1)
	bridge.awaitReady(t, true)
	logins := func() (n int) {
		w.set(func() { n = w.logins })
		return n
	}
	if n := logins(); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
	bridge.Stop()

	w.set(func() { w.password, w.logins = "another", 0 })
	bridge = startBridge(t, b.URL(), "", args[0], append(args[1:], "--wxcomponent-password="+secret)...)
	bridge.Err.Await(t, `wxcomponent away","error":"it refuses the login \(code 1006\)`)
	apptest.Eventually(t, "it waits", func() bool {
		_, body := bridge.get(t, "/readyz")
		return strings.Contains(body, "the next login is tried in ")
	})
	if n := logins(); n != 1 {
		t.Errorf("%d logins, want 1: wxcomponent locks out who fails ten times", n)
	}
}

// A login that is over is made again at once. It is an outage only if that does not help.
func TestLoginThatEnds(t *testing.T) {
	w := startTencent(t)
	from := &wxcomponent{base: w.URL, user: "admin", password: preauth.NewSecret(secret), http: newHTTPClient()}
	defer from.http.CloseIdleConnections()
	ask := func(want, wantErr string) {
		t.Helper()
		if token, err := from.token(t.Context()); token != want || !strings.Contains(fmt.Sprint(err), wantErr) {
			t.Errorf("the token is %q, %v; want %q, %s", token, err, want, wantErr)
		}
	}
	ask("first"+secret, "nil")
	w.set(func() { w.jwt = secret + "2" })
	ask("first"+secret, "nil")
	if w.logins != 2 || !strings.HasPrefix(fmt.Sprint(from.jwt), "[redacted]") {
		t.Errorf("%d logins, want 2", w.logins)
	}
	w.set(func() { w.jwt, w.forgets = secret+"3", true })
	ask("", "it does not accept the login that it has just confirmed")
	ask("", "it does not accept the login that it has just confirmed")
	if w.logins != 4 {
		t.Errorf("%d logins, want one for each question", w.logins)
	}
	w.set(func() { w.forgets = false })
	ask("first"+secret, "nil")
	w.set(func() { w.jwt, w.password = secret+"4", "another" })
	ask("", "it refuses the login (code 1006)")
	ask("", "the next login is tried in ")
}

// An answer that never ends costs neither memory nor patience.
func TestAnswersWithoutEnd(t *testing.T) {
	for says, write := range map[string]func(out http.ResponseWriter, more func() bool){
		"context deadline exceeded": func(http.ResponseWriter, func() bool) {},
		"reading its answer: context deadline exceeded": func(out http.ResponseWriter, more func() bool) {
			_, _ = io.WriteString(out, `{"code":0,"data":{"token":"`+secret)
			more()
		},
		"HTTP 200, and no answer": func(out http.ResponseWriter, more func() bool) {
			_, _ = io.WriteString(out, `{"code":0,"data":{"token":"`)
			for more() {
				_, _ = io.WriteString(out, strings.Repeat(secret, 1000))
			}
		},
		"server response headers exceeded": func(out http.ResponseWriter, more func() bool) {
			for i := range 100 {
				out.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 10_000))
			}
			more()
		},
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
				write(out, func() bool { return http.NewResponseController(out).Flush() == nil && in.Context().Err() == nil })
				<-in.Context().Done()
			}))
			defer server.Close()
			from := &wxcomponent{base: server.URL, http: newHTTPClient()}
			defer from.http.CloseIdleConnections()
			if strings.Contains(says, "deadline") {
				from.http.Timeout = 200 * time.Millisecond
			}
			token, err := from.token(t.Context())
			if token != "" || err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%q, %v", token, err)
			}
			apptest.HasNoSecret(t, fmt.Sprint(err))
		})
	}
}
