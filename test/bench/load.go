package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"preauth"
	"preauth/repo"
)

// The names of the contract.
const (
	tokenStream    = "COMPONENT_TOKENS"
	updateStream   = "PREAUTH"
	tokenSubject   = "component.token.updated"
	updatedSubject = "preauth.updated"
	lookupSubject  = "preauth.lookup"
	claimSubject   = "preauth.claim"
)

// fingerprint is what is stored in place of the token.
func (e tokenEvent) fingerprint() []byte {
	sum := sha256.Sum256([]byte(e.Token))
	return sum[:]
}

// appID returns the component_appid of component i.
func appID(i int) string { return fmt.Sprintf("wx%016d", i) }

// recreateTokens gives the next program an empty token stream, as preauth would create it.
func (r *rig) recreateTokens(ctx context.Context) error {
	if err := r.js.DeleteStream(ctx, tokenStream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	_, err := r.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: tokenStream, Subjects: []string{tokenSubject, tokenSubject + ".>"},
		Storage: jetstream.FileStorage, MaxAge: preauth.DefaultTokenLife, Duplicates: 2 * time.Minute, AllowAtomicPublish: true,
	})
	return err
}

// seed leaves the database and the streams as after one event of each of n components: a current code,
// announced, that lives for a day.
func (r *rig) seed(ctx context.Context, n int) error {
	for _, table := range []string{"component", "pre_auth_code", "outbox"} {
		if _, err := r.db.ExecContext(ctx, "TRUNCATE TABLE "+table); err != nil {
			return err
		}
	}
	if err := r.js.DeleteStream(ctx, updateStream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	_, err := r.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: updateStream, Subjects: []string{updatedSubject + ".*"}, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: 1, FirstSeq: uint64(now.UnixMicro()), AllowDirect: true, AllowAtomicPublish: true, Duplicates: 2 * time.Minute,
		RePublish: &jetstream.RePublish{Source: updatedSubject + ".*", Destination: updatedSubject},
	})
	if err != nil {
		return err
	}
	const batch = 100
	for first := 0; first < n; first += batch {
		var outcomes []repo.Outcome
		for i := first; i < min(n, first+batch); i++ {
			outcomes = append(outcomes, repo.Outcome{
				AppID: appID(i), Cause: preauth.CauseToken, At: now, DueAt: now.Add(23 * time.Hour),
				Token: repo.Token{
					Position:  repo.Position{Stream: tokenStream, StreamCreated: now, Sequence: uint64(i + 1), Time: now},
					ExpiresAt: now.Add(2 * time.Hour), Fingerprint: repo.FingerprintOf(preauth.NewSecret(appID(i))),
				},
				Code: &repo.Code{PreAuthCode: newCode(), IssuedAt: now, ExpiresAt: now.Add(24 * time.Hour)},
			})
		}
		results, err := r.repo.Save(ctx, outcomes)
		if err != nil {
			return err
		}
		for _, result := range results {
			u := result.Announcement.Update
			msg := &nats.Msg{Subject: updatedSubject + "." + u.AppID, Header: u.Header("/bench"), Data: u.Encode()}
			if _, err := r.js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute)); err != nil {
				return err
			}
		}
	}
	select {
	case <-r.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err = r.db.ExecContext(ctx, "TRUNCATE TABLE outbox")
	return err
}

// newCode returns a code of the length of WeChat's.
func newCode() preauth.Secret {
	return preauth.NewSecret("preauthcode@@@" + (rand.Text() + rand.Text() + rand.Text() + rand.Text())[:86])
}

// tokens makes the bodies of token events, each with a token of its own of the length of WeChat's.
type tokens struct {
	random string
	n      int
}

func newTokens() *tokens { return &tokens{random: strings.Repeat(rand.Text(), 6)[:130]} }

// next returns the body of the next event, of component i.
func (t *tokens) next(i int) []byte {
	t.n++
	body := make([]byte, 0, 256)
	body = append(body, `{"component_appid":"`...)
	body = append(body, appID(i)...)
	body = append(body, `","component_access_token":"61_`...)
	body = append(body, t.random...)
	body = strconv.AppendInt(body, int64(t.n), 10)
	return append(body, `","expires_in":7200}`...)
}

// lone publishes n events one at a time, each when the one before is announced and the system is at rest
// again, and returns when each was published and when its announcement arrived.
func (r *rig) lone(ctx context.Context, n, components int, rest time.Duration) ([]span, error) {
	publisher, err := nats.Connect(r.natsURL)
	if err != nil {
		return nil, err
	}
	defer publisher.Close()
	arrived := make(chan time.Time, 64)
	sub, err := r.nc.Subscribe(updatedSubject, func(*nats.Msg) { arrived <- time.Now() })
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := r.nc.Flush(); err != nil {
		return nil, err
	}
	events := newTokens()
	took := make([]span, 0, n)
	for i := range n {
		body := events.next(i % components)
		begin := time.Now()
		if err := publisher.Publish(tokenSubject, body); err != nil {
			return nil, err
		}
		select {
		case at := <-arrived:
			took = append(took, span{begin, at})
		case <-time.After(30 * time.Second):
			return nil, fmt.Errorf("event %d of %d was not announced within 30 s", i+1, n)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !sleep(ctx, rest) {
			return nil, ctx.Err()
		}
		for len(arrived) > 0 { // delivered twice
			<-arrived
		}
	}
	return took, nil
}

// span is a time with its begin and end.
type span struct{ begin, end time.Time }

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// sustained keeps so many events under way that a program is never without work, one for each component
// in turn, and returns how many announcements arrived while it was measured. Until warmup is over
// nothing is measured, and afterwards all that is under way is waited for.
func (r *rig) sustained(ctx context.Context, p *program, components, underWay int, warmup, length time.Duration) (rate, error) {
	places := make(chan struct{}, underWay)
	var mu sync.Mutex
	arrived := 0
	sub, err := r.nc.Subscribe(updatedSubject, func(*nats.Msg) {
		mu.Lock()
		arrived++
		mu.Unlock()
		select {
		case <-places:
		default: // announced twice
		}
	})
	if err != nil {
		return rate{}, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := errors.Join(sub.SetPendingLimits(-1, -1), r.nc.Flush()); err != nil {
		return rate{}, err
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return arrived
	}

	stop := make(chan struct{})
	stopped := make(chan error, 1)
	go func() { stopped <- r.feed(ctx, components, places, stop) }()
	if !sleep(ctx, warmup) {
		return rate{}, ctx.Err()
	}
	before, from := r.usage(p), count()
	if !sleep(ctx, length) {
		return rate{}, ctx.Err()
	}
	n := count() - from
	used := r.usage(p).since(before)
	close(stop)
	if err := <-stopped; err != nil {
		return rate{}, err
	}
	// What does not come for so long will never come.
	const patience = 10 * time.Second
	for last, at := count(), time.Now(); len(places) > 0 && time.Since(at) < patience; {
		if now := count(); now > last {
			last, at = now, time.Now()
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return rate{}, ctx.Err()
		}
	}
	return rate{n: n, perSecond: float64(n) / length.Seconds(), used: used, lost: len(places)}, nil
}

// feed publishes an event for each free place, of the components in turn, until stop.
func (r *rig) feed(ctx context.Context, components int, places chan<- struct{}, stop <-chan struct{}) error {
	events := newTokens()
	published := 0
	for {
		select {
		case places <- struct{}{}:
		case <-stop:
			return nil
		}
		batch := []*nats.Msg{}
		for due := true; due; {
			batch = append(batch, &nats.Msg{Subject: tokenSubject, Header: nats.Header{}, Data: events.next(published % components)})
			published++
			select {
			case places <- struct{}{}:
			default:
				due = false
			}
		}
		if err := r.publish(ctx, batch); err != nil {
			return err
		}
	}
}

const (
	// smallestBatch is how many messages have to be due to be published as one atomic batch, and largestBatch how many
	// are, as in preauth.
	smallestBatch, largestBatch = 50, 250
)

// publish publishes messages: as a batch and waiting for it, or, if they are few, one by one and without waiting. A
// batch is synced to the disk once.
func (r *rig) publish(ctx context.Context, msgs []*nats.Msg) error {
	for batch := range slices.Chunk(msgs, largestBatch) {
		if len(batch) >= smallestBatch {
			if _, err := jetstreamext.PublishMsgBatch(ctx, r.js, batch, jetstreamext.BatchFlowControl{}); err != nil {
				return err
			}
			continue
		}
		for _, msg := range batch {
			if err := r.nc.PublishMsg(msg); err != nil {
				return err
			}
		}
	}
	return nil
}

// rate is how much was done in a time.
type rate struct {
	n         int
	perSecond float64
	used      spent
	latencies []time.Duration
	lost      int // events that were never announced
	failed    int
	failure   string
}

// inFlight is how many requests are under way at once where responders are compared.
const inFlight = 64

// requests keeps so many requests under way, subject by subject in turn, and returns how many were
// answered while it was measured, and how long they took.
func (r *rig) requests(ctx context.Context, p *program, subjects []string, underWay int, warmup, length time.Duration) (rate, error) {
	requester, err := nats.Connect(r.natsURL)
	if err != nil {
		return rate{}, err
	}
	defer requester.Close()
	inbox := nats.NewInbox()
	replies := make([]string, underWay)
	sent := make([]time.Time, underWay)
	var (
		mu        sync.Mutex
		measuring bool
		stopped   bool
		result    rate
		next      int
		left      = underWay
		idle      = make(chan struct{})
	)
	ask := func(slot int) { // with mu held
		sent[slot] = time.Now()
		next++
		_ = requester.PublishRequest(subjects[next%len(subjects)], replies[slot], nil)
	}
	_, err = requester.Subscribe(inbox+".*", func(msg *nats.Msg) {
		slot, err := strconv.Atoi(msg.Subject[len(inbox)+1:])
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if measuring {
			result.n++
			result.latencies = append(result.latencies, time.Since(sent[slot]))
		}
		if code := msg.Header.Get(micro.ErrorCodeHeader); code != "" || msg.Header.Get("Status") != "" {
			result.failed++
			result.failure = code + " " + msg.Header.Get(micro.ErrorHeader) + msg.Header.Get("Status")
		}
		if stopped {
			if left--; left == 0 {
				close(idle)
			}
			return
		}
		ask(slot)
	})
	if err != nil {
		return rate{}, err
	}
	if err := requester.Flush(); err != nil {
		return rate{}, err
	}
	mu.Lock()
	for slot := range underWay {
		replies[slot] = inbox + "." + strconv.Itoa(slot)
		ask(slot)
	}
	mu.Unlock()
	set := func(measure, stop bool) {
		mu.Lock()
		defer mu.Unlock()
		measuring, stopped = measure, stop
	}
	if !sleep(ctx, warmup) {
		return rate{}, ctx.Err()
	}
	before := r.usage(p)
	set(true, false)
	ok := sleep(ctx, length)
	set(false, true)
	used := r.usage(p).since(before)
	if !ok {
		return rate{}, ctx.Err()
	}
	select {
	case <-idle:
	case <-time.After(10 * time.Second):
		return rate{}, errors.New("some requests were never answered")
	}
	mu.Lock()
	defer mu.Unlock()
	result.used, result.perSecond = used, float64(result.n)/length.Seconds()
	if result.failed > 0 {
		return result, fmt.Errorf("%d requests failed, the last with %s", result.failed, result.failure)
	}
	return result, nil
}
