package main

import (
	"context"
	"fmt"
	"time"

	"preauth"
	"preauth/internal/app"
)

// lookupCommand looks up the code of a component for a person.
type lookupCommand struct {
	component
	client
	code

	MinTTL time.Duration `name:"min-ttl" default:"0s" range:"0s..1h" help:"Time for which the code must still be valid."`
}

// Run prints the component's current code, or says why there is none.
func (c lookupCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.do(ctx, func(s preauth.Subjects) string { return s.Lookup }, func(ctx context.Context, s *session) error {
		found, err := s.Lookup(ctx, preauth.LookupRequest{AppID: c.Component, MinTTL: c.MinTTL})
		if err != nil {
			return err
		}
		shown := c.shown(found.PreAuthCode)
		if c.JSON {
			found.PreAuthCode = preauth.NewSecret(shown)
			fmt.Fprintf(to.Out, "%s\n", found.Encode())
			return nil
		}
		fmt.Fprintf(to.Out, "%s\nrevision %d, valid until %s (%v)\n",
			shown, found.Revision, found.ExpiresAt.Format(time.RFC3339), found.ExpiresIn)
		return nil
	})
}

// claimCommand claims a code.
type claimCommand struct {
	component
	client
	code

	ClaimID     string        `name:"claim-id" placeholder:"ID" help:"Makes the claim safe to repeat: the same id gets the same code. By default the service makes one up."`
	Reference   string        `name:"reference" placeholder:"TEXT" help:"What resolve answers with: a visitor, an order."`
	MinTTL      time.Duration `name:"min-ttl" default:"0s" range:"0s..1h" help:"Time for which the code must still be valid."`
	RedirectURI string        `name:"redirect-uri" placeholder:"URL" help:"Ask for the links to WeChat's pages, which come back to this address. They are printed with --reveal only: they contain the code."`
}

// Run prints a code that nobody else gets.
func (c claimCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	request := preauth.ClaimRequest{AppID: c.Component, ClaimID: c.ClaimID, Reference: c.Reference, MinTTL: c.MinTTL}
	request.RedirectURI = c.RedirectURI
	return c.do(ctx, func(s preauth.Subjects) string { return s.Claim }, func(ctx context.Context, s *session) error {
		claim, err := s.Claim(ctx, request)
		if err != nil {
			return err
		}
		shown := c.shown(claim.PreAuthCode)
		if !c.Reveal {
			claim.PreAuthCode, claim.Links = preauth.NewSecret(shown), preauth.Links{}
		}
		if c.JSON {
			fmt.Fprintf(to.Out, "%s\n", claim.Encode())
			return nil
		}
		fmt.Fprintf(to.Out, "%s\nclaim %s, valid until %s (%v)\n", shown, printable(claim.ClaimID), claim.ExpiresAt.Format(time.RFC3339), claim.ExpiresIn)
		for _, link := range []preauth.Secret{claim.Links.PC, claim.Links.Mobile} {
			if !link.IsZero() {
				fmt.Fprintln(to.Out, link.Reveal())
			}
		}
		return nil
	})
}

// resolveCommand says what a code was used for.
type resolveCommand struct {
	client

	CodeFile string `name:"code-file" default:"-" placeholder:"FILE" help:"File with the code; - is standard input."`
}

// Run prints what a code was used for.
func (c resolveCommand) Run(ctx context.Context, to app.Stdio) error {
	secret, err := readSecret(ctx, to, "--code-file", c.CodeFile)
	if err != nil {
		return err
	}
	return c.do(ctx, func(s preauth.Subjects) string { return s.Resolve }, func(ctx context.Context, s *session) error {
		resolved, err := s.Resolve(ctx, secret)
		switch {
		case err != nil:
			return err
		case c.JSON:
			fmt.Fprintf(to.Out, "%s\n", resolved.Encode())
			return nil
		case resolved.ClaimID == "":
			fmt.Fprintf(to.Out, "component %s, announced with revision %d", resolved.AppID, resolved.Revision)
		default:
			fmt.Fprintf(to.Out, "component %s, claim %s", resolved.AppID, printable(resolved.ClaimID))
			if resolved.Reference != "" {
				fmt.Fprintf(to.Out, ", reference %s", printable(resolved.Reference))
			}
			fmt.Fprintf(to.Out, ", claimed at %s", resolved.ClaimedAt.Format(time.RFC3339))
		}
		fmt.Fprintf(to.Out, "\nvalid until %s\n", resolved.ExpiresAt.Format(time.RFC3339))
		if resolved.AuthorizerAppID != "" {
			fmt.Fprintf(to.Out, "%s authorized with it at %s\n", resolved.AuthorizerAppID, resolved.AuthorizedAt.Format(time.RFC3339))
		}
		return nil
	})
}
