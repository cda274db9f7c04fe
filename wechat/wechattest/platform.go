package wechattest

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // WeChat signs with SHA-1
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"preauth"
)

// componentTokenPath is where a platform gets a component_access_token.
const componentTokenPath = "/cgi-bin/component/api_component_token" //nolint:gosec // no credential

const (
	// ticketLife is the life of a component_verify_ticket.
	ticketLife = 12 * time.Hour
	// pushTimeout is how long a receiver has to answer a push.
	pushTimeout = 5 * time.Second
	// firstRepeat and lastRepeat bound the wait before a push is repeated, which doubles. WeChat waits
	// longer; tests need not.
	firstRepeat, lastRepeat = 20 * time.Millisecond, time.Second
	// paddedTo is what the length of an encrypted text is a multiple of, in bytes.
	paddedTo = 32
)

// Platform is what the owner of a third-party platform and WeChat agree on.
type Platform struct {
	// AppID is the component_appid.
	AppID string
	// AppSecret is the component_appsecret, which api_component_token asks for.
	AppSecret preauth.Secret
	// PushURL is where WeChat posts its pushes (授权事件接收URL). Without it there are none.
	PushURL string
	// PushToken signs the pushes (消息校验Token).
	PushToken preauth.Secret
	// EncodingAESKey encrypts the pushes (消息加解密Key): 32 bytes in Base64 without the "=" at the end.
	EncodingAESKey preauth.Secret
}

// platform is a registered platform.
type platform struct {
	Platform

	key     []byte
	tickets map[string]time.Time // until when each lives
	tokens  []preauth.Secret     // issued to it
}

// Register makes a platform known: from now on it gets tokens at api_component_token, and WeChat's
// pushes. Registering it again changes it. The error says which field is wrong.
//
// A push is an HTTP request as WeChat makes it, encrypted and signed. The server repeats it until the
// receiver answers with "success". [Server.PushTicket] and [Server.Authorize] lead to pushes.
func (s *Server) Register(p Platform) error {
	key, err := base64.StdEncoding.DecodeString(p.EncodingAESKey.Reveal() + "=")
	if p.PushURL != "" && (err != nil || len(key) != 32) {
		return errors.New("wechattest: EncodingAESKey must have 43 characters of Base64")
	}
	if u, err := url.Parse(p.PushURL); err != nil || p.PushURL != "" && u.Host == "" {
		return errors.New("wechattest: PushURL must be an absolute URL")
	}
	if err := preauth.CheckAppID(p.AppID); err != nil {
		return fmt.Errorf("wechattest: AppID: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.platforms[p.AppID]; known != nil {
		known.Platform, known.key = p, key
		return nil
	}
	s.platforms[p.AppID] = &platform{Platform: p, key: key, tickets: map[string]time.Time{}}
	return nil
}

// PushTicket pushes a new component_verify_ticket to a registered platform, as WeChat does every ten
// minutes. The ones before it stay valid until they are twelve hours old. PushTicket does not wait
// for the push.
func (s *Server) PushTicket(appid string) {
	now, ticket := s.options.Now(), "ticket@@@"+rand.Text()+rand.Text()
	s.mu.Lock()
	if p := s.platforms[appid]; p != nil {
		p.tickets[ticket] = now.Add(ticketLife)
	}
	s.mu.Unlock()
	s.push(appid, push{CreateTime: now.Unix(), InfoType: cdata{"component_verify_ticket"}, ComponentVerifyTicket: &cdata{ticket}})
}

// PushUnauthorized pushes to a registered platform that an account took its authorization back.
func (s *Server) PushUnauthorized(appid, authorizer string) {
	s.push(appid, push{CreateTime: s.options.Now().Unix(), InfoType: cdata{"unauthorized"}, AuthorizerAppID: &cdata{authorizer}})
}

// Tokens returns the tokens that a platform got at api_component_token, in order.
func (s *Server) Tokens(appid string) []preauth.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.platforms[appid]; p != nil {
		return slices.Clone(p.tokens)
	}
	return nil
}

// FailTokens makes each call of api_component_token fail from now on. The zero [Fault] ends this.
// Neither [Server.Next] nor [Server.Every] affects these calls, and [Server.Calls] does not have
// them.
func (s *Server) FailTokens(fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokenFault = fault
}

// push is a push before it is encrypted. Times are Unix seconds.
type push struct {
	XMLName                      struct{} `xml:"xml"`
	AppID                        cdata    `xml:"AppId"`
	CreateTime                   int64    `xml:"CreateTime"`
	InfoType                     cdata    `xml:"InfoType"`
	ComponentVerifyTicket        *cdata   `xml:"ComponentVerifyTicket"`
	AuthorizerAppID              *cdata   `xml:"AuthorizerAppid"`
	AuthorizationCode            *cdata   `xml:"AuthorizationCode"`
	AuthorizationCodeExpiredTime int64    `xml:"AuthorizationCodeExpiredTime,omitempty"`
	PreAuthCode                  *cdata   `xml:"PreAuthCode"`
}

// envelope is the body of the request that carries a push.
type envelope struct {
	XMLName struct{} `xml:"xml"`
	AppID   cdata    `xml:"AppId"`
	Encrypt cdata    `xml:"Encrypt"`
}

// cdata is a text that stands in a CDATA section, as WeChat writes it.
type cdata struct {
	Text string `xml:",cdata"`
}

// push begins to push something to a platform. It does nothing if the platform gets no pushes.
func (s *Server) push(appid string, what push) {
	s.mu.Lock()
	var to platform
	if p := s.platforms[appid]; p != nil {
		to = *p
	}
	s.mu.Unlock()
	if to.PushURL == "" || !s.enter() {
		return
	}
	what.AppID = cdata{appid}
	address, body := to.seal(s.options.Now(), encodeXML(what))
	go func() {
		defer s.running.Done()
		s.deliver(address, body)
	}()
}

// seal returns the request that carries a text to the platform. The text is encrypted with AES-CBC
// behind 16 random bytes and its length, and before the appid and the padding.
func (p platform) seal(now time.Time, text []byte) (address string, body []byte) {
	plain := make([]byte, aes.BlockSize, aes.BlockSize+4+len(text)+len(p.AppID)+paddedTo)
	_, _ = rand.Read(plain) // never fails
	plain = binary.BigEndian.AppendUint32(plain, uint32(len(text)))
	plain = append(append(plain, text...), p.AppID...)
	padding := paddedTo - len(plain)%paddedTo
	plain = append(plain, bytes.Repeat([]byte{byte(padding)}, padding)...)
	block, err := aes.NewCipher(p.key)
	if err != nil {
		panic("wechattest: " + err.Error()) // Register has checked the key
	}
	cipher.NewCBCEncrypter(block, p.key[:aes.BlockSize]).CryptBlocks(plain, plain)
	encrypted := base64.StdEncoding.EncodeToString(plain)

	timestamp, nonce := strconv.FormatInt(now.Unix(), 10), rand.Text()[:10]
	u, _ := url.Parse(p.PushURL) // Register has parsed it
	query := u.Query()
	query.Set("signature", signature(p.PushToken.Reveal(), timestamp, nonce))
	query.Set("timestamp", timestamp)
	query.Set("nonce", nonce)
	query.Set("encrypt_type", "aes")
	query.Set("msg_signature", signature(p.PushToken.Reveal(), timestamp, nonce, encrypted))
	u.RawQuery = query.Encode()
	return u.String(), encodeXML(envelope{AppID: cdata{p.AppID}, Encrypt: cdata{encrypted}})
}

// signature returns WeChat's signature of texts.
func signature(texts ...string) string {
	slices.Sort(texts)
	sum := sha1.Sum([]byte(strings.Join(texts, ""))) //nolint:gosec // WeChat signs with SHA-1
	return hex.EncodeToString(sum[:])
}

// deliver posts a push until the receiver answers with "success" or the server is closed.
func (s *Server) deliver(address string, body []byte) {
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
	for wait := firstRepeat; ctx.Err() == nil && !taken(ctx, client, address, body); wait = min(2*wait, lastRepeat) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// taken posts a push once and reports whether the receiver took it.
func taken(ctx context.Context, client *http.Client, address string, body []byte) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
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

func encodeXML(v any) []byte {
	body, err := xml.Marshal(v)
	if err != nil {
		panic("wechattest: a push does not marshal: " + err.Error())
	}
	return body
}

// tokenRequest is the body of a call of api_component_token.
type tokenRequest struct {
	AppID  string `json:"component_appid"`
	Secret string `json:"component_appsecret"`
	Ticket string `json:"component_verify_ticket"`
}

// serveToken issues a component_access_token to a platform. The one before it stays valid for
// [Options].Overlap.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	body := bodyOf(w, r)
	call := s.callerOf(r)
	s.mu.Lock()
	fault := s.tokenFault
	s.mu.Unlock()
	s.pause(fault.Delay)
	s.park(fault.Hold)
	if fault.Reset != NoReset {
		reset(w)
		return
	}
	var request tokenRequest
	malformed := json.Unmarshal(body, &request) != nil
	reply := decide(&call, fault,
		func() int {
			switch {
			case r.Method != http.MethodPost:
				return 43002
			case len(body) == 0:
				return 44002
			case malformed:
				return 47001
			}
			return s.checkTokenRequest(call, request)
		},
		func() []byte {
			return encode(struct {
				Token     string `json:"component_access_token"`
				ExpiresIn int    `json:"expires_in"`
			}{s.issueToken(request.AppID).Reveal(), int(s.options.TokenLife / time.Second)})
		})
	s.park(fault.HoldAnswer)
	s.send(w, fault, call.Status, reply)
}

// issueToken issues a new token to a registered platform.
func (s *Server) issueToken(appid string) preauth.Secret {
	token := preauth.NewSecret("61_" + rand.Text() + rand.Text() + rand.Text())
	s.SetToken(appid, token)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.platforms[appid]
	p.tokens = append(p.tokens, token)
	return token
}

// checkTokenRequest returns the errcode with which WeChat refuses a token, and 0 if it does not.
func (s *Server) checkTokenRequest(call Call, r tokenRequest) int {
	now := s.options.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.platforms[r.AppID]
	switch {
	case !s.allows(call.Remote):
		return 61004
	case r.AppID == "":
		return 41002
	case r.Secret == "":
		return 41004
	case p == nil:
		return 61011
	case !p.AppSecret.Equal(preauth.NewSecret(r.Secret)):
		return 40125
	}
	switch expires, known := p.tickets[r.Ticket]; {
	case !known:
		return 61006
	case !now.Before(expires):
		return 61005
	}
	return 0
}
