package consumer

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/batch"
	"preauth/internal/keylock"
	"preauth/internal/stream"
	"preauth/internal/view"
	"preauth/repo"
)

const (
	// firstFor is for how long an event that announces a token again leaves the work to the token's first
	// event.
	firstFor = 10 * time.Second
	// firstDeliveries is how often it does so at most, in case the replica's clock is behind the
	// stream's.
	firstDeliveries = uint64(firstFor / returnDelay)
	// reads bounds the reads of components' rows under way, and readLimit the components of each.
	reads, readLimit = 2, 100
)

// worker takes one token event all its way: to WeChat, through the transaction, to its
// acknowledgement and to the publisher.
type worker struct {
	subject string // of the token events
	tokens  *view.Tokens
	locks   *keylock.Locks
	rows    *batch.Batcher[string, repo.Component]
	issuer  *issuer
	commit  *committer
	metrics *metrics
	log     *slog.Logger
	trace   tracer
	now     func() time.Time
}

func newWorker(
	cfg Config, db *repo.Repo, tokens *view.Tokens, locks *keylock.Locks, i *issuer, c *committer, h *health, m *metrics,
	log *slog.Logger,
) *worker {
	// The answer has what MySQL knows of each component, nothing of one that was never seen.
	rows := batch.New(reads, readLimit, func(ctx context.Context, appids []string) ([]repo.Component, error) {
		var known map[string]repo.Component
		err := untilAvailable(ctx, h, "reading components", func(ctx context.Context) (err error) {
			known, err = db.Components(unspanned(ctx), appids)
			return err
		})
		components := make([]repo.Component, len(appids))
		for i, appid := range appids {
			components[i] = known[appid]
		}
		return components, err
	})
	return &worker{
		subject: cfg.Subjects.TokenUpdated, tokens: tokens, locks: locks, rows: rows, issuer: i, commit: c, metrics: m,
		log: log, trace: cfg.tracer, now: cfg.Now,
	}
}

// work takes an event all its way. When ctx ends before, the event goes back to the stream.
func (w *worker) work(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, id stream.Identity) {
	event, err := parseTokenEvent(w.subject, msg, meta)
	ctx, d := newDelivery(ctx, w.subject, msg, meta, id, Step{AppID: event.AppID, Cause: preauth.CauseToken}, w.log, w.trace)
	if err != nil {
		w.finish(ctx, d, d.failed(preauth.ClassBadEvent, err, w.now()))
		return
	}

	// Events of one component are worked on one after the other. One that is superseded meanwhile is
	// left to the newer event, which the stream keeps.
	unlock, err := w.locks.Lock(ctx, event.AppID)
	if err != nil {
		d.giveBack(err)
		return
	}
	defer unlock()
	w.tokens.Await(ctx, d.position.Sequence)
	d.span.waited("component", d.received)
	superseded := func() bool { return w.tokens.Superseded(event.AppID, d.position) }
	if superseded() {
		w.skip(d)
		return
	}
	known, err := batched(ctx, w.trace, "repo: components", w.rows, event.AppID)
	if err != nil {
		d.giveBack(err)
		return
	}

	now := w.now()
	token := repo.Token{Position: d.position, Fingerprint: repo.FingerprintOf(event.Token), ExpiresAt: event.ExpiresAt}
	outcome := repo.Outcome{AppID: event.AppID, Token: token, Cause: preauth.CauseToken, At: now, TraceParent: d.traceParent}
	how := arrival{w.tokens.FirstOf(event.AppID, token), meta.NumDelivered}
	switch decide(known, token, how, now) {
	case decisionSuperseded:
		w.skip(d)
		return
	case decisionLater:
		d.redeliver(returnDelay, nil)
		return
	case decisionKeep:
		outcome.DueAt = renewAt(&known.Current.Code)
	case decisionExpired:
		outcome = expired(outcome, now)
	case decisionIssue:
		outcome, err = w.issuer.issue(ctx, order{
			outcome: outcome, secret: event.Token, issuedAt: event.IssuedAt, tries: quickTries, unwanted: superseded,
		})
		if errors.Is(err, errUnwanted) {
			w.skip(d)
			return
		}
		if err != nil {
			d.giveBack(err)
			return
		}
	}
	w.finish(ctx, d, outcome)
}

// arrival is how an event came.
type arrival struct {
	// first is the position of the event that announced the same token first, the zero Position if this
	// event is the first or none is known.
	first      repo.Position
	deliveries uint64
}

// decision is what is done with an event.
type decision int

const (
	// decisionIssue: ask WeChat for a code.
	decisionIssue decision = iota
	// decisionSuperseded: the outcome of this event, or of a newer one, is committed.
	decisionSuperseded
	// decisionLater: the same token's first event is still worked on, here or elsewhere.
	decisionLater
	// decisionKeep: the current code was made with this token and is usable.
	decisionKeep
	// decisionExpired: the token is dead.
	decisionExpired
)

// decide says what is done with an event, by the component's row and by how the event came.
func decide(known repo.Component, token repo.Token, how arrival, now time.Time) decision {
	later := how.first.After(known.Token.Position) && now.Sub(how.first.Time) < firstFor && how.deliveries <= firstDeliveries
	current := known.Current
	switch {
	case later:
		return decisionLater
	case !token.Position.After(known.Token.Position):
		return decisionSuperseded
	case current.Usable(now) && current.Fingerprint == token.Fingerprint:
		return decisionKeep
	case !token.ExpiresAt.After(now):
		return decisionExpired
	default:
		return decisionIssue
	}
}

// finish commits the outcome of an event and acknowledges the event.
func (w *worker) finish(ctx context.Context, d *delivery, outcome repo.Outcome) {
	saved, result, err := d.commit(ctx, w.commit, outcome)
	if err != nil {
		d.giveBack(err)
		return
	}
	w.metrics.finished(saved, result)
	d.end(saved.Failure)
}

// skip acknowledges an event whose component has a newer one, or whose outcome is committed already.
func (w *worker) skip(d *delivery) {
	w.metrics.superseded()
	d.tell(StepSuperseded)
	d.end(nil)
}

func parseTokenEvent(subject string, msg jetstream.Msg, meta *jetstream.MsgMetadata) (preauth.TokenEvent, error) {
	appid := preauth.AppIDFromSubject(subject, msg.Subject())
	return preauth.ParseTokenEvent(appid, msg.Headers(), msg.Data(), meta.Timestamp.UTC().Truncate(time.Microsecond))
}
