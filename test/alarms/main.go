// Command alarms draws the dashboard of deploy/grafana from real data: it runs preauth with
// everything around it and with visitors, has WeChat refuse all calls for some minutes, scrapes the
// metrics as Prometheus does, and draws what each panel asks for. Grafana is not involved.
//
//	go -C test/alarms run . -out ../../docs/pictures/dashboard.png
//
// The tests of this module plant faults in such systems, and see which alerts of deploy/prometheus
// fire. It is a module of its own because Prometheus, as a library, brings much along. That includes
// promtool:
//
//	go -C test/alarms tool promtool test rules ../../deploy/prometheus/rules_test.yml
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"preauth"
	"preauth/consumer"
	"preauth/internal/mysqlserver"
	"preauth/wechat/wechattest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:]); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "alarms:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("alarms", flag.ContinueOnError)
	out := flags.String("out", "dashboard.png", "`file` for the picture")
	length := flags.Duration("for", 18*time.Minute, "`time` that the picture shows; WeChat refuses calls from a fifth of it on, for two fifths")
	rules := flags.String("rules", "../../deploy/prometheus/rules.yml", "`file` with the alerts")
	board := flags.String("dashboard", "../../deploy/grafana/preauth.json", "`file` with the dashboard")
	if err := flags.Parse(args); err != nil {
		return err
	}
	panels, err := readDashboard(*board)
	if err != nil {
		return err
	}
	server, err := mysqlserver.Start(ctx, mysqlserver.TestOptions())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	s, err := startSystem(ctx, server, slog.New(slog.DiscardHandler), setup{
		replicas: 2, wechat: wechattest.Options{CodeLife: 4 * time.Minute, DailyQuota: 2000}, config: consumer.Config{Spares: 3},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	dir, err := os.MkdirTemp("", "preauth-alarms-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m, err := newMonitor(dir, 1, *rules, s.targets())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()

	if err := s.live(ctx, m, *length); err != nil {
		return err
	}
	return drawDashboard(ctx, m, panels, *out)
}

// live lets time pass in which everybody around the system does what they do. WeChat refuses all
// calls in the second and the third fifth of it.
func (s *system) live(ctx context.Context, m *monitor, length time.Duration) error {
	end := time.Now().Add(length)
	components := []string{"wx0123456789abcde1", "wx0123456789abcde2", "wx0123456789abcde3"}
	for i, appid := range components {
		if err := s.introduce(ctx, appid); err != nil {
			return err
		}
		defer s.visitors(ctx, appid, time.Duration(3+2*i)*time.Second)()
	}
	looks := 0
	var err error
	watched := m.watch(ctx, func(time.Duration, []string) bool {
		switch left := time.Until(end); {
		case left < length*2/5:
			s.wechat.Every(nil)
		case left < length*4/5:
			s.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(61004, "") })
		}
		looks++
		if looks%4 == 0 { // a new token each minute
			err = s.announce(ctx, components[looks/4%len(components)], 2*time.Hour)
		}
		_, _ = s.client.StatusPage(ctx, preauth.StatusRequest{})
		return err == nil && time.Now().Before(end)
	})
	return errors.Join(err, watched)
}
