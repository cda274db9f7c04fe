package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/repo"
	"preauth/wechat"
)

// keeper keeps the components' codes valid: it renews them ahead of expiry, tries again after
// failures, makes codes that look-ups demand, and makes spares for claims ahead.
//
// When a component is due stands in its row, and replicas share the due ones by a short lease on it.
type keeper struct {
	*Service
	minter  *minter
	saver   *saver
	tokens  *tokens
	working sync.WaitGroup
	places  places // for due components

	demanding sync.WaitGroup
	topping   sync.WaitGroup

	mu      sync.Mutex
	demands map[string]chan struct{} // the attempts under way, each closed at its end
	stopped bool
	toppers int             // goroutines that make spares
	queue   []string        // components that may lack spares
	lacking map[string]bool // those, and those that are worked on; true: look again afterwards
	// resting are components for which WeChat gave no code aside, until the time to try again. Their
	// current code may be well, so this does not stand in their rows.
	resting map[string]rest
	// waking are the times at which spares are tried for again.
	waking map[string]time.Time
	// unsaved are the codes that MySQL refused to save.
	unsaved map[string]repo.Outcome
	// outlasting are the revisions of current codes that live longer than the spares that WeChat gives now.
	outlasting map[string]uint64
}

func newKeeper(s *Service, m *minter, sv *saver, t *tokens) *keeper {
	return &keeper{
		Service: s, minter: m, saver: sv, tokens: t, places: newPlaces(s.cfg.Calls),
		demands: map[string]chan struct{}{}, lacking: map[string]bool{},
		resting: map[string]rest{}, waking: map[string]time.Time{}, unsaved: map[string]repo.Outcome{}, outlasting: map[string]uint64{},
	}
}

// duePoll is how often MySQL is asked for due components. A simulation asks more often.
var duePoll = time.Second

// extendEvery is how often the lease of a component that is worked on is extended.
var extendEvery = dueLease / 4

const (
	// dueLease is for how long a component is left to the replica that took it.
	dueLease = 20 * time.Second
	// dueBatch is how many components are taken at once.
	dueBatch = 100
)

// run works on due components until ctx ends.
func (k *keeper) run(ctx context.Context) {
	for pause(ctx, jittered(duePoll)) {
		for k.takeDue(ctx) { // as long as there are more
		}
	}
}

// takeDue begins to work on as many due components as there is room for, and reports whether there may be more.
func (k *keeper) takeDue(ctx context.Context) bool {
	// Without NATS the tokens in memory may be old, and those of other replicas are not.
	if !k.tokens.ready.Load() || k.nc.Status() != nats.CONNECTED {
		return false
	}
	room, err := k.places.room(ctx)
	if err != nil {
		return false
	}
	now := k.cfg.Now()
	components, err := k.db.LeaseDue(ctx, now, now.Add(dueLease), min(room, dueBatch))
	k.health.setUse("due components", err)
	k.places.free(room - len(components))
	for _, component := range components {
		k.working.Go(func() {
			defer k.places.free(1)
			if err := k.renew(k.lasting, component, preauth.CauseRenewal); err != nil {
				k.log.Warn("due component left for later", "component", component.AppID, "error", err)
			}
		})
	}
	return err == nil && len(components) == min(room, dueBatch)
}

// renew makes a new current code for a leased component with its newest token, and commits it or the
// failure. cause is why, where the token has brought a code before.
func (k *keeper) renew(ctx context.Context, component repo.Component, cause preauth.Cause) error {
	lease, cancel := context.WithTimeout(ctx, component.DueAt.Sub(k.cfg.Now()))
	defer cancel()
	leave, err := k.tokens.lanes.enter(lease, component.AppID)
	if err != nil {
		return fmt.Errorf("waiting for its turn: %w", err)
	}
	defer leave()
	// Whoever was in the lane before may have done the work, and its lease may have gone to another.
	known, err := k.db.Components(ctx, []string{component.AppID})
	if err != nil {
		return fmt.Errorf("looking again: %w", err)
	}
	if !known[component.AppID].DueAt.Equal(component.DueAt) {
		return nil
	}

	lost, letGo := k.holdLease(ctx, component)
	defer letGo()

	now := k.cfg.Now()
	outcome := repo.Outcome{AppID: component.AppID, Token: component.Token, Cause: cause}
	token, ok := k.tokens.view.token(component.AppID, now)
	switch {
	case ok && token.position.After(component.Token.Position):
		if now.Sub(token.position.Time) < dueLease {
			return nil // the newer event is on its way through the consumer
		}
		// It should have arrived: it was purged from the stream before anybody took it up.
		outcome.Token = repo.Token{Position: token.position, Fingerprint: token.fingerprint, ExpiresAt: token.ExpiresAt}
	case !component.Token.ExpiresAt.After(now):
		return k.commit(ctx, component, expired(outcome, now))
	case !ok || token.fingerprint != component.Token.Fingerprint:
		lost := &wechat.Error{
			Class:  preauth.ClassTokenExpired,
			ErrMsg: "the stream does not hold the component's token any more, though it should live: announce it again",
		}
		return k.commit(ctx, component, fail(outcome, lost, component.Attempts, now, now.Add(jittered(k.cfg.Delays.Operator))))
	}
	if unsaved, ok := k.unsavedOf(outcome, now); ok {
		return k.commit(ctx, component, unsaved)
	}
	if component.Current == nil || component.Current.Fingerprint != outcome.Token.Fingerprint {
		outcome.Cause = preauth.CauseToken
	}
	outcome, err = k.minter.mint(ctx, job{
		outcome: outcome, secret: token.Token, issuedAt: token.IssuedAt, attempts: component.Attempts,
		rejected:  component.Failure != nil && component.Failure.Class == preauth.ClassTokenRejected,
		tries:     1, // the component's row keeps the time of the next one
		priority:  priorityOf[cause],
		overtaken: func() bool { return lost() || k.tokens.view.overtaken(component.AppID, outcome.Token.Position) },
	})
	if errors.Is(err, errOvertaken) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("minting: %w", err)
	}
	return k.commit(ctx, component, outcome)
}

// holdLease keeps a component leased until letGo is called: a call may have to wait for its turn for longer than a lease.
// lost reports that the lease has ended all the same, so that another replica may be at work.
func (k *keeper) holdLease(ctx context.Context, component repo.Component) (lost func() bool, letGo func()) {
	ctx, cancel := context.WithCancel(ctx)
	var end atomic.Pointer[time.Time]
	end.Store(&component.DueAt)
	var holding sync.WaitGroup
	holding.Go(func() {
		for pause(ctx, extendEvery) {
			until := k.cfg.Now().Add(dueLease)
			extended, err := k.db.Extend(ctx, component.AppID, *end.Load(), until)
			for err != nil && pause(ctx, extendEvery) { // to the same time, as it may have been extended
				extended, err = k.db.Extend(ctx, component.AppID, *end.Load(), until)
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
	return func() bool { return !end.Load().After(k.cfg.Now()) }, func() { cancel(); holding.Wait() }
}

var priorityOf = map[preauth.Cause]priority{preauth.CauseRenewal: priorityCurrent, preauth.CauseDemand: priorityDemand}

// commit has the outcome of a leased component saved. A code that MySQL refuses to save, for want of a right,
// say, is kept for the component's next turn, which would cost another call of WeChat.
func (k *keeper) commit(ctx context.Context, component repo.Component, outcome repo.Outcome) error {
	saved, result, err := k.saver.save(ctx, outcome, component)
	k.mu.Lock()
	if err != nil && outcome.Code != nil {
		k.unsaved[outcome.AppID] = outcome
	} else {
		delete(k.unsaved, outcome.AppID)
	}
	k.mu.Unlock()
	if err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	k.committed(Step{AppID: saved.AppID, Sequence: saved.Token.Position.Sequence, Cause: saved.Cause}, saved, result)
	return nil
}

// unsavedOf returns the outcome that was not saved at the component's last turn, if its code is one of the
// same token and need not be renewed itself.
func (k *keeper) unsavedOf(wanted repo.Outcome, now time.Time) (repo.Outcome, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	unsaved, ok := k.unsaved[wanted.AppID]
	return unsaved, ok && unsaved.Token == wanted.Token && unsaved.DueAt.After(now)
}

// demand makes the code that follows the given revision, for look-ups: once for all that wait for it in
// this replica, and not at all if another replica is at it or has done it. The channel is closed at the end of
// the attempt; what came of it is in MySQL.
func (k *keeper) demand(appid string, revision uint64) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if done, ok := k.demands[appid]; ok {
		return done
	}
	done := make(chan struct{})
	k.demands[appid] = done
	// It outlives the look-up that began it: others may wait, and the code is of use in any case.
	k.demanding.Go(func() {
		if err := k.makeDemanded(k.lasting, appid, revision); err != nil && !errors.Is(err, context.Canceled) {
			k.log.Warn("no code on demand", "component", appid, "error", err)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.demands, appid)
		close(done)
	})
	return done
}

func (k *keeper) makeDemanded(ctx context.Context, appid string, revision uint64) error {
	if !k.tokens.ready.Load() {
		return nil // a token that is not in memory yet would be taken for lost
	}
	now := k.cfg.Now()
	component, leased, err := k.db.Lease(ctx, appid, revision, now, now.Add(dueLease))
	if err != nil || !leased {
		return err
	}
	return k.renew(ctx, component, preauth.CauseDemand)
}

// topUp has the spares made that a component lacks, in the background.
func (k *keeper) topUp(appid string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cfg.Spares < 0 || k.stopped {
		return
	}
	if _, ok := k.lacking[appid]; ok {
		k.lacking[appid] = true
		return
	}
	k.lacking[appid] = false
	k.queue = append(k.queue, appid)
	if k.toppers < max(1, k.cfg.Calls/4) { // most of the calls are for current codes
		k.toppers++
		k.topping.Go(k.topUpQueued)
	}
}

// topUpAt has it done later, and reports whether a timer was set: with one that is as early, each claim while WeChat
// gives no code would leave another behind.
func (k *keeper) topUpAt(appid string, at time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if earlier, ok := k.waking[appid]; ok && !at.Before(earlier) {
		return false
	}
	k.waking[appid] = at
	time.AfterFunc(at.Sub(k.cfg.Now()), func() {
		k.mu.Lock()
		if k.waking[appid].Equal(at) {
			delete(k.waking, appid)
		}
		k.mu.Unlock()
		k.topUp(appid)
	})
	return true
}

// topUpQueued works on the components that may lack spares until there are none.
func (k *keeper) topUpQueued() {
	for {
		k.mu.Lock()
		if len(k.queue) == 0 {
			k.toppers--
			k.mu.Unlock()
			return
		}
		appid := k.queue[0]
		k.queue = k.queue[1:]
		k.mu.Unlock()

		if err := k.makeSpares(k.lasting, appid); err != nil {
			k.log.Info("spares not made", "component", appid, "error", err)
			if failed, ok := errors.AsType[*mintError](err); ok && !failed.failure.RetryAt.IsZero() {
				k.topUpAt(appid, failed.failure.RetryAt)
			} // otherwise with the next claim or renewal
		}

		k.mu.Lock()
		if again := k.lacking[appid]; again && !k.stopped {
			k.lacking[appid] = false
			k.queue = append(k.queue, appid)
		} else {
			delete(k.lacking, appid)
		}
		k.mu.Unlock()
	}
}

func (k *keeper) stopping() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stopped
}

// stop lets nothing more be begun, and waits for what was.
func (k *keeper) stop() {
	k.mu.Lock()
	k.stopped, k.queue = true, nil
	k.mu.Unlock()
	k.topping.Wait()
	k.working.Wait()
}

// makeSpares makes spares until the component has as many as it is to have. Only those count that
// live until the current code is renewed, when spares are looked after again.
func (k *keeper) makeSpares(ctx context.Context, appid string) error {
	current, ok := k.codes.code(appid)
	if !ok {
		return nil
	}
	aliveAt := current.ExpiresAt.Add(-current.ExpiresAt.Sub(current.IssuedAt) / 8) // renewed for certain
	now := k.cfg.Now()
	if now.After(aliveAt) {
		aliveAt = now // the renewal is late
	}
	k.mu.Lock()
	outlasts := k.outlasting[appid] == current.Revision
	k.mu.Unlock()
	if outlasts {
		aliveAt = now.Add(k.responder.spareTTL(appid))
	}
	var have map[string]int
	err := k.saver.persist(ctx, func(ctx context.Context) (err error) {
		have, err = k.db.CountSpares(ctx, []string{appid}, aliveAt)
		return err
	})
	if err != nil {
		return fmt.Errorf("counting: %w", err)
	}
	// Where WeChat has shortened the life of its codes, or a clock was fast when the current one was made, no
	// spare lives until then. So those made now are not counted again, and the next time those that serve a claim
	// count: otherwise each claim would have all spares made anew.
	for range k.cfg.Spares - have[appid] {
		if k.stopping() {
			return nil
		}
		minted, err := k.mintAside(ctx, appid, prioritySpare)
		if err != nil {
			return err
		}
		spare := []repo.Spare{{AppID: appid, Code: *minted.Code, Fingerprint: minted.Token.Fingerprint}}
		err = k.saver.persist(ctx, func(ctx context.Context) error { return k.db.AddSpares(ctx, spare) })
		if err != nil {
			return fmt.Errorf("saving: %w", err)
		}
		k.metrics.spares.Inc()
		if !minted.Code.ExpiresAt.After(aliveAt) {
			k.mu.Lock()
			k.outlasting[appid] = current.Revision
			k.mu.Unlock()
		}
	}
	return nil
}

var (
	// errNoToken is the end of what can be done for a component until its token service speaks.
	errNoToken = errors.New("the component's token has expired: announce a newer one")
	// errUnread: nobody knows yet what the stream holds.
	errUnread = errors.New("this replica has not read the tokens yet: try again in a moment")
)

// mintAside makes a code that does not become the current one. A failure of WeChat is a
// [*mintError], which also stands for the calls that are not made before the time to try again.
func (k *keeper) mintAside(ctx context.Context, appid string, p priority) (repo.Outcome, error) {
	token, ok := k.tokens.view.token(appid, k.cfg.Now())
	switch {
	case !ok && !k.tokens.ready.Load():
		return repo.Outcome{}, errUnread
	case !ok:
		return repo.Outcome{}, errNoToken
	}
	if failure, ok := k.rests(appid, token.fingerprint); ok {
		return repo.Outcome{}, &mintError{failure}
	}
	outcome, err := k.minter.mint(ctx, job{
		outcome: repo.Outcome{
			AppID: appid,
			Token: repo.Token{Position: token.position, Fingerprint: token.fingerprint, ExpiresAt: token.ExpiresAt},
		},
		secret: token.Token, issuedAt: token.IssuedAt, tries: inHandTries, priority: p,
		overtaken: func() bool { return false }, // the code is as good as one of the newer token
	})
	switch {
	case err != nil:
		return repo.Outcome{}, fmt.Errorf("minting: %w", err)
	case outcome.Failure != nil:
		k.mu.Lock()
		defer k.mu.Unlock()
		k.resting[appid] = rest{*outcome.Failure, token.fingerprint}
		return repo.Outcome{}, &mintError{*outcome.Failure}
	}
	return outcome, nil
}

// rest is a failure after which WeChat is not asked with the same token, before the time to try again or a renewal that
// succeeds.
type rest struct {
	preauth.Failure
	fingerprint repo.Fingerprint
}

// rests returns the failure because of which a component gets no code aside for the moment.
func (k *keeper) rests(appid string, token repo.Fingerprint) (preauth.Failure, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.resting[appid]
	if !ok {
		return preauth.Failure{}, false
	}
	current, _ := k.codes.code(appid)
	renewed := current.IssuedAt.After(r.OccurredAt) // here or elsewhere: WeChat gives codes again
	due := !r.RetryAt.IsZero() && !r.RetryAt.After(k.cfg.Now())
	if r.fingerprint != token || renewed || due {
		delete(k.resting, appid)
		return preauth.Failure{}, false
	}
	return r.Failure, true
}

// mintError is a failure of WeChat on the way to a code that is not to become current.
type mintError struct{ failure preauth.Failure }

// Error says which.
func (e *mintError) Error() string {
	return fmt.Sprintf("WeChat: %s: errcode %d: %s", e.failure.Class, e.failure.ErrCode, e.failure.ErrMsg)
}
