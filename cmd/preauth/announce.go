package main

import (
	"context"
	"fmt"
	"time"

	"preauth"
	"preauth/internal/app"
)

// announceCommand announces a token, as a token service does.
type announceCommand struct {
	component
	client

	TokenFile string        `name:"token-file" default:"-" placeholder:"FILE" help:"File with the component_access_token; - is standard input."`
	ExpiresIn time.Duration `name:"expires-in" default:"2h" range:"1s..24h" help:"The token's life from now on."`
}

// Run announces a token and returns once the stream has stored it.
func (c announceCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	token, err := readSecret(ctx, to, "--token-file", c.TokenFile)
	if err != nil {
		return err
	}
	return c.stored(ctx, to, "announced", func(s preauth.Subjects) string { return s.TokenUpdated }, func(ctx context.Context, s *session) error {
		now := time.Now()
		return s.Announce(ctx, preauth.TokenEvent{AppID: c.Component, Token: token, IssuedAt: now, ExpiresAt: now.Add(c.ExpiresIn)})
	})
}

// authorizedCommand reports an authorization, as the receiver of WeChat's pushes does.
type authorizedCommand struct {
	component
	client

	Authorizer string `arg:"" help:"The appid of the account that authorized."`
	CodeFile   string `name:"code-file" default:"-" placeholder:"FILE" help:"File with the code that the account authorized with; - is standard input."`
}

// Run reports an authorization and returns once the stream has stored it.
func (c authorizedCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := preauth.CheckAppID(c.Authorizer); err != nil {
		return app.UsageErrorf("<authorizer>: %w", err)
	}
	secret, err := readSecret(ctx, to, "--code-file", c.CodeFile)
	if err != nil {
		return err
	}
	return c.stored(ctx, to, "reported", func(s preauth.Subjects) string { return s.Authorization }, func(ctx context.Context, s *session) error {
		return s.AnnounceAuthorization(ctx, preauth.AuthorizationEvent{AppID: c.Component, PreAuthCode: secret, AuthorizerAppID: c.Authorizer})
	})
}

// stored publishes an event, and says that the stream has stored it.
func (c client) stored(
	ctx context.Context, to app.Stdio, what string, subject func(preauth.Subjects) string, publish func(context.Context, *session) error,
) error {
	if err := c.do(ctx, subject, publish); err != nil {
		return err
	}
	if c.JSON {
		fmt.Fprintln(to.Out, `{"stored":true}`)
	} else {
		fmt.Fprintf(to.Out, "%s: the stream has stored it\n", what)
	}
	return nil
}
