package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"preauth"
	"preauth/internal/inflight"
	"preauth/internal/view"
	"preauth/repo"
)

// spares makes codes that are never announced: ahead of claims, and while a claim waits for one.
type spares struct {
	perComponent int // below 1 for none
	makers       int // components that spares are made for at once
	db           *repo.Repo
	tokens       *view.Tokens
	codes        *view.Codes
	issuer       *issuer
	health       *health
	metrics      *metrics
	log          *slog.Logger
	trace        tracer
	now          func() time.Time

	wake chan struct{} // holds an item when a component may be queued

	mu      sync.Mutex
	stopped bool
	queue   []string // components that may lack spares
	// queued has the components in the queue and those that spares are made for; true: look again
	// afterwards.
	queued map[string]bool
	// wakeAt are the times at which timers put components into the queue.
	wakeAt map[string]time.Time
	// cooldowns are the failures after which WeChat is not asked again for a while. They do not stand in
	// the components' rows, since the current code may be fine.
	cooldowns map[string]cooldown
	// outlived are the revisions of current codes that live longer than the spares that WeChat gives now.
	outlived map[string]uint64
}

func newSpares(
	cfg Config, db *repo.Repo, tokens *view.Tokens, codes *view.Codes, i *issuer, h *health, m *metrics, log *slog.Logger,
) *spares {
	return &spares{
		perComponent: cfg.Spares,
		makers:       max(1, cfg.Calls/4), // most of the calls are for current codes
		db:           db, tokens: tokens, codes: codes, issuer: i, health: h, metrics: m, log: log, trace: cfg.tracer, now: cfg.Now,
		wake: make(chan struct{}, 1), queued: map[string]bool{}, wakeAt: map[string]time.Time{},
		cooldowns: map[string]cooldown{}, outlived: map[string]uint64{},
	}
}

// topUp has the spares made that a component lacks, in the background.
func (s *spares) topUp(appid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perComponent < 1 || s.stopped {
		return
	}
	if _, ok := s.queued[appid]; ok {
		s.queued[appid] = true
		return
	}
	s.enqueue(appid)
}

// enqueue puts a component into the queue. The caller holds mu.
func (s *spares) enqueue(appid string) {
	s.queued[appid] = false
	s.queue = append(s.queue, appid)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// topUpAt tops a component up at a later time. An earlier pending timer wins, so claims during an
// outage don't pile up timers. It reports whether it set a timer.
func (s *spares) topUpAt(appid string, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if earlier, ok := s.wakeAt[appid]; ok && !at.Before(earlier) {
		return false
	}
	s.wakeAt[appid] = at
	time.AfterFunc(at.Sub(s.now()), func() {
		s.mu.Lock()
		if s.wakeAt[appid].Equal(at) {
			delete(s.wakeAt, appid)
		}
		s.mu.Unlock()
		s.topUp(appid)
	})
	return true
}

// run makes spares for queued components until ctx ends. It then returns when the calls under way are
// done and their codes saved, or workCtx has ended.
func (s *spares) run(ctx, workCtx context.Context) {
	slots := inflight.NewSlots(s.makers)
	var making sync.WaitGroup
	defer making.Wait()
	s.stop(false)
	defer s.stop(true)
	for {
		appid, ok := s.next()
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		if slots.Acquire(ctx) != nil {
			return
		}
		making.Go(func() {
			defer slots.Release(1)
			s.work(workCtx, appid)
		})
	}
}

func (s *spares) next() (appid string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return "", false
	}
	appid, s.queue = s.queue[0], s.queue[1:]
	return appid, true
}

// stop has nothing more begun, or lets it begin again.
func (s *spares) stop(stopped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped = stopped; stopped {
		s.queue = nil
		clear(s.queued)
	}
}

func (s *spares) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// work makes the spares that a component lacks, and looks again if that was asked for meanwhile.
func (s *spares) work(ctx context.Context, appid string) {
	ctx, making := s.trace.work(ctx, "top up spares", appid)
	err := s.makeLacking(ctx, appid)
	making.end(err)
	if err != nil {
		level := levelOf(err)
		var at time.Time // to try again; the zero time waits for the next claim or renewal
		failed, ok := errors.AsType[*issueError](err)
		switch {
		case ok:
			level, at = slog.LevelDebug, failed.RetryAt // which coolDown has logged
		case isOfQuota(err):
			level = slog.LevelDebug // spares yield: nobody has to act
		case errors.Is(err, errUnread), errors.Is(err, errNoToken) && s.codeIsNew(appid):
			level, at = slog.LevelDebug, s.now().Add(viewAgain)
		}
		s.log.Log(ctx, level, "spares not made", "component", appid, "error", err)
		if !at.IsZero() {
			s.topUpAt(appid, at)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.queued[appid]
	delete(s.queued, appid)
	if again { // so it is not stopped
		s.enqueue(appid)
	}
}

const (
	// viewLag is how long the view of tokens may take to read an event that was worked on.
	viewLag = 10 * time.Second
	// viewAgain is how often spares look whether it has.
	viewAgain = 100 * time.Millisecond
)

// codeIsNew reports whether the component's current code was made moments ago. Its token is alive
// then, and where the view has none, it has yet to read the token's event.
func (s *spares) codeIsNew(appid string) bool {
	current := s.codes.Current(appid)
	return current != nil && s.now().Sub(current.IssuedAt) < viewLag
}

// makeLacking makes spares until the component has as many as it is to have. Only those count that
// live until the current code is renewed for certain, which is when spares are topped up again.
func (s *spares) makeLacking(ctx context.Context, appid string) error {
	current := s.codes.Current(appid)
	if current == nil {
		return nil
	}
	now := s.now()
	aliveAt := current.ExpiresAt.Add(-current.ExpiresAt.Sub(current.IssuedAt) / 8)
	if now.After(aliveAt) {
		aliveAt = now // the renewal is late
	}
	// If WeChat has shortened the life of its codes, no spare lives until then. Those that serve a claim
	// count instead: otherwise each claim would have all spares made anew.
	if s.isOutlived(appid, current.Revision) {
		aliveAt = now.Add(s.minTTL(appid))
	}
	var have map[string]int
	err := untilAvailable(ctx, s.health, "counting spares", func(ctx context.Context) (err error) {
		have, err = s.db.CountSpares(ctx, []string{appid}, aliveAt)
		return err
	})
	if err != nil {
		return fmt.Errorf("counting: %w", err)
	}
	for range s.perComponent - have[appid] {
		if s.stopping() {
			return nil
		}
		issued, err := s.issueUnannounced(ctx, appid, prioritySpare)
		if err != nil {
			return err
		}
		spare := []repo.Spare{{AppID: appid, Code: *issued.Code, Fingerprint: issued.Token.Fingerprint}}
		err = untilAvailable(ctx, s.health, "saving spares", func(ctx context.Context) error { return s.db.AddSpares(ctx, spare) })
		if err != nil {
			return fmt.Errorf("saving: %w", err)
		}
		s.metrics.spares.Inc()
		if !issued.Code.ExpiresAt.After(aliveAt) {
			s.setOutlived(appid, current.Revision)
		}
	}
	return nil
}

func (s *spares) isOutlived(appid string, revision uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outlived[appid] == revision
}

func (s *spares) setOutlived(appid string, revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outlived[appid] = revision
}

// visit is the time that a visitor should have at least to open WeChat's page with a code.
const visit = time.Minute

// minTTL is the life that a spare must have left for a claim that does not say: a minute, and less
// where codes live for less than ten.
func (s *spares) minTTL(appid string) time.Duration {
	current := s.codes.Current(appid)
	switch {
	case current == nil:
		return 0
	case current.Spent: // which ended its life early
		return visit
	}
	return min(visit, current.ExpiresAt.Sub(current.IssuedAt)/10)
}

// errUnread means that the token may be in the stream, which this replica is still reading.
var errUnread = errors.New("this replica has not read the tokens yet: try again in a moment")

// issueError is a failure of WeChat on the way to a code that is not to become current.
type issueError struct{ preauth.Failure }

// Error says which failure it was.
func (e *issueError) Error() string {
	return fmt.Sprintf("WeChat: %s: errcode %d: %s", e.Class, e.ErrCode, e.ErrMsg)
}

// ErrorType returns the class, for spans.
func (e *issueError) ErrorType() string { return string(e.Class) }

// issueUnannounced issues a code that does not become the current one. The error is errUnread,
// errNoToken, that of ctx or of the quota, or an [*issueError]: a failure of WeChat, which also
// stands for the calls that are not made while it cools down.
func (s *spares) issueUnannounced(ctx context.Context, appid string, p priority) (repo.Outcome, error) {
	token, ok := s.tokens.Newest(appid, s.now())
	switch {
	case !ok && !s.tokens.CaughtUp():
		return repo.Outcome{}, errUnread
	case !ok:
		return repo.Outcome{}, errNoToken
	}
	if failure, ok := s.coolingDown(appid, token.Fingerprint); ok {
		return repo.Outcome{}, &issueError{failure}
	}
	outcome, err := s.issuer.issue(ctx, order{
		outcome: repo.Outcome{
			AppID: appid,
			Token: repo.Token{Position: token.Position, Fingerprint: token.Fingerprint, ExpiresAt: token.ExpiresAt},
		},
		secret: token.Token, issuedAt: token.IssuedAt, tries: quickTries, priority: p,
		unwanted: func() bool { return false }, // the code is as good as one of a newer token
	})
	switch {
	case err != nil:
		return repo.Outcome{}, fmt.Errorf("issuing: %w", err)
	case outcome.Failure != nil:
		f := *outcome.Failure
		s.coolDown(appid, cooldown{f, token.Fingerprint})
		if f.Class != preauth.ClassTransient { // WeChat's being away is logged once for all
			s.log.Info("no code for claims", "component", appid, "class", string(f.Class), "errmsg", f.ErrMsg)
		}
		return repo.Outcome{}, &issueError{*outcome.Failure}
	}
	return outcome, nil
}

// cooldown is a failure after which WeChat is not asked with the same token, before the time to try
// again or a renewal that succeeds.
type cooldown struct {
	preauth.Failure
	fingerprint repo.Fingerprint
}

func (s *spares) coolDown(appid string, c cooldown) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cooldowns[appid] = c
}

// coolingDown returns the failure because of which a component gets no unannounced code for now.
func (s *spares) coolingDown(appid string, token repo.Fingerprint) (preauth.Failure, bool) {
	current := s.codes.Current(appid)
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.cooldowns[appid]
	if !ok {
		return preauth.Failure{}, false
	}
	renewed := current != nil && current.IssuedAt.After(c.OccurredAt) // here or elsewhere: WeChat gives codes again
	due := !c.RetryAt.IsZero() && !c.RetryAt.After(s.now())
	if c.fingerprint != token || renewed || due {
		delete(s.cooldowns, appid)
		return preauth.Failure{}, false
	}
	return c.Failure, true
}
