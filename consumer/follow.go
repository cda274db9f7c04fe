package consumer

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/outage"
	"preauth/internal/pause"
	"preauth/internal/stream"
	"preauth/internal/view"
	"preauth/repo"
)

// tokenFollower reads the token stream into the view, and has its events taken once the view is
// complete.
type tokenFollower struct {
	cfg    Config
	role   stream.Role
	reader *stream.Reader
	tokens *view.Tokens
	codes  *view.Codes
	// take takes the events until ctx ends.
	take func(ctx context.Context, source jetstream.Stream, id stream.Identity) error
}

func (f *tokenFollower) follow(ctx context.Context, source jetstream.Stream, id stream.Identity) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel(nil)

	f.tokens.Restart()
	caughtUp := make(chan struct{})
	reading.Go(func() {
		cfg := jetstream.ConsumerConfig{FilterSubject: f.role.Filter(source.CachedInfo().Config)}
		cancel(f.reader.Read(ctx, source, cfg, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
			event, err := parseTokenEvent(f.cfg.Subjects.TokenUpdated, msg, meta)
			if err == nil && f.role.IsEvent(msg.Subject()) {
				f.tokens.Add(event, positionOf(id, meta), f.cfg.Now())
			}
			f.tokens.Read(meta.Sequence.Stream)
		}, func() { close(caughtUp) }))
	})
	select {
	case <-caughtUp:
		f.tokens.MarkCaughtUp()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	f.awaitCodes(ctx)
	if err := f.take(ctx, source, id); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// codesPatience bounds the wait for the stream of announcements.
const codesPatience = 5 * time.Second

// awaitCodes waits until the stream of announcements has been read, so that new revisions are above
// all that it holds. It does not wait for ever: the outbox keeps what the stream does not take.
func (f *tokenFollower) awaitCodes(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, codesPatience)
	defer cancel()
	_ = f.codes.AwaitCaughtUp(ctx)
}

// codeFollower reads the stream of announcements into the view, and has it agree with MySQL.
//
// MySQL is the truth. What the stream says is held only until MySQL was asked, which is within
// seconds for an update that this replica did not commit itself: somebody else may have published
// it.
type codeFollower struct {
	cfg     Config
	role    stream.Role
	reader  *stream.Reader
	db      *repo.Repo
	codes   *view.Codes
	owner   *ownership
	health  *health
	metrics *metrics
	log     *slog.Logger
	defects *outage.Defects
	// warned are the foreign revisions that were counted last.
	warned map[string]uint64
	// announce has the view know of a code and has it published. It reports false if there is no room
	// for it now.
	announce func(repo.Announcement) bool

	mu sync.Mutex
	// suspects are the components to compare with MySQL, each with the highest revision under which the
	// stream held another code than this replica knows; 0 for none.
	suspects map[string]uint64
	wake     chan struct{} // holds an item when there are suspects
}

func newCodeFollower(
	cfg Config, role stream.Role, reader *stream.Reader, db *repo.Repo, codes *view.Codes, o *ownership, h *health, m *metrics,
	log *slog.Logger,
) *codeFollower {
	return &codeFollower{
		cfg: cfg, role: role, reader: reader, db: db, codes: codes, owner: o, health: h, metrics: m, log: log,
		defects: outage.NewDefects(log, cfg.Now), warned: map[string]uint64{}, suspects: map[string]uint64{}, wake: make(chan struct{}, 1),
	}
}

func (f *codeFollower) follow(ctx context.Context, source jetstream.Stream, _ stream.Identity) error {
	f.codes.Restart()
	ctx, cancel := context.WithCancel(ctx)
	caughtUp := make(chan struct{})
	var comparing sync.WaitGroup
	comparing.Go(func() {
		select {
		case <-caughtUp:
			f.codes.MarkCaughtUp()
			f.health.set(f.role.Name, nil)
			f.owner.hold(ctx, f.compare)
		case <-ctx.Done():
		}
	})
	defer comparing.Wait()
	defer cancel()

	cfg := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		FilterSubject: f.cfg.Subjects.Updated + ".*",
	}
	return f.reader.Read(ctx, source, cfg, f.take, func() { close(caughtUp) })
}

// take takes in a message of the stream.
func (f *codeFollower) take(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
	appid := preauth.AppIDFromSubject(f.cfg.Subjects.Updated, msg.Subject())
	known := f.codes.Current(appid)
	// A foreign one that MySQL has corrected here counts too: another replica's correction is above it.
	revision := f.codes.LastStored(appid).Revision
	if known != nil {
		revision = max(revision, known.Revision)
	}
	update, err := parseStored(appid, msg.Data(), revision)
	if err != nil {
		f.log.Warn("message in the stream of announcements is not an update", "subject", msg.Subject(),
			"sequence", meta.Sequence.Stream, "error", err)
		f.metrics.foreignUpdates.Inc()
		if preauth.CheckAppID(appid) == nil { // it took the place of one
			f.codes.SetStored(appid, view.Stored{Sequence: meta.Sequence.Stream})
			f.suspect(appid, 0)
		}
		return
	}
	f.codes.Add(update)
	f.codes.SetStored(appid, storedAs(update, meta.Sequence.Stream))
	switch {
	case known == nil || known.Revision != update.Revision:
		f.suspect(appid, 0)
	case !known.PreAuthCode.Equal(update.PreAuthCode):
		f.suspect(appid, update.Revision)
	}
}

// suspect has a component compared with MySQL.
func (f *codeFollower) suspect(appid string, revision uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.suspects[appid] = max(f.suspects[appid], revision)
	f.wakeUp()
}

// wakeUp has the suspects compared. The caller holds mu.
func (f *codeFollower) wakeUp() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

const (
	// compareEvery is how often all codes of MySQL are compared with the stream.
	compareEvery = 5 * time.Minute
	// compareSoon is when they are compared again after the stream lacked something, since what is
	// published from here has no row in the outbox, or MySQL was away. While the stream goes on to lack
	// something, the waits grow.
	compareSoon = 2 * time.Second
	// collectSuspects is for how long suspects are collected before MySQL is asked, in one query.
	collectSuspects = time.Second
	// roomPoll is how often the publisher is asked again while it has no room.
	roomPoll = 10 * time.Millisecond
	// comparePage bounds the codes that are read at once.
	comparePage = 1000
)

// compare compares the view and the stream with MySQL until ctx ends: all codes now and from time to
// time, and suspects within seconds.
func (f *codeFollower) compare(ctx context.Context) {
	all := time.NewTimer(0)
	defer all.Stop()
	f.mu.Lock()
	if len(f.suspects) > 0 { // of the stream that was followed before
		f.wakeUp()
	}
	f.mu.Unlock()
	lacked, soon := 0, compareSoon
	for {
		select {
		case <-ctx.Done():
			return
		case <-all.C:
			wait := soon
			switch lacking, ok := f.compareAll(ctx); {
			case !ok:
			case lacking == 0:
				lacked, soon, wait = 0, compareSoon, compareEvery
			default:
				if lacking != lacked {
					f.log.Info("publishing again what the stream lacked", "components", lacking)
				}
				lacked, soon = lacking, min(2*soon, compareEvery)
			}
			all.Reset(pause.Jittered(wait))
		case <-f.wake:
			if !pause.For(ctx, collectSuspects) || !f.compareSuspects(ctx) {
				all.Reset(compareSoon)
			}
		}
	}
}

// compareAll publishes again each living current code that the stream lacks, and suspects what the
// view has and MySQL does not. It returns how many codes were lacking, and false if MySQL did not say
// all of them.
func (f *codeFollower) compareAll(ctx context.Context) (lacking int, ok bool) {
	found := map[string]bool{}
	for after := ""; ; {
		page, err := f.db.ListCurrent(ctx, after, comparePage)
		f.defects.Log(ctx, levelOf(err), "stream of announcements not compared with MySQL", err)
		if err != nil {
			return lacking, false
		}
		if len(page) == 0 {
			break
		}
		for _, code := range page {
			found[code.AppID] = true
			switch seen, stored := f.codes.Current(code.AppID), f.codes.LastStored(code.AppID); {
			case stored.Revision > code.Revision, seen != nil && seen.Revision >= code.Revision && !seen.PreAuthCode.Equal(code.PreAuthCode):
				f.suspect(code.AppID, 0)
			case f.lacks(code):
				f.publishAgain(ctx, code)
				lacking++
			default:
				f.codes.Add(code)
			}
		}
		after = page[len(page)-1].AppID
	}
	for _, appid := range f.codes.AppIDs() {
		if !found[appid] {
			f.suspect(appid, 0)
		}
	}
	return lacking, true
}

// lacks reports whether the stream lacks a current code that it should have. It need not have one
// that is dead, since a subscriber can do nothing with it, unless the stream's last word is one
// that looks alive: the code before, or this one before it was spent.
func (f *codeFollower) lacks(code preauth.Update) bool {
	stored, now := f.codes.LastStored(code.AppID), f.cfg.Now()
	alive := code.ExpiresAt.After(now) || stored.Sequence > 0 && stored.ExpiresAt.After(now)
	return alive && (stored.Revision < code.Revision || stored.Sequence == 0)
}

// compareSuspects compares the suspects with MySQL, and reports false if it could not.
func (f *codeFollower) compareSuspects(ctx context.Context) bool {
	f.mu.Lock()
	suspects := f.suspects
	f.suspects = map[string]uint64{}
	f.mu.Unlock()
	appids := slices.Collect(maps.Keys(suspects))
	before := make(map[string]sight, len(appids)) // before MySQL is asked
	for _, appid := range appids {
		before[appid] = f.see(appid, suspects[appid])
	}
	known, err := f.db.PrimaryComponents(ctx, appids)
	if err == nil {
		var raises []repo.Outcome
		for _, appid := range appids {
			raises = append(raises, f.judge(ctx, appid, known[appid], before[appid])...)
		}
		if err = f.raise(ctx, raises); err != nil {
			for _, o := range raises { // the view does not tell any more
				f.suspect(o.AppID, o.MinRevision)
			}
		}
	}
	f.defects.Log(ctx, levelOf(err), "updates of the stream not compared with MySQL", err)
	if err == nil {
		return true
	}
	for appid, revision := range suspects {
		f.suspect(appid, revision)
	}
	return false
}

// sight is what a replica knew of a component before it asked MySQL.
type sight struct {
	code    *view.Code
	stored  uint64 // the revision of the stream's last message
	foreign uint64 // a revision under which the stream held another code, 0 for none
}

func (f *codeFollower) see(appid string, foreign uint64) sight {
	return sight{f.codes.Current(appid), f.codes.LastStored(appid).Revision, foreign}
}

// judge has the view agree with MySQL about a component, and the stream too where it lacks the
// current code. It returns the outcome that gives the code a higher revision, if the stream held a
// revision that MySQL does not have: subscribers that saw it ignore all that are not above it.
func (f *codeFollower) judge(ctx context.Context, appid string, component repo.Component, before sight) []repo.Outcome {
	var truth *preauth.Update
	if component.Current != nil {
		update := component.Current.Update(appid)
		truth = &update
	}
	foreign := before.foreign
	if f.codes.Correct(appid, before.code, truth) {
		foreign = max(foreign, before.code.Revision)
	}
	if truth != nil && before.stored > truth.Revision {
		foreign = max(foreign, before.stored)
	}
	if foreign > 0 && f.warned[appid] != foreign { // MySQL may be asked again about the same one
		f.warned[appid] = foreign
		f.metrics.foreignUpdates.Inc()
		f.log.Warn("an update was announced that MySQL does not have: only the service may publish on this subject, see "+
			"SECURITY.md, unless the database was restored from a backup", "component", appid, "revision", foreign)
	}
	switch {
	case truth == nil:
	case foreign >= truth.Revision:
		return []repo.Outcome{{
			AppID: appid, Token: component.Token, Cause: truth.Cause, Code: &component.Current.Code,
			DueAt: component.DueAt, At: f.cfg.Now(), MinRevision: foreign,
		}}
	case f.lacks(*truth):
		f.publishAgain(ctx, *truth)
		f.suspect(appid, 0) // it has no row in the outbox, so it is compared until the stream has it
	}
	return nil
}

// raise gives current codes a revision above one that somebody else announced, and announces them.
func (f *codeFollower) raise(ctx context.Context, outcomes []repo.Outcome) error {
	results, err := f.db.Save(ctx, outcomes)
	for _, result := range results {
		if a := result.Announcement; a != nil && a.Update != nil {
			f.announce(*a)
		}
	}
	return err
}

func (f *codeFollower) publishAgain(ctx context.Context, code preauth.Update) {
	// It may have no row in the outbox, so it is not left to the next sweep.
	for !f.announce(repo.Announcement{MessageID: code.MessageID(), AppID: code.AppID, Update: &code, TraceParent: code.TraceParent}) {
		if !pause.For(ctx, roomPoll) {
			return
		}
	}
}
