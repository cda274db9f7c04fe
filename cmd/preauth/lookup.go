package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/app"
)

// lookupCommand looks up the code of a component for a person.
type lookupCommand struct {
	NATS app.NATS `embed:"" group:"nats"`

	Component     string        `arg:"" help:"The component_appid."`
	SubjectPrefix string        `name:"subject-prefix" env:"PREAUTH_SUBJECT_PREFIX" placeholder:"SUBJECT" form:"subject" help:"Prefix of the service's subjects."`
	MinTTL        time.Duration `name:"min-ttl" default:"0s" range:"0s..1h" help:"Time for which the code must still be valid."`
	Timeout       time.Duration `name:"timeout" default:"5s" range:"1ms..1m" help:"Time to wait for the answer."`
	Reveal        bool          `name:"reveal" help:"Print the whole code, and not only its first and last characters."`
}

// Run prints the component's current code, or says why there is none.
func (c lookupCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := preauth.CheckAppID(c.Component); err != nil {
		return app.UsageErrorf("<component>: %w", err)
	}
	options, err := c.NATS.Options()
	if err != nil {
		return err
	}
	options.Timeout = c.Timeout
	nc, err := options.Connect()
	if err != nil {
		return fmt.Errorf("connecting to NATS at --nats-url ($NATS_URL): %w", err)
	}
	defer nc.Close()
	subjects := preauth.DefaultSubjects().WithPrefix(c.SubjectPrefix)
	client, err := preauth.NewClient(nc, preauth.WithSubjects(subjects))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	code, err := client.Lookup(ctx, preauth.LookupRequest{AppID: c.Component, MinTTL: c.MinTTL})
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("nobody answers on %s: is the service running, on this NATS and with this subject prefix?", subjects.Lookup)
	case err != nil:
		return err
	}
	shown := code.PreAuthCode.Hint()
	if c.Reveal {
		shown = code.PreAuthCode.Reveal()
	}
	fmt.Fprintf(to.Out, "%s\nrevision %d, valid until %s (%v)\n",
		shown, code.Revision, code.ExpiresAt.Format(time.RFC3339), code.ExpiresIn)
	return nil
}
