package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"preauth"
	"preauth/internal/inflight"
	"preauth/internal/keylock"
	"preauth/internal/pause"
	"preauth/internal/view"
	"preauth/repo"
	"preauth/wechat"
)

// leaseBatch bounds the components that are leased at once.
const leaseBatch = 100

// renewer keeps the components' codes valid: it renews them ahead of expiry, tries again after
// failures, and renews at once what a look-up finds expired and what an authorization has spent.
//
// A component's row says when it is due. Replicas share the due components by a short lease, which
// stands in the row too.
type renewer struct {
	cfg    Config
	db     *repo.Repo
	tokens *view.Tokens
	locks  *keylock.Locks
	issuer *issuer
	commit *committer
	health *health
	log    *slog.Logger
	// connected reports whether NATS is there: without it, the tokens in memory may be old ones.
	connected func() bool

	slots     inflight.Slots
	renewing  sync.WaitGroup
	demanding sync.WaitGroup

	mu sync.Mutex
	// demands are the renewals under way that look-ups and authorizations began, each closed at its end.
	demands map[string]chan struct{}
	// unsaved are the codes that MySQL refused to save.
	unsaved map[string]repo.Outcome
}

func newRenewer(
	cfg Config, db *repo.Repo, tokens *view.Tokens, locks *keylock.Locks, i *issuer, c *committer, h *health,
	log *slog.Logger, connected func() bool,
) *renewer {
	return &renewer{
		cfg: cfg, db: db, tokens: tokens, locks: locks, issuer: i, commit: c, health: h, log: log, connected: connected,
		slots: inflight.NewSlots(cfg.Calls), demands: map[string]chan struct{}{}, unsaved: map[string]repo.Outcome{},
	}
}

// run renews due components until ctx ends. It then returns when the renewals under way are done, or
// workCtx has ended.
func (r *renewer) run(ctx, workCtx context.Context) {
	for pause.For(ctx, pause.Jittered(r.cfg.intervals.due)) {
		for r.leaseDue(ctx, workCtx) { // as long as there may be more
		}
	}
	r.renewing.Wait()
}

// leaseDue begins to renew as many due components as there are slots for, and reports whether there
// may be more.
func (r *renewer) leaseDue(ctx, workCtx context.Context) bool {
	if !r.tokens.CaughtUp() || !r.connected() {
		return false
	}
	room, err := r.slots.AcquireAll(ctx)
	if err != nil {
		return false
	}
	now := r.cfg.Now()
	components, err := r.db.LeaseDue(ctx, now, now.Add(lease), min(room, leaseBatch))
	r.health.setUse("due components", err)
	r.slots.Release(room - len(components))
	for _, component := range components {
		r.renewing.Go(func() {
			defer r.slots.Release(1)
			if err := r.renew(workCtx, component, preauth.CauseRenewal); err != nil {
				r.log.Log(workCtx, levelOf(err), "due component left for later", "component", component.AppID, "error", err)
			}
		})
	}
	return len(components) == min(room, leaseBatch)
}

// renewNow makes the code that follows the given revision: once for all in this replica that wait for
// it, and not at all if another replica is at it or has done it. The channel is closed at the end of
// the attempt; its result is in MySQL. The attempt outlives the look-up or the authorization that
// began it, since others may wait and the code is of use in any case; it ends with workCtx.
func (r *renewer) renewNow(workCtx context.Context, appid string, revision uint64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if done, ok := r.demands[appid]; ok {
		return done
	}
	done := make(chan struct{})
	r.demands[appid] = done
	r.demanding.Go(func() {
		if err := r.demand(workCtx, appid, revision); err != nil {
			r.log.Log(workCtx, levelOf(err), "no code on demand", "component", appid, "error", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.demands, appid)
		close(done)
	})
	return done
}

// waitForDemands returns when the renewals that look-ups and authorizations began are done. None of
// these may begin another one meanwhile.
func (r *renewer) waitForDemands() { r.demanding.Wait() }

func (r *renewer) demand(ctx context.Context, appid string, revision uint64) error {
	if !r.tokens.CaughtUp() {
		return nil // a token that is not in memory yet would be taken for lost
	}
	now := r.cfg.Now()
	component, leased, err := r.db.Lease(ctx, appid, revision, now, now.Add(lease))
	if err != nil || !leased {
		return err
	}
	return r.renew(ctx, component, preauth.CauseDemand)
}

// renew makes a new current code for a leased component with its newest token, and commits it or the
// failure. cause is why, where the token has brought a code before.
func (r *renewer) renew(ctx context.Context, component repo.Component, cause preauth.Cause) (err error) {
	ctx, renewing := r.cfg.tracer.work(ctx, "renew", component.AppID)
	defer func() { renewing.end(err) }()
	leaseCtx, cancel := context.WithTimeout(ctx, component.DueAt.Sub(r.cfg.Now()))
	defer cancel()
	unlock, err := r.locks.Lock(leaseCtx, component.AppID)
	if err != nil {
		return fmt.Errorf("waiting for the component: %w", err)
	}
	defer unlock()
	// The one before may have done the work, and another replica may have the lease now.
	known, err := r.db.Components(ctx, []string{component.AppID})
	if err != nil {
		return fmt.Errorf("reading again: %w", err)
	}
	if !known[component.AppID].DueAt.Equal(component.DueAt) {
		return nil
	}
	lost, release := r.holdLease(ctx, component)
	defer release()

	now := r.cfg.Now()
	outcome := repo.Outcome{AppID: component.AppID, Token: component.Token, Cause: cause, TraceParent: renewing.traceParent("")}
	token, alive := r.tokens.Newest(component.AppID, now)
	switch {
	case alive && token.Position.After(component.Token.Position):
		if now.Sub(token.Position.Time) < lease {
			return nil // the newer event is on its way through the consumer
		}
		// It should have arrived: it was purged from the stream before any replica took it.
		outcome.Token = repo.Token{Position: token.Position, Fingerprint: token.Fingerprint, ExpiresAt: token.ExpiresAt}
	case !component.Token.ExpiresAt.After(now):
		return r.save(ctx, component, expired(outcome, now))
	case !alive || token.Fingerprint != component.Token.Fingerprint:
		lost := &wechat.Error{
			Class:  preauth.ClassTokenExpired,
			ErrMsg: "the stream does not hold the component's token any more, though it should live: announce it again",
		}
		return r.save(ctx, component, fail(outcome, lost, component.Attempts, now, now.Add(pause.Jittered(r.cfg.Delays.Operator))))
	}
	if unsaved, ok := r.unsavedFor(outcome, now); ok {
		return r.save(ctx, component, unsaved)
	}
	switch current := component.Current; {
	case current == nil || current.Fingerprint != outcome.Token.Fingerprint:
		outcome.Cause = preauth.CauseToken
	case current.IsSpent():
		outcome.Cause = preauth.CauseSpent
	}
	outcome, err = r.issuer.issue(ctx, order{
		outcome: outcome, secret: token.Token, issuedAt: token.IssuedAt, attempts: component.Attempts,
		rejected: component.Failure != nil && component.Failure.Class == preauth.ClassTokenRejected,
		tries:    1, // the component's row keeps the time of the next one
		priority: renewalPriority(outcome.Cause),
		unwanted: func() bool { return lost() || r.tokens.Superseded(component.AppID, outcome.Token.Position) },
	})
	if errors.Is(err, errUnwanted) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("issuing: %w", err)
	}
	return r.save(ctx, component, outcome)
}

func renewalPriority(cause preauth.Cause) priority {
	if cause == preauth.CauseDemand {
		return priorityDemand
	}
	return priorityCurrent
}

// holdLease renews a component's lease until release is called: a call may have to wait for its turn
// for longer than a lease. lost reports that the lease has ended all the same, so that another
// replica may be at work.
func (r *renewer) holdLease(ctx context.Context, component repo.Component) (lost func() bool, release func()) {
	ctx, cancel := context.WithCancel(ctx)
	var end atomic.Pointer[time.Time]
	end.Store(&component.DueAt)
	every := r.cfg.intervals.extend
	var holding sync.WaitGroup
	holding.Go(func() {
		for pause.For(ctx, every) {
			until := r.cfg.Now().Add(lease)
			extended, err := r.db.Extend(ctx, component.AppID, *end.Load(), until)
			for err != nil && pause.For(ctx, every) { // to the same time, as it may have been extended
				extended, err = r.db.Extend(ctx, component.AppID, *end.Load(), until)
			}
			if err != nil {
				return
			}
			if !extended {
				end.Store(&time.Time{})
				return
			}
			end.Store(&until)
		}
	})
	return func() bool { return !end.Load().After(r.cfg.Now()) }, func() { cancel(); holding.Wait() }
}

// save commits the outcome of a leased component. A code that MySQL refuses to save, because a right
// is missing, say, is kept for the component's next turn, which would cost another call of WeChat.
func (r *renewer) save(ctx context.Context, component repo.Component, outcome repo.Outcome) error {
	_, _, err := r.commit.commit(ctx, outcome, component)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && outcome.Code != nil {
		r.unsaved[outcome.AppID] = outcome
	} else {
		delete(r.unsaved, outcome.AppID)
	}
	if err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	return nil
}

// unsavedFor returns the outcome that was not saved at the component's last turn, if its code was
// made with the wanted token and is not due for renewal itself.
func (r *renewer) unsavedFor(wanted repo.Outcome, now time.Time) (repo.Outcome, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	unsaved, ok := r.unsaved[wanted.AppID]
	return unsaved, ok && unsaved.Token == wanted.Token && unsaved.DueAt.After(now)
}
