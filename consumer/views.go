package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/repo"
)

// tokenView is the newest token of each component, in memory. It outlives the stream it was read
// from: a token lives on when its stream is deleted.
type tokenView struct {
	mu     sync.RWMutex
	newest map[string]announcedToken
	swept  time.Time
	// last is the sequence of the event that was read last; more, where there is one, is closed at the next.
	last uint64
	more chan struct{}
}

type announcedToken struct {
	preauth.TokenEvent
	position    repo.Position
	fingerprint repo.Fingerprint
	// repeats is the position of the first of the events that announced this very token one after the other; nil where
	// this is the first.
	repeats *repo.Position
}

// first is the position of the first of the events that announced this very token one after the other.
func (t *announcedToken) first() repo.Position {
	if t.repeats != nil {
		return *t.repeats
	}
	return t.position
}

func newTokenView() *tokenView { return &tokenView{newest: map[string]announcedToken{}} }

// add takes in an event, unless its token is dead or an event further on in the stream was taken in.
func (v *tokenView) add(event preauth.TokenEvent, position repo.Position, now time.Time) {
	if !event.ExpiresAt.After(now) {
		return
	}
	token := announcedToken{event, position, repo.FingerprintOf(event.Token), nil}
	v.mu.Lock()
	defer v.mu.Unlock()
	if known, ok := v.newest[event.AppID]; !ok || position.After(known.position) {
		// Of two whose order is disputed, the one before may be lost: it must not take the work from this one.
		if ok && known.fingerprint == token.fingerprint && !known.first().After(position) {
			first := known.first()
			token.repeats = &first
		}
		v.newest[event.AppID] = token
	}
	if now.Sub(v.swept) > time.Minute {
		v.swept = now
		for appid, token := range v.newest {
			if !token.ExpiresAt.After(now) {
				delete(v.newest, appid)
			}
		}
	}
}

// token returns the newest token of a component if it lives.
func (v *tokenView) token(appid string, now time.Time) (announcedToken, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	token, ok := v.newest[appid]
	return token, ok && token.ExpiresAt.After(now)
}

// overtaken reports whether the stream holds a newer event of the component, with a token that was
// alive when it was read. The first event of a token is not overtaken by those that announce it again.
func (v *tokenView) overtaken(appid string, position repo.Position) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	token, ok := v.newest[appid]
	first := token.first()
	return ok && (first.After(position) || position.After(first) && token.position.After(position))
}

// repeats returns the first event of the token that the event announces again, if the view knows of one. All events
// before this one have to have been read; whether it has been read itself does not matter.
func (v *tokenView) repeats(appid string, event repo.Token) (first repo.Position, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	token, ok := v.newest[appid]
	first = token.first()
	return first, ok && token.fingerprint == event.Fingerprint && event.Position.After(first)
}

// begin notes that the stream is read from its beginning.
func (v *tokenView) begin() { v.read(0) }

// read notes that all events up to a sequence have been taken in.
func (v *tokenView) read(sequence uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = sequence
	if v.more != nil {
		close(v.more)
		v.more = nil
	}
}

// viewLag is how long an event waits at most for the view to have read those before it.
const viewLag = time.Second

// await waits until the events before a sequence have been read. They mostly have.
func (v *tokenView) await(ctx context.Context, sequence uint64) {
	more := v.reading(sequence)
	if more == nil {
		return
	}
	late := time.NewTimer(viewLag)
	defer late.Stop()
	for ; more != nil; more = v.reading(sequence) {
		select {
		case <-more:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// reading returns nil if the events before a sequence have been read, otherwise what tells that one more has.
func (v *tokenView) reading(sequence uint64) <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last+1 >= sequence {
		return nil
	}
	if v.more == nil {
		v.more = make(chan struct{})
	}
	return v.more
}

func (v *tokenView) size() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.newest)
}

// standing is a component's current code as it was announced, and the token that it was made with: nil where that is
// not known.
type standing struct {
	preauth.Update
	Token *repo.Token
}

// codeView is the current code of each component, in memory, and what the stream of announcements
// holds for it.
type codeView struct {
	*Service

	read   chan struct{} // closed when the stream was read to its end once
	onRead func()

	mu        sync.RWMutex
	codes     map[string]standing
	announced map[string]announcement
}

// announcement is the last message that the stream holds for a component.
type announcement struct{ revision, sequence uint64 }

func newCodeView(s *Service) *codeView {
	v := &codeView{
		Service: s, read: make(chan struct{}), codes: map[string]standing{}, announced: map[string]announcement{},
	}
	v.onRead = sync.OnceFunc(func() { close(v.read) })
	return v
}

// awaitRead waits until the stream of announcements has been read, so that new revisions are above all
// that it holds. It does not wait for ever: the outbox can keep what the stream does not take.
func (v *codeView) awaitRead(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	select {
	case <-v.read:
	case <-ctx.Done():
	}
}

// follow reads the stream of announcements, and has announced again what it turns out to lack, until
// ctx ends.
func (v *codeView) follow(ctx context.Context, stream jetstream.Stream, _ identity) error {
	v.mu.Lock()
	v.announced = map[string]announcement{} // what another stream held says nothing of this one
	v.mu.Unlock()
	v.relay.batches.Store(stream.CachedInfo().Config.AllowAtomicPublish)

	ctx, cancel := context.WithCancel(ctx)
	caughtUp := make(chan struct{})
	var reconciling sync.WaitGroup
	reconciling.Go(func() {
		select {
		case <-caughtUp:
			v.onRead()
			v.health.set(string(updateStream)+" stream", nil)
			v.reconcile(ctx)
		case <-ctx.Done():
		}
	})
	defer reconciling.Wait()
	defer cancel()

	cfg := jetstream.OrderedConsumerConfig{
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
		FilterSubjects: []string{v.cfg.Subjects.Updated + ".*"},
	}
	return v.streams.read(ctx, stream, cfg, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
		update, err := preauth.ParseUpdate(msg.Data())
		if err != nil || msg.Subject() != preauth.SubjectFor(v.cfg.Subjects.Updated, update.AppID) {
			v.log.Warn("message in the stream of announcements is none", "subject", msg.Subject(),
				"sequence", meta.Sequence.Stream, "error", err)
			return
		}
		v.add(standing{Update: update})
		v.stored(update, meta.Sequence.Stream)
	}, func() { close(caughtUp) })
}

// add takes in a committed code, unless a newer one is known, and the token that it was made with, if that is told.
func (v *codeView) add(code standing) {
	v.mu.Lock()
	defer v.mu.Unlock()
	known := v.codes[code.AppID].Revision
	if code.Revision > known || code.Revision == known && code.Token != nil {
		v.codes[code.AppID] = code
	}
}

// correct takes in what MySQL holds: where that has no token for the code, a newer one was taken.
func (v *codeView) correct(code standing) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if code.Revision >= v.codes[code.AppID].Revision {
		v.codes[code.AppID] = code
	}
}

// forgetToken notes that a newer token brought no code: only MySQL can tell its event from one that is new.
func (v *codeView) forgetToken(appid string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if code, ok := v.codes[appid]; ok {
		code.Token = nil
		v.codes[appid] = code
	}
}

// certainlyNew reports whether a token event that is delivered for the first time is newer than the one which the
// current code was made for, and brings another token, without a look at MySQL. A false answer says nothing. Should
// another replica make a code at this moment, the answer is wrong, at the price of a call: what is saved is compared
// once more.
func (v *codeView) certainlyNew(appid string, token repo.Token) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	made := v.codes[appid].Token
	return made != nil && token.Position.After(made.Position) && token.Fingerprint != made.Fingerprint
}

// stored notes that the stream of announcements holds an update.
func (v *codeView) stored(update preauth.Update, sequence uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if sequence > v.announced[update.AppID].sequence {
		v.announced[update.AppID] = announcement{update.Revision, sequence}
	}
}

// forgetStored notes that what is known of the stream's last message for a component was wrong.
func (v *codeView) forgetStored(appid string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.announced, appid)
}

// code returns the newest code known of a component.
func (v *codeView) code(appid string) (preauth.Update, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	code, ok := v.codes[appid]
	return code.Update, ok
}

// lastAnnounced returns what the stream of announcements holds for a component, as far as is known.
func (v *codeView) lastAnnounced(appid string) announcement {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.announced[appid]
}

// updateOf returns a component's current code in MySQL as it was announced.
func updateOf(appid string, current repo.CurrentCode) preauth.Update {
	return preauth.Update{
		AppID: appid, PreAuthCode: current.PreAuthCode, IssuedAt: current.IssuedAt, ExpiresAt: current.ExpiresAt,
		Revision: current.Revision, Cause: current.Cause,
	}
}

// announcedSize returns for how many components the stream is known to hold a message.
func (v *codeView) announcedSize() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.announced)
}

func (v *codeView) size() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.codes)
}

const (
	// reconcileEvery is how often the stream of announcements is held against MySQL.
	reconcileEvery = 5 * time.Minute
	reconcilePage  = 1000
)

// reconcile announces again, from MySQL, each current code of which the stream holds no message of
// its revision or a newer one, now and from time to time until ctx ends.
func (v *codeView) reconcile(ctx context.Context) {
	for {
		lacking, err := v.reconcileOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			v.log.Warn("stream of announcements not held against MySQL", "error", err)
		case lacking > 0:
			v.log.Info("announcing again what the stream lacked", "components", lacking)
		}
		wait := reconcileEvery
		if err != nil || lacking > 0 { // they have no row in the outbox, so look again whether it is done
			wait = 2 * time.Second
		}
		if !pause(ctx, jittered(wait)) {
			return
		}
	}
}

func (v *codeView) reconcileOnce(ctx context.Context) (lacking int, err error) {
	for after := ""; ; {
		page, err := v.db.ListCurrent(ctx, after, reconcilePage)
		if err != nil || len(page) == 0 {
			return lacking, err
		}
		for _, code := range page {
			v.correct(standing{Update: code})
			if v.lastAnnounced(code.AppID).revision < code.Revision {
				lacking++
				v.relay.deliver(ctx, repo.Announcement{MessageID: code.MessageID(), AppID: code.AppID, Update: &code})
			}
		}
		after = page[len(page)-1].AppID
	}
}
