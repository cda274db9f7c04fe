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
		sub, err := s.client.Subscribe(m.take, func(err error) { m.defects.Log(ctx, slog.LevelWarn, "message not taken", err) })
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
	js      jetstream.JetStream
	bucket  string
	redis   *redis.Client
	keys    pattern
	log     *slog.Logger
	defects *outage.Defects

	redisPart, bucketPart *part
	results               map[string]prometheus.Counter

	changed chan struct{} // has one element if something is in due
	read    state         // of the bucket, when all of it was read

	mu     sync.Mutex
	newest map[string]preauth.Update
	due    map[string]bool // appids to write
}

// state is what of a bucket changes with everything that is put into it.
type state struct {
	created time.Time
	last    uint64
}

func newMirror(s *session, js jetstream.JetStream, bucket string, db *redis.Client, keys pattern) *mirror {
	m := &mirror{
		js: js, bucket: bucket, redis: db, keys: keys, log: s.log, defects: outage.NewDefects(s.log, time.Now),
		redisPart: s.part("Redis", "redis"), bucketPart: s.part("KV bucket", "bucket"),
		results: map[string]prometheus.Counter{}, changed: make(chan struct{}, 1),
		newest: map[string]preauth.Update{}, due: map[string]bool{},
	}
	written := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "preauth_bridge_writes_total", Help: "Codes taken to Redis: written, removed because they are of no use any more, already there, older than what is there, or failed.",
	}, []string{"result"})
	for _, result := range []string{"written", "removed", "same", "older", "failed"} {
		m.results[result] = written.WithLabelValues(result)
	}
	s.registry.MustRegister(written, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "preauth_bridge_components", Help: "Components with a code that can be used.", ConstLabels: prometheus.Labels{"state": "usable"},
	}, func() float64 { return float64(m.usable()) }))
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

// memory is for how long a dead code is compared with what Redis has. A code lives for half an hour,
// so a spent one may have been written, and Redis restored from a backup, so long ago.
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
	m.mu.Unlock()
	return errors.Join(err, m.write(ctx))
}

// requestTimeout bounds what is asked of NATS and of Redis at once.
const requestTimeout = 5 * time.Second

// catchUp takes what is in the bucket. The role subscriber may list its keys and get them; it may not
// watch it.
func (m *mirror) catchUp(ctx context.Context) error {
	prefix := "$KV." + m.bucket + "."
	asked, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := m.js.Stream(asked, "KV_"+m.bucket)
	if err != nil {
		return err
	}
	is := state{stream.CachedInfo().Created, stream.CachedInfo().State.LastSeq}
	if is == m.read {
		return nil
	}
	info, err := stream.Info(asked, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return err
	}
	is = state{info.Created, info.State.LastSeq}
	for subject := range info.State.Subjects {
		if err := m.get(ctx, stream, subject, strings.TrimPrefix(subject, prefix)); err != nil {
			return err
		}
	}
	m.read = is
	return nil
}

func (m *mirror) get(ctx context.Context, stream jetstream.Stream, subject, appid string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && len(msg.Data) == 0 { // it expired
		return nil
	}
	if err != nil {
		return err
	}
	u, err := preauth.ParseUpdate(msg.Data)
	if err == nil && u.AppID != appid {
		err = errors.New("it is about another component than its key says")
	}
	if err != nil {
		m.log.Warn("entry of the KV bucket not taken", "key", appid, "error", err)
		return nil
	}
	m.take(u)
	return nil
}

// fenceText takes an update to Redis unless Redis has a newer one. In Redis, that is one step.
//
//go:embed fence.lua
var fenceText string

var fence = redis.NewScript(fenceText)

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
		return m.redisPart.note(m.redis.Ping(ctx).Err())
	}
	for _, u := range due {
		result, err := m.writeOne(ctx, u)
		if err != nil {
			m.results["failed"].Inc()
		}
		switch {
		case isWrongType(err):
			m.defects.Log(ctx, slog.LevelWarn, "code not written", fmt.Errorf("%s: the key %s holds something else than a revision: remove it", u.AppID, revisionKey(m.keys.key(u.AppID))))
		case err != nil:
			return m.redisPart.note(fmt.Errorf("writing a code: %w", err))
		default:
			m.results[result].Inc()
		}
		m.done(u)
	}
	return m.redisPart.note(nil)
}

// done notes that an update was dealt with, unless a newer one came meanwhile.
func (m *mirror) done(u preauth.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.newest[u.AppID].Revision == u.Revision {
		delete(m.due, u.AppID)
	}
}

// writeOne returns what became of an update: a label of the metric.
func (m *mirror) writeOne(ctx context.Context, u preauth.Update) (string, error) {
	key := m.keys.key(u.AppID)
	usable := strconv.FormatBool(u.Usable(time.Now()))
	return fence.Run(ctx, m.redis, []string{key, revisionKey(key)}, u.Revision, u.PreAuthCode.Reveal(), u.ExpiresAt.UnixMilli(), usable).Text()
}

// revisionKey returns the key of the revision of the code in a key. No component's code has such a
// key: an appid contains no colon.
func revisionKey(key string) string { return key + ":revision" }
