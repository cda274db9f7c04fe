package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"preauth"
	"preauth/internal/app"
	"preauth/internal/outage"
	"preauth/internal/pause"
)

// tokensCommand announces the tokens that are in Redis.
type tokensCommand struct {
	common

	Redis      redisSettings `embed:"" group:"Redis"`
	Preset     string        `name:"preset" group:"Redis" env:"PREAUTH_BRIDGE_PRESET" default:"plain" values:"wxjava,easywechat,plain" help:"The token service whose keys and values these are."`
	Key        string        `name:"key" group:"Redis" env:"PREAUTH_BRIDGE_TOKEN_KEY" placeholder:"PATTERN" help:"Key of a component's token, with {appid} for the component, if it is not the preset's."`
	Components []string      `name:"component" group:"Redis" env:"PREAUTH_BRIDGE_COMPONENTS" sep:"," placeholder:"APPID" help:"Components whose keys are read, separated by commas. Without it, all keys of Redis are scanned for them."`
	Poll       time.Duration `name:"poll" group:"Redis" env:"PREAUTH_BRIDGE_POLL" default:"10s" range:"100ms..5m" help:"Time between two looks at all keys. Keyspace notifications are heard in between."`
}

// Run announces tokens until ctx ends.
func (c tokensCommand) Run(ctx context.Context, to app.Stdio) error {
	from := presets[c.Preset]
	if c.Key != "" {
		from.key = c.Key
	}
	keys, err := parsePattern("--key ($PREAUTH_BRIDGE_TOKEN_KEY)", from.key)
	if err != nil {
		return err
	}
	if err := checkComponents(c.Components); err != nil {
		return err
	}
	db, err := c.Redis.open()
	if err != nil {
		return err
	}
	defer db.Close()
	return c.serve(ctx, to, func(s *session) (func(context.Context), error) {
		w := newWatcher(s, db, keys, from.decode, c.Components)
		return func(ctx context.Context) { w.run(ctx, c.Poll) }, nil
	})
}

// watcher announces the tokens in the keys of Redis. What it knows comes from looks at the keys;
// notifications only say where to look sooner. So nothing is missed that was written while a part
// was away, and an announcement always follows a look: where two bridges announce two tokens
// in the wrong order, the one that was late looks again.
type watcher struct {
	session   *session
	redis     *redis.Client
	keys      pattern
	decode    func(string) (string, error)
	only      []string // the components to read, nil for all that are found
	redisPart *part
	announcer *announcer

	found    map[string]bool // the components to read
	scanning pacer
	faults   *faults      // of keys
	usable   atomic.Int64 // components, for the metric
	notified prometheus.Counter

	told, some bool // whether there were tokens at the last look was logged, and whether there were
}

func newWatcher(s *session, db *redis.Client, keys pattern, decode func(string) (string, error), only []string) *watcher {
	w := &watcher{
		session: s, redis: db, keys: keys, decode: decode, only: only,
		redisPart: s.part("Redis", "redis"), announcer: newAnnouncer(s), found: map[string]bool{}, faults: newFaults(s.log, "key not announced", "key in order again"),
		notified: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "preauth_bridge_notifications_total", Help: "Keyspace notifications about the keys of components. None in hours: Redis sends none.",
		}),
	}
	for _, appid := range only {
		w.found[appid] = true
	}
	s.registry.MustRegister(w.notified)
	s.components("Components that have a key: with a usable token, or with one that cannot be announced.",
		func() int { return int(w.usable.Load()) }, w.faults.count)
	return w
}

func (w *watcher) run(ctx context.Context, poll time.Duration) {
	changes, listening := make(chan string, 1024), make(chan struct{})
	go func() {
		defer close(listening)
		w.listen(ctx, changes)
	}()
	loop(ctx, w.session.nc, poll, changes, w.lookAll, func(ctx context.Context, appid string) error {
		if appid == "" {
			w.scanning = pacer{} // there may be new keys
			return w.lookAll(ctx)
		}
		w.found[appid] = true
		defer w.count()
		return w.look(ctx, []string{appid})
	})
	<-listening
}

// readAtOnce is how many keys are asked for in one round trip.
const readAtOnce = 100

// lookAll looks at the keys of all components.
func (w *watcher) lookAll(ctx context.Context) error {
	defer w.count()
	if w.only == nil && w.scanning.due() {
		begin := time.Now()
		found, err := w.scan(ctx)
		if err != nil {
			return w.redisPart.note(fmt.Errorf("scanning its keys: %w", advised(err)))
		}
		_ = w.redisPart.note(nil)
		w.scanning.ran(begin)
		w.found = found
		w.announcer.forgetExcept(found)
		w.faults.forgetExcept(found)
	}
	for some := range slices.Chunk(w.announcer.sorted(w.found), readAtOnce) {
		if err := w.look(ctx, some); err != nil {
			return err
		}
	}
	w.tell(ctx)
	return nil
}

// tell logs after a look whether there are tokens, when that is new: nothing else shows that the keys
// have other names than the settings say.
func (w *watcher) tell(ctx context.Context) {
	n := w.announcer.usable()
	if w.told && w.some == (n > 0) {
		return
	}
	w.told, w.some = true, n > 0
	if w.some {
		w.session.log.InfoContext(ctx, "tokens found", "keys", w.keys.glob(), "components", n)
	} else {
		w.session.log.WarnContext(ctx, "no tokens found: compare --preset and --key with the keys in Redis", "keys", w.keys.glob())
	}
}

// scan returns the components that have a key.
func (w *watcher) scan(ctx context.Context) (map[string]bool, error) {
	found := map[string]bool{}
	var cursor uint64
	for {
		keys, next, err := w.redis.Scan(ctx, cursor, w.keys.glob(), 1000).Result()
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			if appid, ok := w.keys.appid(key); ok {
				found[appid] = true
			}
		}
		if cursor = next; cursor == 0 {
			return found, nil
		}
	}
}

// reading is what a key held at one moment.
type reading struct {
	value *redis.StringCmd
	left  *redis.DurationCmd
}

// look reads the keys of some components, and announces what is due. A failure is a component's
// own, so it goes on with the others, until failures have taken it as long as one may. An error
// means that a part is away, and not that a key is wrong.
func (w *watcher) look(ctx context.Context, appids []string) error {
	readings := make([]reading, len(appids))
	now := time.Now() // before the answer, so that the token never seems to live longer than it does
	// Value and remaining time belong together. Of a value that is far too long, the beginning will do.
	commands, err := w.redis.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		for i, appid := range appids {
			key := w.keys.key(appid)
			readings[i] = reading{tx.GetRange(ctx, key, 0, maxValue), tx.PTTL(ctx, key)}
		}
		return nil
	})
	if err = reasonOf(err, commands); err != nil && !isWrongType(err) {
		return w.redisPart.note(fmt.Errorf("reading its keys: %w", advised(err)))
	}
	_ = w.redisPart.note(nil)
	var away error
	var lost time.Duration
	for i, appid := range appids {
		begin := time.Now()
		token, expiresAt, err := w.read(readings[i], now)
		if token == "" {
			w.announcer.forget(appid)
		} else {
			err = w.announcer.offer(ctx, appid, token, expiresAt)
		}
		if err == nil || errors.Is(err, errUnusable) {
			w.faults.note(appid, err)
		} else if away == nil {
			away = err
		}
		if err == nil {
			continue
		}
		if lost += time.Since(begin); lost >= announceTimeout {
			break
		}
	}
	return away
}

// reasonOf returns why a transaction failed. Of one that was discarded, Redis says the reason in the
// answer to the command that it refused.
func reasonOf(err error, commands []redis.Cmder) error {
	discarded := func(err error) bool { return redis.HasErrorPrefix(err, "EXECABORT") }
	if discarded(err) {
		for _, command := range commands {
			if refused := command.Err(); refused != nil && !discarded(refused) {
				return refused
			}
		}
	}
	return err
}

// count counts the usable components for the metric.
func (w *watcher) count() { w.usable.Store(int64(w.announcer.usable())) }

// endless is what Redis says of the remaining time of a key that does not expire.
const endless = -1

// read returns the token of a key, "" if there is none, and when it expires, zero if it does not say.
func (w *watcher) read(r reading, now time.Time) (token string, expiresAt time.Time, err error) {
	value, err := r.value.Result()
	left := r.left.Val()
	switch {
	case isWrongType(err):
		return "", time.Time{}, unusable("the key holds something else than a string")
	case err != nil:
		return "", time.Time{}, err
	case left != endless && left <= 0: // there is no key, or it expires now
		return "", time.Time{}, nil
	case len(value) > maxValue:
		return "", time.Time{}, unusable("the value has more than %d bytes, which is too long for a token", maxValue)
	case value == "":
		return "", time.Time{}, unusable("the value is empty")
	}
	if left > 0 && left <= preauth.MaxTokenLife { // a longer time is not a token's
		expiresAt = now.Add(left)
	}
	if token, err = w.decode(value); err == nil && token == "" {
		err = unusable("the token is empty")
	}
	return token, expiresAt, err
}

const (
	// quiet is how long nothing is heard before the connection is tried.
	quiet = 30 * time.Second
	// listenAgain is the pause before another attempt to hear notifications.
	listenAgain = 5 * time.Second
)

// listen hears keyspace notifications until ctx ends: it sends the component of each key that
// changes, and "" when anything may have changed unheard.
func (w *watcher) listen(ctx context.Context, changes chan<- string) {
	defects := outage.NewDefects(w.session.log, time.Now)
	for ctx.Err() == nil {
		err := w.hear(ctx, changes)
		if ctx.Err() != nil {
			return
		}
		level := slog.LevelDebug // that Redis is away is logged elsewhere
		if _, refused := errors.AsType[redis.Error](err); refused {
			level = slog.LevelWarn
		}
		defects.Log(ctx, level, "keyspace notifications are not heard, so changes are found by polling", advised(err))
		pause.For(ctx, pause.Jittered(listenAgain))
	}
}

// hear hears notifications until the connection breaks.
func (w *watcher) hear(ctx context.Context, changes chan<- string) error {
	channel := fmt.Sprintf("__keyspace@%d__:", w.redis.Options().DB)
	var sub *redis.PubSub
	if w.only == nil {
		sub = w.redis.PSubscribe(ctx, channel+w.keys.glob())
	} else {
		channels := make([]string, len(w.only))
		for i, appid := range w.only {
			channels[i] = channel + w.keys.key(appid)
		}
		sub = w.redis.Subscribe(ctx, channels...)
	}
	defer sub.Close()
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	send := func(appid string) {
		select {
		case changes <- appid:
		case <-ctx.Done():
		}
	}
	tried := false
	for {
		heard, err := sub.ReceiveTimeout(ctx, quiet)
		if isTimeout(err) && !tried {
			if err = sub.Ping(ctx); err == nil {
				tried = true
				continue
			}
		}
		if err != nil {
			return err
		}
		tried = false
		switch m := heard.(type) {
		case *redis.Subscription:
			send("")
		case *redis.Message:
			if appid, ok := w.keys.appid(strings.TrimPrefix(m.Channel, channel)); ok {
				w.notified.Inc()
				send(appid)
			}
		}
	}
}
