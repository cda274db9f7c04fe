package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

// errNotReady is why check fails.
var errNotReady = errors.New("the service is not ready")

// report passes the answer of /readyz on.
func report(resp *http.Response, to streams) error {
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

// lookupCommand looks up a component, for a person.
type lookupCommand struct {
	natsSettings

	Component string        `arg:"" help:"The component_appid."`
	Subject   string        `name:"subject-lookup" env:"PREAUTH_SUBJECT_LOOKUP" default:"preauth.lookup" help:"Where look-ups are asked."`
	MinTTL    time.Duration `name:"min-ttl" default:"0s" help:"Life that the code must have left."`
	Reveal    bool          `name:"reveal" help:"Print the code itself, which otherwise is shortened to its first and last characters."`
}

// Run prints the component's current code, or why there is none.
func (c lookupCommand) Run(ctx context.Context, to streams) error {
	nc, err := c.connect(slog.New(slog.DiscardHandler), nats.RetryOnFailedConnect(false))
	if err != nil {
		return err
	}
	defer nc.Close()
	subjects := preauth.DefaultSubjects()
	subjects.Lookup = c.Subject
	client, err := preauth.NewClientWith(nc, subjects)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	code, err := client.Lookup(ctx, preauth.LookupRequest{AppID: c.Component, MinTTL: c.MinTTL})
	if err != nil {
		return err
	}
	shown := code.PreAuthCode.Hint()
	if c.Reveal {
		shown = code.PreAuthCode.Reveal()
	}
	fmt.Fprintf(to.out, "%s\nrevision %d, valid until %s (%v)\n",
		shown, code.Revision, code.ExpiresAt.Format(time.RFC3339), code.ExpiresIn)
	return nil
}
