package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/internal/app"
	"preauth/internal/outage"
	"preauth/internal/pause"
)

// common has the settings that all commands share.
type common struct {
	NATS  app.NATS  `embed:"" group:"nats"`
	Admin app.Admin `embed:"" group:"admin"`
	Log   app.Log   `embed:"" group:"admin"`

	SubjectPrefix string `name:"subject-prefix" group:"nats" env:"PREAUTH_SUBJECT_PREFIX" placeholder:"SUBJECT" form:"subject" help:"Prefix of the service's subjects."`
}

// session is what a bridge works with while it runs.
type session struct {
	nc       *nats.Conn
	client   *preauth.Client
	log      *slog.Logger
	registry *prometheus.Registry

	parts []*part
}

// serve connects to NATS and runs a bridge until ctx ends. prepare returns the bridge's work, and
// adds to the session the parts that it has to reach.
func (c common) serve(ctx context.Context, to app.Stdio, prepare func(*session) (work func(context.Context), err error)) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	log := c.Log.Logger(to.Err)
	listener, err := app.Listen(ctx, "--admin-listen", c.Admin.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	closed := make(chan struct{})
	nc, err := c.NATS.Connect(log, func(err error) {
		giveUp(app.ClosedError(err))
		close(closed)
	})
	if err != nil {
		return err
	}
	defer func() {
		nc.Close()
		<-closed
	}()
	logErrors(nc, log)
	client, err := preauth.NewClient(nc, preauth.WithSubjects(preauth.DefaultSubjects().WithPrefix(c.SubjectPrefix)))
	if err != nil {
		return err
	}
	s := &session{nc: nc, client: client, log: log, registry: app.NewRegistry()}
	s.reached("nats", nc.IsConnected)
	work, err := prepare(s)
	if err != nil {
		return err
	}
	defer app.ServeAdmin(listener, log, http.NotFoundHandler(), s.ready, s.registry)()
	log.Info("starting", "version", app.Version(), "admin", listener.Addr().String(), "nats", c.NATS.Where())
	work(ctx)
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// logErrors logs what NATS reports to nobody who waits, such as a refused subscription.
func logErrors(nc *nats.Conn, log *slog.Logger) {
	defects, next := outage.NewDefects(log, time.Now), nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if nc.IsConnected() {
			defects.Log(context.Background(), slog.LevelWarn, "NATS reports an error", err)
		}
		next(nc, sub, err)
	})
}

// ready returns what the bridge does not reach, nil if it reaches everything.
func (s *session) ready() error {
	var errs []error
	if !s.nc.IsConnected() {
		errs = append(errs, errors.New("NATS: not connected"))
	}
	for _, part := range s.parts {
		errs = append(errs, part.reached())
	}
	return errors.Join(errs...)
}

// part is something that a bridge has to reach.
type part struct {
	name string
	down *outage.Log

	mu  sync.Mutex
	err error // why it was not reached the last time, nil if it was
}

var errNotTried = errors.New("not tried yet")

// part adds a part. label is its name in the metrics.
func (s *session) part(name, label string) *part {
	added := &part{name: name, down: outage.New(s.log, name, time.Now), err: errNotTried}
	s.parts = append(s.parts, added)
	s.reached(label, func() bool { return added.reached() == nil })
	return added
}

// reached adds the metric of whether a part was reached.
func (s *session) reached(label string, is func() bool) {
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "preauth_bridge_reached", Help: "1 if the part was reached the last time, otherwise 0.",
		ConstLabels: prometheus.Labels{"part": label},
	}, func() float64 {
		if is() {
			return 1
		}
		return 0
	}))
}

// components adds the metric of the components that are usable and of those that are not.
func (s *session) components(help string, usable, unusable func() int) {
	for state, count := range map[string]func() int{"usable": usable, "unusable": unusable} {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "preauth_bridge_components", Help: help, ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count()) }))
	}
}

// note notes how it went to reach the part, and returns the error.
func (p *part) note(err error) error {
	if errors.Is(err, context.Canceled) { // the bridge stops
		return err
	}
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	if err != nil {
		p.down.Away(err)
	} else {
		p.down.Back()
	}
	return err
}

// reached returns why the part was not reached the last time, nil if it was.
func (p *part) reached() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("%s: %w", p.name, p.err)
	}
	return nil
}

// firstPause is the pause after a change of what is reached. It doubles up to the usual one.
const firstPause = 250 * time.Millisecond

// loop calls all at once and then again and again, after pauses that grow up to every. They start
// short at the first failure, at the first success after one, and when NATS is back: what was
// announced just before may reach its bucket a moment later. It calls one for each change. It makes
// one call at a time, and returns when ctx ends.
func loop[T any](ctx context.Context, nc *nats.Conn, every time.Duration, changes <-chan T, all func(context.Context) error, one func(context.Context, T) error) {
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)
	timer := time.NewTimer(0)
	defer timer.Stop()
	first := min(firstPause, every)
	next, failing := first, false
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case change := <-changes:
			if err = one(ctx, change); err == nil {
				continue // which leaves the timer alone
			}
		case <-connected:
			err, next = all(ctx), first
		case <-timer.C:
			err = all(ctx)
		}
		if failing != (err != nil) {
			failing, next = !failing, first
		}
		timer.Reset(pause.Jittered(next))
		next = min(2*next, every)
	}
}

// rest is how much longer than a run the pause behind it is.
const rest = 60

// pacer spreads runs that may take long, so that they do not load what others use too.
type pacer struct{ next time.Time }

// due reports whether the pause is over.
func (p *pacer) due() bool { return !time.Now().Before(p.next) }

// ran notes that a run began at a time and ended now.
func (p *pacer) ran(since time.Time) { p.next = time.Now().Add(rest * time.Since(since)) }
