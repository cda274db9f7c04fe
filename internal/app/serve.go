package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"

	"preauth/consumer"
	"preauth/repo"
)

// Service has all settings of the service. As a command, it runs one replica.
type Service struct {
	NATS    NATS    `embed:"" group:"nats"`
	MySQL   MySQL   `embed:"" group:"mysql"`
	WeChat  WeChat  `embed:"" group:"wechat"`
	Streams Streams `embed:"" group:"streams"`
	Claims  Claims  `embed:"" group:"claims"`
	Work    Work    `embed:"" group:"work"`
	Delays  Delays  `embed:"" group:"delays"`
	Admin   Admin   `embed:"" group:"admin"`
	Log     Log     `embed:"" group:"admin"`

	SchemaApply bool `name:"schema-apply" group:"mysql" env:"PREAUTH_SCHEMA_APPLY" help:"Create what the database lacks of the schema, as soon as the database answers. Requires the right to create tables."`

	HelpAll helpAll `name:"help-all" help:"Show this help with the settings for tests and experts too."`

	changed []slog.Attr // the settings that differ from their defaults, for the log
}

// ErrNATSClosed is why a program ends by itself.
var ErrNATSClosed = errors.New("the connection to NATS was closed for good")

// ClosedError returns an error that wraps [ErrNATSClosed] and has the reason if there is one.
func ClosedError(reason error) error {
	return fmt.Errorf("%w: %w", ErrNATSClosed, cmp.Or(reason, nats.ErrConnectionClosed))
}

// Run serves until ctx ends.
func (s Service) Run(ctx context.Context, to Stdio, command *kong.Context) error {
	cfg, err := s.config()
	if err != nil {
		return err
	}
	s.changed = changed(command.Flags())
	log := s.Log.Logger(to.Err)
	spans, stop, err := traces(ctx, log)
	if err != nil {
		return err
	}
	defer stop()
	cfg.Spans = spans
	return s.Serve(ctx, log, cfg, func(net.Addr, *consumer.Service) {})
}

// Serve runs one replica with the given log and configuration until ctx ends; the settings of the
// service itself come from cfg, not from s. It calls started with the address of the admin endpoint
// and the service just before the service begins to work.
func (s Service) Serve(
	ctx context.Context, log *slog.Logger, cfg consumer.Config, started func(net.Addr, *consumer.Service),
) (err error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)

	db, err := s.MySQL.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	api, err := s.WeChat.client()
	if err != nil {
		return err
	}
	defer api.Close()
	listener, err := Listen(ctx, "--admin-listen", s.Admin.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	log.LogAttrs(ctx, slog.LevelInfo, "starting", append([]slog.Attr{
		slog.String("version", cfg.Version), slog.String("admin", listener.Addr().String()),
	}, s.parts()...)...)
	closed := make(chan struct{})
	nc, err := s.NATS.Connect(log, func(err error) {
		giveUp(ClosedError(err))
		close(closed)
	})
	if err != nil {
		return err
	}
	defer func() {
		nc.Close()
		<-closed
	}()

	registry := NewRegistry()
	service, err := consumer.New(cfg, nc, db, api, log, registry)
	if err != nil {
		return err
	}
	status, err := newPage(service, nc, listener.Addr(), log)
	if err != nil {
		return err
	}
	defer status.Close()
	defer ServeAdmin(listener, log, status.Handler(), service.Ready, registry)()
	if s.SchemaApply {
		defer applySchema(ctx, log, db)()
	}
	started(listener.Addr(), service)
	err = service.Run(ctx)
	if errors.Is(err, nats.ErrConnectionClosed) {
		<-closed // says why
	}
	if cause := context.Cause(ctx); errors.Is(cause, ErrNATSClosed) {
		return cause
	}
	if err != nil {
		return err
	}
	// Draining answers the requests that wait in the endpoints and sends what was published last.
	if err := nc.Drain(); err != nil {
		if !errors.Is(err, nats.ErrConnectionReconnecting) { // that NATS is away was logged before
			log.Warn("NATS did not take the last messages", "error", err)
		}
		return nil
	}
	select {
	case <-closed:
	case <-time.After(drainTime):
	}
	return nil
}

// parts returns for the log where the other parts are, and which settings differ from their
// defaults. It contains no user names, passwords or tokens.
func (s Service) parts() []slog.Attr {
	attrs := []slog.Attr{
		slog.String("nats", s.NATS.Where()), slog.String("mysql", s.MySQL.where()), slog.String("wechat", strings.Join(s.WeChat.URLs, ",")),
	}
	if host, err := proxy(); err == nil && host != "" {
		attrs = append(attrs, slog.String("https_proxy", host))
	}
	return append(attrs, slog.GroupAttrs("settings", s.changed...)) // which is left out if it is empty
}

const (
	// drainTime is how long the service waits at most until NATS has taken the last messages.
	drainTime = 5 * time.Second
	// schemaPatience is how long the start waits for the schema. Without MySQL the service can still
	// answer from memory, so after that it starts and the schema follows.
	schemaPatience = 3 * time.Second
	// schemaRetry is the wait between two attempts to apply the schema.
	schemaRetry = 2 * time.Second
)

// applySchema applies the schema. While the database is away, it goes on trying in the background
// until ctx ends. The returned function waits for the end of that.
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
