package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/inflight"
)

// intake pulls token events from the consumer that all replicas share: no more than there are slots
// for, so that none waits in a buffer while its ack wait runs.
type intake struct {
	cfg  Config
	js   jetstream.JetStream
	log  *slog.Logger
	work func(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, id identity)
	// wanted reports whether messages on a subject are token events.
	wanted func(subject string) bool

	slots   inflight.Slots
	beats   *inflight.Heartbeats[jetstream.Msg]
	working sync.WaitGroup

	mu     sync.Mutex
	stream identity // the one that is taken from
}

func newIntake(
	cfg Config, js jetstream.JetStream, log *slog.Logger,
	work func(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, id identity), wanted func(subject string) bool,
) *intake {
	return &intake{
		cfg: cfg, js: js, log: log, work: work, wanted: wanted,
		slots: inflight.NewSlots(cfg.InFlight), beats: inflight.NewHeartbeats[jetstream.Msg](cfg.AckWait),
	}
}

// take pulls events of a stream until ctx ends, or with an error until the stream or its consumer is
// gone. The work on events that were taken goes on under workCtx. ready is called once events are
// taken.
func (i *intake) take(ctx, workCtx context.Context, stream jetstream.Stream, id identity, filter string, ready func()) error {
	reqCtx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	name := id.durable(i.cfg.Durable)
	// It is the service's own, and the replicas share it. So a changed setting is applied.
	cfg := jetstream.ConsumerConfig{
		Durable:       name,
		Description:   "asks WeChat for the pre_auth_code that belongs to each token",
		FilterSubject: filter,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       i.cfg.AckWait,
		MaxDeliver:    -1,
		MaxAckPending: max(1000, 8*i.cfg.InFlight),
	}
	cons, err := stream.CreateOrUpdateConsumer(reqCtx, cfg)
	if errorCode(err) == codeAckPending {
		cfg.MaxAckPending = 0 // what server, account and stream allow, at most 1000
		cons, err = stream.CreateOrUpdateConsumer(reqCtx, cfg)
	}
	if err != nil {
		return fmt.Errorf("consumer %s: %w", name, err)
	}
	i.mu.Lock()
	i.stream = id
	i.mu.Unlock()
	i.log.Info("taking token events", "stream", id.name, "durable", name)
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
			pause(ctx, 50*time.Millisecond)
		default: // the consumer is gone, and with it perhaps the stream; or the request is refused
			return fmt.Errorf("consumer %s: %w", name, err)
		}
	}
}

// pull takes events into as many slots, until these are full or the request has ended.
func (i *intake) pull(ctx, workCtx context.Context, cons jetstream.Consumer, id identity, slots int) error {
	defer func() { i.slots.Release(slots) }() // those that are left
	return pull(ctx, cons, slots, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if !i.wanted(msg.Subject()) { // the filter lets some of the stream's other messages through
			return msg.Ack()
		}
		slots--
		i.beats.Start(msg)
		i.working.Go(func() {
			defer i.slots.Release(1)
			defer i.beats.Stop(msg)
			i.work(workCtx, msg, meta, id)
		})
		return nil
	})
}

// wait returns when the work on all events that were taken is done.
func (i *intake) wait() { i.working.Wait() }

// inFlight returns the number of events that this replica works on.
func (i *intake) inFlight() int { return i.beats.Len() }

// progress returns the state of the consumer that all replicas share.
func (i *intake) progress(ctx context.Context) (progress, error) {
	i.mu.Lock()
	id := i.stream
	i.mu.Unlock()
	cons, err := i.js.Consumer(ctx, id.name, id.durable(i.cfg.Durable))
	if err != nil {
		return progress{}, err
	}
	info := cons.CachedInfo()
	return progress{info.AckFloor.Stream, info.NumPending, info.NumAckPending}, nil
}
