package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/pause"
)

const (
	// pullHeartbeat lets the client notice within two of it that the server forgot a pull request.
	pullHeartbeat = 2 * time.Second
	// readBatch bounds the messages of one pull request of a reader.
	readBatch = 500
	// readAgain is the wait before a stream is read again.
	readAgain = 100 * time.Millisecond
)

// Reader reads a stream in order, with consumers of its own that need no acknowledgements. Make it
// with [NewReader].
type Reader struct {
	nc  *nats.Conn
	log *slog.Logger
	lag atomic.Uint64
}

// NewReader returns a Reader on the connection.
func NewReader(nc *nats.Conn, log *slog.Logger) *Reader { return &Reader{nc: nc, log: log} }

// Lag returns how many messages the stream held that were not read yet, when the last one was
// delivered. It is safe for concurrent use.
func (r *Reader) Lag() uint64 { return r.lag.Load() }

// errGap means that the connection lost messages, which a consumer without acknowledgements does not
// send again.
var errGap = errors.New("messages were lost on the way")

// Read feeds the messages of a stream to apply, each once and in order, until ctx ends. cfg says
// where to begin and what to read. caughtUp is called once, when all that was there at the start has
// been applied. Read returns an error if it was refused what it needs two times in a row. It must not
// be called again before it has returned.
func (r *Reader) Read(
	ctx context.Context, stream jetstream.Stream, cfg jetstream.ConsumerConfig,
	apply func(jetstream.Msg, *jetstream.MsgMetadata), caughtUp func(),
) error {
	cfg.AckPolicy, cfg.MemoryStorage, cfg.Replicas = jetstream.AckNonePolicy, true, 1
	cfg.InactiveThreshold = time.Minute
	if limit := stream.CachedInfo().Config.ConsumerLimits.InactiveThreshold; limit > 0 {
		cfg.InactiveThreshold = min(cfg.InactiveThreshold, limit)
	}
	caughtUp = sync.OnceFunc(caughtUp)
	for failed := false; ; {
		worked, err := r.readOn(ctx, stream, &cfg, apply, caughtUp)
		switch {
		case ctx.Err() != nil:
			return nil
		case failed && !worked:
			return fmt.Errorf("reading: %w", err)
		}
		failed = !worked
		r.log.Debug("reading the stream again from where it was", "error", err)
		pause.For(ctx, readAgain)
		for ctx.Err() == nil && r.nc.Status() != nats.CONNECTED {
			pause.For(ctx, readAgain)
		}
	}
}

// readOn reads a stream with one consumer until that fails, and reports whether it worked before. It
// moves the start in cfg behind what it applied.
func (r *Reader) readOn(
	ctx context.Context, stream jetstream.Stream, cfg *jetstream.ConsumerConfig,
	apply func(jetstream.Msg, *jetstream.MsgMetadata), caughtUp func(),
) (worked bool, err error) {
	reqCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	cons, err := stream.CreateConsumer(reqCtx, *cfg)
	if err != nil {
		return false, err
	}
	r.lag.Store(cons.CachedInfo().NumPending)
	if cons.CachedInfo().NumPending == 0 {
		caughtUp()
	}
	for delivered := uint64(0); ; {
		err := pull(ctx, cons, readBatch, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
			if delivered++; meta.Sequence.Consumer != delivered {
				return errGap
			}
			cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, meta.Sequence.Stream+1
			apply(msg, meta)
			r.lag.Store(meta.NumPending)
			if meta.NumPending == 0 {
				caughtUp()
			}
			return nil
		})
		worked = worked || delivered > 0 || err == nil
		if err != nil {
			return worked, err
		}
	}
}

// pull hands the messages of one pull request to take: at most n of them, or as many as the consumer
// allows. It returns when the request has ended, with the reason if that is not its time. An error of
// take ends it.
func pull(ctx context.Context, cons jetstream.Consumer, n int, take func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	if limit := cons.CachedInfo().Config.MaxRequestBatch; limit > 0 {
		n = min(n, limit)
	}
	// Without a deadline, which would let the client stop listening before the server stops sending.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batch, err := cons.Fetch(n, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(pullHeartbeat))
	if err != nil {
		return fmt.Errorf("pulling: %w", err)
	}
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err == nil {
			err = take(msg, meta)
		}
		if err != nil {
			return err
		}
	}
	err = batch.Error()
	if errors.Is(err, nats.ErrNoResponders) {
		return jetstream.ErrConsumerNotFound
	}
	return err
}
