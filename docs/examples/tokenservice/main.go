// Command tokenservice is a token service to learn from. It takes WeChat's pushes for one third-party
// platform, keeps a component_access_token fresh with the tickets among them, announces each token on
// NATS, and announces who authorized.
//
// Run one of it: a new token ends the one before within minutes, so a second token service would end
// the tokens of the first. It keeps nothing on disk and needs not: the service preauth has stored the
// announced token, which is renewed half an hour before its end, and WeChat pushes a ticket every ten
// minutes. So after a restart the next ticket comes in time.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

const (
	// look is how often the age of the token is checked, and the wait after a failure.
	look = time.Minute
	// pushTimeout bounds the work on a push. WeChat waits for 5 s.
	pushTimeout = 4 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := log.New(os.Stderr, "tokenservice: ", log.Ltime|log.Lmsgprefix)
	if err := run(ctx, os.Getenv, log); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, getenv func(string) string, log *log.Logger) error {
	// The prefix is that of the role "tokens" in deploy/nats. Its key goes into another option, such as
	// nats.NkeyOptionFromSeed.
	nc, err := nats.Connect(cmp.Or(getenv("NATS_URL"), nats.DefaultURL), nats.Name("tokenservice"),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.CustomInboxPrefix("_INBOX.tokens"))
	if err != nil {
		return fmt.Errorf("connecting to NATS: %w", err)
	}
	defer nc.Close()
	s, err := newService(getenv, nc, log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cmp.Or(getenv("LISTEN"), "127.0.0.1:8080"))
	if err != nil {
		return err
	}
	// WeChat needs a public address: a reverse proxy with TLS has it.
	server := &http.Server{Handler: s, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	log.Printf("waiting for pushes on http://%s", listener.Addr())
	context.AfterFunc(ctx, func() { _ = server.Close() })
	ctx, cancel := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		s.keepToken(ctx, look)
	}()
	err = server.Serve(listener)
	cancel()
	<-kept
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// service is the token service of one platform.
type service struct {
	opener

	secret  preauth.Secret // component_appsecret
	wechat  string         // base URL
	client  *preauth.Client
	log     *log.Logger
	tickets chan push
}

func newService(getenv func(string) string, nc *nats.Conn, log *log.Logger) (*service, error) {
	for _, name := range []string{"WECHAT_APPID", "WECHAT_APPSECRET", "WECHAT_PUSH_TOKEN"} {
		if getenv(name) == "" {
			return nil, fmt.Errorf("set %s as on WeChat's open platform", name)
		}
	}
	key, err := base64.StdEncoding.DecodeString(getenv("WECHAT_ENCODING_AES_KEY") + "=")
	if err != nil || len(key) != 32 {
		return nil, errors.New("set WECHAT_ENCODING_AES_KEY to the 43 characters on WeChat's open platform")
	}
	client, err := preauth.NewClient(nc)
	if err != nil {
		return nil, err
	}
	return &service{
		opener: opener{appID: getenv("WECHAT_APPID"), token: getenv("WECHAT_PUSH_TOKEN"), key: key},
		secret: preauth.NewSecret(getenv("WECHAT_APPSECRET")), wechat: cmp.Or(getenv("WECHAT_URL"), "https://api.weixin.qq.com"),
		client: client, log: log, tickets: make(chan push, 1),
	}, nil
}

// ServeHTTP takes a push. WeChat repeats it until the answer is "success".
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var p push
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err == nil {
		p, err = s.open(r.URL.Query(), body)
	}
	if err != nil {
		s.log.Printf("refused a push: %v", err)
		http.Error(w, "this is no push of WeChat", http.StatusForbidden)
		return
	}
	switch p.InfoType {
	case "component_verify_ticket":
		select {
		case s.tickets <- p:
		default: // the one before it still waits, and serves as well
		}
	case preauth.InfoAuthorized, preauth.InfoUpdateAuthorized:
		if err := s.authorized(r.Context(), p); err != nil {
			s.log.Printf("authorization by %q not announced: %v", p.AuthorizerAppID, err)
			if !errors.Is(err, preauth.ErrInvalid) { // that has no PreAuthCode, say, and never will
				http.Error(w, "not announced", http.StatusServiceUnavailable)
				return
			}
		}
	}
	_, _ = io.WriteString(w, "success")
}

// authorized announces that an account authorized. It returns when the stream has that.
func (s *service) authorized(ctx context.Context, p push) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	err := s.client.AnnounceAuthorization(ctx, preauth.AuthorizationEvent{
		AppID: s.appID, PreAuthCode: preauth.NewSecret(p.PreAuthCode), AuthorizerAppID: p.AuthorizerAppID,
		InfoType: p.InfoType, AuthorizedAt: time.Unix(p.CreateTime, 0),
	})
	if err == nil {
		s.log.Printf("%s %s: announced", p.AuthorizerAppID, p.InfoType)
	}
	return err
}

// keepToken gets a token with the first ticket and the next one when a quarter of its life is left,
// and announces each, until ctx ends. After a failure it tries again when it looks again or gets
// another ticket.
func (s *service) keepToken(ctx context.Context, look time.Duration) {
	var ticket push
	var token preauth.TokenEvent
	var announced bool
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-s.tickets:
			if p.CreateTime < ticket.CreateTime {
				continue // an old push, repeated
			}
			ticket = p
			s.log.Print("a ticket came")
		case <-time.After(look):
		}
		if ticket.Ticket != "" && due(token, time.Now()) {
			next, err := s.newToken(ctx, ticket.Ticket)
			if err != nil {
				s.log.Printf("no token: %v", err)
			} else {
				token, announced = next, false
			}
		}
		if announced || token.Token.IsZero() {
			continue
		}
		if err := s.client.Announce(ctx, token); err != nil {
			s.log.Printf("token not announced: %v", err)
			continue
		}
		announced = true
		s.log.Printf("token announced, valid until %s", token.ExpiresAt.Format(time.TimeOnly))
	}
}

// due reports whether a token has to be renewed: less than a quarter of its life is left.
func due(token preauth.TokenEvent, now time.Time) bool {
	return !now.Before(token.ExpiresAt.Add(-token.ExpiresAt.Sub(token.IssuedAt) / 4))
}

// direct follows no redirect, which would take the secret elsewhere.
var direct = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// newToken asks WeChat for a token.
func (s *service) newToken(ctx context.Context, ticket string) (token preauth.TokenEvent, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body, err := json.Marshal(map[string]string{
		"component_appid": s.appID, "component_appsecret": s.secret.Reveal(), "component_verify_ticket": ticket,
	})
	if err != nil {
		return token, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.wechat+"/cgi-bin/component/api_component_token", bytes.NewReader(body))
	if err != nil {
		return token, err
	}
	began := time.Now()
	response, err := direct.Do(request)
	if err != nil {
		return token, err
	}
	defer response.Body.Close()
	var answer struct {
		Token     string `json:"component_access_token"`
		ExpiresIn int64  `json:"expires_in"`
		ErrCode   int    `json:"errcode"`
		ErrMsg    string `json:"errmsg"`
	}
	switch err := json.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&answer); {
	case err != nil:
		return token, fmt.Errorf("WeChat answers with status %d and no JSON", response.StatusCode)
	case answer.ErrCode != 0 || answer.Token == "":
		return token, fmt.Errorf("WeChat says %d %q", answer.ErrCode, answer.ErrMsg)
	}
	return preauth.TokenEvent{
		AppID: s.appID, Token: preauth.NewSecret(answer.Token),
		IssuedAt: began, ExpiresAt: began.Add(time.Duration(answer.ExpiresIn) * time.Second),
	}, nil
}
