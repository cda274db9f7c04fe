package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
)

const (
	// repeat is when a token is announced again although nothing changed, in case its stream lost it
	// and the connection stayed. A repetition costs the service a read.
	repeat = 10 * time.Minute
	// tolerance is how much a token's end may move without being announced. It comes from a remaining
	// time, which takes a moment to read.
	tolerance = 30 * time.Second
	// announceTimeout bounds one announcement.
	announceTimeout = 5 * time.Second
)

// announcer announces tokens: when they are new, when their end moves, when the connection to NATS
// was made anew, and now and then. It is for one goroutine.
type announcer struct {
	nc     *nats.Conn
	client *preauth.Client
	stream *part
	known  map[string]*announced // by appid
	// failing has the components whose last announcement failed.
	failing map[string]failure
	// storedAt is when the stream stored the last announcement, which was storedOf's.
	storedAt time.Time
	storedOf string

	stored, failed prometheus.Counter
}

// failure is that the announcements of a component fail.
type failure struct {
	at    time.Time // of the last one
	alone bool      // the stream stores those of others
}

// announced is what is known of a component's token.
type announced struct {
	token preauth.Secret
	since time.Time // when it was seen first

	at        time.Time // of the last announcement; zero if there was none
	expiresAt time.Time // as announced
	reconnect uint64    // how often NATS was connected anew before it
	unusable  bool      // it is no token, or an old one
}

func newAnnouncer(s *session) *announcer {
	results := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "preauth_bridge_announcements_total", Help: "Announcements of tokens: stored by the stream, or failed.",
	}, []string{"result"})
	a := &announcer{
		nc: s.nc, client: s.client, stream: s.part("token stream", "stream"), known: map[string]*announced{},
		failing: map[string]failure{}, stored: results.WithLabelValues("stored"), failed: results.WithLabelValues("failed"),
	}
	_ = a.stream.note(nil) // it counts as there until an announcement fails: there may be none to make
	s.registry.MustRegister(results)
	return a
}

// offer announces a token if that is due. A zero expiresAt means that nobody knows when the token
// expires: it then lives as long as WeChat's tokens do, from when it was seen first. The error wraps
// [errUnusable] if only this token cannot be announced.
func (a *announcer) offer(ctx context.Context, appid, token string, expiresAt time.Time) (err error) {
	now, secret := time.Now(), preauth.NewSecret(token)
	last := a.known[appid]
	if last == nil || !last.token.Equal(secret) {
		last = &announced{token: secret, since: now}
		a.known[appid] = last
	}
	defer func() { last.unusable = errors.Is(err, errUnusable) }()
	if expiresAt.IsZero() {
		if expiresAt = last.since.Add(preauth.DefaultTokenLife); !expiresAt.After(now) {
			return unusable("the token is the same for longer than tokens live: see why its service does not renew it")
		}
	}
	reconnects := a.nc.Stats().Reconnects
	if !expiresAt.After(now) || now.Sub(last.at) < repeat && expiresAt.Sub(last.expiresAt).Abs() < tolerance && reconnects == last.reconnect {
		return nil
	}
	if !a.nc.IsConnected() { // the client would send it whenever it can, though it may be old by then
		return nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	err = a.client.Announce(ctx, preauth.TokenEvent{AppID: appid, Token: secret, ExpiresAt: expiresAt})
	switch {
	case errors.Is(err, preauth.ErrInvalid):
		a.failed.Inc()
		return unusable("%w", err)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		err = fmt.Errorf("%w: there is no stream for it, so start preauth, which creates one, or correct --subject-prefix ($PREAUTH_SUBJECT_PREFIX)", err)
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("%w: no stream answers, so start preauth, which creates one, or give the user the rights and the inbox of the role tokens", err)
	}
	if err != nil {
		a.failed.Inc()
		return a.refused(appid, now, err)
	}
	a.stored.Inc()
	a.storedAt, a.storedOf = time.Now(), appid
	delete(a.failing, appid)
	last.at, last.expiresAt, last.reconnect = now, expiresAt, reconnects
	return a.stream.note(nil)
}

// refused notes that an announcement failed which began at a time, and returns the error. If that of
// another component was stored just before, or since this one's failed the last time, the stream is
// there and refuses this component alone.
func (a *announcer) refused(appid string, began time.Time, err error) error {
	if errors.Is(err, context.Canceled) { // the bridge stops
		return err
	}
	before, again := a.failing[appid]
	others := a.storedOf != appid && (began.Sub(a.storedAt) < announceTimeout || again && a.storedAt.After(before.at))
	alone := before.alone || others
	a.failing[appid] = failure{time.Now(), alone}
	if alone {
		return unusable("%w", err)
	}
	return a.stream.note(err)
}

// sorted returns components in the order to offer their tokens in: those whose announcement failed
// come last, so that they hold up no other, and the one that failed longest ago comes first of them.
func (a *announcer) sorted(appids map[string]bool) []string {
	sorted := slices.Sorted(maps.Keys(appids))
	slices.SortStableFunc(sorted, func(x, y string) int { return a.failing[x].at.Compare(a.failing[y].at) })
	return sorted
}

// forget drops what is known of a component, which has no token that can be read.
func (a *announcer) forget(appid string) {
	delete(a.known, appid)
	delete(a.failing, appid)
}

// forgetExcept drops what is known of components that are not present.
func (a *announcer) forgetExcept(present map[string]bool) {
	maps.DeleteFunc(a.known, func(appid string, _ *announced) bool { return !present[appid] })
	maps.DeleteFunc(a.failing, func(appid string, _ failure) bool { return !present[appid] })
}

// usable returns how many components have a token that can be announced.
func (a *announcer) usable() (n int) {
	for _, known := range a.known {
		if !known.unusable {
			n++
		}
	}
	return n
}
