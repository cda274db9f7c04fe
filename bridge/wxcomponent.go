package main

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // wxcomponent wants passwords so
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"preauth"
	"preauth/internal/app"
)

// wxcomponentCommand announces the token of a wxcloudrun-wxcomponent.
type wxcomponentCommand struct {
	common

	Component string        `arg:"" help:"The component_appid. wxcomponent does not say whose token it has."`
	URL       string        `name:"wxcomponent-url" group:"wxcomponent" env:"PREAUTH_BRIDGE_WXCOMPONENT_URL" default:"http://127.0.0.1:8081" placeholder:"URL" help:"Where wxcomponent listens: its inner service, which answers its own machine only, or with a user the address of its pages."`
	User      string        `name:"wxcomponent-user" group:"wxcomponent" env:"PREAUTH_BRIDGE_WXCOMPONENT_USER" placeholder:"NAME" help:"User of wxcomponent's pages. Without one, its inner service is asked."`
	Password  string        `name:"wxcomponent-password" group:"wxcomponent" env:"PREAUTH_BRIDGE_WXCOMPONENT_PASSWORD" placeholder:"PASSWORD" help:"Password of that user. Prefer the variable: flags show in the process list."`
	Poll      time.Duration `name:"poll" group:"wxcomponent" env:"PREAUTH_BRIDGE_POLL" default:"10s" range:"100ms..5m" help:"Time between two questions."`
}

// Run announces the token until ctx ends.
func (c wxcomponentCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := preauth.CheckAppID(c.Component); err != nil {
		return app.UsageErrorf("<component>: %w", err)
	}
	at, err := url.Parse(c.URL)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" || at.User != nil || at.RawQuery != "" || at.Fragment != "" {
		return app.UsageErrorf("--wxcomponent-url ($PREAUTH_BRIDGE_WXCOMPONENT_URL) must be an http or https address, such as http://127.0.0.1:8081")
	}
	if (c.User == "") != (c.Password == "") {
		return app.UsageErrorf("--wxcomponent-user and --wxcomponent-password ($PREAUTH_BRIDGE_WXCOMPONENT_PASSWORD) go together: give both or none")
	}
	w := &wxcomponent{base: strings.TrimRight(c.URL, "/"), user: c.User, password: preauth.NewSecret(c.Password), http: newHTTPClient()}
	defer w.http.CloseIdleConnections()
	return c.serve(ctx, to, func(s *session) (func(context.Context), error) {
		part, announcer := s.part("wxcomponent", "wxcomponent"), newAnnouncer(s)
		return func(ctx context.Context) {
			loop[struct{}](ctx, s.nc, c.Poll, nil, func(ctx context.Context) error {
				token, err := w.token(ctx)
				if err != nil {
					return part.note(err)
				}
				err = announcer.offer(ctx, c.Component, token, time.Time{})
				if errors.Is(err, errUnusable) {
					return part.note(err)
				}
				_ = part.note(nil)
				return err
			}, nil)
		}, nil
	})
}

// newHTTPClient returns a client that asks directly. A redirect would take the password elsewhere.
func newHTTPClient() *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second, Transport: &http.Transport{MaxResponseHeaderBytes: maxReply},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// wxcomponent asks a wxcloudrun-wxcomponent for its token. Make it with the fields before jwt. It is
// for one goroutine.
type wxcomponent struct {
	base     string
	user     string // "" for the inner service
	password preauth.Secret
	http     *http.Client

	jwt       preauth.Secret // of the last login
	loginNext time.Time      // after a login that was refused
}

const (
	innerPath, adminPath, loginPath = "/inner/component-access-token", "/wxcomponent/admin/component-access-token", "/wxcomponent/auth"
	// loginPause is the pause after a login that was refused. wxcomponent locks an address out that
	// fails ten times in an hour.
	loginPause = 10 * time.Minute
	// maxReply bounds a reply of wxcomponent, in bytes.
	maxReply = 64 << 10
)

// The codes of wxcomponent's replies.
const (
	codeOK            = 0
	codeNotAuthorized = 1000
	codeLoginOver     = 1003
	codeLoginUnknown  = 1004
	codeLoginRefused  = 1006
	codeNoTicket      = 1007
	codeLockedOut     = 1011
)

// reply is how wxcomponent answers everything.
type reply struct {
	Code int `json:"code"`
	Data struct {
		Token string `json:"token"`
		JWT   string `json:"jwt"`
	} `json:"data"`
}

// replyError is a code that is not OK.
type replyError int

func (e replyError) Error() string {
	switch e {
	case codeNotAuthorized:
		return "it does not answer this machine (code 1000): run the bridge beside it, or give a user"
	case codeLoginRefused:
		return "it refuses the login (code 1006): correct user and password"
	case codeNoTicket:
		return "it has no component_verify_ticket yet (code 1007): WeChat pushes one every ten minutes"
	case codeLockedOut:
		return "it refused too many logins in this hour (code 1011): correct user and password, and wait"
	}
	return fmt.Sprintf("it answers with code %d: look into its log", int(e))
}

// token returns the token. Its error has nothing of what wxcomponent sent but a code.
func (w *wxcomponent) token(ctx context.Context) (string, error) {
	if w.user == "" {
		return w.ask(ctx, innerPath)
	}
	if !w.jwt.IsZero() {
		token, err := w.ask(ctx, adminPath)
		if !isLoginOver(err) {
			return token, err
		}
		w.jwt = preauth.Secret{}
	}
	if err := w.login(ctx); err != nil {
		return "", err
	}
	token, err := w.ask(ctx, adminPath)
	if isLoginOver(err) {
		w.jwt = preauth.Secret{} // the next question logs in
		err = errors.New("it does not accept the login that it has just confirmed")
	}
	return token, err
}

// isLoginOver reports whether wxcomponent wants a new login.
func isLoginOver(err error) bool {
	code, ok := errors.AsType[replyError](err)
	return ok && (code == codeNotAuthorized || code == codeLoginOver || code == codeLoginUnknown)
}

func (w *wxcomponent) ask(ctx context.Context, path string) (string, error) {
	answer, err := w.do(ctx, http.MethodGet, path, nil)
	if err == nil && answer.Data.Token == "" {
		err = errors.New("its answer has no token: is the address that of a wxcloudrun-wxcomponent?")
	}
	return answer.Data.Token, err
}

// login logs in. The password travels as wxcomponent's own page sends it.
func (w *wxcomponent) login(ctx context.Context) error {
	if wait := time.Until(w.loginNext); wait > 0 {
		return fmt.Errorf("the next login is tried in %s", wait.Round(time.Second))
	}
	sum := md5.Sum([]byte(w.password.Reveal())) //nolint:gosec // the same
	body, err := json.Marshal(map[string]string{"username": w.user, "password": hex.EncodeToString(sum[:])})
	if err != nil {
		return err
	}
	answer, err := w.do(ctx, http.MethodPut, loginPath, body)
	if err == nil && answer.Data.JWT == "" {
		err = errors.New("its answer to the login has no jwt")
	}
	if err != nil {
		if _, refused := errors.AsType[replyError](err); refused {
			w.loginNext = time.Now().Add(loginPause)
		}
		return err
	}
	w.jwt = preauth.NewSecret(answer.Data.JWT)
	return nil
}

// do sends a request and returns the answer, with a replyError if its code is not OK.
func (w *wxcomponent) do(ctx context.Context, method, path string, body []byte) (answer reply, err error) {
	request, err := http.NewRequestWithContext(ctx, method, w.base+path, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if !w.jwt.IsZero() {
		request.Header.Set("Authorization", "Bearer "+w.jwt.Reveal())
	}
	response, err := w.http.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return reply{}, fmt.Errorf("reading its answer: %w", err)
	}
	var code struct {
		Code *int `json:"code"`
	}
	if json.Unmarshal(content, &code) != nil || code.Code == nil {
		return reply{}, fmt.Errorf("HTTP %d, and no answer of a wxcloudrun-wxcomponent: check the address", response.StatusCode)
	}
	if *code.Code != codeOK {
		return reply{}, replyError(*code.Code)
	}
	if response.StatusCode != http.StatusOK {
		return reply{}, fmt.Errorf("HTTP %d with an answer that reports no failure: look into the log of wxcomponent", response.StatusCode)
	}
	if json.Unmarshal(content, &answer) != nil {
		return reply{}, errors.New("its answer has another form than that of wxcloudrun-wxcomponent 2")
	}
	return answer, nil
}
