package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof" // the profiles of the service, at /debug/pprof/
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"preauth/consumer"
	"preauth/repo"
	"preauth/wechat"
)

// runTraced is preauth's service with a line on standard output for each step of each event, and with
// profiles. It is for looking into what the real program does, which is what is measured.
func runTraced(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("traced", flag.ContinueOnError)
	steps := flags.Bool("steps", true, "print the steps")
	calls := flags.Int("calls", 64, "calls of WeChat at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	connections, err := strconv.Atoi(os.Getenv("MYSQL_CONNECTIONS"))
	if err != nil {
		return err
	}
	db, err := repo.Open(os.Getenv("MYSQL_DSN"), connections)
	if err != nil {
		return err
	}
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

	var mu sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	cfg := consumer.Config{Calls: *calls, CallsPerSecond: 100_000, CallsPerDay: 100_000_000, Spares: -1}
	if *steps {
		cfg.Trace = func(s consumer.Step) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(out, "step %s %d\n", s.Name, time.Now().UnixNano())
			_ = out.Flush()
		}
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
	mu.Lock()
	ready(listener.Addr().String())
	mu.Unlock()
	return <-served
}

