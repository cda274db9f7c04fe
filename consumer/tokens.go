package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/batch"
	"preauth/repo"
)

const (
	// fetchFor is how long one pull request stays open on the server.
	fetchFor = 30 * time.Second
	// fetchHeartbeat lets the client notice within two of it that the server forgot the request.
	fetchHeartbeat = 2 * time.Second
	// putBackDelay is when another replica gets an event that this one could not finish.
	putBackDelay = 200 * time.Millisecond
	// firstFor is how long an event that announces a token again leaves the work to the token's first event.
	firstFor = 10 * time.Second
	// firstTries is how often it does so, should the replica's clock be behind the stream's.
	firstTries = uint64(firstFor / putBackDelay)
	// defectDelay is the wait after MySQL refused something that it should not, for want of its schema
	// for example.
	defectDelay = 5 * time.Second
	// late is from what age on an event is looked up before it costs a call.
	late = 2 * time.Second
	// reads bounds the reads for events at a time, and readsOf the components of each.
	reads, readsOf = 2, 100
)

// tokens takes token events from the consumer that all replicas share, and works on them.
type tokens struct {
	*Service
	minter *minter
	saver  *saver
	view   *tokenView
	ready  atomic.Bool // the view has been read to the end once
	lanes  lanes
	hand   *hand
	known  *batch.Batcher[string, repo.Component]
}

func newTokens(s *Service, m *minter, sv *saver) *tokens {
	t := &tokens{
		Service: s, minter: m, saver: sv,
		view: newTokenView(), hand: newHand(s.cfg.InHand, s.cfg.AckWait),
	}
	t.known = batch.New(reads, readsOf, t.components)
	return t
}

// follow reads the token stream into the view and then works on its events, until ctx ends.
func (t *tokens) follow(ctx context.Context, stream jetstream.Stream, id identity) error {
	filters, err := t.streams.covered(ctx, id.name)
	if err != nil {
		return err
	}
	if len(filters) == 0 {
		return fmt.Errorf("stream %s: %w", id.name, errUncovered)
	}
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()

	t.view.begin()
	caughtUp, failed := make(chan struct{}), make(chan error, 1)
	reading.Go(func() {
		cfg := jetstream.OrderedConsumerConfig{FilterSubjects: filters}
		failed <- t.streams.read(ctx, stream, cfg, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
			event, err := t.parse(msg, meta)
			if err == nil {
				t.view.add(event, positionOf(id, meta), t.cfg.Now())
			}
			t.view.read(meta.Sequence.Stream)
		}, func() { close(caughtUp) })
	})
	select {
	case <-caughtUp:
		t.ready.Store(true)
	case err := <-failed:
		return err
	}

	t.codes.awaitRead(ctx)

	// Ours alone and shared by all replicas, so a changed setting is applied.
	reqCtx, cancelReq := context.WithTimeout(ctx, apiTimeout)
	defer cancelReq()
	cons, err := stream.CreateOrUpdateConsumer(reqCtx, jetstream.ConsumerConfig{
		Durable:        id.durable(t.cfg.Durable),
		Description:    "asks WeChat for the pre_auth_code that belongs to each token",
		FilterSubjects: filters,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        t.cfg.AckWait,
		MaxDeliver:     -1,
		MaxAckPending:  max(1000, 8*t.cfg.InHand),
	})
	if err != nil {
		return fmt.Errorf("consumer %s: %w", id.durable(t.cfg.Durable), err)
	}
	t.log.Info("taking token events", "stream", id.name, "durable", id.durable(t.cfg.Durable))
	t.health.set(string(tokenStream)+" stream", nil)
	return t.take(ctx, cons, id)
}

// take pulls as many events as there is room for, so that none lies in a buffer while its ack wait
// runs.
func (t *tokens) take(ctx context.Context, cons jetstream.Consumer, id identity) error {
	for {
		room, err := t.hand.room(ctx)
		if err != nil {
			return nil
		}
		err = t.pull(ctx, cons, id, room)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrConsumerNotFound),
			errors.Is(err, nats.ErrNoResponders): // the consumer is gone, and with it perhaps the stream
			return err
		case err != nil:
			t.log.Debug("pull request ended", "error", err)
			pause(ctx, 50*time.Millisecond)
		}
	}
}

// pull takes events into as many places, until these are full or the request has ended.
func (t *tokens) pull(ctx context.Context, cons jetstream.Consumer, id identity, places int) error {
	defer func() { t.hand.free(places) }() // those that are left
	// The context ends the request at shutdown; its deadline is when the server ends it.
	ctx, cancel := context.WithTimeout(ctx, fetchFor)
	defer cancel()
	batch, err := cons.Fetch(places, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(fetchHeartbeat))
	if err != nil {
		return fmt.Errorf("pulling token events: %w", err)
	}
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			t.log.Error("message without metadata", "error", err)
			continue
		}
		places--
		t.hand.hold(msg)
		settled := t.mayBeSettled(meta, cons.CachedInfo().Created)
		t.hand.working.Go(func() {
			defer t.hand.release(msg)
			t.work(t.lasting, msg, meta, id, settled)
		})
	}
	return batch.Error()
}

// mayBeSettled reports whether an event that comes from a durable consumer made at the given time may have been taken up
// before: it comes again, or it is from before the consumer, which may not be the first of its name, or it comes late,
// for which the consumer that is known here may have been replaced, or have lost what it knew.
func (t *tokens) mayBeSettled(meta *jetstream.MsgMetadata, made time.Time) bool {
	return meta.NumDelivered > 1 || meta.Timestamp.Before(made) || t.cfg.Now().Sub(meta.Timestamp) > late
}

// work takes one event all its way: to WeChat, through the transaction, to its acknowledgement and
// to the relay. settled tells that this may have been done before. ctx ends when the service gives up; the event
// then goes back to the stream.
func (t *tokens) work(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, id identity, settled bool) {
	position := positionOf(id, meta)
	event, err := t.parse(msg, meta)
	step := Step{AppID: event.AppID, Sequence: position.Sequence, Cause: preauth.CauseToken}
	t.step(step, StepReceived)
	if err != nil {
		t.settle(ctx, msg, step, t.badEvent(event.AppID, position, err))
		return
	}

	// Events of one component are worked on one after the other; what has been overtaken meanwhile
	// is left to the newer event, which the stream keeps.
	leave, err := t.lanes.enter(ctx, event.AppID)
	if err != nil {
		t.putBack(msg, err)
		return
	}
	defer leave()
	t.view.await(ctx, position.Sequence)
	if t.view.overtaken(event.AppID, position) {
		t.supersede(msg, step)
		return
	}

	token := repo.Token{Position: position, Fingerprint: repo.FingerprintOf(event.Token), ExpiresAt: event.ExpiresAt}
	first, repeated := t.view.repeats(event.AppID, token)
	var known repo.Component
	if repeated || settled || !t.codes.certainlyNew(event.AppID, token) {
		if known, err = t.known.Do(ctx, event.AppID); err != nil {
			t.putBack(msg, err)
			return
		}
	}
	if repeated && first.After(known.Token.Position) && t.cfg.Now().Sub(first.Time) < firstFor && meta.NumDelivered <= firstTries {
		// The same token's first event is still worked on, here or elsewhere.
		t.postpone(msg, putBackDelay)
		return
	}
	outcome := repo.Outcome{AppID: event.AppID, Token: token, Cause: preauth.CauseToken, At: t.cfg.Now()}
	switch now := t.cfg.Now(); {
	case !position.After(known.Token.Position):
		// A repeated delivery: the outcome of this event, or of a newer one, is committed.
		t.supersede(msg, step)
		return
	case known.Current != nil && known.Current.Fingerprint == token.Fingerprint && known.Current.ExpiresAt.After(now):
		outcome.DueAt = renewAt(&known.Current.Code)
	case !event.ExpiresAt.After(now):
		outcome = expired(outcome, now)
	default:
		outcome, err = t.minter.mint(ctx, job{
			outcome: outcome, secret: event.Token, issuedAt: event.IssuedAt, attempts: 0,
			tries: inHandTries, overtaken: func() bool { return t.view.overtaken(event.AppID, position) },
		})
		if errors.Is(err, errOvertaken) {
			t.supersede(msg, step)
			return
		}
		if err != nil {
			t.putBack(msg, err)
			return
		}
	}
	t.settle(ctx, msg, step, outcome)
}

// settle commits the outcome of an event, hands what is to be announced to the relay, and
// acknowledges the event.
func (t *tokens) settle(ctx context.Context, msg jetstream.Msg, step Step, outcome repo.Outcome) {
	outcome, result, err := t.saver.save(ctx, outcome, repo.Component{})
	for err != nil && ctx.Err() == nil {
		// The event stays in hand, since its next delivery would cost another call of WeChat.
		delay := jittered(defectDelay)
		t.log.Error("event not saved", "component", step.AppID, "sequence", step.Sequence, "retry_in", delay, "error", err)
		if pause(ctx, delay) {
			outcome, result, err = t.saver.save(ctx, outcome, repo.Component{})
		}
	}
	if err != nil {
		t.putBack(msg, err)
		return
	}
	t.committed(step, outcome, result)
	t.metrics.settled(outcome, result)
	if f := outcome.Failure; f != nil && f.RetryAt.IsZero() {
		// Given up: the stream's advisory says why this event has no code.
		if err := msg.TermWithReason(string(f.Class)); err != nil {
			t.log.Debug("event not terminated: it will come again", "sequence", step.Sequence, "error", err)
			return
		}
		t.step(step, StepAcknowledged)
		return
	}
	t.acknowledge(msg, step)
}

// supersede acknowledges an event whose component has a newer one, or that was settled before.
func (t *tokens) supersede(msg jetstream.Msg, step Step) {
	t.metrics.events.WithLabelValues("superseded").Inc()
	t.step(step, StepSuperseded)
	t.acknowledge(msg, step)
}

func (t *tokens) acknowledge(msg jetstream.Msg, step Step) {
	// Not confirmed: should it get lost, the event comes again and is found settled.
	if err := msg.Ack(); err != nil {
		t.log.Debug("event not acknowledged: it will come again", "sequence", step.Sequence, "error", err)
		return
	}
	t.step(step, StepAcknowledged)
}

// putBack returns an event to the stream, for another replica or for later.
func (t *tokens) putBack(msg jetstream.Msg, cause error) {
	delay := putBackDelay
	if !errors.Is(cause, context.Canceled) {
		delay = defectDelay
		t.log.Error("event put back", "retry_in", delay, "error", cause)
	}
	t.postpone(msg, delay)
}

// postpone has the stream deliver an event again later.
func (t *tokens) postpone(msg jetstream.Msg, delay time.Duration) {
	if err := msg.NakWithDelay(jittered(delay)); err != nil {
		t.log.Debug("event not put back: it comes again when its ack wait is over", "error", err)
	}
}

// components returns what MySQL knows of components, nothing of one that was never seen. It waits for MySQL.
func (t *tokens) components(appids []string) ([]repo.Component, error) {
	var known map[string]repo.Component
	err := t.saver.persist(t.lasting, func(ctx context.Context) (err error) {
		known, err = t.db.Components(ctx, appids)
		return err
	})
	components := make([]repo.Component, len(appids))
	for i, appid := range appids {
		components[i] = known[appid]
	}
	return components, err
}

// badEvent is the outcome of an event that cannot be understood. It touches no component, so nothing tells a
// repeated delivery: the stream of failures does, since the message id is the same each time.
func (t *tokens) badEvent(appid string, position repo.Position, cause error) repo.Outcome {
	now := t.cfg.Now().UTC()
	return repo.Outcome{
		AppID: appid, At: now, FailureID: failureID(position, position.Time),
		Failure: &preauth.Failure{
			AppID: appid, Class: preauth.ClassBadEvent, ErrMsg: strings.TrimPrefix(cause.Error(), preauth.ErrInvalid.Error()+": "),
			Stream: position.Stream, StreamSequence: position.Sequence, OccurredAt: now,
		},
	}
}

func (t *tokens) parse(msg jetstream.Msg, meta *jetstream.MsgMetadata) (preauth.TokenEvent, error) {
	appid := preauth.AppIDFromSubject(t.cfg.Subjects.TokenUpdated, msg.Subject())
	return preauth.ParseTokenEvent(appid, msg.Headers(), msg.Data(), meta.Timestamp.UTC().Truncate(time.Microsecond))
}

func positionOf(id identity, meta *jetstream.MsgMetadata) repo.Position {
	return repo.Position{
		Stream: id.name, StreamCreated: id.created,
		Sequence: meta.Sequence.Stream, Time: meta.Timestamp.UTC().Truncate(time.Microsecond),
	}
}

// failureID is the message id of a failure: the event, and when it failed. It is made once, when the
// failure is, and stays with it in the outbox.
func failureID(p repo.Position, at time.Time) string {
	return fmt.Sprintf("failed.%s.%d.%d.%d", p.Stream, p.StreamCreated.UnixMicro(), p.Sequence, at.UnixMicro())
}
