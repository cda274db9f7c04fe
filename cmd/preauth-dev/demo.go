package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
)

// demonstrate does what other programs do around the service, until ctx ends: it announces tokens
// as a token service would, subscribes to codes and failures, and looks up each code.
func (c sandbox) demonstrate(ctx context.Context, screen *screen, url string, service *consumer.Service) error {
	for service.Ready() != nil {
		if !wait(ctx, 20*time.Millisecond) {
			return nil
		}
	}
	nc, err := nats.Connect(url, nats.Name("preauth-dev"), nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("connecting to NATS: %w", err)
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc)
	if err != nil {
		return err
	}
	appids := make([]string, c.Components)
	for i := range appids {
		appids[i] = fmt.Sprintf("wxdev%04d", i+1)
	}

	var lookups sync.WaitGroup
	defer lookups.Wait()
	updates, err := client.Subscribe(func(u preauth.Update) {
		screen.step(announced, u.AppID, "revision %d  %s", u.Revision, u.PreAuthCode.Hint())
		lookups.Go(func() { lookUp(ctx, screen, client, u) })
	}, func(err error) { screen.step(announced, "", "%v", err) })
	if err != nil {
		return err
	}
	defer func() { _ = updates.Unsubscribe() }()
	failures, err := nc.Subscribe(preauth.DefaultSubjects().Failed, func(msg *nats.Msg) { showFailure(screen, msg.Data) })
	if err != nil {
		return err
	}
	defer func() { _ = failures.Unsubscribe() }()

	screen.instructions(url, appids[0], c.pace())
	for {
		for _, appid := range appids {
			token := preauth.NewSecret(fmt.Sprintf("dev_token_%s_%d", appid, time.Now().UnixNano()))
			err := client.Announce(ctx, preauth.TokenEvent{AppID: appid, Token: token})
			if err != nil && ctx.Err() == nil {
				screen.step(received, appid, "not announced: %v", err)
			}
		}
		if c.Every == 0 {
			<-ctx.Done()
		}
		if !wait(ctx, c.Every) {
			return nil
		}
	}
}

// pace says how tokens are announced.
func (c sandbox) pace() string {
	pace := "once"
	if c.Every > 0 {
		pace = fmt.Sprintf("every %v", c.Every)
	}
	if c.Components == 1 {
		return "a new token of one component " + pace
	}
	return fmt.Sprintf("new tokens of %d components %s", c.Components, pace)
}

// lookUp asks for the code that was just announced.
func lookUp(ctx context.Context, screen *screen, client *preauth.Client, u preauth.Update) {
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	code, err := client.Lookup(asking, preauth.LookupRequest{AppID: u.AppID, MinRevision: u.Revision})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		screen.step(lookedUp, u.AppID, "%v", err)
	default:
		screen.step(lookedUp, u.AppID, "revision %d  %s  valid %v", code.Revision, code.PreAuthCode.Hint(), code.ExpiresIn)
	}
}

// showFailure shows why a component got no code.
func showFailure(screen *screen, body []byte) {
	f, err := preauth.ParseFailure(body)
	if err != nil {
		screen.step(failed, "", "%v", err)
		return
	}
	next := "given up"
	if !f.RetryAt.IsZero() {
		next = "tried again at " + f.RetryAt.Local().Format(time.TimeOnly)
	}
	screen.step(failed, f.AppID, "%s: %s; %s", f.Class, f.ErrMsg, next)
}

// wait waits for d or for the end of ctx, and reports whether d is over.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
