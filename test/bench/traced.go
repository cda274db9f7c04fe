package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof" // the profiles of the service, at /debug/pprof/
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"preauth/consumer"
	"preauth/internal/database"
	"preauth/repo"
	"preauth/wechat"
)

// runTraced is preauth's service with a line on standard output for each step of each event, and
// with profiles. The rows measure the real program; this one shows what it spends its time on.
func runTraced(ctx context.Context, args []string) error {
	debug.SetGCPercent(400) // as in preauth serve
	flags := flag.NewFlagSet("traced", flag.ContinueOnError)
	steps := flags.Bool("steps", true, "print the steps")
	calls := flags.Int("calls", 64, "calls of WeChat at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	trace := newTracer(*steps)
	pool, err := openDatabase(trace)
	if err != nil {
		return err
	}
	db := repo.New(database.New(pool, pool.Stats().MaxOpenConnections))
	defer db.Close()
	api, err := wechat.New(wechat.Config{BaseURLs: []string{os.Getenv("PREAUTH_WECHAT_URL")}, MaxConnections: *calls})
	if err != nil {
		return err
	}
	defer api.Close()
	nc, err := connect()
	if err != nil {
		return err
	}
	defer nc.Close()

	cfg := consumer.Config{Calls: *calls, CallsPerSecond: 100_000, CallsPerDay: 100_000_000, Spares: -1}
	if *steps {
		cfg.Trace = func(s consumer.Step) { trace.moment(string(s.Name)) }
	}
	registry := prometheus.NewRegistry()
	service, err := consumer.New(cfg, nc, db, api, slog.New(slog.NewJSONHandler(os.Stderr, nil)), registry)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	served := make(chan error, 1)
	go func() { served <- service.Run(ctx) }()
	if err := eventually(ctx, time.Minute, service.Ready); err != nil {
		return errors.Join(err, ctx.Err())
	}
	trace.ready(listener.Addr().String())
	return <-served
}
