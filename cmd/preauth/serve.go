package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"preauth/consumer"
	"preauth/repo"
)

// serveCommand runs the service.
type serveCommand struct {
	natsSettings   `group:"nats"`
	mysqlSettings  `group:"mysql"`
	wechatSettings `group:"wechat"`
	streamSettings `group:"streams"`
	claimSettings  `group:"claims"`
	workSettings   `group:"work"`
	delaySettings  `group:"delays"`
	adminSettings  `group:"admin"`
	logSettings    `group:"admin"`

	SchemaApply bool `name:"schema-apply" group:"mysql" env:"PREAUTH_SCHEMA_APPLY" help:"Create what the database lacks of the schema, once it is there. Needs the right to create tables."`
}

// errNATSClosed is why the service ends by itself.
var errNATSClosed = errors.New("the connection to NATS was closed for good")

// Run serves until ctx ends.
func (c serveCommand) Run(ctx context.Context, to streams) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	return c.serve(ctx, c.logger(to.err), cfg, func(net.Addr, *consumer.Service) {})
}

// serve runs one replica until ctx ends. started is told the admin address and the service, which then
// begins to work.
func (c serveCommand) serve(
	ctx context.Context, log *slog.Logger, cfg consumer.Config, started func(net.Addr, *consumer.Service),
) (err error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)

	db, err := c.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	api, err := c.client()
	if err != nil {
		return err
	}
	defer api.Close()
	listener, err := listen(ctx, "--admin-listen", c.AdminListen)
	if err != nil {
		return err
	}
	defer listener.Close()
	closed := make(chan struct{})
	nc, err := c.connect(log, func(err error) {
		giveUp(fmt.Errorf("%w: %w", errNATSClosed, cmp.Or(err, nats.ErrConnectionClosed)))
		close(closed)
	})
	if err != nil {
		return err
	}
	defer func() {
		nc.Close()
		<-closed
	}()

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewBuildInfoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	service, err := consumer.New(cfg, nc, db, api, log, registry)
	if err != nil {
		return err
	}
	log.Info("starting", "version", cfg.Version, "admin", listener.Addr().String())
	defer serveAdmin(listener, log, service, registry)()
	if c.SchemaApply {
		defer applySchema(ctx, log, db)()
	}
	started(listener.Addr(), service)
	if err := service.Run(ctx); err != nil {
		return err
	}
	if err := context.Cause(ctx); errors.Is(err, errNATSClosed) {
		return err
	}
	// What is left in the endpoints is answered, and what was published last is sent.
	if err := nc.Drain(); err != nil {
		log.Warn("NATS did not take the last messages", "error", err)
		return nil
	}
	select {
	case <-closed:
	case <-time.After(drainTime):
	}
	return nil
}

const (
	// drainTime bounds the wait for the last messages to be taken.
	drainTime = 5 * time.Second
	// schemaPatience is how long the service waits for its schema. Without MySQL it can still answer
	// from memory, so it begins then, and the schema follows.
	schemaPatience = 3 * time.Second
	// schemaRetry is the wait between two attempts to apply the schema.
	schemaRetry = 2 * time.Second
)

// applySchema applies the schema, which goes on in the background while the database is away. The
// returned function waits for its end, which that of ctx brings about.
func applySchema(ctx context.Context, log *slog.Logger, db *repo.Repo) (wait func()) {
	tried := make(chan struct{})
	var trying sync.WaitGroup
	trying.Go(func() {
		tried := sync.OnceFunc(func() { close(tried) })
		for {
			err := db.ApplySchema(ctx)
			tried()
			if err == nil || ctx.Err() != nil {
				return
			}
			log.Warn("schema not applied: trying again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(schemaRetry):
			}
		}
	})
	select {
	case <-tried:
	case <-time.After(schemaPatience):
	}
	return trying.Wait
}
