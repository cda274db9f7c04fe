package consumer

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/outage"
	"preauth/internal/stream"
)

// bucket keeps the read-only KV bucket of the current codes. The server fills it from the stream of
// updates, and only others read it. So that it is not there is a warning, and no reason for the
// service not to be ready.
type bucket struct {
	role    stream.Role
	keeper  *stream.Keeper
	defects *outage.Defects

	there atomic.Bool
}

const bucketMissing = "KV bucket is not kept, which others may miss"

func newBucket(cfg Config, role stream.Role, js jetstream.JetStream, m *metrics, log *slog.Logger, connected func() bool) *bucket {
	b := &bucket{role: role, defects: outage.NewDefects(log, cfg.Now)}
	failed := m.natsErrors.WithLabelValues("stream")
	b.keeper = stream.NewKeeper(js, log, func(r stream.Role, err error) {
		b.there.Store(false)
		failed.Inc()
		level := slog.LevelWarn
		if !connected() { // which is said elsewhere
			level = slog.LevelDebug
		}
		b.defects.Log(context.Background(), level, bucketMissing, withRemedy(err))
	})
	return b
}

// keep keeps the bucket until ctx ends.
func (b *bucket) keep(ctx context.Context) {
	b.keeper.Keep(ctx, b.role, exists(func() {
		b.there.Store(true)
		b.defects.Log(ctx, 0, bucketMissing, nil)
	}))
}

// gauge is 1 while the bucket is there.
func (b *bucket) gauge() float64 {
	if b.there.Load() {
		return 1
	}
	return 0
}
