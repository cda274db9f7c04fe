// Command preauth-dev runs the service and everything around it on one machine, with nothing
// prepared: NATS, a database, a stand-in for WeChat and a token service. It shows each step, and
// commands to try.
//
// Exit status: 0 for success, 1 for a failure, 2 for flags that have to be changed.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/alecthomas/kong"

	"preauth"
	"preauth/consumer"
	"preauth/internal/app"
	"preauth/internal/database"
	"preauth/internal/loopback"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// sandbox is the command line, and what it runs.
type sandbox struct {
	Components   int           `name:"components" default:"2" range:"1..1000" help:"Number of components whose tokens are announced."`
	Every        time.Duration `name:"every" default:"20s" range:"0s..24h" help:"Time between two announcements of new tokens, which go to one component after the other. With 0s, each component gets one token, and there are neither claims nor failures to watch."`
	CodeLife     time.Duration `name:"code-life" default:"40s" range:"10s..1h" help:"Life of the codes that the stand-in issues, so short that you see renewals. WeChat's codes live for 10 minutes or longer. A code is renewed when a quarter of its life is left."`
	Data         string        `name:"data" placeholder:"DIR" help:"Directory that keeps the state between runs. Without it nothing is kept."`
	NATSListen   string        `name:"nats-listen" default:"127.0.0.1:0" form:"address" help:"Loopback address of NATS. Port 0 means any free port, here and below."`
	AdminListen  string        `name:"admin-listen" default:"127.0.0.1:0" form:"address" help:"Address of the status page, /healthz, /readyz and /metrics."`
	WeChatListen string        `name:"wechat-listen" default:"127.0.0.1:0" form:"address" help:"Loopback address of the stand-in for WeChat."`
	PushTo       string        `name:"push-to" placeholder:"URL" help:"Have the stand-in push to this receiver, such as a token service of yours, as WeChat does for the platform wx0123456789abcdef: a component_verify_ticket at once and then every 10 minutes, and each authorization on the stand-in's pages. The platform's secrets, which are made up, are printed."`
	DSN          string        `name:"mysql-dsn" placeholder:"DSN" help:"Use this existing database, as user:password@tcp(host:3306)/preauth, and create what it lacks of the schema. Without it a private server is started: MariaDB, MySQL or TiDB, the first that is installed."`
	Verbose      bool          `name:"verbose" short:"v" help:"Show the whole log of the service, not only warnings and errors."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

const description = `Runs NATS, a database, a stand-in for WeChat, the preauth service and a token service on this
machine until Ctrl-C. It shows each step, and commands to try. It reads no environment variables.`

func main() { app.Main(run) }

// run is the whole program. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return app.Program{Name: "preauth-dev", Description: description, CLI: new(sandbox)}.Run(ctx, args, stdout, stderr)
}

// databaseName is the database on the private server.
const databaseName = "preauth"

// Run runs all of it until ctx ends.
func (c sandbox) Run(ctx context.Context, to app.Stdio) (err error) {
	if err := c.check(ctx); err != nil {
		return err
	}
	if c.Data != "" {
		if c.Data, err = filepath.Abs(c.Data); err != nil {
			return fmt.Errorf("--data: %w", err)
		}
	}
	screen := newScreen(to.Out)
	screen.print("", 0, "preauth and everything it needs, on this machine. Ctrl-C stops it.\n\n")
	defer func() {
		if ctx.Err() != nil && err == nil {
			screen.paragraph(c.left())
		}
	}()

	database, err := c.database(ctx, screen)
	if err != nil {
		return unlessStopped(ctx, err)
	}
	defer func() { err = errors.Join(err, database.Close()) }()
	settings := app.MySQL{DSN: cmp.Or(c.DSN, database.DSN(databaseName)), Connections: 16}
	if err := settings.ApplySchema(ctx); err != nil {
		return unlessStopped(ctx, err)
	}
	natsServer, err := natsserver.Start(natsserver.Options{
		Listen: c.NATSListen, StoreDir: c.dir("nats"),
		Log: func(format string, args ...any) { screen.event(bad, "", format, args...) },
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
	screen.row("WeChat", "%s, a stand-in that accepts any token", stand.URL())
	if c.PushTo != "" {
		if err := stand.Register(c.platform()); err != nil {
			return err
		}
		screen.platform(c.platform(), stand.URL())
	}

	demo := &demo{screen: screen, stand: stand, ways: map[string]way{}, saved: map[string]way{}}
	return c.serve(ctx, demo, app.Service{
		NATS:   app.NATS{URL: natsServer.URL()},
		MySQL:  settings,
		WeChat: app.WeChat{URLs: []string{stand.URL()}, Path: wechat.DefaultPath, Timeout: 5 * time.Second, Calls: 64},
		Admin:  app.Admin{Listen: c.AdminListen},
	})
}

// unlessStopped returns nil instead of an error that the end of ctx may have caused.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serve runs the service and the demonstration until ctx ends or the service fails.
func (c sandbox) serve(ctx context.Context, demo *demo, settings app.Service) error {
	cfg := consumer.Config{Bucket: kvBucket, Version: app.Version(), Calls: settings.WeChat.Calls, Trace: demo.trace}

	working, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	var served, shown error
	running.Go(func() {
		defer cancel()
		served = settings.Serve(working, demo.screen.logger(c.Verbose), cfg, func(admin net.Addr, service *consumer.Service) {
			demo.screen.row("page", "http://%s, which also has /readyz and /metrics", admin)
			running.Go(func() {
				defer cancel()
				shown = demo.run(working, settings.NATS.URL, c.Components, c.Every, service.Ready)
			})
			if c.PushTo != "" {
				running.Go(func() { demo.pushTickets(working, platformAppID, service.Ready) })
			}
		})
	})
	running.Wait()
	return errors.Join(served, shown)
}

// platformAppID is the platform that --push-to is about.
const platformAppID = "wx0123456789abcdef"

// platform returns the platform that --push-to is about. Its secrets are made up.
func (c sandbox) platform() wechattest.Platform {
	return wechattest.Platform{
		AppID: platformAppID, AppSecret: preauth.NewSecret("made-up-appsecret"),
		PushURL: c.PushTo, PushToken: preauth.NewSecret("made-up-token"),
		EncodingAESKey: preauth.NewSecret("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"),
	}
}

// check finds invalid flags and addresses that are taken before anything is started.
func (c sandbox) check(ctx context.Context) error {
	var errs []error
	if c.DSN != "" {
		if _, err := database.Connector(c.DSN); err != nil {
			errs = append(errs, app.UsageErrorf("--mysql-dsn: %w", err))
		}
	}
	if u, err := url.Parse(c.PushTo); c.PushTo != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		errs = append(errs, app.UsageErrorf("--push-to: must be an http or https URL, such as http://127.0.0.1:8080/"))
	}
	for _, each := range []struct {
		flag, address string
		loopback      bool
	}{
		{"--nats-listen", c.NATSListen, true}, {"--wechat-listen", c.WeChatListen, true}, {"--admin-listen", c.AdminListen, false},
	} {
		if _, _, err := loopback.Address(each.address); each.loopback && err != nil {
			errs = append(errs, app.UsageErrorf("%s: %w", each.flag, err))
			continue
		}
		listener, err := app.Listen(ctx, each.flag, each.address)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer listener.Close() // not before the others: two flags may name the same address
	}
	return errors.Join(errs...)
}

// dir returns a directory below --data, or "" for a temporary one.
func (c sandbox) dir(name string) string {
	if c.Data == "" {
		return ""
	}
	return filepath.Join(c.Data, name)
}

// left describes what is left after the end.
func (c sandbox) left() string {
	switch {
	case c.Data != "":
		return "Stopped. The state is in " + c.Data + "."
	case c.DSN != "":
		return "Stopped. What was stored is in the database."
	}
	return "Stopped. Nothing is left behind."
}

// database returns the server that --mysql-dsn names, or a private one.
func (c sandbox) database(ctx context.Context, screen *screen) (*mysqlserver.Server, error) {
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
	if err := server.CreateDatabase(ctx, databaseName); err != nil {
		return nil, errors.Join(err, server.Close())
	}
	return server, nil
}
