package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/internal/app"
	"preauth/internal/database"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// system is the service with all that it needs, in this process.
type system struct {
	wechat *wechattest.Server
	nats   *natsserver.Server
	client *preauth.Client
	db     *sql.DB
	// first is the address of the first replica's page.
	first string

	mysql    *mysqlserver.Server
	name     string // of the database
	nc       *nats.Conn
	cancel   context.CancelFunc
	replicas sync.WaitGroup
	mu       sync.Mutex
	failed   error
}

// options are what a system is started with.
type options struct {
	mysql    *mysqlserver.Server
	name     string // of the database
	replicas int
	codeLife time.Duration
	log      *slog.Logger
}

// start starts a system. It has to be closed, also after an error.
func start(ctx context.Context, o options) (s *system, err error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s = &system{mysql: o.mysql, name: o.name, cancel: cancel}
	if err := o.mysql.CreateDatabase(ctx, o.name); err != nil {
		return s, err
	}
	settings := app.MySQL{DSN: o.mysql.DSN(o.name), Connections: 8}
	if err := settings.ApplySchema(ctx); err != nil {
		return s, err
	}
	connector, err := database.Connector(settings.DSN)
	if err != nil {
		return s, err
	}
	s.db = sql.OpenDB(connector)
	s.db.SetConnMaxIdleTime(10 * time.Second) // sooner than the server closes it
	if s.nats, err = natsserver.Start(natsserver.Options{}); err != nil {
		return s, err
	}
	if s.wechat, err = wechattest.Start(wechattest.Options{AnyToken: true, CodeLife: o.codeLife}); err != nil {
		return s, err
	}
	if s.nc, err = nats.Connect(s.nats.URL(), nats.MaxReconnects(-1)); err != nil {
		return s, err
	}
	if s.client, err = preauth.NewClient(s.nc); err != nil {
		return s, err
	}
	service := app.Service{
		NATS:   app.NATS{URL: s.nats.URL()},
		MySQL:  settings,
		WeChat: app.WeChat{URLs: []string{s.wechat.URL()}, Path: wechat.DefaultPath, Timeout: time.Minute, Calls: 16},
		Admin:  app.Admin{Listen: "127.0.0.1:0"},
	}
	cfg := consumer.Config{Version: "1.4.0", Calls: 16, Spares: 2, Delays: consumer.Delays{Transient: 50 * time.Millisecond, Operator: time.Hour}}
	for range o.replicas {
		started := make(chan string, 1)
		s.replicas.Go(func() {
			err := service.Serve(running, o.log, cfg, func(admin net.Addr, _ *consumer.Service) { started <- admin.String() })
			s.mu.Lock()
			s.failed = errors.Join(s.failed, err)
			s.mu.Unlock()
			close(started)
		})
		address, ok := <-started
		if !ok {
			return s, errors.New("the service does not start")
		}
		if s.first == "" {
			s.first = "http://" + address
		}
	}
	return s, s.ready(ctx)
}

// ready waits until all replicas are ready.
func (s *system) ready(ctx context.Context) error {
	return eventually(ctx, func() error {
		replicas, err := s.client.Replicas(ctx)
		if err != nil {
			return err
		}
		for _, r := range replicas {
			if !r.Ready {
				return fmt.Errorf("a replica is not ready: %q", r.Reasons)
			}
		}
		return nil
	})
}

// announce announces a token of a component, which lives for life.
func (s *system) announce(ctx context.Context, appid, token string, life time.Duration) error {
	return s.client.Announce(ctx, preauth.TokenEvent{AppID: appid, Token: preauth.NewSecret(token), ExpiresAt: time.Now().Add(life)})
}

// await waits until a component is in a state.
func (s *system) await(ctx context.Context, appid string, state preauth.State) error {
	return eventually(ctx, func() error {
		status, err := s.client.Status(ctx, appid)
		if err == nil && status.State != state {
			err = fmt.Errorf("%s is %s, want %s", appid, status.State, state)
		}
		return err
	})
}

// close stops everything and returns what went wrong in between.
func (s *system) close() error {
	s.cancel()
	s.replicas.Wait()
	errs := []error{s.failed}
	if s.nc != nil {
		s.nc.Close()
	}
	if s.wechat != nil {
		s.wechat.Close()
	}
	if s.nats != nil {
		errs = append(errs, s.nats.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	return errors.Join(append(errs, s.mysql.DropDatabase(context.Background(), s.name))...)
}

// patience is how long something may take. No machine is too slow for it.
const patience = 2 * time.Minute

// eventually repeats a look until it succeeds.
func eventually(ctx context.Context, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("within %v: %w", patience, err)
		}
	}
}
