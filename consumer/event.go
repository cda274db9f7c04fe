package consumer

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/batch"
	"preauth/internal/keylock"
	"preauth/internal/pause"
	"preauth/internal/stream"
	"preauth/internal/view"
	"preauth/repo"
)

const (
	// returnDelay is when another replica gets an event that this one could not finish.
	returnDelay = 200 * time.Millisecond
	// firstFor is for how long an event that announces a token again leaves the work to the token's first
	// event.
	firstFor = 10 * time.Second
	// firstDeliveries is how often it does so at most, in case the replica's clock is behind the
	// stream's.
	firstDeliveries = uint64(firstFor / returnDelay)
	// defectDelay is the wait after MySQL refused something that it should not, because its schema is
	// missing, say.
	defectDelay = 5 * time.Second
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
			known, err = db.Components(ctx, appids)
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
		log: log, trace: cfg.Trace, now: cfg.Now,
	}
}

// work takes an event all its way. When ctx ends before, the event goes back to the stream.
func (w *worker) work(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, id stream.Identity) {
	position := positionOf(id, meta)
	event, err := w.parse(msg, meta)
	step := Step{AppID: event.AppID, Sequence: position.Sequence, Cause: preauth.CauseToken}
	w.step(StepReceived, step)
	if err != nil {
		w.commitAndAcknowledge(ctx, msg, step, badEvent(event.AppID, position, err, w.now()))
		return
	}

	// Events of one component are worked on one after the other. One that is superseded meanwhile is
	// left to the newer event, which the stream keeps.
	unlock, err := w.locks.Lock(ctx, event.AppID)
	if err != nil {
		w.giveBack(msg, err)
		return
	}
	defer unlock()
	w.tokens.Await(ctx, position.Sequence)
	superseded := func() bool { return w.tokens.Superseded(event.AppID, position) }
	if superseded() {
		w.skip(msg, step)
		return
	}
	known, err := w.rows.Do(ctx, event.AppID)
	if err != nil {
		w.giveBack(msg, err)
		return
	}

	now := w.now()
	token := repo.Token{Position: position, Fingerprint: repo.FingerprintOf(event.Token), ExpiresAt: event.ExpiresAt}
	outcome := repo.Outcome{AppID: event.AppID, Token: token, Cause: preauth.CauseToken, At: now}
	how := arrival{w.tokens.FirstOf(event.AppID, token), meta.NumDelivered}
	switch decide(known, token, how, now) {
	case decisionSuperseded:
		w.skip(msg, step)
		return
	case decisionLater:
		w.redeliver(msg, returnDelay)
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
			w.skip(msg, step)
			return
		}
		if err != nil {
			w.giveBack(msg, err)
			return
		}
	}
	w.commitAndAcknowledge(ctx, msg, step, outcome)
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
	// decisionKeep: the current code was made with this token and has life left.
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
	case current != nil && current.Fingerprint == token.Fingerprint && current.ExpiresAt.After(now):
		return decisionKeep
	case !token.ExpiresAt.After(now):
		return decisionExpired
	default:
		return decisionIssue
	}
}

// commitAndAcknowledge commits the outcome of an event and acknowledges the event. While MySQL refuses the outcome,
// the event stays in flight, since its next delivery would cost another call of WeChat.
func (w *worker) commitAndAcknowledge(ctx context.Context, msg jetstream.Msg, step Step, outcome repo.Outcome) {
	saved, result, err := w.commit.commit(ctx, outcome, repo.Component{})
	for err != nil && ctx.Err() == nil && !errors.Is(err, errNotOwned) {
		delay := pause.Jittered(defectDelay)
		w.log.Error("event not saved", "component", step.AppID, "sequence", step.Sequence, "retry_in", delay, "error", err)
		if pause.For(ctx, delay) {
			saved, result, err = w.commit.commit(ctx, outcome, repo.Component{})
		}
	}
	if err != nil {
		w.giveBack(msg, err)
		return
	}
	w.metrics.finished(saved, result)
	if f := saved.Failure; f != nil && f.RetryAt.IsZero() {
		// Given up: the stream's advisory says why this event has no code.
		w.acknowledged(step, msg.TermWithReason(string(f.Class)))
		return
	}
	w.acknowledged(step, msg.Ack())
}

// skip acknowledges an event whose component has a newer one, or whose outcome is committed already.
func (w *worker) skip(msg jetstream.Msg, step Step) {
	w.metrics.superseded()
	w.step(StepSuperseded, step)
	w.acknowledged(step, msg.Ack())
}

// acknowledged takes in the error of an acknowledgement, which nothing confirms: if it gets lost, the
// event is redelivered and found finished.
func (w *worker) acknowledged(step Step, err error) {
	if err != nil {
		w.log.Debug("event not acknowledged: it will be redelivered", "sequence", step.Sequence, "error", err)
		return
	}
	w.step(StepAcknowledged, step)
}

// giveBack returns an event to the stream, for another replica or for later.
func (w *worker) giveBack(msg jetstream.Msg, cause error) {
	delay := returnDelay
	if !errors.Is(cause, context.Canceled) {
		delay = defectDelay
		w.log.Error("event given back to the stream", "retry_in", delay, "error", cause)
	}
	w.redeliver(msg, delay)
}

// redeliver has the stream deliver an event again later.
func (w *worker) redeliver(msg jetstream.Msg, delay time.Duration) {
	if err := msg.NakWithDelay(pause.Jittered(delay)); err != nil {
		w.log.Debug("redelivery not asked for: it comes when the ack wait is over", "error", err)
	}
}

func (w *worker) step(name StepName, step Step) {
	step.Name = name
	w.trace(step)
}

func (w *worker) parse(msg jetstream.Msg, meta *jetstream.MsgMetadata) (preauth.TokenEvent, error) {
	return parseTokenEvent(w.subject, msg, meta)
}

func parseTokenEvent(subject string, msg jetstream.Msg, meta *jetstream.MsgMetadata) (preauth.TokenEvent, error) {
	appid := preauth.AppIDFromSubject(subject, msg.Subject())
	return preauth.ParseTokenEvent(appid, msg.Headers(), msg.Data(), meta.Timestamp.UTC().Truncate(time.Microsecond))
}

// badEvent is the outcome of an event that cannot be understood. It touches no component, so no row
// recognises a redelivery. The stream of failures does, since the message id is the same each time.
func badEvent(appid string, position repo.Position, cause error, now time.Time) repo.Outcome {
	now = now.UTC()
	return repo.Outcome{
		AppID: appid, At: now, FailureID: failureID(position, position.Time),
		Failure: &preauth.Failure{
			AppID: appid, Class: preauth.ClassBadEvent, ErrMsg: strings.TrimPrefix(cause.Error(), preauth.ErrInvalid.Error()+": "),
			Stream: position.Stream, StreamSequence: position.Sequence, OccurredAt: now,
		},
	}
}

func positionOf(id stream.Identity, meta *jetstream.MsgMetadata) repo.Position {
	return repo.Position{
		Stream: id.Name, StreamCreated: id.Created,
		Sequence: meta.Sequence.Stream, Time: meta.Timestamp.UTC().Truncate(time.Microsecond),
	}
}
