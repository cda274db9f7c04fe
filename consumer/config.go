package consumer

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"preauth"
	"preauth/internal/monitor"
)

// ErrConfig is wrapped by every error about an invalid [Config].
var ErrConfig = errors.New("invalid setting")

// Config are the settings of a [Service]. The zero value of a field means its default.
type Config struct {
	// Subjects are the subjects of the contract.
	Subjects preauth.Subjects
	// TokenStream, UpdateStream and FailureStream are the names of the streams that are created
	// where they are missing. If another stream covers the token subject already, that one is used
	// as it is. Defaults: COMPONENT_TOKENS, PREAUTH, PREAUTH_FAILED.
	TokenStream, UpdateStream, FailureStream string
	// AuthorizationStream and AuthorizedStream are the same for authorizations, as they are reported and
	// as they are announced. What holds for the token subject holds for that of the reports. Defaults:
	// COMPONENT_AUTHORIZED, PREAUTH_AUTHORIZED.
	AuthorizationStream, AuthorizedStream string
	// Bucket is the name of a read-only KV bucket with the current codes, whose stream is created where
	// it is missing. Default: there is none.
	Bucket string
	// Durable begins the names of the consumers that all replicas share, and the creation time of the
	// stream ends them; that of the authorizations has -authorized between the two. Default: preauth.
	Durable string
	// StreamReplicas is how many servers of a cluster keep each stream that is created. Default: 1.
	StreamReplicas int
	// StreamMaxBytes bounds the size of each stream that is created, in bytes, for accounts that
	// require such a bound. Default: none for tokens, updates and reported authorizations, 64 MiB for
	// failures and announced authorizations.
	StreamMaxBytes int64
	// JetStreamDomain is the domain of the JetStream to use, for a server whose own is another one, such
	// as a leaf node's. Default: that of the server.
	JetStreamDomain string
	// Monitor is the monitoring endpoint of NATS, which says whether it syncs what it acknowledges.
	// Default: none, so that this is not known.
	Monitor *monitor.Server
	// Source is the CloudEvents source of what is announced, a URI reference. Default: /preauth.
	Source string
	// Version is what the NATS micro service calls itself, a semantic version. Default: 0.0.0.
	Version string

	// Calls is how many calls of WeChat may be under way at once. Default: 64.
	Calls int
	// CallsPerSecond bounds the calls of WeChat over all components. CallsPerDay bounds those for one
	// component, where WeChat does not say what is left of its own quota; a tenth can be used at once.
	// Spares are made while half of that is left, and the last tenth is for token events and renewals.
	// Both are per replica. Defaults: 200 and 10000.
	CallsPerSecond, CallsPerDay int
	// Spares is how many codes are made ahead of claims for each component; negative for none, so that
	// every claim waits for WeChat. Default: 1.
	Spares int
	// Retention is how long codes and claims are kept after they expired. Default: 7 days.
	Retention time.Duration
	// InFlight is how many events of each of the two streams, token events and authorizations, may be
	// worked on at once. Default: 512.
	InFlight int
	// Requests is how many look-ups that need more than memory may be under way at once; one more is
	// answered with 429. Default: 256.
	Requests int
	// RequestTimeout bounds the time in which such a look-up is answered. Default: 4s.
	RequestTimeout time.Duration
	// AckWait is how long each of the two streams waits for a sign of life of the replica that has an
	// event in flight. Default: 5s.
	AckWait time.Duration
	// Shutdown bounds the time for finishing what is in flight. Default: 15s.
	Shutdown time.Duration
	// Stall is how long events may wait without one being finished before the service counts as not
	// ready. Default: 1m.
	Stall time.Duration
	// Delays are the waits between attempts.
	Delays Delays

	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Trace, if set, is told each [Step] of each event as it happens, from many goroutines at once.
	Trace func(Step)
	// Spans, if set, records spans of events, codes and requests, as OpenTelemetry has them. They hold no
	// token, no code and nothing of a claim.
	Spans trace.TracerProvider

	intervals intervals // tests shorten them
	tracer    tracer    // of Trace and Spans
}

// lease is for how long a due component is left to the replica that leased it.
const lease = 20 * time.Second

// intervals are how often the service looks for work of its own.
type intervals struct {
	due    time.Duration // for due components
	extend time.Duration // to extend the lease of a component that is worked on
	purge  time.Duration // for expired codes to delete
	census time.Duration // at all components, to count them
	// refusal is how long NATS's refusal of a message or subscription counts: longer than it takes until
	// the service does the same again.
	refusal time.Duration
}

// Delays are the waits between attempts after a failure, by the kind of failure. Each but Once is
// jittered by up to a quarter. The zero value of a field means its default.
type Delays struct {
	// Transient is the first wait after a failure that passes by itself; it doubles up to
	// TransientMax. Defaults: 200ms and 10s.
	Transient, TransientMax time.Duration
	// Throttled is the wait for WeChat's next minute. Default: 1m.
	Throttled time.Duration
	// Quota is the wait between probes while the quota of the day is used up. Default: 30m.
	Quota time.Duration
	// Operator is the wait while somebody has to change something: the allow-list, the account.
	// Default: 1m.
	Operator time.Duration
	// Once is the wait before the single quick retry after an unknown error, and after the rejection
	// of a token younger than 30 s. Default: 2s.
	Once time.Duration
}

func (c Config) withDefaults() Config {
	subjects := preauth.DefaultSubjects()
	c.Subjects.TokenUpdated = cmp.Or(c.Subjects.TokenUpdated, subjects.TokenUpdated)
	c.Subjects.Authorization = cmp.Or(c.Subjects.Authorization, subjects.Authorization)
	c.Subjects.Updated = cmp.Or(c.Subjects.Updated, subjects.Updated)
	c.Subjects.Failed = cmp.Or(c.Subjects.Failed, subjects.Failed)
	c.Subjects.Authorized = cmp.Or(c.Subjects.Authorized, subjects.Authorized)
	c.Subjects.Lookup = cmp.Or(c.Subjects.Lookup, subjects.Lookup)
	c.Subjects.Claim = cmp.Or(c.Subjects.Claim, subjects.Claim)
	c.Subjects.Resolve = cmp.Or(c.Subjects.Resolve, subjects.Resolve)
	c.Subjects.Status = cmp.Or(c.Subjects.Status, subjects.Status)
	c.Subjects.Renew = cmp.Or(c.Subjects.Renew, subjects.Renew)
	c.TokenStream = cmp.Or(c.TokenStream, "COMPONENT_TOKENS")
	c.UpdateStream = cmp.Or(c.UpdateStream, "PREAUTH")
	c.FailureStream = cmp.Or(c.FailureStream, "PREAUTH_FAILED")
	c.AuthorizationStream = cmp.Or(c.AuthorizationStream, "COMPONENT_AUTHORIZED")
	c.AuthorizedStream = cmp.Or(c.AuthorizedStream, "PREAUTH_AUTHORIZED")
	c.Durable = cmp.Or(c.Durable, "preauth")
	c.StreamReplicas = cmp.Or(c.StreamReplicas, 1)
	c.Source = cmp.Or(c.Source, "/preauth")
	c.Version = cmp.Or(c.Version, "0.0.0")
	c.Calls = cmp.Or(c.Calls, 64)
	c.CallsPerSecond = cmp.Or(c.CallsPerSecond, 200)
	c.CallsPerDay = cmp.Or(c.CallsPerDay, 10_000)
	c.Spares = cmp.Or(c.Spares, 1)
	c.Retention = cmp.Or(c.Retention, 7*24*time.Hour)
	c.InFlight = cmp.Or(c.InFlight, 512)
	c.Requests = cmp.Or(c.Requests, 256)
	c.RequestTimeout = cmp.Or(c.RequestTimeout, 4*time.Second)
	c.AckWait = cmp.Or(c.AckWait, 5*time.Second)
	c.Shutdown = cmp.Or(c.Shutdown, 15*time.Second)
	c.Stall = cmp.Or(c.Stall, time.Minute)
	c.Delays.Transient = cmp.Or(c.Delays.Transient, 200*time.Millisecond)
	c.Delays.TransientMax = cmp.Or(c.Delays.TransientMax, 10*time.Second)
	c.Delays.Throttled = cmp.Or(c.Delays.Throttled, time.Minute)
	c.Delays.Quota = cmp.Or(c.Delays.Quota, 30*time.Minute)
	c.Delays.Operator = cmp.Or(c.Delays.Operator, time.Minute)
	c.Delays.Once = cmp.Or(c.Delays.Once, 2*time.Second)
	c.intervals.due = cmp.Or(c.intervals.due, time.Second)
	c.intervals.extend = cmp.Or(c.intervals.extend, lease/4)
	c.intervals.purge = cmp.Or(c.intervals.purge, 10*time.Minute)
	c.intervals.census = cmp.Or(c.intervals.census, 30*time.Second)
	c.intervals.refusal = cmp.Or(c.intervals.refusal, time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Trace == nil {
		c.Trace = func(Step) {}
	}
	c.tracer = newTracer(c.Trace, c.Spans)
	return c
}

var (
	domain     = regexp.MustCompile(`^[A-Za-z0-9_-]{0,64}$`)
	streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	subject    = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

// bucketStream returns the name of the stream that is a KV bucket.
func bucketStream(bucket string) string { return "KV_" + bucket }

// Check returns an error that wraps [ErrConfig] and says what to change if a value is impossible.
func (c Config) Check() error {
	c = c.withDefaults()
	var errs []error
	refuse := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
	}
	subjects := map[string]string{
		"token": c.Subjects.TokenUpdated, "authorization": c.Subjects.Authorization,
		"updated": c.Subjects.Updated, "failed": c.Subjects.Failed, "authorized": c.Subjects.Authorized,
		"look-up": c.Subjects.Lookup, "claim": c.Subjects.Claim, "resolve": c.Subjects.Resolve,
		"status": c.Subjects.Status, "renew": c.Subjects.Renew,
	}
	for name, s := range subjects {
		if !subject.MatchString(s) {
			refuse("the %s subject %q must be words of letters, digits, '_' and '-' joined by dots", name, s)
		}
		for other, o := range subjects {
			if name != other && (s == o || strings.HasPrefix(o, s+".")) {
				refuse("the %s subject %q covers the %s subject %q: choose subjects that do not overlap", name, s, other, o)
			}
		}
	}
	names := map[string]string{
		"token stream": c.TokenStream, "update stream": c.UpdateStream,
		"failure stream": c.FailureStream, "authorization stream": c.AuthorizationStream,
		"authorized stream": c.AuthorizedStream, "durable": c.Durable,
	}
	for what, name := range names {
		if !streamName.MatchString(name) {
			refuse("the %s name %q must be 1 to 64 letters, digits, '_' or '-'", what, name)
		}
	}
	streams := []string{c.TokenStream, c.UpdateStream, c.FailureStream, c.AuthorizationStream, c.AuthorizedStream, bucketStream(c.Bucket)}
	slices.Sort(streams)
	if len(slices.Compact(streams)) < len(streams) {
		refuse("each stream needs a name of its own, also that of the KV bucket, which is KV_ and the bucket's")
	}
	if c.Bucket != "" && !streamName.MatchString(c.Bucket) {
		refuse("the KV bucket's name %q must be 1 to 64 letters, digits, '_' or '-'", c.Bucket)
	}
	if !domain.MatchString(c.JetStreamDomain) {
		refuse("the JetStream domain %q must be at most 64 letters, digits, '_' or '-'", c.JetStreamDomain)
	}
	if c.StreamMaxBytes < 0 {
		refuse("the streams' bound in bytes must not be negative, and is %d", c.StreamMaxBytes)
	}
	if c.StreamReplicas != 1 && c.StreamReplicas != 3 && c.StreamReplicas != 5 {
		refuse("stream replicas must be 1, 3 or 5, not %d", c.StreamReplicas)
	}
	for what, n := range map[string]int{"calls": c.Calls, "events in flight": c.InFlight, "requests": c.Requests} {
		if n < 1 || n > 100_000 {
			refuse("the number of %s at once must be 1 to 100000, not %d", what, n)
		}
	}
	if c.Spares > 1000 {
		refuse("the number of spares per component must be at most 1000, not %d", c.Spares)
	}
	if c.CallsPerSecond < 1 || c.CallsPerDay < 100 {
		refuse("the limits of calls must be at least 1 per second and 100 per day, not %d and %d", c.CallsPerSecond, c.CallsPerDay)
	}
	if c.AckWait < time.Second {
		refuse("the ack wait must be at least 1s, not %v: events would be handed out twice", c.AckWait)
	}
	durations := map[string]time.Duration{
		"request time-out": c.RequestTimeout, "shutdown time": c.Shutdown, "stall time": c.Stall, "retention": c.Retention,
		"transient delay": c.Delays.Transient, "largest transient delay": c.Delays.TransientMax, "throttled delay": c.Delays.Throttled,
		"quota delay": c.Delays.Quota, "operator delay": c.Delays.Operator, "single delay": c.Delays.Once,
	}
	for what, d := range durations {
		if d < 0 {
			refuse("the %s must be more than 0, not %v", what, d)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}
