//go:build !nodev

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"preauth/consumer"
	"preauth/internal/loopback"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/repo"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// devCommands are the commands that bring servers of their own along.
type devCommands struct {
	Dev devCommand `cmd:"" help:"Run everything on this machine: NATS, a database, a stand-in for WeChat, the service and a token service. It shows each step and the commands to try."`
}

// devCommand runs the whole main job on one machine with nothing prepared.
type devCommand struct {
	Components   int           `name:"components" default:"2" range:"1..1000" help:"Components whose tokens are announced."`
	Every        time.Duration `name:"every" default:"20s" range:"0s..24h" help:"Time between two announcements of new tokens; 0s announces them once."`
	CodeLife     time.Duration `name:"code-life" default:"10m" range:"10s..1h" help:"Life of the codes that the stand-in issues. They are renewed when a quarter of it is left."`
	Data         string        `name:"data" placeholder:"DIR" help:"Directory that keeps the state between runs. Otherwise nothing is kept."`
	NATSListen   string        `name:"nats-listen" default:"127.0.0.1:0" form:"address" help:"Loopback address of NATS. Port 0 is a free one, here and below."`
	AdminListen  string        `name:"admin-listen" default:"127.0.0.1:0" form:"address" help:"Address of /healthz, /readyz and /metrics."`
	WeChatListen string        `name:"wechat-listen" default:"127.0.0.1:0" form:"address" help:"Loopback address of the stand-in for WeChat."`
	DSN          string        `name:"mysql-dsn" placeholder:"DSN" help:"Use this database, which has to be there, as user:password@tcp(host:3306)/preauth, and create what it lacks of the schema. Otherwise a private one is started: MariaDB or MySQL if installed, else TiDB, which takes about five minutes to build the first time."`
	Verbose      bool          `name:"verbose" short:"v" help:"Show all of the service's log, and not only warnings and errors."`
}

// devDatabase is the database on the private server.
const devDatabase = "preauth"

// Run runs it until ctx ends.
func (c devCommand) Run(ctx context.Context, to streams) (err error) {
	if err := c.check(ctx); err != nil {
		return err
	}
	if c.Data != "" {
		if c.Data, err = filepath.Abs(c.Data); err != nil {
			return fmt.Errorf("--data: %w", err)
		}
	}
	screen := newScreen(to.out)
	screen.paragraph("preauth with all that it needs, on this machine. Ctrl-C stops it.")
	defer func() {
		if ctx.Err() != nil && err == nil {
			screen.paragraph("%s", c.left())
		}
	}()

	database, err := c.database(ctx, screen)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped while it was built or started
		}
		return err
	}
	defer func() { err = errors.Join(err, database.Close()) }()
	settings := mysqlSettings{DSN: c.dsn(database), Connections: 16}
	if err := settings.applySchema(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	natsServer, err := natsserver.Start(natsserver.Options{
		Listen: c.NATSListen, StoreDir: c.dir("nats"),
		Log: func(format string, args ...any) { screen.step("nats", "", format, args...) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, natsServer.Close()) }()
	screen.row("NATS", "%s", natsServer.URL())
	stand, err := wechattest.Start(wechattest.Options{Listen: c.WeChatListen, AnyToken: true, CodeLife: c.CodeLife})
	if err != nil {
		return err
	}
	defer stand.Close()
	screen.row("WeChat", "%s, a stand-in that takes any token", stand.URL())

	serve := serveCommand{
		natsSettings:   natsSettings{URL: natsServer.URL()},
		mysqlSettings:  settings,
		wechatSettings: wechatSettings{URLs: []string{stand.URL()}, Path: wechat.DefaultPath, Timeout: 5 * time.Second, Calls: 64},
		adminSettings:  adminSettings{c.AdminListen},
	}
	return c.serve(ctx, screen, serve)
}

// serve runs the service and the demonstration until ctx ends or the service fails.
func (c devCommand) serve(ctx context.Context, screen *screen, serve serveCommand) error {
	cfg := consumer.Config{Version: version(), Calls: serve.Calls, Trace: screen.trace}

	working, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	var served, shown error
	running.Go(func() {
		defer cancel()
		served = serve.serve(working, screen.logger(c.Verbose), cfg, func(admin net.Addr, service *consumer.Service) {
			screen.row("admin", "http://%s/readyz, /healthz and /metrics", admin)
			screen.row("state", "%s", c.state())
			running.Go(func() {
				defer cancel()
				shown = c.demonstrate(working, screen, serve.URL, service)
			})
		})
	})
	running.Wait()
	return errors.Join(served, shown)
}

// check finds what is impossible, and addresses that are taken, before anything is started.
func (c devCommand) check(ctx context.Context) error {
	var errs []error
	if c.DSN != "" {
		if _, err := repo.Connector(c.DSN); err != nil {
			errs = append(errs, refuse("--mysql-dsn: %w", err))
		}
	}
	for _, each := range []struct {
		flag, address string
		loopback      bool
	}{
		{"--nats-listen", c.NATSListen, true}, {"--wechat-listen", c.WeChatListen, true}, {"--admin-listen", c.AdminListen, false},
	} {
		if _, _, err := loopback.Address(each.address); each.loopback && err != nil {
			errs = append(errs, refuse("%s: %w", each.flag, err))
			continue
		}
		listener, err := listen(ctx, each.flag, each.address)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer listener.Close() // not before the others: two flags may name the same address
	}
	return errors.Join(errs...)
}

// dir returns a directory of the state, "" for a temporary one.
func (c devCommand) dir(name string) string {
	if c.Data == "" {
		return ""
	}
	return filepath.Join(c.Data, name)
}

// state says where the state is.
func (c devCommand) state() string {
	switch {
	case c.Data != "":
		return "in " + c.Data + ", kept for the next run"
	case c.DSN != "":
		return "in the database, and in " + os.TempDir() + " until the end"
	}
	return "in " + os.TempDir() + " until the end"
}

// left says what is there after the end.
func (c devCommand) left() string {
	switch {
	case c.Data != "":
		return "Stopped. The state is in " + c.Data + "."
	case c.DSN != "":
		return "Stopped. What was stored is in the database."
	}
	return "Stopped. Nothing is left behind."
}

// database starts the database server, or uses the one that the DSN names.
func (c devCommand) database(ctx context.Context, screen *screen) (*mysqlserver.Server, error) {
	server, err := mysqlserver.Start(ctx, mysqlserver.Options{
		DSN: c.DSN, Dir: c.dir("mysql"),
		Log: func(format string, args ...any) {
			screen.row("database", "%s", strings.TrimPrefix(fmt.Sprintf(format, args...), "database: "))
		},
	})
	switch {
	case errors.Is(err, mysqlserver.ErrInUse):
		return nil, fmt.Errorf("--data: %w: stop the other one, or choose another directory", err)
	case err != nil:
		return nil, err
	case c.DSN != "":
		return server, nil
	}
	if err := server.CreateDatabase(ctx, devDatabase); err != nil {
		return nil, errors.Join(err, server.Close())
	}
	return server, nil
}

// dsn returns the DSN that the service gets.
func (c devCommand) dsn(server *mysqlserver.Server) string {
	if c.DSN != "" {
		return c.DSN
	}
	return server.DSN(devDatabase)
}
