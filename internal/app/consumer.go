package app

import (
	"errors"
	"time"

	"preauth"
	"preauth/consumer"
	"preauth/internal/monitor"
)

// StreamNames are the names of the streams.
type StreamNames struct {
	Tokens   string `name:"stream-tokens" env:"PREAUTH_STREAM_TOKENS" default:"COMPONENT_TOKENS" form:"name" help:"Stream of the tokens. It is created unless a stream covers their subject already."`
	Updates  string `name:"stream-updates" env:"PREAUTH_STREAM_UPDATES" default:"PREAUTH" form:"name" help:"Stream of the codes, created if missing."`
	Failures string `name:"stream-failures" env:"PREAUTH_STREAM_FAILURES" default:"PREAUTH_FAILED" form:"name" help:"Stream of the failures, created if missing."`
}

// Streams are names on NATS.
type Streams struct {
	SubjectPrefix string `name:"subject-prefix" env:"PREAUTH_SUBJECT_PREFIX" placeholder:"SUBJECT" form:"subject" help:"Prefix of all subjects of the contract: with acme, preauth.updated becomes acme.preauth.updated. Clients need the same prefix."`

	StreamNames `embed:""`

	Authorizations string `name:"stream-authorizations" env:"PREAUTH_STREAM_AUTHORIZATIONS" default:"COMPONENT_AUTHORIZED" form:"name" help:"Stream of the authorizations as WeChat reported them. It is created unless a stream covers their subject already."`
	Authorized     string `name:"stream-authorized" env:"PREAUTH_STREAM_AUTHORIZED" default:"PREAUTH_AUTHORIZED" form:"name" help:"Stream of the authorizations as the service announces them, created if missing."`

	Bucket string `name:"kv-bucket" env:"PREAUTH_KV_BUCKET" default:"preauth" form:"name" help:"Read-only KV bucket of the current codes, created if missing. With none, there is no bucket."`

	Replicas int    `name:"stream-replicas" env:"PREAUTH_STREAM_REPLICAS" default:"1" values:"1,3,5" help:"Replicas of each stream that the service creates, on servers of a cluster."`
	MaxBytes int64  `name:"stream-max-bytes" env:"PREAUTH_STREAM_MAX_BYTES" default:"0" range:"0.." help:"Size limit in bytes of each stream that the service creates, for accounts that require one. 0 means 64 MiB for failures and announced authorizations, and no limit for the others."`
	Domain   string `name:"nats-js-domain" group:"nats" env:"NATS_JS_DOMAIN" placeholder:"DOMAIN" form:"name" help:"JetStream domain, if it is not the one of the servers, such as that of a hub behind leaf nodes."`
	Monitor  string `name:"nats-monitor" group:"nats" env:"PREAUTH_NATS_MONITOR" placeholder:"URL" form:"monitor" help:"Monitoring endpoint of the NATS server, such as http://127.0.0.1:8222. With it, the service warns if the server can lose messages that it acknowledged, which it tells no client."`
	Durable  string `name:"durable" env:"PREAUTH_DURABLE" default:"preauth" form:"name" hidden:"" help:"Name of the durable consumer of the token stream, which all replicas share. That of the authorizations adds -authorized."`
	Source   string `name:"source" env:"PREAUTH_SOURCE" default:"/preauth" form:"uri" hidden:"" help:"CloudEvents source of the announcements."`
}

// Claims are about codes made for claims, and how long all codes are kept.
type Claims struct {
	Spares    int           `name:"spares" env:"PREAUTH_SPARES" default:"1" range:"0..1000" help:"Codes made ahead of claims for each component. With 0, every claim waits for WeChat."`
	Retention time.Duration `name:"retention" env:"PREAUTH_RETENTION" default:"168h" range:"1h..8760h" help:"How long codes and claims are kept, and can be resolved, after they expired."`
}

// Work is how much is done at once and how long it may take.
type Work struct {
	InFlight       int           `name:"in-flight" env:"PREAUTH_IN_FLIGHT" default:"512" range:"1..100000" hidden:"" help:"Events in flight at once of each stream, tokens and authorizations, per replica."`
	AckWait        time.Duration `name:"ack-wait" env:"PREAUTH_ACK_WAIT" default:"5s" range:"1s..10m" help:"Time without a heartbeat after which NATS redelivers an event, to another replica if there is one."`
	Requests       int           `name:"requests" env:"PREAUTH_REQUESTS" default:"256" range:"1..100000" hidden:"" help:"Look-ups and claims in flight at once that need more than memory, per replica. One more is answered with 429."`
	RequestTimeout time.Duration `name:"request-timeout" env:"PREAUTH_REQUEST_TIMEOUT" default:"4s" range:"10ms..1m" help:"Time limit for answering a look-up or claim that needs more than memory. Clients should wait a little longer."`
	Stall          time.Duration `name:"stall" env:"PREAUTH_STALL" default:"1m" range:"1s..24h" hidden:"" help:"Time without progress, while events wait, after which the service is not ready."`
	Shutdown       time.Duration `name:"shutdown" env:"PREAUTH_SHUTDOWN" default:"15s" range:"1s..1h" help:"Time limit for finishing what is in flight when the service is stopped."`
}

// Delays are the waits between attempts.
type Delays struct {
	Transient    time.Duration `name:"delay-transient" env:"PREAUTH_DELAY_TRANSIENT" default:"200ms" range:"1ms..24h" hidden:"" help:"First wait after a transient failure. It doubles with each attempt."`
	TransientMax time.Duration `name:"delay-transient-max" env:"PREAUTH_DELAY_TRANSIENT_MAX" default:"10s" range:"1ms..24h" hidden:"" help:"Longest wait after a transient failure."`
	Throttled    time.Duration `name:"delay-throttled" env:"PREAUTH_DELAY_THROTTLED" default:"1m" range:"1ms..24h" hidden:"" help:"Wait after WeChat's limit per minute."`
	Quota        time.Duration `name:"delay-quota" env:"PREAUTH_DELAY_QUOTA" default:"30m" range:"1ms..24h" hidden:"" help:"Wait between probes while the day's quota is used up, until midnight in China."`
	Operator     time.Duration `name:"delay-operator" env:"PREAUTH_DELAY_OPERATOR" default:"1m" range:"1ms..24h" hidden:"" help:"Wait while an operator has to change WeChat's allow-list of addresses or the account."`
	Once         time.Duration `name:"delay-once" env:"PREAUTH_DELAY_ONCE" default:"2s" range:"1ms..24h" hidden:"" help:"Wait before the one quick retry after an unknown error or after the rejection of a fresh token."`
}

// noBucket is the name of the bucket that is not there. An empty variable means the default.
const noBucket = "none"

// monitor returns the monitoring endpoint of NATS, or nil if none is named.
func (s Service) monitor() (*monitor.Server, error) {
	if s.Streams.Monitor == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	authorities, err := s.NATS.authorities()
	if err != nil {
		return nil, err
	}
	return monitor.New(s.Streams.Monitor, authorities), nil
}

// config returns the settings of package consumer.
func (s Service) config() (consumer.Config, error) {
	cfg := consumer.Config{
		Subjects:    preauth.DefaultSubjects().WithPrefix(s.Streams.SubjectPrefix),
		TokenStream: s.Streams.Tokens, UpdateStream: s.Streams.Updates, FailureStream: s.Streams.Failures,
		AuthorizationStream: s.Streams.Authorizations, AuthorizedStream: s.Streams.Authorized,
		Bucket:         s.Streams.Bucket,
		StreamReplicas: s.Streams.Replicas, StreamMaxBytes: s.Streams.MaxBytes, JetStreamDomain: s.Streams.Domain, Durable: s.Streams.Durable, Source: s.Streams.Source, Version: Version(),
		Calls: s.WeChat.Calls, CallsPerSecond: s.WeChat.CallsPerSecond, CallsPerDay: s.WeChat.CallsPerDay,
		Spares: s.Claims.Spares, Retention: s.Claims.Retention,
		InFlight: s.Work.InFlight, Requests: s.Work.Requests, RequestTimeout: s.Work.RequestTimeout,
		AckWait: s.Work.AckWait, Shutdown: s.Work.Shutdown, Stall: s.Work.Stall,
		Delays: consumer.Delays(s.Delays),
		Now:    clock,
	}
	if cfg.Spares == 0 {
		cfg.Spares = -1 // package consumer takes 0 for the default
	}
	if cfg.Bucket == noBucket {
		cfg.Bucket = ""
	}
	var errs []error
	var err error
	if cfg.Monitor, err = s.monitor(); err != nil {
		errs = append(errs, err)
	}
	if s.Delays.TransientMax < s.Delays.Transient {
		errs = append(errs, UsageErrorf("--delay-transient-max ($PREAUTH_DELAY_TRANSIENT_MAX) must not be less than --delay-transient, which is %v", s.Delays.Transient))
	}
	// Each value is valid by itself. Only the names of the streams can still collide.
	if err := cfg.Check(); err != nil {
		errs = append(errs, UsageErrorf("--stream-tokens, --stream-updates, --stream-failures, --stream-authorizations, --stream-authorized and --kv-bucket: %w", err))
	}
	return cfg, errors.Join(errs...)
}
