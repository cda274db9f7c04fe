package consumer

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/pause"
	"preauth/internal/stream"
	"preauth/repo"
)

const (
	// returnDelay is when another replica gets an event that this one could not finish.
	returnDelay = 200 * time.Millisecond
	// defectDelay is the wait after MySQL refused something that it should not, because its schema is
	// missing, say.
	defectDelay = 5 * time.Second
)

// delivery is an event as the stream delivered it. It ends with an acknowledgement, or goes back to
// the stream.
type delivery struct {
	msg      jetstream.Msg
	position repo.Position
	step     Step
	log      *slog.Logger
	trace    tracer
	span     span
	received time.Time
	// traceParent is the trace context to announce the outcome with.
	traceParent string
}

// newDelivery returns a delivery from the subject, whose steps are like the given one. The context is
// that of its work.
func newDelivery(
	ctx context.Context, subject string, msg jetstream.Msg, meta *jetstream.MsgMetadata, id stream.Identity, step Step,
	log *slog.Logger, trace tracer,
) (context.Context, *delivery) {
	d := &delivery{msg: msg, position: positionOf(id, meta), step: step, log: log, trace: trace, received: time.Now()}
	d.step.Sequence = d.position.Sequence
	published := preauth.TraceParent(msg.Headers())
	ctx, d.span = trace.event(ctx, subject, step.AppID, published)
	d.traceParent = d.span.traceParent(published)
	d.span.waited("stream", meta.Timestamp)
	d.tell(StepReceived)
	return ctx, d
}

func positionOf(id stream.Identity, meta *jetstream.MsgMetadata) repo.Position {
	return repo.Position{
		Stream: id.Name, StreamCreated: id.Created,
		Sequence: meta.Sequence.Stream, Time: meta.Timestamp.UTC().Truncate(time.Microsecond),
	}
}

// tell traces a step of the event.
func (d *delivery) tell(name StepName) {
	d.step.Name = name
	d.trace.told(d.step)
	d.span.step(d.step)
}

// commit commits the outcome of the event. While MySQL refuses it, the event stays in flight, since
// its next delivery could cost another call of WeChat.
func (d *delivery) commit(ctx context.Context, c *committer, outcome repo.Outcome) (repo.Outcome, repo.Result, error) {
	saved, result, err := c.commit(ctx, outcome, repo.Component{})
	for err != nil && ctx.Err() == nil && !errors.Is(err, errNotOwned) {
		delay := pause.Jittered(defectDelay)
		d.log.Error("event not saved", "component", d.step.AppID, "sequence", d.step.Sequence, "retry_in", delay, "error", err)
		if pause.For(ctx, delay) {
			saved, result, err = c.commit(ctx, outcome, repo.Component{})
		}
	}
	return saved, result, err
}

// end acknowledges an event whose outcome is committed. f is the failure that was, nil for none: if
// the event was given up, the stream's advisory says why. Nothing confirms the acknowledgement: if it
// gets lost, the event is redelivered and found finished.
func (d *delivery) end(f *preauth.Failure) {
	defer d.span.end(nil)
	acknowledge := d.msg.Ack
	if f != nil && f.RetryAt.IsZero() {
		acknowledge = func() error { return d.msg.TermWithReason(string(f.Class)) }
	}
	err := acknowledge()
	if err != nil {
		d.log.Debug("event not acknowledged: it will be redelivered", "sequence", d.step.Sequence, "error", err)
		return
	}
	d.tell(StepAcknowledged)
}

// giveBack returns the event to the stream, for another replica or for later.
func (d *delivery) giveBack(cause error) {
	delay := returnDelay
	if !errors.Is(cause, context.Canceled) {
		delay = defectDelay
		d.log.Error("event given back to the stream", "retry_in", delay, "error", cause)
	}
	d.redeliver(delay, cause)
}

// redeliver has the stream deliver the event again later. cause is what went wrong, nil if nothing
// did.
func (d *delivery) redeliver(delay time.Duration, cause error) {
	defer d.span.end(cause)
	if err := d.msg.NakWithDelay(pause.Jittered(delay)); err != nil {
		d.log.Debug("redelivery not asked for: it comes when the ack wait is over", "error", err)
	}
}

// failed is the outcome of an event that cannot be worked on. It touches no component, so no row
// recognises a redelivery. The stream of failures does, since the message id is the same each time.
func (d *delivery) failed(class preauth.Class, cause error, now time.Time) repo.Outcome {
	now = now.UTC()
	return repo.Outcome{
		AppID: d.step.AppID, At: now, FailureID: failureID(d.position, d.position.Time), TraceParent: d.traceParent,
		Failure: &preauth.Failure{
			AppID: d.step.AppID, Class: class, ErrMsg: strings.TrimPrefix(cause.Error(), preauth.ErrInvalid.Error()+": "),
			Stream: d.position.Stream, StreamSequence: d.position.Sequence, OccurredAt: now,
		},
	}
}
