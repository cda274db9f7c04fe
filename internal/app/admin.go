package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"preauth/consumer"
	"preauth/internal/page"
)

// Admin is where the admin endpoint listens.
type Admin struct {
	Listen string `name:"admin-listen" env:"PREAUTH_ADMIN_LISTEN" default:"127.0.0.1:8180" form:"address" help:"Address of /healthz, /readyz, /metrics and, with the service, the status page. They require no password: keep it private."`
}

// Listen listens on the TCP address that a flag gives.
func Listen(ctx context.Context, flag, address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: another process listens on %s: stop it, or choose another address (port 0 means any free port)", flag, address)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return listener, nil
}

// NewRegistry returns a registry with the metrics that every program has.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewBuildInfoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// newPage returns the status page of a service.
func newPage(service *consumer.Service, nc *nats.Conn, served net.Addr, log *slog.Logger) (*page.Page, error) {
	return page.New(page.Source{
		Summary: service.Summary, Statuses: service.Statuses, Status: service.Status, Replica: service.Replica, Subjects: service.Subjects(),
	}, nc, served, log)
}

// ServeAdmin serves the admin endpoint until the returned function is called: at / what is given, and
// whether the program runs, whether it is ready, and its metrics.
func ServeAdmin(listener net.Listener, log *slog.Logger, root http.Handler, ready func() error, registry *prometheus.Registry) (stop func()) {
	mux := http.NewServeMux()
	mux.Handle("GET /", root)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
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
	return func() {
		_ = server.Close() // scrapes may break off
		<-served
	}
}
