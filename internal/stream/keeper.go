package stream

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

	"preauth/internal/pause"
)

// lookEvery is how often a stream is looked at: whether it is still there and still the same.
const lookEvery = 2 * time.Second

var errOtherStream = errors.New("the stream was re-created or lost messages")

// losesByItself reports whether a stream's own limits make it lose messages now. It is not followed
// anew for that: what would be published again for lack of it would only make the stream drop others.
// So a message that it dropped is missed until the next one on its subject, or until somebody reads
// the stream anew.
func losesByItself(c jetstream.StreamConfig, s jetstream.StreamState) bool {
	full := c.MaxBytes > 0 && s.Msgs > 0 && s.Bytes+2*s.Bytes/s.Msgs > uint64(c.MaxBytes) // no room for two more
	return full || c.MaxAge > 0 || c.MaxMsgs > 0 && s.Msgs >= uint64(c.MaxMsgs)
}

// Keeper creates streams where they are missing and has them followed. It is safe for concurrent use.
type Keeper struct {
	js  jetstream.JetStream
	log *slog.Logger
	// failed is told why the stream of a role is not followed.
	failed func(r Role, err error)

	mu    sync.Mutex
	drift map[string]string // by role, as last logged
}

// NewKeeper returns a Keeper. It tells failed each time a stream cannot be followed, or not any more.
func NewKeeper(js jetstream.JetStream, log *slog.Logger, failed func(r Role, err error)) *Keeper {
	return &Keeper{js: js, log: log, failed: failed, drift: map[string]string{}}
}

// Keep makes sure that the stream of a role is there and has it followed, again whenever it turns out
// to be another one than before. It returns when ctx ends.
func (k *Keeper) Keep(ctx context.Context, r Role, f Follower) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 100*time.Millisecond, 2*time.Second
	for ctx.Err() == nil {
		started := time.Now()
		err := k.once(ctx, r, f)
		if ctx.Err() != nil {
			return
		}
		k.log.Debug("stream is not followed", "stream", r.Name, "error", err)
		k.failed(r, err)
		if time.Since(started) > retry.MaxInterval {
			retry.Reset()
		}
		pause.For(ctx, retry.NextBackOff())
	}
}

func (k *Keeper) once(ctx context.Context, r Role, f Follower) error {
	stream, err := k.ensure(ctx, r)
	if err != nil {
		return err
	}
	id := IdentityOf(stream.CachedInfo())

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watcher sync.WaitGroup
	watcher.Go(func() { cancel(k.watch(ctx, r, f, stream, id)) })
	defer watcher.Wait()
	defer cancel(nil) // runs before the watcher is waited for

	err = f.Follow(ctx, stream, id)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// watch returns when the stream is gone, is another one, was made to lose messages, or cannot serve
// any more.
func (k *Keeper) watch(ctx context.Context, r Role, f Follower, stream jetstream.Stream, id Identity) error {
	last := uint64(0)
	for pause.For(ctx, pause.Jittered(lookEvery)) {
		subjects := 0
		if f.Subjects != nil {
			subjects = f.Subjects() // before the stream is asked: it may get more meanwhile
		}
		reqCtx, cancel := context.WithTimeout(ctx, requestTimeout)
		info, err := stream.Info(reqCtx)
		cancel()
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("stream %s: %w", id.Name, err)
		case err != nil:
			continue // unreachable for the moment, which the connection's state tells
		case IdentityOf(info) != id, info.State.LastSeq < last,
			info.State.NumSubjects < uint64(subjects) && !losesByItself(info.Config, info.State):
			return fmt.Errorf("stream %s: %w", id.Name, errOtherStream)
		}
		if err := r.Unfit(info.Config); err != nil {
			return fmt.Errorf("stream %s: %w", id.Name, err)
		}
		last = info.State.LastSeq
	}
	return context.Cause(ctx)
}

// ensure returns the stream of a role, created if it is missing.
func (k *Keeper) ensure(ctx context.Context, r Role) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := Find(ctx, k.js, r)
	want := r.Wanted()
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = k.create(ctx, &want)
	}
	if err != nil {
		return nil, err
	}
	have := stream.CachedInfo().Config
	if err := r.Unfit(have); err != nil {
		return nil, fmt.Errorf("stream %s: %w", have.Name, err)
	}
	k.reportDrift(r, want, have)
	return stream, nil
}

// create creates a stream. It takes the fields from want that the server does not know.
func (k *Keeper) create(ctx context.Context, want *jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := k.js.CreateStream(ctx, *want)
	if ErrorCode(err) == codeInvalidJSON { // from a server that does not know a field
		*want = withoutNewFields(*want)
		stream, err = k.js.CreateStream(ctx, *want)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", want.Name, err)
	}
	k.log.Info("stream created", "stream", want.Name, "subjects", want.Subjects, "replicas", want.Replicas)
	return stream, nil
}

// withoutNewFields returns a configuration without the fields that the servers do not know which
// the program can do with: those before 2.11 know no TTLs of messages, those before 2.12 no atomic
// batches.
func withoutNewFields(c jetstream.StreamConfig) jetstream.StreamConfig {
	c.AllowMsgTTL, c.SubjectDeleteMarkerTTL, c.AllowAtomicPublish = false, 0, false
	return c
}

// Find returns the stream that serves in a role, or [jetstream.ErrStreamNotFound]. It may be unfit.
func Find(ctx context.Context, js jetstream.JetStream, r Role) (jetstream.Stream, error) {
	name := r.Wanted().Name
	if r.Events != "" {
		covering, err := covering(ctx, js, r)
		if err != nil {
			return nil, err
		}
		name = cmp.Or(covering, name)
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return stream, nil
}

// covering returns the name of the stream that takes events, "" if there is none.
func covering(ctx context.Context, js jetstream.JetStream, r Role) (string, error) {
	var found []string
	for _, subject := range r.forms() {
		names := js.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
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
		return "", fmt.Errorf("streams %s share the subjects %s: let one stream cover them all",
			strings.Join(found, " and "), strings.Join(r.forms(), " and "))
	}
	return strings.Join(found, ""), nil
}

// reportDrift logs, once per state, where an existing stream differs from what would be created.
func (k *Keeper) reportDrift(r Role, want, have jetstream.StreamConfig) {
	report := drift(want, have)
	k.mu.Lock()
	defer k.mu.Unlock()
	if report != "" && k.drift[r.Name] != report {
		k.log.Warn("stream differs from the settings and is used as it is", "stream", have.Name, "drift", report)
	}
	k.drift[r.Name] = report
}
