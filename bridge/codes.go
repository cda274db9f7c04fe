package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"preauth"
	"preauth/internal/app"
	"preauth/internal/outage"
)

// codesCommand writes the current codes to Redis.
type codesCommand struct {
	common

	Domain string        `name:"nats-js-domain" group:"nats" env:"NATS_JS_DOMAIN" placeholder:"DOMAIN" form:"name" help:"JetStream domain, if it is not the one of the servers."`
	Bucket string        `name:"kv-bucket" group:"nats" env:"PREAUTH_KV_BUCKET" default:"preauth" form:"name" help:"The service's KV bucket of the current codes."`
	Redis  redisSettings `embed:"" group:"Redis"`
	Key    string        `name:"key" group:"Redis" env:"PREAUTH_BRIDGE_CODE_KEY" default:"pre_auth_code:{appid}" placeholder:"PATTERN" help:"Key of a component's code, with {appid} for the component. Its revision is in a key that ends in :revision besides."`
	Poll   time.Duration `name:"poll" group:"Redis" env:"PREAUTH_BRIDGE_POLL" default:"10s" range:"100ms..5m" help:"Time between two comparisons of all codes. Updates are written at once."`
}

// Run writes codes until ctx ends.
func (c codesCommand) Run(ctx context.Context, to app.Stdio) error {
	keys, err := parsePattern("--key ($PREAUTH_BRIDGE_CODE_KEY)", c.Key)
	if err != nil {
		return err
	}
	db, err := c.Redis.open()
	if err != nil {
		return err
	}
	defer db.Close()
	return c.serve(ctx, to, func(s *session) (func(context.Context), error) {
		var js jetstream.JetStream
		if c.Domain == "" {
			js, err = jetstream.New(s.nc)
		} else {
			js, err = jetstream.NewWithDomain(s.nc, c.Domain)
		}
		if err != nil {
			return nil, err
		}
		m := newMirror(s, js, c.Bucket, db, keys)
		defects := outage.NewDefects(s.log, time.Now)
		sub, err := s.client.Subscribe(m.take, func(err error) { defects.Log(ctx, slog.LevelWarn, "message not taken", err) })
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) {
			defer func() { _ = sub.Unsubscribe() }()
			loop(ctx, s.nc, c.Poll, m.changed, m.all, func(ctx context.Context, _ struct{}) error { return m.write(ctx) })
		}, nil
	})
}

// mirror writes codes to Redis. Updates arrive by subscription; what is announced while that is not
// there comes from the KV bucket, and what Redis loses is written again. The fence against older
// revisions is a script in Redis, so any number of mirrors may write at once.
type mirror struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	bucket string
	redis  *redis.Client
	keys   pattern

	redisPart, bucketPart *part
	results               map[string]prometheus.Counter

	keyFaults, entryFaults *faults

	changed    chan struct{} // has one element if something is in due
	read       state         // of the bucket, when all of it was read
	reconnects uint64        // how often NATS was connected anew before that
	reading    pacer

	mu     sync.Mutex
	newest map[string]preauth.Update
	due    map[string]bool // appids to write
}

// state changes with every write to the bucket.
type state struct {
	created time.Time
	last    uint64
}

func newMirror(s *session, js jetstream.JetStream, bucket string, db *redis.Client, keys pattern) *mirror {
	m := &mirror{
		nc: s.nc, js: js, bucket: bucket, redis: db, keys: keys,
		redisPart: s.part("Redis", "redis"), bucketPart: s.part("KV bucket", "bucket"),
		keyFaults:   newFaults(s.log, "code not written", "code written again"),
		entryFaults: newFaults(s.log, "entry of the KV bucket not taken", "entry of the KV bucket taken again"),
		results:     map[string]prometheus.Counter{}, changed: make(chan struct{}, 1),
		newest: map[string]preauth.Update{}, due: map[string]bool{},
	}
	written := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "preauth_bridge_writes_total", Help: "Codes taken to Redis: written, removed because they are of no use any more, already there, older than what is there, expired by its clock, or failed.",
	}, []string{"result"})
	for _, result := range []string{"written", "removed", "same", "older", "expired", "failed"} {
		m.results[result] = written.WithLabelValues(result)
	}
	s.registry.MustRegister(written)
	s.components("Components with a code that can be used, and those whose code is not in Redis though it should be.", m.usable, m.keyFaults.count)
	return m
}

func (m *mirror) usable() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.newest {
		if u.Usable(time.Now()) {
			n++
		}
	}
	return n
}

// take takes an update, unless a newer one of the component was taken before.
func (m *mirror) take(u preauth.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u.Revision <= m.newest[u.AppID].Revision {
		return
	}
	m.newest[u.AppID], m.due[u.AppID] = u, true
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// memory is how long after its end a code is still compared with what Redis has. A code lives for
// half an hour, so a spent one may have been written, and Redis restored from a backup, so long
// ago.
const memory = time.Hour

// all reads the bucket if something is new in it, and writes every code that Redis may lack.
func (m *mirror) all(ctx context.Context) error {
	err := m.bucketPart.note(m.catchUp(ctx))
	now := time.Now()
	m.mu.Lock()
	for appid, u := range m.newest {
		if now.Sub(u.ExpiresAt) < memory {
			m.due[appid] = true
		}
	}
	m.keyFaults.forgetExcept(m.due)
	m.mu.Unlock()
	return errors.Join(err, m.write(ctx))
}

// requestTimeout bounds what is asked of NATS and of Redis at once.
const requestTimeout = 5 * time.Second

// catchUp takes what is in the bucket, if something was put into it. The role subscriber may list its
// keys and get them one by one; it may not watch it. Since updates arrive by subscription, a large
// bucket that always changes need not be read each time. It is when some may have been missed.
func (m *mirror) catchUp(ctx context.Context) error {
	begin, reconnects := time.Now(), m.nc.Stats().Reconnects
	asked, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := m.js.Stream(asked, "KV_"+m.bucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: there is no bucket %s, so start preauth, or correct --kv-bucket ($PREAUTH_KV_BUCKET)", err, m.bucket)
	}
	if err != nil {
		return fmt.Errorf("looking at it: %w", err)
	}
	is := state{stream.CachedInfo().Created, stream.CachedInfo().State.LastSeq}
	mayLack := reconnects != m.reconnects || !is.created.Equal(m.read.created)
	if is == m.read || !mayLack && !m.reading.due() {
		return nil
	}
	prefix := "$KV." + m.bucket + "."
	info, err := stream.Info(asked, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return fmt.Errorf("listing its keys: %w", err)
	}
	present := map[string]bool{}
	for subject := range info.State.Subjects {
		present[strings.TrimPrefix(subject, prefix)] = true
	}
	m.entryFaults.forgetExcept(present)
	if err := m.getAll(ctx, stream, prefix, present); err != nil {
		return fmt.Errorf("getting a key: %w", err)
	}
	m.read, m.reconnects = state{info.Created, info.State.LastSeq}, reconnects
	m.reading.ran(begin)
	return nil
}

// getAtOnce is how many keys of the bucket are asked for at once.
const getAtOnce = 64

// getAll takes what some keys of the bucket have.
func (m *mirror) getAll(ctx context.Context, stream jetstream.Stream, prefix string, appids map[string]bool) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	next := make(chan string)
	var workers sync.WaitGroup
	for range min(getAtOnce, len(appids)) {
		workers.Go(func() {
			for appid := range next {
				if err := m.get(ctx, stream, prefix+appid, appid); err != nil {
					giveUp(err) // which ends the others soon
				}
			}
		})
	}
	for appid := range appids {
		next <- appid
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

func (m *mirror) get(ctx context.Context, stream jetstream.Stream, subject, appid string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && len(msg.Data) == 0 { // it expired
		m.entryFaults.note(appid, nil)
		return nil
	}
	if err != nil {
		return err
	}
	u, err := preauth.ParseUpdate(msg.Data)
	if err == nil && u.AppID != appid {
		err = errors.New("it is about another component than its key says")
	}
	m.entryFaults.note(appid, err)
	if err == nil {
		m.take(u)
	}
	return nil
}

// fenceText takes an update to Redis unless Redis has a newer one. In Redis, that is one step.
//
//go:embed fence.lua
var fenceText string

var fence = redis.NewScript(fenceText)

// writeAtOnce is how many codes are written in one round trip.
const writeAtOnce = 500

// write writes what is due.
func (m *mirror) write(ctx context.Context) error {
	m.mu.Lock()
	due := make([]preauth.Update, 0, len(m.due))
	for appid := range m.due {
		due = append(due, m.newest[appid])
	}
	m.mu.Unlock()
	slices.SortFunc(due, func(a, b preauth.Update) int { return strings.Compare(a.AppID, b.AppID) })
	if len(due) == 0 { // Redis has to be there all the same
		return m.redisPart.note(advised(m.redis.Ping(ctx).Err()))
	}
	var failed error
	for some := range slices.Chunk(due, writeAtOnce) {
		away := false
		for i, reply := range m.send(ctx, some) {
			err := m.record(some[i], reply)
			if err == nil {
				continue
			}
			if failed == nil {
				failed = fmt.Errorf("writing a code: %w", advised(err))
			}
			// What Redis refuses it may refuse of some only: when it is full, it still removes.
			if _, refused := errors.AsType[redis.Error](err); !refused {
				away = true
			}
		}
		if away {
			break
		}
	}
	return m.redisPart.note(failed)
}

// send takes updates to Redis in one round trip. The replies are labels of the metric, or errors.
func (m *mirror) send(ctx context.Context, updates []preauth.Update) []*redis.Cmd {
	replies := make([]*redis.Cmd, len(updates))
	pipe, now := m.redis.Pipeline(), time.Now()
	call := func(i int, run func(context.Context, string, []string, ...any) *redis.Cmd, script string) {
		u, key := updates[i], m.keys.key(updates[i].AppID)
		replies[i] = run(ctx, script, []string{key, revisionKey(key)}, u.Revision, u.PreAuthCode.Reveal(), u.ExpiresAt.UnixMilli(), strconv.FormatBool(u.Usable(now)))
	}
	for i := range updates {
		if i == 0 {
			call(i, pipe.Eval, fenceText) // brings the script for the others
		} else {
			call(i, pipe.EvalSha, fence.Hash())
		}
	}
	_, _ = pipe.Exec(ctx) // each reply has its error
	for i, reply := range replies {
		if redis.HasErrorPrefix(reply.Err(), "NOSCRIPT") { // a proxy leads the key to another server
			call(i, pipe.Eval, fenceText)
		}
	}
	if pipe.Len() > 0 {
		_, _ = pipe.Exec(ctx)
	}
	return replies
}

// skew is how late a code may be, or a clock be wrong, before that counts as a fault.
const skew = time.Minute

// record notes what became of an update by its reply. An error means that Redis is away or refuses
// all, and not that something is wrong with a key.
func (m *mirror) record(u preauth.Update, reply *redis.Cmd) error {
	result, err := reply.Text()
	key, now := m.keys.key(u.AppID), time.Now()
	var fault error
	switch {
	case isWrongType(err):
		result, fault = "failed", fmt.Errorf("the key %s holds something else than a revision: remove it", revisionKey(key))
	case err != nil:
		m.results["failed"].Inc()
		return err
	case result == "older" && now.Sub(u.IssuedAt) > skew:
		fault = fmt.Errorf("the key %s has a newer revision than the service: if the service has begun with another database, remove the key", revisionKey(key))
	case result == "expired" && u.ExpiresAt.Sub(now) > skew:
		fault = errors.New("it is over by the clock of Redis: set the clocks of both machines")
	}
	m.results[result].Inc()
	m.keyFaults.note(u.AppID, fault)
	m.done(u)
	return nil
}

// done notes that an update was dealt with, unless a newer one came meanwhile.
func (m *mirror) done(u preauth.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.newest[u.AppID].Revision == u.Revision {
		delete(m.due, u.AppID)
	}
}

// revisionKey returns the key of the revision of the code in a key. No component's code has such a
// key: an appid contains no colon.
func revisionKey(key string) string { return key + ":revision" }
