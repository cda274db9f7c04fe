package main

import (
	"errors"
	"time"

	"preauth"
	"preauth/consumer"
)

// streamSettings are the names on NATS.
type streamSettings struct {
	Token   string `name:"subject-token" env:"PREAUTH_SUBJECT_TOKEN" default:"component.token.updated" form:"subject" help:"Subject on which tokens are announced to the service."`
	Updated string `name:"subject-updated" env:"PREAUTH_SUBJECT_UPDATED" default:"preauth.updated" form:"subject" help:"Subject on which it announces codes."`
	Failed  string `name:"subject-failed" env:"PREAUTH_SUBJECT_FAILED" default:"preauth.failed" form:"subject" help:"Subject on which it announces failures."`
	Lookup  string `name:"subject-lookup" env:"PREAUTH_SUBJECT_LOOKUP" default:"preauth.lookup" form:"subject" help:"Subject on which it answers look-ups."`
	Claim   string `name:"subject-claim" env:"PREAUTH_SUBJECT_CLAIM" default:"preauth.claim" form:"subject" help:"Subject on which it answers claims."`
	Resolve string `name:"subject-resolve" env:"PREAUTH_SUBJECT_RESOLVE" default:"preauth.resolve" form:"subject" help:"Subject on which it tells the claim of a code."`

	TokenStream   string `name:"stream-tokens" env:"PREAUTH_STREAM_TOKENS" default:"COMPONENT_TOKENS" form:"name" help:"Stream of the tokens, created unless a stream covers their subject already."`
	UpdateStream  string `name:"stream-updates" env:"PREAUTH_STREAM_UPDATES" default:"PREAUTH" form:"name" help:"Stream of the codes, created if missing."`
	FailureStream string `name:"stream-failures" env:"PREAUTH_STREAM_FAILURES" default:"PREAUTH_FAILED" form:"name" help:"Stream of the failures, created if missing."`
	Replicas      int    `name:"stream-replicas" env:"PREAUTH_STREAM_REPLICAS" default:"1" values:"1,3,5" help:"Servers of a cluster that keep each stream which is created."`
	Durable       string `name:"durable" env:"PREAUTH_DURABLE" default:"preauth" form:"name" help:"Consumer of the token stream that all replicas share."`
	Source        string `name:"source" env:"PREAUTH_SOURCE" default:"/preauth" form:"uri" help:"CloudEvents source of what is announced."`
}

// claimSettings are about the codes that are made for claims, and how long all codes are kept.
type claimSettings struct {
	Spares    int           `name:"spares" env:"PREAUTH_SPARES" default:"1" range:"0..1000" help:"Codes made ahead of claims for each component; with 0 every claim waits for WeChat."`
	Retention time.Duration `name:"retention" env:"PREAUTH_RETENTION" default:"168h" range:"1h..8760h" help:"Time for which codes and claims are kept after they expired, and can be resolved."`
}

// workSettings are how much is done at once and how long it may take.
type workSettings struct {
	InHand         int           `name:"in-hand" env:"PREAUTH_IN_HAND" default:"512" range:"1..100000" help:"Token events worked on at once, per replica."`
	AckWait        time.Duration `name:"ack-wait" env:"PREAUTH_ACK_WAIT" default:"5s" range:"1s..10m" help:"Time without a sign of life after which another replica gets an event."`
	Requests       int           `name:"requests" env:"PREAUTH_REQUESTS" default:"256" range:"1..100000" help:"Look-ups and claims at once that need more than memory, per replica; one more is answered with 429."`
	RequestTimeout time.Duration `name:"request-timeout" env:"PREAUTH_REQUEST_TIMEOUT" default:"4s" range:"10ms..1m" help:"Time in which such a request is answered. Clients should wait a little longer."`
	Stall          time.Duration `name:"stall" env:"PREAUTH_STALL" default:"1m" range:"1s..24h" help:"Time without progress, while events wait, after which the service is not ready."`
	Shutdown       time.Duration `name:"shutdown" env:"PREAUTH_SHUTDOWN" default:"15s" range:"1s..1h" help:"Time for finishing what is in hand when the service is stopped."`
}

// delaySettings are the waits between attempts.
type delaySettings struct {
	Transient    time.Duration `name:"delay-transient" env:"PREAUTH_DELAY_TRANSIENT" default:"200ms" range:"1ms..24h" help:"First wait after a failure that passes by itself; it doubles."`
	TransientMax time.Duration `name:"delay-transient-max" env:"PREAUTH_DELAY_TRANSIENT_MAX" default:"10s" range:"1ms..24h" help:"Longest such wait."`
	Throttled    time.Duration `name:"delay-throttled" env:"PREAUTH_DELAY_THROTTLED" default:"1m" range:"1ms..24h" help:"Wait after WeChat's limit per minute."`
	Quota        time.Duration `name:"delay-quota" env:"PREAUTH_DELAY_QUOTA" default:"30m" range:"1ms..24h" help:"Wait between probes while the quota of the day is used up, until midnight in China."`
	Operator     time.Duration `name:"delay-operator" env:"PREAUTH_DELAY_OPERATOR" default:"1m" range:"1ms..24h" help:"Wait while somebody has to change WeChat's list of allowed addresses or the account."`
	Once         time.Duration `name:"delay-once" env:"PREAUTH_DELAY_ONCE" default:"2s" range:"1ms..24h" help:"Wait before the one quick retry of an unknown error, or of a fresh token's rejection."`
}

// config returns the settings of the service itself.
func (c serveCommand) config() (consumer.Config, error) {
	cfg := consumer.Config{
		Subjects: preauth.Subjects{
			TokenUpdated: c.streamSettings.Token, Updated: c.Updated, Failed: c.Failed,
			Lookup: c.Lookup, Claim: c.Claim, Resolve: c.Resolve,
		},
		TokenStream: c.TokenStream, UpdateStream: c.UpdateStream, FailureStream: c.FailureStream,
		StreamReplicas: c.Replicas, Durable: c.Durable, Source: c.Source, Version: version(),
		Calls: c.Calls, CallsPerSecond: c.CallsPerSecond, CallsPerDay: c.CallsPerDay,
		Spares: c.Spares, Retention: c.Retention, InFlight: c.InHand, Requests: c.Requests, RequestTimeout: c.RequestTimeout,
		AckWait: c.AckWait, Shutdown: c.Shutdown, Stall: c.Stall,
		Delays: consumer.Delays{
			Transient: c.Transient, TransientMax: c.TransientMax, Throttled: c.Throttled,
			Quota: c.Quota, Operator: c.Operator, Once: c.Once,
		},
		Now: clock,
	}
	if c.Spares == 0 {
		cfg.Spares = -1 // where 0 means the default
	}
	var errs []error
	if c.TransientMax < c.Transient {
		errs = append(errs, refuse("--delay-transient-max ($PREAUTH_DELAY_TRANSIENT_MAX) must not be less than --delay-transient, which is %v", c.Transient))
	}
	// Each value by itself is possible: what is left are subjects and names that do not go together.
	if err := cfg.Check(); err != nil {
		errs = append(errs, refuse("--subject-… and --stream-… do not go together: %w", err))
	}
	return cfg, errors.Join(errs...)
}
