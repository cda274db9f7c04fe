package consumer

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/monitor"
	"preauth/internal/outage"
	"preauth/internal/stream"
)

// natsDurability looks from time to time, and after each new connection, for streams of which NATS
// can lose a message that it acknowledged.
type natsDurability struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	monitor *monitor.Server
	roles   []stream.Role
	log     *slog.Logger
	away    *outage.Log // the monitoring endpoint
	every   time.Duration

	mu      sync.Mutex
	atRisk  []string // the names of the streams, at the last look
	looked  time.Time
	connect uint64 // the connection that was looked at
}

// SyncAdvice says what to change where NATS can lose a message that it acknowledged.
const SyncAdvice = "set sync_interval to always in the jetstream block of each nats-server, in a cluster too: " +
	"otherwise a power failure loses messages of up to two minutes"

func (w *natsDurability) look(ctx context.Context) {
	if !w.nc.IsConnected() {
		return
	}
	connect := w.nc.Stats().Reconnects
	w.mu.Lock()
	due := connect != w.connect || time.Since(w.looked) >= w.every
	w.mu.Unlock()
	if !due {
		return
	}
	atRisk, err := w.streamsAtRisk(ctx)
	if err != nil { // what was seen last stands
		w.away.Away(err)
		return
	}
	w.away.Back()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(atRisk) > 0 && (connect != w.connect || !slices.Equal(atRisk, w.atRisk)) {
		w.log.Warn("NATS can lose a message that it acknowledged", "streams", atRisk, "advice", SyncAdvice)
	}
	w.atRisk, w.looked, w.connect = atRisk, time.Now(), connect
}

// streamsAtRisk returns the names of the streams on disk, if the server does not sync.
func (w *natsDurability) streamsAtRisk(ctx context.Context) (names []string, err error) {
	server, err := w.monitor.JetStream(ctx)
	if err != nil || server.SyncAlways {
		return nil, err
	}
	for _, role := range w.roles {
		if len(role.Wanted().Sources) > 0 { // the bucket, which can be copied anew
			continue
		}
		found, err := stream.Find(ctx, w.js, role)
		if errors.Is(err, jetstream.ErrStreamNotFound) { // health tells of it
			continue
		}
		if err != nil {
			return nil, err
		}
		if c := found.CachedInfo().Config; stream.NeedsSync(c) && !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// warnings counts the streams that were at risk at the last look.
func (w *natsDurability) warnings() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return float64(len(w.atRisk))
}
