package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"preauth/consumer"
)

// adminSettings say where the service is looked after.
type adminSettings struct {
	AdminListen string `name:"admin-listen" env:"PREAUTH_ADMIN_LISTEN" default:"127.0.0.1:8180" form:"address" help:"Address of /healthz, /readyz and /metrics, which ask for no password: keep it private."`
}

// listen listens on the address that a flag names.
func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: another process listens on %s: stop it, or choose another address (port 0 is any free one)", flag, address)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return listener, nil
}

// serveAdmin answers on the listener until the returned function is called.
func serveAdmin(listener net.Listener, log *slog.Logger, service *consumer.Service, registry *prometheus.Registry) (stop func()) {
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
	return func() {
		_ = server.Close() // scrapes under way may break off
		<-served
	}
}

// checkCommand asks a service's admin endpoint, as a container's health check.
type checkCommand struct {
	AdminListen string        `name:"admin-listen" env:"PREAUTH_ADMIN_LISTEN" default:"127.0.0.1:8180" form:"address" help:"Admin address of the service."`
	Timeout     time.Duration `name:"timeout" default:"3s" range:"1ms..1m" help:"Time to wait for the answer."`
}

// errNotReady is why check fails.
var errNotReady = errors.New("the service is not ready")

// Run prints what /readyz says, and returns an error unless the service is ready.
func (c checkCommand) Run(ctx context.Context, to streams) error {
	host, port, err := net.SplitHostPort(c.AdminListen)
	if err != nil || port == "0" {
		return refuse("--admin-listen ($PREAUTH_ADMIN_LISTEN) must have the port on which the service listens")
	}
	switch host { // that stand for all of this machine's addresses
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	// No proxy of the environment stands between a service and its own health check.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	fmt.Fprintf(to.out, "%s", body)
	if resp.StatusCode != http.StatusOK {
		return errNotReady
	}
	return nil
}
