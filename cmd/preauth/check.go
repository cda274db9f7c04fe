package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"preauth/internal/app"
)

// checkCommand asks the admin endpoint of a service, for the health check of a container.
type checkCommand struct {
	Admin   app.Admin     `embed:""`
	Timeout time.Duration `name:"timeout" default:"3s" range:"1ms..1m" help:"Time to wait for the answer."`
}

// errNotReady is why check fails.
var errNotReady = errors.New("the service is not ready")

// Run prints the answer of /readyz, and returns an error unless the service is ready.
func (c checkCommand) Run(ctx context.Context, to app.Stdio) error {
	host, port, err := net.SplitHostPort(c.Admin.Listen)
	if err != nil || port == "0" {
		return app.UsageErrorf("--admin-listen ($PREAUTH_ADMIN_LISTEN) must have the port on which the service listens")
	}
	switch host { // addresses to listen on that nobody can connect to
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
	// A proxy that the environment names must not stand between a service and its own health check.
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
	fmt.Fprintf(to.Out, "%s", body)
	if resp.StatusCode != http.StatusOK {
		return errNotReady
	}
	return nil
}
