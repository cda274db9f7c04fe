package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"preauth"
	"preauth/repo"
)

// due works on the components whose code is to be renewed or whose last attempt failed. Replicas
// share them by a short lease on the component's row.
type due struct {
	*Service
	minter  *minter
	saver   *saver
	tokens  *tokens
	working inFlight
}

const (
	// duePoll is how often MySQL is asked for due components.
	duePoll = time.Second
	// dueLease is for how long a component is left to the replica that took it.
	dueLease = 20 * time.Second
	// dueBatch is how many components are taken at once.
	dueBatch = 100
)

func (d *due) run(ctx context.Context) {
	for pause(ctx, jittered(duePoll)) {
		for taken := dueBatch; taken == dueBatch && ctx.Err() == nil; {
			room := d.cfg.Calls - d.working.size()
			if room <= 0 || !d.tokens.ready.Load() {
				break
			}
			now := d.cfg.Now()
			components, err := d.db.TakeDue(ctx, now, now.Add(dueLease), min(room, dueBatch))
			d.health.set("MySQL", err)
			if err != nil {
				break
			}
			for _, component := range components {
				d.working.Go(func() {
					ctx, cancel := context.WithTimeout(d.lasting, dueLease)
					defer cancel()
					if err := d.work(ctx, component); err != nil {
						d.log.Warn("due component left for later", "component", component.AppID, "error", err)
					}
				})
			}
			taken = len(components)
		}
	}
}

// work makes a new code for a due component with its newest token.
func (d *due) work(ctx context.Context, component repo.Component) error {
	leave, err := d.tokens.lanes.enter(ctx, component.AppID)
	if err != nil {
		return err
	}
	defer leave()

	token, ok := d.tokens.view.token(component.AppID, d.cfg.Now())
	if ok && token.position.After(component.Token.Position) {
		return nil // the newer event is on its way through the consumer
	}
	outcome := repo.Outcome{AppID: component.AppID, Token: component.Token, Cause: preauth.CauseToken}
	if component.Current != nil && component.Current.Fingerprint == component.Token.Fingerprint {
		outcome.Cause = preauth.CauseRenewal
	}
	if ok && token.fingerprint == component.Token.Fingerprint {
		outcome, err = d.minter.mint(ctx, job{
			outcome: outcome, secret: token.Token, issuedAt: token.IssuedAt, attempts: component.Attempts,
			overtaken: func() bool { return d.tokens.view.overtaken(component.AppID, component.Token.Position) },
		})
		if errors.Is(err, errOvertaken) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("minting: %w", err)
		}
	} else {
		outcome = d.minter.expired(outcome, "the component's token has expired: announce a newer one")
	}
	result, err := d.saver.save(ctx, outcome)
	if err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	d.committed(Step{AppID: component.AppID, Sequence: component.Token.Position.Sequence, Cause: outcome.Cause}, outcome, result)
	return nil
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
