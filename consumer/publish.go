package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"preauth"
	"preauth/repo"
)

const (
	// sweepEvery is how often the outbox is searched for rows that nobody is announcing.
	sweepEvery = time.Second
	// sweepAge is how old such a row is: younger ones are on their way through the replica that
	// wrote them.
	sweepAge = 2 * time.Second
	// sweepBatch bounds the rows of each kind that one search finds.
	sweepBatch = 500
	// relayQueue bounds the announcements for a stream that wait in memory. One that finds no room stays in the outbox.
	relayQueue = 4096
	// roomPoll is how often somebody who waits for room looks for it.
	roomPoll = 10 * time.Millisecond
	// publishing bounds the announcements that wait for a stream's answer.
	publishing = 256
	// publishingBatches bounds the messages and batches that do where the stream takes batches: few, so that what
	// waits goes into the next one.
	publishingBatches = 16
	// smallestBatch is how many updates have to wait to be published as a batch, which costs the server more than
	// some messages do, and largestBatch how many are: the server takes 1000.
	smallestBatch, largestBatch = 50, 250
	// publishTimeout bounds the wait for the stream's answer.
	publishTimeout = 5 * time.Second
	// conflictTries bounds how often one announcement is tried against a stream whose last message
	// keeps changing.
	conflictTries = 3
)

var (
	// errChanging: see conflictTries.
	errChanging = errors.New("the component's last announcement keeps changing")
	// errBatch: nothing of a batch is stored. By themselves all of its messages may be, or all but one.
	errBatch = errors.New("the stream refuses the batch")
)

// relay publishes what was committed. The outbox is the queue, and what comes from memory is a
// shortcut: a row is deleted when the stream has stored its announcement, and a row that is left,
// because of a crash or because publishing failed, is found by the next sweep of any replica.
//
// Several replicas may publish the same announcement. The message id lets the stream drop the
// repetition; beyond the two minutes for which it does so, the expected last sequence of the
// component's subject keeps an older revision from following a newer one.
//
// A lone announcement is published at once. Under load, those that wait are published as one atomic batch, which
// the server writes to its disk once, where it would for each message. Should the stream refuse a batch, because
// of another replica's announcement of one component, say, each is published by itself.
type relay struct {
	*Service
	// batches tells that the stream of announcements takes batches.
	batches atomic.Bool

	mu sync.Mutex
	// Of several announcements with a key one is under way at a time, and the newest of those that wait is next.
	underWay map[string]bool
	// Each stream has a line of its own: if it gives no answer, it holds up nothing else.
	updates, failures line
	toDelete          []repo.Announcement
	deleting          bool
	// idle is signalled when nothing is under way any more.
	idle *sync.Cond
}

// line are the announcements for one stream.
type line struct {
	waiting  map[string]offer
	order    []string // the keys of waiting that are not under way, oldest first
	attempts int
}

func (r *relay) lineOf(a repo.Announcement) *line {
	if a.Failure != nil {
		return &r.failures
	}
	return &r.updates
}

// offer is an announcement to be published.
type offer struct {
	repo.Announcement
	// eventAt is the stream's time stamp of the token event that brought it about; the zero time if
	// none did, or if that is not known any more.
	eventAt time.Time
	// alone is set when a batch with it was refused.
	alone bool
}

func newRelay(s *Service) *relay {
	r := &relay{Service: s, underWay: map[string]bool{}}
	r.updates.waiting, r.failures.waiting = map[string]offer{}, map[string]offer{}
	r.idle = sync.NewCond(&r.mu)
	return r
}

// announce takes what was committed just now. It never waits: what there is no room for stays in the
// outbox.
func (r *relay) announce(a repo.Announcement, outcome repo.Outcome) {
	o := offer{Announcement: a}
	if outcome.Cause == preauth.CauseToken && a.Update != nil {
		o.eventAt = outcome.Token.Position.Time
	}
	r.offer(o)
}

// deliver takes an announcement that may have no row in the outbox, as soon as there is room.
func (r *relay) deliver(ctx context.Context, a repo.Announcement) {
	for !r.offer(offer{Announcement: a}) {
		if !pause(ctx, roomPoll) {
			return
		}
	}
}

// offer takes an announcement and begins to publish it, if that can be now. It reports false if there is no room.
func (r *relay) offer(o offer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lineOf(o.Announcement).waiting) >= relayQueue {
		return false
	}
	r.take(o)
	r.begin()
	return true
}

// run sweeps the outbox until ctx ends, and returns when what was taken is announced.
func (r *relay) run(ctx context.Context) {
	for wait := time.Duration(0); pause(ctx, wait); wait = jittered(sweepEvery) {
		rows := r.sweep(r.lasting)
		r.mu.Lock()
		for _, a := range rows {
			if !r.underWay[keyOf(a)] {
				r.take(offer{Announcement: a})
			}
		}
		r.begin()
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.updates.attempts+r.failures.attempts > 0 || r.deleting {
		r.idle.Wait()
	}
}

// take puts an announcement among those that wait.
func (r *relay) take(o offer) {
	if o.Update == nil && o.Failure == nil {
		r.toDelete = append(r.toDelete, o.Announcement) // a newer state replaced it
		return
	}
	key, l := keyOf(o.Announcement), r.lineOf(o.Announcement)
	if newest, ok := l.waiting[key]; ok {
		older := newest
		if revisionOf(newest.Announcement) >= revisionOf(o.Announcement) {
			o, older = newest, o
		}
		if older.MessageID != o.MessageID {
			r.toDelete = append(r.toDelete, older.Announcement)
		}
	} else if !r.underWay[key] {
		l.order = append(l.order, key)
	}
	l.waiting[key] = o
}

// begin publishes what waits, and deletes what has been announced, as far as that can be now.
func (r *relay) begin() {
	for _, l := range []*line{&r.updates, &r.failures} {
		for len(l.order) > 0 && l.attempts < r.atOnce(l) {
			offers := r.next(l)
			l.attempts++
			go func() { r.end(l, offers, r.publish(r.lasting, offers)) }()
		}
	}
	if len(r.toDelete) > 0 && !r.deleting {
		r.deleting = true
		announced := r.toDelete
		r.toDelete = nil
		go func() {
			r.clear(r.lasting, announced)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.deleting = false
			r.begin()
		}()
	}
	if r.updates.attempts+r.failures.attempts == 0 && !r.deleting {
		r.idle.Broadcast()
	}
}

// next takes those that are published next: the oldest, or a batch of the oldest.
func (r *relay) next(l *line) []offer {
	n := 0
	for r.batches.Load() && l == &r.updates && n < min(len(l.order), largestBatch) && !l.waiting[l.order[n]].alone {
		n++
	}
	if n < smallestBatch {
		n = 1
	}
	offers := make([]offer, n)
	for i, key := range l.order[:n] {
		offers[i] = l.waiting[key]
		delete(l.waiting, key)
		r.underWay[key] = true
	}
	l.order = l.order[n:]
	return offers
}

// end takes in how an attempt to publish ended. The rows are to be deleted unless there is an error.
func (r *relay) end(l *line, offers []offer, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.attempts--
	for _, o := range offers {
		key := keyOf(o.Announcement)
		delete(r.underWay, key)
		if _, ok := l.waiting[key]; ok {
			l.order = append(l.order, key)
		}
		switch {
		case err == nil:
			r.toDelete = append(r.toDelete, o.Announcement)
		case errors.Is(err, errBatch):
			o.alone = true
			r.take(o)
		}
	}
	r.begin()
}

// atOnce returns how many messages and batches may wait for the stream's answer.
func (r *relay) atOnce(l *line) int {
	if l == &r.updates && r.batches.Load() {
		return publishingBatches
	}
	return publishing
}

// keyOf is what announcements are put in order by: the component for updates, each failure by itself.
func keyOf(a repo.Announcement) string {
	if a.Failure != nil {
		return a.MessageID
	}
	return a.AppID
}

// revisionOf returns the revision of an update, and 0 for anything else.
func revisionOf(a repo.Announcement) uint64 {
	if a.Update == nil {
		return 0
	}
	return a.Update.Revision
}

// sweep returns the rows of the outbox that nobody seems to be announcing.
func (r *relay) sweep(ctx context.Context) []repo.Announcement {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	rows, err := r.db.Outbox(ctx, r.cfg.Now().Add(-sweepAge), sweepBatch)
	r.health.setUse("outbox", err)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("outbox not swept", "error", err)
	}
	return rows
}

// clear deletes rows of the outbox. A row that it fails to delete is announced again, with the same
// message id.
func (r *relay) clear(ctx context.Context, announced []repo.Announcement) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	ids := make([]string, len(announced))
	for i, a := range announced {
		ids[i] = a.MessageID
	}
	if err := r.db.DeleteAnnounced(ctx, ids); err != nil {
		r.log.Warn("outbox rows not deleted: they will be announced again", "rows", len(ids), "error", err)
		return
	}
	for _, a := range announced {
		r.step(stepOf(a), StepCleared)
	}
}

// publish returns nil when the stream has stored the announcements, or a newer one of the component.
func (r *relay) publish(ctx context.Context, offers []offer) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	started := time.Now()
	var err error
	switch first := offers[0]; {
	case len(offers) > 1:
		err = r.publishBatch(ctx, offers)
	case first.Update != nil:
		err = r.publishUpdate(ctx, *first.Update)
	default:
		_, err = r.js.PublishMsg(ctx, &nats.Msg{
			Subject: first.Failure.Subject(r.cfg.Subjects.Failed),
			Header:  preauth.FailureHeader(first.MessageID, r.cfg.Source, first.Failure.AppID, first.Failure.OccurredAt),
			Data:    first.Failure.Encode(),
		})
	}
	if errors.Is(err, errBatch) {
		r.log.Debug("announcing one by one", "announcements", len(offers), "error", err)
		return err
	}
	for _, o := range offers {
		r.metrics.published(err, time.Since(started))
		if err != nil {
			r.log.Warn("not announced: the outbox keeps it", "component", o.AppID, "message_id", o.MessageID, "error", err)
			continue
		}
		if !o.eventAt.IsZero() {
			r.metrics.endToEnd.Observe(max(0, r.cfg.Now().Sub(o.eventAt).Seconds()))
		}
		r.step(stepOf(o.Announcement), StepAnnounced)
	}
	return err
}

func stepOf(a repo.Announcement) Step {
	step := Step{AppID: a.AppID, Revision: revisionOf(a)}
	switch {
	case a.Failure != nil:
		step.Sequence, step.Class = a.Failure.StreamSequence, a.Failure.Class
	case a.Update != nil:
		step.Cause = a.Update.Cause
	}
	return step
}

func (r *relay) message(update preauth.Update) *nats.Msg {
	return &nats.Msg{
		Subject: preauth.SubjectFor(r.cfg.Subjects.Updated, update.AppID),
		Header:  update.Header(r.cfg.Source), Data: update.Encode(),
	}
}

// publishBatch publishes updates of several components, all or none.
func (r *relay) publishBatch(ctx context.Context, offers []offer) error {
	var updates []preauth.Update
	var batch []*nats.Msg
	for _, o := range offers {
		last := r.codes.lastAnnounced(o.AppID)
		if last.revision >= o.Update.Revision {
			continue
		}
		msg := r.message(*o.Update)
		msg.Header.Set(jetstream.ExpectedStreamHeader, r.cfg.UpdateStream)
		msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last.sequence, 10))
		updates, batch = append(updates, *o.Update), append(batch, msg)
	}
	if len(batch) == 0 {
		return nil
	}
	// Nothing but the last answer is waited for: whatever is wrong with an earlier message makes it a refusal too.
	ack, err := jetstreamext.PublishMsgBatch(ctx, r.js, batch, jetstreamext.BatchFlowControl{})
	if _, refused := errors.AsType[*jetstream.APIError](err); refused {
		return fmt.Errorf("%w: %w", errBatch, err)
	}
	if err != nil {
		return fmt.Errorf("publishing a batch: %w", err)
	}
	for i, update := range updates {
		r.codes.stored(update, ack.Sequence-uint64(len(updates)-1-i))
	}
	return nil
}

func (r *relay) publishUpdate(ctx context.Context, update preauth.Update) error {
	msg := r.message(update)
	for range conflictTries {
		last := r.codes.lastAnnounced(update.AppID)
		if last.revision >= update.Revision {
			return nil
		}
		ack, err := r.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(last.sequence),
			jetstream.WithExpectStream(r.cfg.UpdateStream))
		switch {
		case err == nil && !ack.Duplicate:
			r.codes.stored(update, ack.Sequence)
			return nil
		case err == nil:
			// The stream took it before. Should it have lost it since, by a purge, it would refuse the
			// id for two minutes; without one, the expected sequence alone keeps it from standing twice.
			msg.Header.Del(nats.MsgIdHdr)
		case !isConflict(err):
			return fmt.Errorf("publishing: %w", err)
		}
		if err := r.learnLast(ctx, update.AppID); err != nil {
			return err
		}
	}
	return errChanging
}

// learnLast asks the stream for its last message of a component, which is another one than this
// replica knew.
func (r *relay) learnLast(ctx context.Context, appid string) error {
	r.codes.forgetStored(appid)
	stream, err := r.js.Stream(ctx, r.cfg.UpdateStream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", r.cfg.UpdateStream, err)
	}
	msg, err := stream.GetLastMsgForSubject(ctx, preauth.SubjectFor(r.cfg.Subjects.Updated, appid))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("last announcement: %w", err)
	}
	update, err := preauth.ParseUpdate(msg.Data)
	if err != nil {
		r.log.Warn("message in the stream of announcements is none", "subject", msg.Subject, "sequence", msg.Sequence, "error", err)
	}
	update.AppID = appid
	r.codes.stored(update, msg.Sequence)
	return nil
}

// isConflict reports that the last message of the subject was not the one expected.
func isConflict(err error) bool {
	apiErr, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (apiErr.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		apiErr.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
