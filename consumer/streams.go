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
	"github.com/nats-io/nats.go/jetstream"

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
	errStreamSplit = errors.New("two streams share the token subjects: let one stream cover both")
	errRetention   = errors.New("messages go away when they are acknowledged: its retention must be limits, " +
		"because every replica reads the tokens into memory")
	errUncovered = errors.New("it does not take the subjects that it has to: rename it, or name another one in the settings")
)

// streams creates the streams where they are missing and watches them. It never alters one.
type streams struct {
	cfg    Config
	js     jetstream.JetStream
	log    *slog.Logger
	health *health

	mu    sync.Mutex
	drift map[role]string // as last reported
}

func newStreams(cfg Config, js jetstream.JetStream, log *slog.Logger, h *health) *streams {
	return &streams{cfg: cfg, js: js, log: log, health: h, drift: map[role]string{}}
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
	info := stream.CachedInfo()
	if info.Config.Retention != jetstream.LimitsPolicy {
		return fmt.Errorf("stream %s: %w", info.Config.Name, errRetention)
	}
	id := identityOf(info)

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

// watch returns when the stream is gone, is another one, or has lost messages.
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
		if err == nil {
			s.log.Info("stream created", "stream", want.Name, "subjects", want.Subjects, "replicas", want.Replicas)
		}
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

// covering returns the name of the stream that covers the token subjects, "" if there is none.
func (s *streams) covering(ctx context.Context) (string, error) {
	found := ""
	for _, subject := range s.tokenSubjects() {
		name, err := s.js.StreamNameBySubject(ctx, subject)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
		case err != nil:
			return "", fmt.Errorf("stream of %s: %w", subject, err)
		case found != "" && name != found:
			return "", fmt.Errorf("streams %s and %s: %w", found, name, errStreamSplit)
		default:
			found = name
		}
	}
	return found, nil
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
func (s *streams) tokenFilter(ctx context.Context, info *jetstream.StreamInfo) (string, error) {
	foreign := func(subject string) bool { return !s.isTokenSubject(subject) }
	if subjects := info.Config.Subjects; len(subjects) > 0 && !slices.ContainsFunc(subjects, foreign) {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var covered []string
	for _, subject := range s.tokenSubjects() {
		name, err := s.js.StreamNameBySubject(ctx, subject)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return "", fmt.Errorf("stream of %s: %w", subject, err)
		}
		if name == info.Config.Name {
			covered = append(covered, subject)
		}
	}
	switch len(covered) {
	case 0:
		return "", fmt.Errorf("stream %s: %w", info.Config.Name, errUncovered)
	case 1:
		return covered[0], nil
	}
	flat := s.cfg.Subjects.TokenUpdated
	if dot := strings.LastIndexByte(flat, '.'); dot >= 0 {
		return flat[:dot] + ".>", nil
	}
	return "", nil
}

// config is the configuration with which a missing stream is created.
func (s *streams) config(r role) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Storage:    jetstream.FileStorage,
		Replicas:   s.cfg.StreamReplicas,
		Duplicates: 2 * time.Minute,
	}
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

// read feeds the messages of a stream to apply, one after the other and in order, until ctx ends.
// caughtUp is called once, when all that was there at the start has been applied.
func (s *streams) read(
	ctx context.Context, stream jetstream.Stream, cfg jetstream.OrderedConsumerConfig,
	apply func(jetstream.Msg, *jetstream.MsgMetadata), caughtUp func(),
) error {
	cfg.InactiveThreshold = time.Minute
	reqCtx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	cons, err := stream.OrderedConsumer(reqCtx, cfg)
	if err != nil {
		return fmt.Errorf("reading stream: %w", err)
	}
	ready := sync.OnceFunc(caughtUp)
	if cons.CachedInfo().NumPending == 0 {
		ready()
	}
	reading, err := cons.Consume(func(msg jetstream.Msg) {
		meta, err := msg.Metadata()
		if err != nil {
			s.log.Error("message without metadata", "error", err)
			return
		}
		apply(msg, meta)
		if meta.NumPending == 0 {
			ready()
		}
	})
	if err != nil {
		return fmt.Errorf("reading stream: %w", err)
	}
	<-ctx.Done()
	// While the ordered consumer tries to find its stream again, it does not even stop.
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		reading.Stop()
		<-reading.Closed()
	}()
	select {
	case <-stopped:
	case <-time.After(time.Second):
	}
	return nil
}
