package wechattest

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"preauth"
)

// The errors of [Server.Authorize]: what WeChat's page tells the visitor. Only the words of
// ErrCodeUsed are known to be WeChat's.
var (
	// ErrCodeUsed means that another account authorized with the code.
	ErrCodeUsed = errors.New("预授权码已经被授权过，不能重复使用")
	// ErrCodeExpired means that the code's life is over.
	ErrCodeExpired = errors.New("the pre_auth_code has expired")
	// ErrCodeUnknown means that the server did not issue the code, or does not remember it: see
	// [Options].KeepCalls.
	ErrCodeUnknown = errors.New("the pre_auth_code is not valid")
)

const (
	// authorizationCodeLife is the life of an AuthorizationCode.
	authorizationCodeLife = time.Hour
	// pushTimeout is how long a receiver has to answer a push.
	pushTimeout = 5 * time.Second
	// firstRepeat and lastRepeat bound the wait before a push is repeated, which doubles. WeChat waits
	// longer; tests need not.
	firstRepeat, lastRepeat = 20 * time.Millisecond, time.Second
)

// push is WeChat's push of an authorization, as its receiver has it once it is decrypted.
type push struct {
	XMLName                      struct{} `xml:"xml"`
	AppID                        cdata    `xml:"AppId"`
	CreateTime                   int64    `xml:"CreateTime"` // Unix seconds, and so is the other one
	InfoType                     cdata    `xml:"InfoType"`
	AuthorizerAppID              cdata    `xml:"AuthorizerAppid"`
	AuthorizationCode            cdata    `xml:"AuthorizationCode"`
	AuthorizationCodeExpiredTime int64    `xml:"AuthorizationCodeExpiredTime"`
	PreAuthCode                  cdata    `xml:"PreAuthCode"`
}

// cdata is a text that stands in a CDATA section, as WeChat writes it.
type cdata struct {
	Text string `xml:",cdata"`
}

// ParsePush returns the event that the receiver of a push publishes. It does not have the push's
// AuthorizationCode.
func ParsePush(body []byte) (preauth.AuthorizationEvent, error) {
	var p push
	if err := xml.Unmarshal(body, &p); err != nil {
		return preauth.AuthorizationEvent{}, fmt.Errorf("wechattest: push: %w", err)
	}
	return preauth.AuthorizationEvent{
		AppID: p.AppID.Text, PreAuthCode: preauth.NewSecret(p.PreAuthCode.Text), AuthorizerAppID: p.AuthorizerAppID.Text,
		InfoType: p.InfoType.Text, AuthorizedAt: time.Unix(p.CreateTime, 0).UTC(),
	}, nil
}

// authorizations is what WeChat knows about authorizations.
type authorizations struct {
	mu       sync.Mutex
	receiver string
	// used has the account of each code that somebody authorized with.
	used map[string]string
	// granted has the accounts of each component.
	granted map[[2]string]bool
}

// PushTo makes the server push each authorization from now on to a receiver: it posts XML as
// WeChat's receivers have it once it is decrypted, and repeats that until the receiver answers with
// "success". [ParsePush] reads it. Encryption is left out, and so are the parameters with the
// signature.
func (s *Server) PushTo(url string) {
	a := &s.authorizations
	a.mu.Lock()
	defer a.mu.Unlock()
	a.receiver = url
}

// Authorize does what a visitor does on WeChat's page: with a code, the owner of an account
// authorizes the component that the code was issued to. The first account may do so again while the
// code lives. The error is [ErrCodeUsed], [ErrCodeExpired] or [ErrCodeUnknown].
//
// Authorize does not wait for the push to the receiver of [Server.PushTo].
func (s *Server) Authorize(code preauth.Secret, authorizer string) error {
	appid, expires, ok := s.issued(code)
	if !ok {
		return ErrCodeUnknown
	}
	now := s.options.Now()
	if !now.Before(expires) {
		return ErrCodeExpired
	}
	a := &s.authorizations
	a.mu.Lock()
	defer a.mu.Unlock()
	if first, used := a.used[code.Reveal()]; used && first != authorizer {
		return ErrCodeUsed
	}
	if a.used == nil {
		a.used, a.granted = map[string]string{}, map[[2]string]bool{}
	}
	a.used[code.Reveal()] = authorizer
	account, infoType := [2]string{appid, authorizer}, preauth.InfoAuthorized
	if a.granted[account] {
		infoType = preauth.InfoUpdateAuthorized
	}
	a.granted[account] = true
	if a.receiver == "" || !s.enter() {
		return nil
	}
	receiver, body := a.receiver, encodeXML(push{
		AppID: cdata{appid}, CreateTime: now.Unix(), InfoType: cdata{infoType}, AuthorizerAppID: cdata{authorizer},
		AuthorizationCode:            cdata{"queryauthcode@@@" + strings.TrimPrefix(newCode(s.options.CodeLength), codePrefix)},
		AuthorizationCodeExpiredTime: now.Add(authorizationCodeLife).Unix(), PreAuthCode: cdata{code.Reveal()},
	})
	go func() {
		defer s.running.Done()
		s.deliver(receiver, body)
	}()
	return nil
}

// issued returns the component that a code was issued to, and when the code expires.
func (s *Server) issued(code preauth.Secret) (appid string, expires time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, call := range s.calls {
		if !call.Code.IsZero() && call.Code.Equal(code) {
			return call.AppID, call.Time.Add(s.options.CodeLife), true
		}
	}
	return "", time.Time{}, false
}

// deliver posts a push until the receiver answers with "success" or the server is closed.
func (s *Server) deliver(receiver string, body []byte) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.running.Go(func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: pushTimeout}
	for wait := firstRepeat; ctx.Err() == nil && !taken(ctx, client, receiver, body); wait = min(2*wait, lastRepeat) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// taken posts a push once and reports whether the receiver took it.
func taken(ctx context.Context, client *http.Client, receiver string, body []byte) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, receiver, bytes.NewReader(body))
	if err != nil {
		return false
	}
	request.Header.Set("Content-Type", "text/xml")
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	return err == nil && response.StatusCode == http.StatusOK && string(answer) == "success"
}

// encodeXML returns the body of a push.
func encodeXML(p push) []byte {
	body, err := xml.Marshal(p)
	if err != nil {
		panic("wechattest: a push does not marshal: " + err.Error())
	}
	return body
}
