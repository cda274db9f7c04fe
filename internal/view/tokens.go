// Package view holds what a replica has read from the streams: the newest token and the current
// code of each component. Views are memory, never the truth: MySQL decides.
package view

import (
	"context"
	"sync"
	"time"

	"preauth"
	"preauth/repo"
)

// Tokens is the newest token of each component. It outlives the stream it was read from, because a
// token stays valid when its stream is deleted. It is safe for concurrent use.
type Tokens struct {
	caughtUp chan struct{} // closed when the stream was read to its end once
	onceUp   func()

	mu     sync.RWMutex
	newest map[string]Token
	swept  time.Time
	// read is the sequence of the event that was read last. progress is closed at the next one; it is
	// nil while nobody waits.
	read     uint64
	progress chan struct{}
}

// Token is a token as it was announced.
type Token struct {
	preauth.TokenEvent
	Position    repo.Position
	Fingerprint repo.Fingerprint
	// first is the position of the first of the consecutive events that announced this very token; nil
	// where this event is the first.
	first *repo.Position
}

// First returns the position of the first of the consecutive events that announced this very token.
func (t *Token) First() repo.Position {
	if t.first != nil {
		return *t.first
	}
	return t.Position
}

// NewTokens returns an empty view.
func NewTokens() *Tokens {
	v := &Tokens{caughtUp: make(chan struct{}), newest: map[string]Token{}}
	v.onceUp = sync.OnceFunc(func() { close(v.caughtUp) })
	return v
}

// Add takes in an event, unless its token is dead or a newer event was taken in before.
func (v *Tokens) Add(event preauth.TokenEvent, position repo.Position, now time.Time) {
	if !event.ExpiresAt.After(now) {
		return
	}
	token := Token{event, position, repo.FingerprintOf(event.Token), nil}
	v.mu.Lock()
	defer v.mu.Unlock()
	if known, ok := v.newest[event.AppID]; !ok || position.After(known.Position) {
		// Where the order of two events is disputed, the earlier one may be lost: it must not keep the
		// later one from being worked on.
		if ok && known.Fingerprint == token.Fingerprint && !known.First().After(position) {
			first := known.First()
			token.first = &first
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

// Newest returns a component's newest token. It reports false if there is none or it has expired.
func (v *Tokens) Newest(appid string, now time.Time) (Token, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	token, ok := v.newest[appid]
	return token, ok && token.ExpiresAt.After(now)
}

// Superseded reports whether the stream holds a newer event of the component whose token was alive
// when it was read. Events that announce a token again do not supersede the first one.
func (v *Tokens) Superseded(appid string, position repo.Position) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	token, ok := v.newest[appid]
	first := token.First()
	return ok && (first.After(position) || position.After(first) && token.Position.After(position))
}

// FirstOf returns the position of the first event that announced the token: the zero Position if that
// is the given event, or is not known. The view has to have read the events before this one, and need
// not have read this one: see [Tokens.Await].
func (v *Tokens) FirstOf(appid string, event repo.Token) repo.Position {
	v.mu.RLock()
	defer v.mu.RUnlock()
	token, ok := v.newest[appid]
	if first := token.First(); ok && token.Fingerprint == event.Fingerprint && event.Position.After(first) {
		return first
	}
	return repo.Position{}
}

// Restart notes that the stream is read from its beginning.
func (v *Tokens) Restart() { v.Read(0) }

// Read notes that all events up to a sequence have been taken in.
func (v *Tokens) Read(sequence uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.read = sequence
	if v.progress != nil {
		close(v.progress)
		v.progress = nil
	}
}

// MarkCaughtUp notes that the stream was read to its end.
func (v *Tokens) MarkCaughtUp() { v.onceUp() }

// CaughtUp reports whether the stream was read to its end once. Before, a token that is not here may
// be in the stream.
func (v *Tokens) CaughtUp() bool {
	select {
	case <-v.caughtUp:
		return true
	default:
		return false
	}
}

// maxLag bounds the time for which an event waits for the view.
const maxLag = time.Second

// Await waits until the events before a sequence have been read, for at most a second. They mostly
// have.
func (v *Tokens) Await(ctx context.Context, sequence uint64) {
	progress := v.unread(sequence)
	if progress == nil {
		return
	}
	late := time.NewTimer(maxLag)
	defer late.Stop()
	for ; progress != nil; progress = v.unread(sequence) {
		select {
		case <-progress:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// unread returns nil if the events before a sequence have been read. Otherwise the channel is closed
// at the next one.
func (v *Tokens) unread(sequence uint64) <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.read+1 >= sequence {
		return nil
	}
	if v.progress == nil {
		v.progress = make(chan struct{})
	}
	return v.progress
}

// Len returns the number of components.
func (v *Tokens) Len() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.newest)
}
