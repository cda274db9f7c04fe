package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/outage"
	"preauth/internal/pause"
	"preauth/internal/view"
	"preauth/repo"
)

const (
	// sweepEvery is how often the outbox is searched for rows that nobody is publishing.
	sweepEvery = time.Second
	// sweepAge is how old such a row is: younger ones are on their way through the replica that wrote
	// them.
	sweepAge = 2 * time.Second
	// sweepBatch bounds the rows of each kind that one search finds.
	sweepBatch = 500
	// publishing bounds the announcements that wait for a stream's answer.
	publishing = 256
	// publishTimeout bounds the wait for the stream's answer.
	publishTimeout = 5 * time.Second
	// conflictTries bounds the tries of one announcement against a stream whose last message for the
	// component keeps changing.
	conflictTries = 3
)

// The parts of a publisher in a health.
const updatesPart, failuresPart, authorizedPart = "announcing updates", "announcing failures", "announcing authorizations"

// errChanging: see conflictTries.
var errChanging = errors.New("the component's last announcement keeps changing")

// publisher publishes what was committed. The outbox is the queue that lasts; what comes from
// memory is a shortcut. A row is deleted once the stream has stored its announcement. A row that
// stays, because of a crash or a failed publish, is found by the next sweep of any replica.
//
// Several replicas may publish the same announcement. The message id lets the stream drop the
// repetition for two minutes. After that, the expected last sequence of the component's subject
// keeps an older revision from following a newer one.
type publisher struct {
	cfg     Config
	js      jetstream.JetStream
	db      *repo.Repo
	codes   *view.Codes
	health  *health
	metrics *metrics
	log     *slog.Logger
	trace   tracer
	defects *outage.Defects

	mu sync.Mutex
	// followed is the stream of updates that is followed, nil before the first one is.
	followed jetstream.Stream
	// Each stream has a queue of its own: one that does not answer holds up nothing else.
	updates, failures, authorized *queue

	published []repo.Announcement // whose rows are to be deleted
	deleting  bool
	idle      *sync.Cond // signalled when nothing is under way any more
}

func newPublisher(
	cfg Config, js jetstream.JetStream, db *repo.Repo, codes *view.Codes, h *health, m *metrics, log *slog.Logger,
) *publisher {
	p := &publisher{
		cfg: cfg, js: js, db: db, codes: codes, health: h, metrics: m, log: log, trace: cfg.tracer, defects: outage.NewDefects(log, cfg.Now),
		updates: newQueue(updatesPart), failures: newQueue(failuresPart), authorized: newQueue(authorizedPart),
	}
	p.idle = sync.NewCond(&p.mu)
	return p
}

// follow notes which stream of updates is followed.
func (p *publisher) follow(source jetstream.Stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.followed = source
}

// run publishes what sweeps of the outbox find, until ctx ends. It then returns when everything
// that was enqueued is published, or workCtx has ended.
func (p *publisher) run(ctx, workCtx context.Context) {
	for wait := time.Duration(0); pause.For(ctx, wait); wait = pause.Jittered(sweepEvery) {
		p.sweep(workCtx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.isIdle() {
		p.idle.Wait()
	}
}

// enqueue takes an announcement that was committed just now, and begins to publish it if that can
// be now. It never waits: an announcement that finds no room stays in the outbox, and enqueue
// reports false. Publishing goes on under ctx, and so may that of others: it has to be the context
// of all work. eventAt is the stream's time stamp of the token event that brought the code, the
// zero time if none did.
func (p *publisher) enqueue(ctx context.Context, a repo.Announcement, eventAt time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.queueOf(a)
	if q.full() {
		return false
	}
	p.add(q, pending{a, eventAt})
	p.dispatch(unspanned(ctx))
	return true
}

// sweep enqueues the rows of the outbox that nobody seems to be publishing.
func (p *publisher) sweep(ctx context.Context) {
	sweepCtx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	rows, err := p.db.Outbox(sweepCtx, p.cfg.Now().Add(-sweepAge), sweepBatch)
	p.health.setUse("outbox", err)
	p.defects.Log(ctx, levelOf(err), "outbox not swept", err)
	p.mu.Lock()
	defer p.mu.Unlock()
	waiting := map[string]bool{}
	for _, a := range rows {
		if a.Update != nil { // the stream may refuse what says that a code is spent
			p.codes.Add(*a.Update)
		}
		waiting[keyOf(a)] = true
		if q := p.queueOf(a); !q.underWay[keyOf(a)] {
			p.add(q, pending{Announcement: a})
		}
	}
	if err == nil {
		for _, q := range p.queues() {
			p.forget(q, waiting)
		}
	}
	p.dispatch(ctx)
}

// forget forgets failed attempts where nothing is left to do: another replica published what this
// one could not, or the code has died. waiting are the keys with a row in the outbox. The caller
// holds mu.
func (p *publisher) forget(q *queue, waiting map[string]bool) {
	for key, a := range q.failed {
		if waiting[key] || q.underWay[key] || time.Since(a.at) < 2*sweepAge { // the sweep finds no younger rows
			continue
		}
		// What was published again because the stream lacked it has no row.
		if u := a.Update; u == nil || p.isStored(*u) || !u.ExpiresAt.After(p.cfg.Now()) {
			q.done(key)
		}
	}
	p.health.set(q.part, q.reason)
}

// add puts an announcement into its queue. The caller holds mu.
func (p *publisher) add(q *queue, n pending) {
	if n.Update == nil && n.Failure == nil && n.Authorized == nil { // a newer code took the place of the announced one
		p.published = append(p.published, n.Announcement)
	} else if displaced, ok := q.add(n); ok {
		p.published = append(p.published, displaced)
	}
}

func (p *publisher) queues() []*queue { return []*queue{p.updates, p.failures, p.authorized} }

func (p *publisher) queueOf(a repo.Announcement) *queue {
	switch {
	case a.Failure != nil:
		return p.failures
	case a.Authorized != nil:
		return p.authorized
	default:
		return p.updates
	}
}

// dispatch begins to publish what waits and to delete the rows of what is published, within the
// bounds. The caller holds mu.
func (p *publisher) dispatch(ctx context.Context) {
	for _, q := range p.queues() {
		for len(q.underWay) < publishing {
			n, ok := q.next()
			if !ok {
				break
			}
			go func() { p.finish(ctx, q, n, p.publish(ctx, n)) }()
		}
	}
	if len(p.published) > 0 && !p.deleting {
		p.deleting = true
		rows := p.published
		p.published = nil
		go func() {
			p.deleteRows(ctx, rows)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.deleting = false
			p.dispatch(ctx)
		}()
	}
	if p.isIdle() {
		p.idle.Broadcast()
	}
}

// isIdle reports whether nothing is under way. The caller holds mu.
func (p *publisher) isIdle() bool {
	busy := func(q *queue) bool { return len(q.underWay) > 0 }
	return !p.deleting && !slices.ContainsFunc(p.queues(), busy)
}

// finish takes in how an attempt to publish ended.
func (p *publisher) finish(ctx context.Context, q *queue, n pending, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.published = append(p.published, n.Announcement)
	} else {
		err = fmt.Errorf("not announced, the outbox keeps it: %w", err)
	}
	q.finish(n.Announcement, err, time.Now())
	p.health.set(q.part, q.reason)
	p.dispatch(ctx)
}

// deleteRows deletes rows of the outbox. A row that it fails to delete is published again, with the
// same message id.
func (p *publisher) deleteRows(ctx context.Context, published []repo.Announcement) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	ids := make([]string, len(published))
	for i, a := range published {
		ids[i] = a.MessageID
	}
	err := p.db.DeleteAnnounced(ctx, ids)
	p.defects.Log(ctx, levelOf(err), "outbox rows not deleted: they will be published again", err)
	if err != nil {
		return
	}
	for _, a := range published {
		p.trace.step(ctx, announcementStep(StepCleared, a))
	}
}

// publish returns nil when the stream has stored the announcement, or a newer one of the component.
func (p *publisher) publish(ctx context.Context, n pending) (err error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	started := time.Now()
	ctx, publishing := p.trace.publishing(ctx, p.subjectOf(n.Announcement), n.Announcement)
	traceParent := publishing.traceParent(n.TraceParent)
	defer func() { publishing.end(err) }()
	switch f, a := n.Failure, n.Authorized; {
	case f != nil:
		header := preauth.FailureHeader(n.MessageID, p.cfg.Source, f.AppID, f.OccurredAt)
		err = p.publishMsg(ctx, f.Subject(p.cfg.Subjects.Failed), preauth.AddTraceParent(header, traceParent), f.Encode())
	case a != nil:
		header := a.Header(n.MessageID, p.cfg.Source)
		err = p.publishMsg(ctx, preauth.SubjectFor(p.cfg.Subjects.Authorized, a.AppID), preauth.AddTraceParent(header, traceParent), a.Encode())
	default:
		err = p.publishUpdate(ctx, *n.Update, traceParent)
	}
	p.metrics.published(err, time.Since(started))
	if err != nil {
		p.log.Debug("not announced: the outbox keeps it", "component", n.AppID, "message_id", n.MessageID, "error", err)
		return err
	}
	if !n.eventAt.IsZero() {
		p.metrics.endToEnd.Observe(max(0, p.cfg.Now().Sub(n.eventAt).Seconds()))
	}
	p.trace.step(ctx, announcementStep(StepAnnounced, n.Announcement))
	return nil
}

// subjectOf returns the subject below which an announcement is published.
func (p *publisher) subjectOf(a repo.Announcement) string {
	switch {
	case a.Failure != nil:
		return p.cfg.Subjects.Failed
	case a.Authorized != nil:
		return p.cfg.Subjects.Authorized
	default:
		return p.cfg.Subjects.Updated
	}
}

// publishMsg publishes what may come in any order.
func (p *publisher) publishMsg(ctx context.Context, subject string, header nats.Header, body []byte) error {
	_, err := p.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Header: header, Data: body})
	if err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	return nil
}

func (p *publisher) publishUpdate(ctx context.Context, update preauth.Update, traceParent string) error {
	msg := &nats.Msg{
		Subject: preauth.SubjectFor(p.cfg.Subjects.Updated, update.AppID),
		Header:  preauth.AddTraceParent(update.Header(p.cfg.Source), traceParent), Data: update.Encode(),
	}
	source, err := p.source(ctx)
	if err != nil {
		return err
	}
	for range conflictTries {
		if p.isStored(update) {
			return nil
		}
		options := []jetstream.PublishOpt{
			jetstream.WithExpectLastSequencePerSubject(p.codes.LastStored(update.AppID).Sequence),
			jetstream.WithExpectStream(p.cfg.UpdateStream),
		}
		if source.CachedInfo().Config.AllowMsgTTL {
			options = append(options, jetstream.WithMsgTTL(ttlOf(update, p.cfg.Now())))
		}
		ack, err := p.js.PublishMsg(ctx, msg, options...)
		switch {
		case err == nil && !ack.Duplicate:
			p.codes.SetStored(update.AppID, storedAs(update, ack.Sequence))
			return nil
		case err == nil:
			// The stream stored this message id before. If a purge removed the message since, the stream
			// refuses the id for two minutes. Without the id, the expected sequence alone keeps the
			// message from being stored twice.
			msg.Header.Del(nats.MsgIdHdr)
		case !isConflict(err):
			return fmt.Errorf("publishing: %w", withRemedy(err))
		}
		if source, err = p.learnLast(ctx, update); err != nil {
			return err
		}
	}
	return errChanging
}

// source returns the stream of updates.
func (p *publisher) source(ctx context.Context) (jetstream.Stream, error) {
	p.mu.Lock()
	followed := p.followed
	p.mu.Unlock()
	if followed != nil {
		return followed, nil
	}
	return p.askSource(ctx)
}

func (p *publisher) askSource(ctx context.Context) (jetstream.Stream, error) {
	source, err := p.js.Stream(ctx, p.cfg.UpdateStream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", p.cfg.UpdateStream, err)
	}
	return source, nil
}

// spentStays is for how long the stream keeps the word that a code is spent, if no newer code
// follows: long enough for those that were away for a moment.
const spentStays = time.Minute

// ttlOf returns for how long the stream is to keep an update: until its code is dead. The stream
// counts in seconds.
func ttlOf(update preauth.Update, now time.Time) time.Duration {
	if update.Spent {
		return spentStays
	}
	const second = time.Second
	return max(second, (update.ExpiresAt.Sub(now) + second - 1).Truncate(second))
}

// isStored reports whether the stream holds an update or a newer one of the component, or held a
// newer one.
func (p *publisher) isStored(update preauth.Update) bool {
	last := p.codes.LastStored(update.AppID)
	return last.Revision > update.Revision || last.Revision == update.Revision && last.Sequence > 0
}

// storedAs is an update as the message with the sequence.
func storedAs(update preauth.Update, sequence uint64) view.Stored {
	return view.Stored{Revision: update.Revision, Sequence: sequence, ExpiresAt: update.ExpiresAt}
}

// learnLast asks the stream for its last message for a component, which is not the one that this
// replica knew when it was to publish update. If there is none any more, the revision that is known
// stays: an older one must not follow. It returns the stream as it is now.
func (p *publisher) learnLast(ctx context.Context, update preauth.Update) (jetstream.Stream, error) {
	appid := update.AppID
	p.codes.ForgetStored(appid)
	source, err := p.askSource(ctx)
	if err != nil {
		return nil, err
	}
	msg, err := source.GetLastMsgForSubject(ctx, preauth.SubjectFor(p.cfg.Subjects.Updated, appid))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return source, nil
	}
	if err != nil {
		return nil, fmt.Errorf("last announcement: %w", err)
	}
	last, err := parseStored(appid, msg.Data, update.Revision)
	if err != nil {
		p.log.Warn("message in the stream of announcements is not an update", "subject", msg.Subject, "sequence", msg.Sequence, "error", err)
	}
	p.codes.SetStored(appid, storedAs(last, msg.Sequence))
	return source, nil
}

const (
	// maxCredible is the highest revision that the service believes of anybody. It leaves room below
	// [preauth.MaxRevision] for the revisions that follow.
	maxCredible = preauth.MaxRevision - 1<<32
	// maxAhead is how far an update may be ahead of what this replica knows of a component. The
	// revisions above maxCredible that follow a foreign one are believed by it.
	maxAhead = 1 << 20
)

var (
	errIncredible     = errors.New("no component had so many codes")
	errOtherComponent = errors.New("it is on the subject of another component")
)

// parseStored returns an update that the stream holds on a component's subject, if it is the
// component's and its revision is credible. known is the component's revision as far as this replica
// knows.
func parseStored(appid string, body []byte, known uint64) (preauth.Update, error) {
	update, err := preauth.ParseUpdate(body)
	switch {
	case err != nil:
		return preauth.Update{}, err
	case update.AppID != appid:
		return preauth.Update{}, errOtherComponent
	case update.Revision > max(maxCredible, known+maxAhead):
		return preauth.Update{}, errIncredible
	default:
		return update, nil
	}
}

// isConflict reports that the last message of the subject was not the expected one.
func isConflict(err error) bool {
	apiErr, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (apiErr.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		apiErr.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
