package consumer

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/view"
	"preauth/repo"
)

// tokenFollower reads the token stream into the view, and has its events taken once the view is
// complete.
type tokenFollower struct {
	cfg     Config
	streams *streams
	tokens  *view.Tokens
	codes   *view.Codes
	health  *health
	// take takes the events until ctx ends. ready is called once it does.
	take func(ctx context.Context, stream jetstream.Stream, id identity, filter string, ready func()) error
}

func (f *tokenFollower) follow(ctx context.Context, stream jetstream.Stream, id identity) error {
	filter, err := f.streams.tokenFilter(ctx, stream.CachedInfo())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()

	f.tokens.Restart()
	caughtUp, failed := make(chan struct{}), make(chan error, 1)
	reading.Go(func() {
		cfg := jetstream.OrderedConsumerConfig{FilterSubjects: only(filter)}
		failed <- f.streams.read(ctx, stream, cfg, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
			event, err := parseTokenEvent(f.cfg.Subjects.TokenUpdated, msg, meta)
			if err == nil && f.streams.isTokenSubject(msg.Subject()) {
				f.tokens.Add(event, positionOf(id, meta), f.cfg.Now())
			}
			f.tokens.Read(meta.Sequence.Stream)
		}, func() { close(caughtUp) })
	})
	select {
	case <-caughtUp:
		f.tokens.MarkCaughtUp()
	case err := <-failed:
		return err
	}
	f.awaitCodes(ctx)
	return f.take(ctx, stream, id, filter, func() { f.health.set(tokenStream.part(), nil) })
}

// only returns the filters of a consumer with at most one.
func only(filter string) []string {
	if filter == "" {
		return nil
	}
	return []string{filter}
}

// awaitCodes waits until the stream of announcements has been read, so that new revisions are above
// all that it holds. It does not wait for ever: the outbox keeps what the stream does not take.
func (f *tokenFollower) awaitCodes(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_ = f.codes.AwaitCaughtUp(ctx)
}

// codeFollower reads the stream of announcements into the view, and has published again what the
// stream turns out to lack.
type codeFollower struct {
	cfg       Config
	streams   *streams
	db        *repo.Repo
	codes     *view.Codes
	publisher *publisher
	health    *health
	log       *slog.Logger
}

func (f *codeFollower) follow(ctx context.Context, stream jetstream.Stream, _ identity) error {
	f.codes.Restart()
	ctx, cancel := context.WithCancel(ctx)
	caughtUp := make(chan struct{})
	var reconciling sync.WaitGroup
	reconciling.Go(func() {
		select {
		case <-caughtUp:
			f.codes.MarkCaughtUp()
			f.health.set(updateStream.part(), nil)
			f.reconcile(ctx)
		case <-ctx.Done():
		}
	})
	defer reconciling.Wait()
	defer cancel()

	cfg := jetstream.OrderedConsumerConfig{
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
		FilterSubjects: []string{f.cfg.Subjects.Updated + ".*"},
	}
	return f.streams.read(ctx, stream, cfg, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
		update, err := preauth.ParseUpdate(msg.Data())
		if err != nil || msg.Subject() != preauth.SubjectFor(f.cfg.Subjects.Updated, update.AppID) {
			f.log.Warn("message in the stream of announcements is not an update", "subject", msg.Subject(),
				"sequence", meta.Sequence.Stream, "error", err)
			return
		}
		f.codes.Add(update)
		f.codes.SetStored(update.AppID, view.Stored{Revision: update.Revision, Sequence: meta.Sequence.Stream})
	}, func() { close(caughtUp) })
}

const (
	// reconcileEvery is how often the stream of announcements is compared with MySQL.
	reconcileEvery = 5 * time.Minute
	// reconcileSoon is when it is compared again after it lacked something: what is published from here
	// has no row in the outbox.
	reconcileSoon = 2 * time.Second
	// reconcilePage bounds the codes that are read at once.
	reconcilePage = 1000
)

// reconcile publishes again, from MySQL, each current code of which the stream holds neither its
// revision nor a newer one, now and from time to time until ctx ends.
func (f *codeFollower) reconcile(ctx context.Context) {
	for {
		lacking, err := f.reconcileOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			f.log.Warn("stream of announcements not compared with MySQL", "error", err)
		case lacking > 0:
			f.log.Info("publishing again what the stream lacked", "components", lacking)
		}
		wait := reconcileEvery
		if err != nil || lacking > 0 {
			wait = reconcileSoon
		}
		if !pause(ctx, jittered(wait)) {
			return
		}
	}
}

func (f *codeFollower) reconcileOnce(ctx context.Context) (lacking int, err error) {
	for after := ""; ; {
		page, err := f.db.ListCurrent(ctx, after, reconcilePage)
		if err != nil || len(page) == 0 {
			return lacking, err
		}
		for _, code := range page {
			f.codes.Add(code)
			if f.codes.LastStored(code.AppID).Revision < code.Revision {
				lacking++
				f.publisher.enqueueWithoutRow(ctx, repo.Announcement{MessageID: code.MessageID(), AppID: code.AppID, Update: &code})
			}
		}
		after = page[len(page)-1].AppID
	}
}

// existenceFollower follows a stream that only has to exist.
type existenceFollower struct {
	role   role
	health *health
}

func (f existenceFollower) follow(ctx context.Context, _ jetstream.Stream, _ identity) error {
	f.health.set(f.role.part(), nil)
	<-ctx.Done()
	return nil
}
