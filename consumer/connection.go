package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// Codes of JetStream's errors for which the client has no name.
const (
	codeInvalidJSON = 10025 // with strict servers, also for a field that they do not know
	codeAckPending  = 10121
)

// errorCode returns the code of an error of JetStream, 0 for other errors.
func errorCode(err error) jetstream.ErrorCode {
	if known, ok := errors.AsType[jetstream.JetStreamError](err); ok && known.APIError() != nil {
		return known.APIError().ErrorCode
	}
	return 0
}

const (
	noJetStream  = "JetStream is not there for this account, or it is in another domain: enable it, or name its domain with --nats-js-domain"
	noRoom       = "give the account or the server more room, or bound each stream with --stream-max-bytes"
	fewerServers = "let --stream-replicas be at most the number of servers with JetStream"
)

// remedies say what to change where JetStream refuses something, by the code of its error.
var remedies = map[jetstream.ErrorCode]string{
	10002: noRoom, 10023: noRoom, 10028: noRoom, 10047: noRoom,
	10005: fewerServers, 10074: fewerServers,
	10120:                                  "the account has no limits for this number of replicas: change --stream-replicas",
	10026:                                  "raise max_consumers of the stream and the account: the replicas share one, and each needs two more",
	10027:                                  "raise max_streams of the account: the service needs three",
	jetstream.JSErrCodeJetStreamNotEnabled: noJetStream, jetstream.JSErrCodeJetStreamNotEnabledForAccount: noJetStream,
	10065: "another stream takes some of the subjects: take them from it",
	10113: "set --stream-max-bytes", 10122: "set a smaller --stream-max-bytes",
}

// withRemedy adds what to change to an error about JetStream.
func withRemedy(err error) error {
	remedy := remedies[errorCode(err)]
	if errors.Is(err, nats.ErrNoResponders) {
		remedy = noJetStream
	}
	if remedy == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, remedy)
}

// permissionsPart names in a health what NATS forbids.
const permissionsPart = "NATS permissions"

// refusals notes what NATS reports later and to nobody who waits: that it dropped a message that may
// not be published, or a subscription. It never says when that is allowed. So a reason stands until
// the service had time to do the same again.
type refusals struct {
	nc     *nats.Conn
	own    []string // beginnings of the subjects on which the service has to publish
	health *health
	log    *slog.Logger
	errors *prometheus.CounterVec
	stands time.Duration // longer than the service waits before it does the same again

	mu          sync.Mutex
	last        time.Time // zero while there is no reason
	resubscribe bool
	pause       time.Duration // until the next look at the reason; it grows while connecting anew does not help
}

// longestPause bounds the pause between two connections that are made to subscribe again.
const longestPause = 10 * time.Minute

func newRefusals(cfg Config, nc *nats.Conn, h *health, m *metrics, log *slog.Logger) *refusals {
	r := &refusals{
		nc: nc, health: h, log: log, errors: m.natsErrors, stands: cfg.intervals.refusal, pause: cfg.intervals.refusal,
		own: []string{"$JS.", "_INBOX.", "_R_.", cfg.Subjects.Updated + ".", cfg.Subjects.Failed + "."},
	}
	next := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		r.note(sub, err)
		if next != nil {
			next(nc, sub, err)
		}
	})
	return r
}

func (r *refusals) note(sub *nats.Subscription, err error) {
	_, published, publishing := strings.Cut(err.Error(), `Publish to "`)
	switch {
	case errors.Is(err, nats.ErrMaxSubscriptionsExceeded):
		r.refused(fmt.Errorf("%w: raise max_subscriptions of the account and the server", err), true)
	case errors.Is(err, nats.ErrPermissionViolation) && publishing &&
		!slices.ContainsFunc(r.own, func(subject string) bool { return strings.HasPrefix(published, subject) }):
		r.count("answers") // the requester chose the subject
		r.log.Debug("request not answered", "error", err)
	case errors.Is(err, nats.ErrPermissionViolation):
		r.refused(fmt.Errorf("%w: allow it to the service's user", err), !publishing)
	case !r.nc.IsConnected(): // which is not for this part to tell
	case errors.Is(err, nats.ErrSlowConsumer) && sub != nil:
		r.count("slow_consumer")
		r.log.Warn("NATS dropped messages that came faster than they were taken", "subject", sub.Subject)
	default:
		r.count("other")
		r.log.Warn("NATS reports an error", "error", err)
	}
}

func (r *refusals) count(kind string) { r.errors.WithLabelValues(kind).Inc() }

func (r *refusals) refused(err error, subscription bool) {
	r.count("permissions")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last, r.resubscribe = time.Now(), r.resubscribe || subscription
	r.health.set(permissionsPart, err)
}

// look ends a reason that has stood long enough. A subscription is not made again before the next
// connection, so look forces that first.
func (r *refusals) look(context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.last.IsZero() || time.Since(r.last) < r.pause:
	case r.resubscribe:
		r.resubscribe, r.last, r.pause = false, time.Now(), min(2*r.pause, longestPause)
		if err := r.nc.ForceReconnect(); err != nil {
			r.log.Warn("not connected anew", "error", err)
		}
	default:
		r.last, r.pause = time.Time{}, r.stands
		r.health.set(permissionsPart, nil)
	}
}
