//go:build !nodev

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/wechat/wechattest"
)

// devCommands are the commands that bring servers of their own along.
type devCommands struct {
	Dev devCommand `cmd:"" help:"Run everything on this machine: NATS, a database, a stand-in for WeChat, the service and a token service."`
}

// devCommand runs the whole main job on one machine with nothing prepared.
type devCommand struct {
	Components  int           `name:"components" default:"2" help:"Components whose tokens are announced."`
	Every       time.Duration `name:"every" default:"20s" help:"Time between two announcements of new tokens; 0 announces once."`
	CodeLife    time.Duration `name:"code-life" default:"10m" help:"Life of the stand-in's codes."`
	Data        string        `name:"data" placeholder:"DIR" help:"Keep the state here between runs. Otherwise it is gone at the end."`
	NATSListen  string        `name:"nats-listen" default:"127.0.0.1:0" help:"Address of NATS; port 0 is a free one."`
	AdminListen string        `name:"admin-listen" default:"127.0.0.1:0" help:"Address of /healthz, /readyz and /metrics."`
	WeChat      string        `name:"wechat-listen" default:"127.0.0.1:0" help:"Address of the stand-in for WeChat."`
	DSN         string        `name:"mysql-dsn" env:"MYSQL_DSN" placeholder:"DSN" help:"Use this database. Otherwise a private one is started: MariaDB or MySQL if installed, else TiDB."`
	Verbose     bool          `name:"verbose" short:"v" help:"Show the service's own log too."`
}

const devDatabase = "preauth"

// Run runs it until ctx ends.
func (c devCommand) Run(ctx context.Context, to streams) (err error) {
	if c.Components < 1 || c.Components > 1000 {
		return fmt.Errorf("%w: --components must be 1 to 1000, not %d", errSettings, c.Components)
	}
	if c.Every < 0 {
		return fmt.Errorf("%w: --every must not be negative", errSettings)
	}
	screen := &screen{w: to.out, color: isTerminal(to.out) && os.Getenv("NO_COLOR") == ""}
	screen.line("", "", "Starting. Ctrl-C stops it all and leaves nothing behind%s.", keeps(c.Data))

	database, dsn, err := c.database(ctx, screen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, database.Close()) }()
	natsServer, err := natsserver.Start(natsserver.Options{
		Listen: c.NATSListen, StoreDir: c.dir("nats"),
		Log: func(format string, args ...any) { screen.line("nats", "", format, args...) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, natsServer.Close()) }()
	stand, err := wechattest.Start(wechattest.Options{Listen: c.WeChat, AnyToken: true, CodeLife: c.CodeLife})
	if err != nil {
		return err
	}
	defer stand.Close()

	serve := serveCommand{
		natsSettings:   natsSettings{URL: natsServer.URL()},
		mysqlSettings:  mysqlSettings{DSN: dsn, Connections: 16},
		wechatSettings: wechatSettings{URLs: []string{stand.URL()}, Timeout: 5 * time.Second, Calls: 64},
		AdminListen:    c.AdminListen, SchemaApply: true,
	}
	level := slog.LevelWarn
	if c.Verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(screen, &slog.HandlerOptions{Level: level}))
	cfg := consumer.Config{Version: version(), Calls: serve.Calls, Trace: screen.step}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	admin := make(chan net.Addr, 1)
	running.Go(func() { cancel(serve.serve(ctx, log, cfg, func(a net.Addr) { admin <- a })) })
	select {
	case address := <-admin:
		screen.line("ready", "", "database  %s", database)
		screen.line("ready", "", "NATS      %s", natsServer.URL())
		screen.line("ready", "", "WeChat    %s (the stand-in, takes any token)", stand.URL())
		screen.line("ready", "", "admin     http://%s/readyz and /metrics", address)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := c.demonstrate(ctx, screen, natsServer.URL()); err != nil {
		return err
	}
	<-ctx.Done()
	screen.line("", "", "Stopping.")
	running.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// keeps says what Ctrl-C leaves.
func keeps(data string) string {
	if data == "" {
		return ""
	}
	return " but " + data
}

// dir returns a directory below --data, "" for a temporary one.
func (c devCommand) dir(name string) string {
	if c.Data == "" {
		return ""
	}
	return filepath.Join(c.Data, name)
}

// database starts the database server, or uses the one that the DSN names.
func (c devCommand) database(ctx context.Context, screen *screen) (*mysqlserver.Server, string, error) {
	server, err := mysqlserver.Start(ctx, mysqlserver.Options{
		DSN: c.DSN, Dir: c.dir("mysql"),
		Log: func(format string, args ...any) { screen.line("mysql", "", format, args...) },
	})
	if err != nil {
		return nil, "", err
	}
	if c.DSN != "" {
		return server, c.DSN, nil
	}
	if err := server.CreateDatabase(ctx, devDatabase); err != nil {
		return nil, "", errors.Join(err, server.Close())
	}
	return server, server.DSN(devDatabase), nil
}

// demonstrate announces tokens as a token service would, subscribes to the codes and looks them up,
// until ctx ends.
func (c devCommand) demonstrate(ctx context.Context, screen *screen, url string) error {
	nc, err := nats.Connect(url, nats.Name("preauth dev"))
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
		appids[i] = fmt.Sprintf("wxdev%011d", i+1)
	}
	screen.commands(url, appids[0])

	var lookups sync.WaitGroup
	defer lookups.Wait()
	sub, err := client.Subscribe(func(u preauth.Update) {
		screen.line("announced", u.AppID, "%s  revision %d", u.PreAuthCode.Hint(), u.Revision)
		lookups.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			code, err := client.Lookup(ctx, preauth.LookupRequest{AppID: u.AppID, MinRevision: u.Revision})
			if err != nil {
				screen.line("looked up", u.AppID, "%v", err)
				return
			}
			screen.line("looked up", u.AppID, "%s  valid for %v", code.PreAuthCode.Hint(), code.ExpiresIn)
		})
	}, func(err error) { screen.line("announced", "", "%v", err) })
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()

	for ctx.Err() == nil {
		for _, appid := range appids {
			token := preauth.NewSecret(fmt.Sprintf("dev_token_%s_%d", appid, time.Now().UnixNano()))
			if err := announce(ctx, client, preauth.TokenEvent{AppID: appid, Token: token}); err != nil {
				return err
			}
		}
		var next <-chan time.Time
		if c.Every > 0 {
			next = time.After(c.Every)
		}
		select {
		case <-next:
		case <-ctx.Done():
		}
	}
	return nil
}

// announce publishes a token, as soon as the service has created the stream that takes it.
func announce(ctx context.Context, client *preauth.Client, event preauth.TokenEvent) error {
	for {
		err := client.Announce(ctx, event)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// screen shows a person what happens, a line each.
type screen struct {
	mu    sync.Mutex
	w     io.Writer
	color bool
}

// hues are the ANSI colours of the steps.
var hues = map[string]string{
	"token": "36", "saved": "33", "announced": "32", "looked up": "35", "no code": "31",
}

// line prints one line: the time, what happened, to which component, and the rest.
func (s *screen) line(what, appid, format string, args ...any) {
	label := fmt.Sprintf("%-10s", what)
	if hue := hues[what]; s.color && hue != "" {
		label = "\x1b[" + hue + "m" + label + "\x1b[0m"
	}
	if appid != "" {
		appid += "  "
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, "%s  %s %s%s\n", time.Now().Format("15:04:05.000"), label, appid, fmt.Sprintf(format, args...))
}

// Write shows lines of the service's log.
func (s *screen) Write(text []byte) (int, error) {
	s.line("log", "", "%s", strings.TrimSuffix(string(text), "\n"))
	return len(text), nil
}

// step shows what the service does.
func (s *screen) step(step consumer.Step) {
	switch step.Name {
	case consumer.StepReceived:
		s.line("token", step.AppID, "seen, number %d of the stream", step.Sequence)
	case consumer.StepCommitted:
		s.line("saved", step.AppID, "revision %d, because of a %s", step.Revision, causes[step.Cause])
	case consumer.StepRepeated:
		s.line("token", step.AppID, "announced again: its code still lives")
	case consumer.StepSuperseded:
		s.line("token", step.AppID, "superseded")
	case consumer.StepFailed:
		s.line("no code", step.AppID, "%s", step.Class)
	}
}

var causes = map[preauth.Cause]string{preauth.CauseToken: "new token", preauth.CauseRenewal: "renewal"}

// commands prints what to type in another terminal.
func (s *screen) commands(url, appid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, `
  In another terminal, with the nats CLI:

    nats --server %[1]s sub preauth.updated
    nats --server %[1]s pub component.token.updated '{"component_appid":"%[2]s","component_access_token":"my-token-1"}'
    nats --server %[1]s req preauth.lookup.%[2]s ''
    nats --server %[1]s sub preauth.failed
    nats --server %[1]s micro ls

`, url, appid)
}
