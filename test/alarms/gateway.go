package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/app"
	"preauth/internal/gateway"
	"preauth/internal/loopback"
	"preauth/internal/pause"
)

// httpGateway is the gateway of a system, through which tokens are announced. It can be stopped and
// started again on the same addresses.
type httpGateway struct {
	system      *system
	addr, admin string
	tokens      string // the file
	bearer      preauth.Secret

	closers []func() error // of one that runs
}

// newGateway returns a gateway that has a token in a directory. It is not started.
func newGateway(s *system, dir string) (*httpGateway, error) {
	g := &httpGateway{system: s, tokens: filepath.Join(dir, "tokens")}
	var err error
	for _, address := range []*string{&g.addr, &g.admin} {
		if *address, _, err = loopback.Address(""); err != nil {
			return nil, err
		}
	}
	bearer, line, err := gateway.NewToken("all", []string{"*"}, nil)
	if err != nil {
		return nil, err
	}
	g.bearer = bearer
	return g, g.writeTokens(line)
}

// writeTokens replaces the tokens file.
func (g *httpGateway) writeTokens(content string) error {
	return os.WriteFile(g.tokens, []byte(content+"\n"), 0o600)
}

// start returns when the gateway listens.
func (g *httpGateway) start(ctx context.Context) (err error) {
	s := g.system
	defer func() {
		if err != nil {
			err = errors.Join(err, g.stop())
		}
	}()
	closed := make(chan struct{})
	nc, err := nats.Connect(s.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return err
	}
	g.closers = append(g.closers, func() error { nc.Close(); <-closed; return nil })
	client, err := preauth.NewClient(nc)
	if err != nil {
		return err
	}
	tokens, err := gateway.NewReloader(func(contents [][]byte) (gateway.Tokens, error) { return gateway.ParseTokens(contents[0]) }, g.tokens)
	if err != nil {
		return err
	}
	registry := app.NewRegistry()
	registry.MustRegister(tokens.Gauge("tokens"))
	served := gateway.New(gateway.Options{
		Client: client, NATS: nc, Subjects: preauth.DefaultSubjects(), Tokens: tokens.Current,
		Rate: 1000, Timeout: time.Minute, Registry: registry, Log: s.log,
	})
	admin, err := app.Listen(ctx, "--admin-listen", g.admin)
	if err != nil {
		return err
	}
	stopAdmin := app.ServeAdmin(admin, s.log, http.NotFoundHandler(), served.Ready, registry)
	g.closers = append(g.closers, func() error { stopAdmin(); return nil })
	listener, err := app.Listen(ctx, "--listen", g.addr)
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	var ended error
	serving.Go(func() { tokens.Watch(running, s.log, "tokens file") })
	serving.Go(func() { ended = served.Serve(running, listener, nil) })
	g.closers = append(g.closers, func() error { cancel(); serving.Wait(); return ended })
	return nil
}

// stop ends the gateway in good order.
func (g *httpGateway) stop() error {
	closers := g.closers
	g.closers = nil
	return closeAll(closers)
}

// announce announces a token through the gateway at each interval until ctx ends or the returned
// function is called. It does not matter how that goes.
func (g *httpGateway) announce(ctx context.Context, appid string, every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var announcing sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	announcing.Go(func() {
		for pause.For(ctx, every) {
			body := strings.NewReader(`{"component_access_token":"61_always-the-same","expires_in":7200}`)
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s/v1/components/%s/tokens", g.addr, appid), body)
			if err != nil {
				return
			}
			request.Header.Set("Authorization", "Bearer "+g.bearer.Reveal())
			request.Header.Set("Content-Type", "application/json")
			if answer, err := client.Do(request); err == nil {
				_, _ = io.Copy(io.Discard, answer.Body)
				_ = answer.Body.Close()
			}
		}
	})
	return func() {
		cancel()
		announcing.Wait()
	}
}
