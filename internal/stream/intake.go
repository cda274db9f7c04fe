package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/inflight"
	"preauth/internal/pause"
)

// IntakeOptions say what an [Intake] takes and how.
type IntakeOptions struct {
	// Role is that of the streams whose events are taken. It has Events.
	Role Role
	// Durable begins the name of the consumer that all replicas share: see [Identity.Durable].
	Durable string
	// Description says what the consumer is for.
	Description string
	// Limit is how many events are worked on at once.
	Limit int
	// AckWait is how long the stream waits for a sign of life of the replica that works on an event.
	AckWait time.Duration
	// Work works on the events.
	Work Work
}

// Work works on an event of the stream with the identity, and acknowledges the event or gives it
// back.
type Work func(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, id Identity)

// Intake pulls events from the consumer that all replicas share: no more than there are slots for, so
// that none waits in a buffer while its ack wait runs. It sends heartbeats while an event is worked
// on. Make it with [NewIntake].
type Intake struct {
	js      jetstream.JetStream
	log     *slog.Logger
	options IntakeOptions

	slots   inflight.Slots
	beats   *inflight.Heartbeats[jetstream.Msg]
	working sync.WaitGroup

	mu     sync.Mutex
	stream Identity // the one that is taken from
}

// NewIntake returns an Intake that has yet to take something.
func NewIntake(js jetstream.JetStream, log *slog.Logger, options IntakeOptions) *Intake {
	return &Intake{
		js: js, log: log, options: options,
		slots: inflight.NewSlots(options.Limit), beats: inflight.NewHeartbeats[jetstream.Msg](options.AckWait),
	}
}

// Take pulls the events of a stream until ctx ends, or with an error until the stream or its consumer
// is gone. The work on events that were taken goes on under workCtx. ready is called once events are
// taken.
func (i *Intake) Take(ctx, workCtx context.Context, stream jetstream.Stream, id Identity, ready func()) error {
	reqCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	name := id.Durable(i.options.Durable)
	// It is the program's own, and the replicas share it. So a changed setting is applied.
	cfg := jetstream.ConsumerConfig{
		Durable:       name,
		Description:   i.options.Description,
		FilterSubject: i.options.Role.Filter(stream.CachedInfo().Config),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       i.options.AckWait,
		MaxDeliver:    -1,
		MaxAckPending: max(1000, 8*i.options.Limit),
	}
	cons, err := stream.CreateOrUpdateConsumer(reqCtx, cfg)
	if ErrorCode(err) == codeAckPending {
		cfg.MaxAckPending = 0 // what server, account and stream allow, at most 1000
		cons, err = stream.CreateOrUpdateConsumer(reqCtx, cfg)
	}
	if err != nil {
		return fmt.Errorf("consumer %s: %w", name, err)
	}
	i.mu.Lock()
	i.stream = id
	i.mu.Unlock()
	i.log.Info("taking events", "stream", id.Name, "durable", name)
	ready()
	for {
		room, err := i.slots.AcquireAll(ctx)
		if err != nil {
			return nil
		}
		err = i.pull(ctx, workCtx, cons, id, room)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
		case errors.Is(err, jetstream.ErrNoHeartbeat), errors.Is(err, jetstream.ErrServerShutdown),
			errors.Is(err, jetstream.ErrConsumerLeadershipChanged): // the server forgot the request
			i.log.Debug("pull request ended", "error", err)
			pause.For(ctx, 50*time.Millisecond)
		default: // the consumer is gone, and with it perhaps the stream; or the request is refused
			return fmt.Errorf("consumer %s: %w", name, err)
		}
	}
}

// pull takes events into as many slots, until these are full or the request has ended.
func (i *Intake) pull(ctx, workCtx context.Context, cons jetstream.Consumer, id Identity, slots int) error {
	defer func() { i.slots.Release(slots) }() // those that are left
	return pull(ctx, cons, slots, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if !i.options.Role.IsEvent(msg.Subject()) { // the filter lets some of the stream's other messages through
			return msg.Ack()
		}
		slots--
		i.beats.Start(msg)
		i.working.Go(func() {
			defer i.slots.Release(1)
			defer i.beats.Stop(msg)
			i.options.Work(workCtx, msg, meta, id)
		})
		return nil
	})
}

// Wait returns when the work on all events that were taken is done.
func (i *Intake) Wait() { i.working.Wait() }

// InFlight returns the number of events that this replica works on.
func (i *Intake) InFlight() int { return i.beats.Len() }

// Progress is the state of the consumer that all replicas share.
type Progress struct {
	Floor    uint64 // all events up to this sequence are acknowledged
	Pending  uint64 // events in the stream that no replica has taken
	InFlight int    // events that replicas work on
}

// Waiting returns the number of events that are not finished.
func (p Progress) Waiting() uint64 { return p.Pending + uint64(p.InFlight) }

// Progress asks for the state of the consumer that all replicas share.
func (i *Intake) Progress(ctx context.Context) (Progress, error) {
	i.mu.Lock()
	id := i.stream
	i.mu.Unlock()
	cons, err := i.js.Consumer(ctx, id.Name, id.Durable(i.options.Durable))
	if err != nil {
		return Progress{}, err
	}
	info := cons.CachedInfo()
	return Progress{info.AckFloor.Stream, info.NumPending, info.NumAckPending}, nil
}
