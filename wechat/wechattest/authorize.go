package wechattest

import (
	"errors"
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

// authorizationCodeLife is the life of an AuthorizationCode.
const authorizationCodeLife = time.Hour

// authorizations is what WeChat knows about authorizations.
type authorizations struct {
	mu sync.Mutex
	// used has the account of each code that somebody authorized with.
	used map[string]string
	// granted has the accounts of each component.
	granted map[[2]string]bool
}

// Authorize does what a visitor does on WeChat's page: with a code, the owner of an account
// authorizes the component that the code was issued to. The first account may do so again while the
// code lives. The error is [ErrCodeUsed], [ErrCodeExpired] or [ErrCodeUnknown].
//
// Authorize does not wait for the push to the platform of the component: see [Server.Register].
func (s *Server) Authorize(code preauth.Secret, authorizer string) error {
	_, err := s.authorize(code, authorizer)
	return err
}

// authorize is Authorize, and returns the AuthorizationCode.
func (s *Server) authorize(code preauth.Secret, authorizer string) (authorizationCode string, err error) {
	appid, expires, ok := s.issued(code)
	if !ok {
		return "", ErrCodeUnknown
	}
	now := s.options.Now()
	if !now.Before(expires) {
		return "", ErrCodeExpired
	}
	a := &s.authorizations
	a.mu.Lock()
	defer a.mu.Unlock()
	if first, used := a.used[code.Reveal()]; used && first != authorizer {
		return "", ErrCodeUsed
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
	authorizationCode = "queryauthcode@@@" + strings.TrimPrefix(newCode(s.options.CodeLength), codePrefix)
	s.push(appid, push{
		CreateTime: now.Unix(), InfoType: cdata{infoType}, AuthorizerAppID: &cdata{authorizer},
		AuthorizationCode:            &cdata{authorizationCode},
		AuthorizationCodeExpiredTime: now.Add(authorizationCodeLife).Unix(), PreAuthCode: &cdata{code.Reveal()},
	})
	return authorizationCode, nil
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
