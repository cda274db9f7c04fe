package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"preauth/consumer"
)

// serveCommand runs the service.
type serveCommand struct {
	natsSettings
	mysqlSettings
	wechatSettings
	serviceSettings
	logSettings

	SchemaApply bool   `name:"schema-apply" env:"PREAUTH_SCHEMA_APPLY" help:"Create missing tables at start; needs the right to."`
	AdminListen string `name:"admin-listen" env:"PREAUTH_ADMIN_LISTEN" default:"127.0.0.1:8180" help:"Address of /healthz, /readyz and /metrics. It has no authentication: keep it private."`
}

// Run serves until ctx ends.
func (c serveCommand) Run(ctx context.Context, to streams) error {
	log := c.logger(to.err)
	cfg, err := c.config(c.Calls)
	if err != nil {
		return err
	}
	return c.serve(ctx, log, cfg, nil)
}

// serve runs one replica until ctx ends. listening, if not nil, is told the admin address.
func (c serveCommand) serve(ctx context.Context, log *slog.Logger, cfg consumer.Config, listening func(net.Addr)) (err error) {
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

	closed := make(chan struct{})
	nc, err := c.connect(log, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return err
	}
	defer func() {
		nc.Close()
		<-closed
	}()

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	service, err := consumer.New(cfg, nc, db, api, log, registry)
	if err != nil {
		return err
	}
	stopAdmin, err := c.admin(ctx, log, service, registry, listening)
	if err != nil {
		return err
	}
	defer stopAdmin()

	if c.SchemaApply {
		if err := applySchema(ctx, log, db.ApplySchema); err != nil {
			return err
		}
	}
	if err := service.Run(ctx); err != nil {
		return err
	}
	// What was answered and acknowledged last is still in the connection's buffer.
	if err := nc.FlushTimeout(time.Second); err != nil {
		log.Warn("NATS did not take the last messages", "error", err)
	}
	return nil
}

// applySchema waits for the database and applies the schema.
func applySchema(ctx context.Context, log *slog.Logger, apply func(context.Context) error) error {
	for {
		err := apply(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		log.Warn("schema not applied yet", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
}

// admin serves the admin endpoint until the returned function is called.
func (c serveCommand) admin(
	ctx context.Context, log *slog.Logger, service *consumer.Service, registry *prometheus.Registry, listening func(net.Addr),
) (stop func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.AdminListen)
	if err != nil {
		return nil, fmt.Errorf("%w: --admin-listen: %w", errSettings, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := service.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{
		Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("admin endpoint ended", "error", err)
		}
	}()
	log.Info("admin endpoint", "address", listener.Addr().String())
	if listening != nil {
		listening(listener.Addr())
	}
	return func() {
		_ = server.Close() // scrapes under way may break off
		<-served
	}, nil
}

// checkCommand asks a service's admin endpoint.
type checkCommand struct {
	AdminListen string        `name:"admin-listen" env:"PREAUTH_ADMIN_LISTEN" default:"127.0.0.1:8180" help:"Admin address of the service."`
	Timeout     time.Duration `name:"timeout" default:"3s" help:"Time to wait for the answer."`
}

// Run returns an error unless the service is ready.
func (c checkCommand) Run(ctx context.Context, to streams) error {
	host, port, err := net.SplitHostPort(c.AdminListen)
	if err != nil {
		return fmt.Errorf("%w: --admin-listen: %w", errSettings, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // it listens on all addresses, so also on this one
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	defer resp.Body.Close()
	return report(resp, to)
}
