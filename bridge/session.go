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

// frame has the settings that all commands share.
type frame struct {
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

	sides []*side
}

// serve connects to NATS and runs a bridge until ctx ends. prepare returns the bridge's work, and
// leaves in the session the sides that it has to reach.
func (f frame) serve(ctx context.Context, to app.Stdio, prepare func(*session) (work func(context.Context), err error)) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	log := f.Log.Logger(to.Err)
	listener, err := app.Listen(ctx, "--admin-listen", f.Admin.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	closed := make(chan struct{})
	nc, err := f.NATS.Connect(log, func(err error) {
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
	client, err := preauth.NewClient(nc, preauth.WithSubjects(preauth.DefaultSubjects().WithPrefix(f.SubjectPrefix)))
	if err != nil {
		return err
	}
	s := &session{nc: nc, client: client, log: log, registry: app.NewRegistry()}
	work, err := prepare(s)
	if err != nil {
		return err
	}
	defer app.ServeAdmin(listener, log, http.NotFoundHandler(), s.ready, s.registry)()
	log.Info("starting", "version", app.Version(), "admin", listener.Addr().String(), "nats", f.NATS.Where())
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
	for _, side := range s.sides {
		errs = append(errs, side.reached())
	}
	return errors.Join(errs...)
}

// side is something that a bridge has to reach.
type side struct {
	name string
	down *outage.Log

	mu  sync.Mutex
	err error // why it was not reached the last time, nil if it was
}

var errNotTried = errors.New("not tried yet")

// side adds a side. label is its name in the metrics.
func (s *session) side(name, label string) *side {
	added := &side{name: name, down: outage.New(s.log, name, time.Now), err: errNotTried}
	s.sides = append(s.sides, added)
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "preauth_bridge_reached", Help: "1 if the side was reached the last time, otherwise 0.",
		ConstLabels: prometheus.Labels{"side": label},
	}, func() float64 {
		if added.reached() != nil {
			return 0
		}
		return 1
	}))
	return added
}

// note notes how it went to reach the side, and returns the error.
func (s *side) note(err error) error {
	if errors.Is(err, context.Canceled) { // the bridge stops
		return err
	}
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	if err != nil {
		s.down.Away(err)
	} else {
		s.down.Back()
	}
	return err
}

func (s *side) reached() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return fmt.Errorf("%s: %w", s.name, s.err)
	}
	return nil
}

// firstRetry is the pause after a failure. It doubles with each further one.
const firstRetry = 250 * time.Millisecond

// keep calls all at once, every so often, whenever NATS is back, and soon again after a failure. It
// calls one for each change. It makes one call at a time, and ends with ctx.
func keep[T any](ctx context.Context, nc *nats.Conn, every time.Duration, changes <-chan T, all func(context.Context) error, one func(context.Context, T) error) {
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)
	timer := time.NewTimer(0)
	defer timer.Stop()
	first := min(firstRetry, every)
	retry := first
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
			err = all(ctx)
		case <-timer.C:
			err = all(ctx)
		}
		if err == nil {
			retry = first
			timer.Reset(pause.Jittered(every))
			continue
		}
		timer.Reset(pause.Jittered(retry))
		retry = min(2*retry, every)
	}
}
