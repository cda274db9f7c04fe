package view

import (
	"context"
	"sync"

	"preauth"
)

// Codes is the current code of each component, and the last message that the stream of
// announcements holds for it. It is safe for concurrent use.
type Codes struct {
	caughtUp chan struct{} // closed when the stream was read to its end once
	onceUp   func()

	mu     sync.RWMutex
	codes  map[string]*Code
	stored map[string]Stored
}

// Code is a current code. It must not be changed.
type Code struct {
	preauth.Update
	// Answer is the answer to look-ups, encoded once for all of them.
	Answer preauth.LookupAnswer
}

// Stored is the last message that the stream of announcements holds for a component. The zero Stored
// stands for none.
type Stored struct{ Revision, Sequence uint64 }

// NewCodes returns an empty view.
func NewCodes() *Codes {
	v := &Codes{caughtUp: make(chan struct{}), codes: map[string]*Code{}, stored: map[string]Stored{}}
	v.onceUp = sync.OnceFunc(func() { close(v.caughtUp) })
	return v
}

// Add takes in a code, unless a newer one is known.
func (v *Codes) Add(code preauth.Update) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if known := v.codes[code.AppID]; known != nil && known.Revision >= code.Revision {
		return
	}
	v.codes[code.AppID] = &Code{code, preauth.Lookup{
		AppID: code.AppID, PreAuthCode: code.PreAuthCode, IssuedAt: code.IssuedAt, ExpiresAt: code.ExpiresAt, Revision: code.Revision,
	}.Answer()}
}

// Current returns the newest code known of a component, nil if there is none. It may have expired.
func (v *Codes) Current(appid string) *Code {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.codes[appid]
}

// SetStored notes that the stream holds an update as the message with the sequence.
func (v *Codes) SetStored(appid string, stored Stored) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if stored.Sequence > v.stored[appid].Sequence {
		v.stored[appid] = stored
	}
}

// ForgetStored notes that what is known of the stream's last message for a component was wrong.
func (v *Codes) ForgetStored(appid string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.stored, appid)
}

// Restart notes that another stream is read, from its beginning: what the one before held says
// nothing of it. The codes stay.
func (v *Codes) Restart() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.stored)
}

// LastStored returns the stream's last message for a component. It is a guess: other replicas publish
// too.
func (v *Codes) LastStored(appid string) Stored {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.stored[appid]
}

// MarkCaughtUp notes that the stream was read to its end.
func (v *Codes) MarkCaughtUp() { v.onceUp() }

// AwaitCaughtUp waits until the stream was read to its end once. The error is that of ctx.
func (v *Codes) AwaitCaughtUp(ctx context.Context) error {
	select {
	case <-v.caughtUp:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Len returns the number of components with a code.
func (v *Codes) Len() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.codes)
}

// StoredLen returns for how many components the stream is known to hold a message.
func (v *Codes) StoredLen() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.stored)
}
