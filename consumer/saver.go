package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"preauth/repo"
)

// saver commits outcomes: what waits while one transaction is under way goes into the next, so that
// a lone outcome waits for nobody and a crowd costs few transactions.
type saver struct {
	*Service

	mu      sync.Mutex
	busy    bool
	waiting []*saving
}

type saving struct {
	outcome repo.Outcome
	result  repo.Result
	err     error
	done    chan struct{}
}

func newSaver(s *Service) *saver { return &saver{Service: s} }

// save returns when the outcome is committed, however long MySQL is away, or else with an error: of
// ctx, or about an outcome that MySQL refuses.
func (s *saver) save(ctx context.Context, outcome repo.Outcome) (repo.Result, error) {
	this := &saving{outcome: outcome, done: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, this)
	if !s.busy {
		s.busy = true
		go s.commitWaiting()
	}
	s.mu.Unlock()
	select {
	case <-this.done:
		return this.result, this.err
	case <-ctx.Done():
		return repo.Result{}, ctx.Err()
	}
}

// commitWaiting runs until nothing waits any more.
func (s *saver) commitWaiting() {
	for {
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		s.busy = len(batch) > 0
		s.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		s.commit(batch)
		for _, each := range batch {
			close(each.done)
		}
	}
}

func (s *saver) commit(batch []*saving) {
	outcomes := make([]repo.Outcome, len(batch))
	for i, each := range batch {
		outcomes[i] = each.outcome
	}
	started := time.Now()
	var results []repo.Result
	err := s.persist(s.lasting, func(ctx context.Context) (err error) {
		results, err = s.db.Save(ctx, outcomes)
		return err
	})
	s.metrics.saved(len(batch), time.Since(started), err)
	for i, each := range batch {
		if each.err = err; err == nil {
			each.result, each.err = results[i], results[i].Err
		}
	}
}

// persist repeats a call of package repo until MySQL is there, or ctx ends.
func (s *saver) persist(ctx context.Context, call func(context.Context) error) error {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 50*time.Millisecond, time.Second
	for {
		err := call(ctx)
		if ctx.Err() != nil && err != nil {
			return ctx.Err()
		}
		if !errors.Is(err, repo.ErrUnavailable) {
			s.health.set("MySQL", err)
			return err
		}
		s.health.set("MySQL", fmt.Errorf("is away: %w", err))
		if !pause(ctx, retry.NextBackOff()) {
			return ctx.Err()
		}
	}
}

// committed tells the world of a committed outcome: the view, the relay, the log and the trace.
func (s *Service) committed(step Step, outcome repo.Outcome, result repo.Result) {
	if a := result.Announcement; a != nil {
		if a.Update != nil {
			s.codes.add(*a.Update)
		}
		s.relay.announce(*a)
	}
	log := s.log.With("component", step.AppID, "sequence", step.Sequence)
	switch {
	case result.Status == repo.Superseded:
		s.metrics.superseded()
		s.step(step, StepSuperseded)
	case outcome.Failure != nil:
		f := outcome.Failure
		s.metrics.failed(f.Class)
		step.Class = f.Class
		log.Warn("no code", "class", string(f.Class), "errcode", f.ErrCode, "errmsg", f.ErrMsg, "rid", f.RID,
			"request_ip", f.RequestIP, "attempt", f.Attempt, "retry_at", f.RetryAt)
		s.step(step, StepFailed)
	case outcome.Code != nil:
		step.Revision = result.Revision
		log.Info("code saved", "cause", string(outcome.Cause), "revision", result.Revision, "expires_at", outcome.Code.ExpiresAt)
		s.step(step, StepCommitted)
	default:
		log.Debug("token announced again")
		s.step(step, StepRepeated)
	}
}

func (s *Service) step(step Step, name StepName) {
	step.Name = name
	s.cfg.Trace(step)
}

// inFlight counts and waits for goroutines.
type inFlight struct {
	sync.WaitGroup
	mu sync.Mutex
	n  int
}

// Go runs f in a goroutine.
func (w *inFlight) Go(f func()) {
	w.add(1)
	w.WaitGroup.Go(func() {
		defer w.add(-1)
		f()
	})
}

func (w *inFlight) add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n += n
}

func (w *inFlight) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}
