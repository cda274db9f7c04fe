package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/internal/app"
	"preauth/internal/loopback"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/internal/pause"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// system is preauth and everything around it: NATS and the stand-in for WeChat in this process, and
// a database of its own on a server.
type system struct {
	nats     *natsserver.Server
	mysql    *mysqlserver.Server
	database string
	wechat   *wechattest.Server
	client   *preauth.Client
	nc       *nats.Conn
	replicas []*replica
	gateway  *httpGateway // nil unless the setup has one

	config   consumer.Config
	log      *slog.Logger
	requests sync.WaitGroup
	closers  []func() error
}

// setup is what a system may have of its own. The zero value is for a healthy one.
type setup struct {
	wechat wechattest.Options
	config consumer.Config
	// replicas is how many there are. Default: 1.
	replicas int
	// gateway adds a gateway.
	gateway bool
}

var databases atomic.Int64

// startSystem starts a system with replicas that are ready. Close it.
func startSystem(ctx context.Context, mysql *mysqlserver.Server, log *slog.Logger, with setup) (_ *system, err error) {
	s := &system{mysql: mysql, config: with.config, log: log, database: fmt.Sprintf("alarms_%d_%d", os.Getpid(), databases.Add(1))}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.nats, err = natsserver.Start(natsserver.Options{}); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.nats.Close)
	if err = mysql.CreateDatabase(ctx, s.database); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { return mysql.DropDatabase(context.WithoutCancel(ctx), s.database) })
	with.wechat.AnyToken = true
	if s.wechat, err = wechattest.Start(with.wechat); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { s.wechat.Close(); return nil })
	closed := make(chan struct{})
	s.nc, err = nats.Connect(s.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { s.nc.Close(); <-closed; return nil })
	if s.client, err = preauth.NewClient(s.nc); err != nil {
		return nil, err
	}
	for range max(1, with.replicas) {
		r := &replica{system: s}
		if r.addr, _, err = loopback.Address(""); err != nil {
			return nil, err
		}
		s.replicas = append(s.replicas, r)
		s.closers = append(s.closers, r.stop)
		if err = r.start(ctx); err != nil {
			return nil, err
		}
	}
	if !with.gateway {
		return s, nil
	}
	dir, err := os.MkdirTemp("", "preauth-alarms-")
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { return os.RemoveAll(dir) })
	if s.gateway, err = newGateway(s, dir); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.gateway.stop)
	return s, s.gateway.start(ctx)
}

// close ends the replicas and all the rest. What is under way is given up.
func (s *system) close() error {
	err := closeAll(s.closers)
	s.requests.Wait()
	return err
}

// closeAll ends parts, the last one first.
func closeAll(closers []func() error) error {
	var errs []error
	for _, end := range slices.Backward(closers) {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

// targets are what has metrics, with the jobs that deploy/prometheus/rules.yml expects.
func (s *system) targets() []*target {
	var all []*target
	for _, r := range s.replicas {
		all = append(all, &target{job: "preauth", addr: r.addr})
	}
	if s.gateway != nil {
		all = append(all, &target{job: "preauth-gateway", addr: s.gateway.admin})
	}
	return all
}

// replica is the service. It can be stopped and started again on the same address.
type replica struct {
	system *system
	addr   string

	cancel context.CancelFunc // nil while it is stopped
	ended  chan error
}

// start returns when the replica is ready.
func (r *replica) start(ctx context.Context) error {
	s := r.system
	settings := app.Service{
		NATS:   app.NATS{URL: s.nats.URL()},
		MySQL:  app.MySQL{DSN: s.mysql.DSN(s.database), Connections: 8},
		WeChat: app.WeChat{URLs: []string{s.wechat.URL()}, Path: wechat.DefaultPath, Timeout: time.Hour, Calls: 64},
		Admin:  app.Admin{Listen: r.addr},

		SchemaApply: true,
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	started := make(chan *consumer.Service, 1)
	r.cancel, r.ended = cancel, make(chan error, 1)
	go func() {
		r.ended <- settings.Serve(running, s.log, s.config, func(_ net.Addr, service *consumer.Service) { started <- service })
	}()
	select {
	case service := <-started:
		for service.Ready() != nil {
			if !pause.For(ctx, 20*time.Millisecond) {
				return fmt.Errorf("the replica is not ready: %w", service.Ready())
			}
		}
		return nil
	case err := <-r.ended:
		r.cancel = nil
		return fmt.Errorf("the replica ended: %w", err)
	}
}

// stop ends the replica in good order.
func (r *replica) stop() error {
	if r.cancel == nil {
		return nil
	}
	r.cancel()
	r.cancel = nil
	return <-r.ended
}

// announce announces a new token that lives for so long, and tells WeChat of it.
func (s *system) announce(ctx context.Context, appid string, life time.Duration) error {
	token := preauth.NewSecret("61_" + rand.Text())
	s.wechat.SetToken(appid, token)
	now := s.now()
	return s.client.Announce(ctx, preauth.TokenEvent{AppID: appid, Token: token, IssuedAt: now, ExpiresAt: now.Add(life)})
}

// now is the time of the service.
func (s *system) now() time.Time {
	if s.config.Now != nil {
		return s.config.Now()
	}
	return time.Now()
}

// introduce announces the first token of a component, and returns when its code can be looked up.
func (s *system) introduce(ctx context.Context, appid string) error {
	if err := s.announce(ctx, appid, 2*time.Hour); err != nil {
		return err
	}
	for {
		_, err := s.client.Lookup(ctx, preauth.LookupRequest{AppID: appid})
		if err == nil {
			return nil
		}
		if !pause.For(ctx, 20*time.Millisecond) {
			return fmt.Errorf("%s has no code: %w", appid, err)
		}
	}
}

// visitors has a visitor come, and a program look up a code, at each interval until ctx ends or the
// returned function is called. It does not matter how they fare.
func (s *system) visitors(ctx context.Context, appid string, every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var come sync.WaitGroup
	come.Go(func() {
		for pause.For(ctx, every) {
			s.requests.Go(func() { _ = s.visitor(ctx, appid) })
			_, _ = s.client.Lookup(ctx, preauth.LookupRequest{AppID: appid})
		}
	})
	return func() {
		cancel()
		come.Wait()
	}
}

// visitor claims a code and authorizes with it, which the receiver of WeChat's pushes reports.
func (s *system) visitor(ctx context.Context, appid string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	claim, err := s.client.Claim(ctx, preauth.ClaimRequest{AppID: appid, ClaimID: rand.Text()})
	if err != nil {
		return err
	}
	if _, err := s.client.Resolve(ctx, claim.PreAuthCode); err != nil {
		return err
	}
	return s.client.AnnounceAuthorization(ctx, preauth.AuthorizationEvent{
		AppID: appid, PreAuthCode: claim.PreAuthCode, AuthorizerAppID: "wx8888888888888888",
	})
}
