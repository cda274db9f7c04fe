package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
)

// streamCheck is how often a stream is looked at: whether it is still there and still the same.
const streamCheck = 2 * time.Second

// role is what a stream is for.
type role string

const (
	tokenStream   role = "token"
	updateStream  role = "update"
	failureStream role = "failure"
)

// part names a stream in a health.
func (r role) part() string { return string(r) + " stream" }

// identity tells a stream from another one of the same name: sequences start again in a stream that
// was deleted and re-created.
type identity struct {
	name    string
	created time.Time // UTC, in microseconds
}

func identityOf(info *jetstream.StreamInfo) identity {
	return identity{info.Config.Name, info.Created.UTC().Truncate(time.Microsecond)}
}

// durable names the consumer of this very stream. No pull request and no acknowledgement meant for
// it reaches the consumer of a stream that was created anew under the same name, where the sequences
// would be another event's.
func (id identity) durable(prefix string) string {
	return fmt.Sprintf("%s-%d", prefix, id.created.UnixMicro())
}

var (
	errOtherStream = errors.New("the stream was re-created or lost messages")
	errStreamSplit = errors.New("they share the token subjects: let one stream cover them all")
	errRetention   = errors.New("messages go away when they are acknowledged: its retention must be limits, " +
		"because every replica reads it into memory")
	errUncovered = errors.New("it does not take the subjects that it has to: rename it, or name another one in the settings")
	errMirror    = errors.New("it is a mirror, which takes no messages itself: name the stream that it copies in the settings, " +
		"and the domain of that with --nats-js-domain")
	errSealed    = errors.New("it is sealed and takes no more messages: rename it, or name another one in the settings")
	errNoAck     = errors.New("it does not say that it has stored a message: set no_ack to false")
	errTransform = errors.New("its subject transform stores messages under subjects where nobody looks for them: " +
		"let the transform leave these subjects alone")
)

// streams creates the streams where they are missing and watches them. It never alters one.
type streams struct {
	cfg    Config
	js     jetstream.JetStream
	log    *slog.Logger
	health *health
	failed prometheus.Counter

	mu    sync.Mutex
	drift map[role]string // as last reported
}

func newStreams(cfg Config, js jetstream.JetStream, log *slog.Logger, h *health, m *metrics) *streams {
	return &streams{
		cfg: cfg, js: js, log: log, health: h, failed: m.natsErrors.WithLabelValues("stream"), drift: map[role]string{},
	}
}

// follower does something with a stream for as long as it is there.
type follower struct {
	role role
	// follow works with the stream until ctx ends, or it fails.
	follow func(ctx context.Context, stream jetstream.Stream, id identity) error
	// subjects returns how many subjects the stream has to hold at least; nil for a stream of which that
	// is not known.
	subjects func() int
}

// keep makes sure that a follower's stream is there and has it followed, again whenever the stream
// turns out to be another one than before. It returns when ctx ends.
func (s *streams) keep(ctx context.Context, f follower) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 100*time.Millisecond, 2*time.Second
	for ctx.Err() == nil {
		started := time.Now()
		err := s.once(ctx, f)
		if ctx.Err() != nil {
			return
		}
		err = withRemedy(err)
		s.failed.Inc()
		s.log.Debug("stream is not followed", "stream", string(f.role), "error", err)
		s.health.set(f.role.part(), fmt.Errorf("is not followed: %w", err))
		if time.Since(started) > retry.MaxInterval {
			retry.Reset()
		}
		pause(ctx, retry.NextBackOff())
	}
}

func (s *streams) once(ctx context.Context, f follower) error {
	stream, err := s.ensure(ctx, f.role)
	if err != nil {
		return err
	}
	id := identityOf(stream.CachedInfo())

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watcher sync.WaitGroup
	watcher.Go(func() { cancel(s.watch(ctx, f, stream, id)) })
	defer watcher.Wait()
	defer cancel(nil) // runs before the watcher is waited for

	err = f.follow(ctx, stream, id)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// watch returns when the stream is gone, is another one, has lost messages, or cannot serve any more.
func (s *streams) watch(ctx context.Context, f follower, stream jetstream.Stream, id identity) error {
	var last uint64
	for pause(ctx, jittered(streamCheck)) {
		subjects := 0
		if f.subjects != nil {
			subjects = f.subjects() // before the stream is asked: it may get more meanwhile
		}
		reqCtx, cancel := context.WithTimeout(ctx, apiTimeout)
		info, err := stream.Info(reqCtx)
		cancel()
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("stream %s: %w", id.name, err)
		case err != nil:
			continue // unreachable for the moment, which the connection's state tells
		case identityOf(info) != id, info.State.LastSeq < last, info.State.NumSubjects < uint64(subjects):
			return fmt.Errorf("stream %s: %w", id.name, errOtherStream)
		}
		if err := s.unfit(f.role, info.Config); err != nil {
			return fmt.Errorf("stream %s: %w", id.name, err)
		}
		last = info.State.LastSeq
	}
	return context.Cause(ctx)
}

// ensure returns the stream of a role, created if it is missing.
func (s *streams) ensure(ctx context.Context, r role) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	want := s.config(r)
	name := want.Name
	if r == tokenStream {
		covering, err := s.covering(ctx)
		if err != nil {
			return nil, err
		}
		if covering != "" {
			name = covering
		}
	}
	stream, err := s.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = s.js.CreateStream(ctx, want)
		if want.AllowAtomicPublish && errorCode(err) == codeInvalidJSON { // from a server older than 2.12
			want.AllowAtomicPublish = false
			stream, err = s.js.CreateStream(ctx, want)
		}
		if err == nil {
			s.log.Info("stream created", "stream", want.Name, "subjects", want.Subjects, "replicas", want.Replicas)
		}
	}
	if err == nil {
		err = s.unfit(r, stream.CachedInfo().Config)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	s.reportDrift(r, want, stream.CachedInfo().Config)
	return stream, nil
}

// tokenSubjects are the two forms of the subject on which tokens are announced. The second takes
// more than one further token, so that an impossible appid with a dot in it is recorded as the bad
// event that it is.
func (s *streams) tokenSubjects() []string {
	return []string{s.cfg.Subjects.TokenUpdated, s.cfg.Subjects.TokenUpdated + ".>"}
}

// covering returns the name of the stream that takes tokens, "" if there is none.
func (s *streams) covering(ctx context.Context) (string, error) {
	var found []string
	for _, subject := range s.tokenSubjects() {
		names := s.js.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
		for name := range names.Name() {
			if !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
		if err := names.Err(); err != nil {
			return "", fmt.Errorf("stream of %s: %w", subject, err)
		}
	}
	if len(found) > 1 {
		return "", fmt.Errorf("streams %s: %w", strings.Join(found, " and "), errStreamSplit)
	}
	return strings.Join(found, ""), nil
}

// unfit returns why a stream that exists cannot serve in a role, nil if it can.
func (s *streams) unfit(r role, c jetstream.StreamConfig) error {
	wanted := s.config(r).Subjects
	takes := covers
	if r == tokenStream { // which may be somebody else's, for the tokens of some components
		takes = overlap
	}
	taken := func(subject string) bool {
		return slices.ContainsFunc(c.Subjects, func(pattern string) bool { return takes(pattern, subject) })
	}
	moved := func(subject string) bool {
		t := c.SubjectTransform
		return t != nil && overlap(cmp.Or(t.Source, ">"), subject) && t.Destination != t.Source &&
			(r != tokenStream || !s.isTokenSubject(t.Destination))
	}
	switch {
	case c.Mirror != nil:
		return errMirror
	case c.Sealed:
		return errSealed
	case c.Retention != jetstream.LimitsPolicy:
		return errRetention
	case c.NoAck && r != tokenStream: // those who announce tokens decide whether they wait for it
		return errNoAck
	case !slices.ContainsFunc(wanted, taken):
		return errUncovered
	case slices.ContainsFunc(wanted, moved):
		return errTransform
	}
	return nil
}

// overlap reports whether some subject matches both of two patterns.
func overlap(a, b string) bool {
	for {
		first, restA, moreA := strings.Cut(a, ".")
		second, restB, moreB := strings.Cut(b, ".")
		switch {
		case first == ">" || second == ">":
			return true
		case first != second && first != "*" && second != "*":
			return false
		case !moreA || !moreB:
			return moreA == moreB
		}
		a, b = restA, restB
	}
}

// covers reports whether a pattern matches all subjects of another one, whose only wildcard is a "*"
// at its end.
func covers(pattern, other string) bool {
	return overlap(pattern, other) && strings.ContainsAny(pattern[len(pattern)-1:], "*>")
}

// isTokenSubject reports whether a subject is one on which tokens are announced, or a wildcard that
// takes nothing else.
func (s *streams) isTokenSubject(subject string) bool {
	rest, ok := strings.CutPrefix(subject, s.cfg.Subjects.TokenUpdated)
	return ok && (rest == "" || rest[0] == '.')
}

// tokenFilter returns the filter with which the token events of a stream are read: "" where the
// stream takes nothing else. It is one filter and never two, one for each form of the subject: for a
// consumer with several filters nats-server walks the subjects of the stream with each message, and a
// start would take a time that grows with the square of the number of components. So the filter of a
// stream that takes other things too may let some of these through.
func (s *streams) tokenFilter(c jetstream.StreamConfig) string {
	foreign := func(subject string) bool { return !s.isTokenSubject(subject) }
	if !slices.ContainsFunc(c.Subjects, foreign) {
		return ""
	}
	taken := slices.DeleteFunc(s.tokenSubjects(), func(subject string) bool {
		return !slices.ContainsFunc(c.Subjects, func(pattern string) bool { return overlap(pattern, subject) })
	})
	if len(taken) == 1 {
		return taken[0]
	}
	flat := s.cfg.Subjects.TokenUpdated
	if dot := strings.LastIndexByte(flat, '.'); dot >= 0 {
		return flat[:dot] + ".>"
	}
	return ""
}

// config is the configuration with which a missing stream is created.
func (s *streams) config(r role) jetstream.StreamConfig {
	c := jetstream.StreamConfig{Storage: jetstream.FileStorage, Replicas: s.cfg.StreamReplicas}
	if s.cfg.StreamMaxBytes > 0 {
		c.MaxBytes = s.cfg.StreamMaxBytes
	}
	switch r {
	case tokenStream:
		c.Name, c.Subjects = s.cfg.TokenStream, s.tokenSubjects()
		c.Description = "component_access_tokens as announced; they live no longer than this"
		c.MaxAge = preauth.DefaultTokenLife
		c.AllowAtomicPublish = true // for token services that announce many at once
	case updateStream:
		c.Name, c.Subjects = s.cfg.UpdateStream, []string{s.cfg.Subjects.Updated + ".*"}
		c.Description = "the current pre_auth_code of each component"
		c.MaxMsgsPerSubject = 1
		// No sequence is that of a message in an earlier stream of this name, so that an announcement
		// which was meant to follow a message there is refused here.
		c.FirstSeq = uint64(s.cfg.Now().UnixMicro())
		c.AllowDirect = true
		c.RePublish = &jetstream.RePublish{Source: s.cfg.Subjects.Updated + ".*", Destination: s.cfg.Subjects.Updated}
	case failureStream:
		c.Name, c.Subjects = s.cfg.FailureStream, []string{s.cfg.Subjects.Failed + ".*"}
		c.Description = "why components got no new pre_auth_code"
		c.MaxAge = 7 * 24 * time.Hour
		c.MaxBytes = cmp.Or(c.MaxBytes, 64<<20)
		c.RePublish = &jetstream.RePublish{Source: s.cfg.Subjects.Failed + ".*", Destination: s.cfg.Subjects.Failed}
	}
	return c
}

// reportDrift logs, once per state, where an existing stream differs from what would be created.
func (s *streams) reportDrift(r role, want, have jetstream.StreamConfig) {
	var drift []string
	differs := func(what string, want, have any) {
		if fmt.Sprint(want) != fmt.Sprint(have) {
			drift = append(drift, fmt.Sprintf("%s is %v, not %v", what, have, want))
		}
	}
	slices.Sort(want.Subjects)
	subjects := slices.Sorted(slices.Values(have.Subjects))
	differs("name", want.Name, have.Name)
	differs("subjects", want.Subjects, subjects)
	differs("retention", want.Retention, have.Retention)
	differs("storage", want.Storage, have.Storage)
	differs("replicas", want.Replicas, have.Replicas)
	differs("max age", want.MaxAge, have.MaxAge)
	differs("max messages per subject", max(want.MaxMsgsPerSubject, 0), max(have.MaxMsgsPerSubject, 0))
	differs("max bytes", max(want.MaxBytes, 0), max(have.MaxBytes, 0))
	differs("republish", republished(want), republished(have))

	report := strings.Join(drift, "; ")
	s.mu.Lock()
	defer s.mu.Unlock()
	if report != "" && s.drift[r] != report {
		s.log.Warn("stream differs from the settings and is used as it is", "stream", have.Name, "drift", report)
	}
	s.drift[r] = report
}

func republished(c jetstream.StreamConfig) string {
	if c.RePublish == nil {
		return "nothing"
	}
	return c.RePublish.Source + " to " + c.RePublish.Destination
}

const (
	// pullHeartbeat lets the client notice within two of it that the server forgot a pull request.
	pullHeartbeat = 2 * time.Second
	// readBatch bounds the messages of one pull request for the views.
	readBatch = 500
	// readAgain is the wait before a stream is read again.
	readAgain = 100 * time.Millisecond
)

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

// errGap means that the connection lost messages, which a consumer without acknowledgements does not
// send again.
var errGap = errors.New("messages were lost on the way")

// read feeds the messages of a stream to apply, each once and in order, until ctx ends. caughtUp is
// called once, when all that was there at the start has been applied. read returns an error if it was
// refused what it needs two times in a row.
func (s *streams) read(
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
		worked, err := s.readOn(ctx, stream, &cfg, apply, caughtUp)
		switch {
		case ctx.Err() != nil:
			return nil
		case failed && !worked:
			return fmt.Errorf("reading: %w", err)
		}
		failed = !worked
		s.log.Debug("reading the stream again from where it was", "error", err)
		pause(ctx, readAgain)
		for ctx.Err() == nil && s.js.Conn().Status() != nats.CONNECTED {
			pause(ctx, readAgain)
		}
	}
}

// readOn reads a stream with one consumer until that fails, and reports whether it worked before. It
// moves the start in cfg behind what it applied.
func (s *streams) readOn(
	ctx context.Context, stream jetstream.Stream, cfg *jetstream.ConsumerConfig,
	apply func(jetstream.Msg, *jetstream.MsgMetadata), caughtUp func(),
) (worked bool, err error) {
	reqCtx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	cons, err := stream.CreateConsumer(reqCtx, *cfg)
	if err != nil {
		return false, err
	}
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
