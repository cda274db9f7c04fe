package consumer

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"preauth"
	"preauth/internal/refusal"
	"preauth/internal/stream"
)

const (
	noJetStream  = "JetStream is not there for this account, or it is in another domain: enable it, name its domain with --nats-js-domain ($NATS_JS_DOMAIN), or leave that setting out"
	noRoom       = "give the account or the server more room, or bound each stream with --stream-max-bytes"
	fewerServers = "let --stream-replicas be at most the number of servers with JetStream"
)

// remedies say what to change where JetStream refuses something, by the code of its error.
var remedies = map[jetstream.ErrorCode]string{
	10002: noRoom, 10023: noRoom, 10028: noRoom, 10047: noRoom,
	10005: fewerServers, 10074: fewerServers,
	10120:                                  "the account has no limits for this number of replicas: change --stream-replicas",
	10026:                                  "raise max_consumers of the stream and the account: the replicas share two, and each needs two more",
	10027:                                  "raise max_streams of the account: the service needs six, or five without its KV bucket",
	jetstream.JSErrCodeJetStreamNotEnabled: noJetStream, jetstream.JSErrCodeJetStreamNotEnabledForAccount: noJetStream,
	10065: "another stream takes some of the subjects: take them from it",
	10077: "the stream is full: raise its limits, and --stream-max-bytes with them",
	10113: "set --stream-max-bytes", 10122: "set a smaller --stream-max-bytes",
}

// Remedy returns what to change where JetStream refuses something, "" if that is not known.
func Remedy(err error) string {
	if errors.Is(err, nats.ErrNoResponders) {
		return noJetStream
	}
	return remedies[stream.ErrorCode(err)]
}

// withRemedy adds what to change to an error about JetStream.
func withRemedy(err error) error {
	if remedy := Remedy(err); remedy != "" {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	return err
}

// accountSubject is where the server answers with the user, its account and its permissions.
const accountSubject = "$SYS.REQ.USER.INFO"

// permissionsPart names in a health what NATS forbids.
const permissionsPart = "NATS permissions"

func newRefusals(cfg Config, nc *nats.Conn, h *health, m *metrics, log *slog.Logger) *refusal.Watch {
	api := "$JS.API."
	if cfg.JetStreamDomain != "" {
		api = "$JS." + cfg.JetStreamDomain + ".API."
	}
	// People may be shown what the replicas announce and how they fare; no work depends on it.
	extra := []string{accountSubject, micro.APIPrefix + "." + micro.StatsVerb.String() + "." + preauth.ServiceName}
	if cfg.Bucket != "" {
		name := bucketStream(cfg.Bucket)
		extra = append(extra, api+"STREAM.INFO."+name, api+"STREAM.CREATE."+name)
	}
	return refusal.NewWatch(nc, log, refusal.Options{
		Own:    []string{"$JS.", cfg.Subjects.Updated + ".", cfg.Subjects.Failed + ".", cfg.Subjects.Authorized + "."},
		Extra:  extra,
		Heard:  []string{cfg.Subjects.Updated, cfg.Subjects.Failed, cfg.Subjects.Authorized},
		Stands: cfg.intervals.refusal,
		Count:  func(kind refusal.Kind) { m.natsErrors.WithLabelValues(string(kind)).Inc() },
		Set:    func(err error) { h.set(permissionsPart, err) },
	})
}
