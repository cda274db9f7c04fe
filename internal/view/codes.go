package view

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

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

// Stored is the last message that the stream of announcements holds for a component: the sequence,
// and of the update in it the revision and the end of the code's life. The zero Stored stands for
// none.
type Stored struct {
	Revision  uint64
	Sequence  uint64 // 0 for a message that was there and is gone
	ExpiresAt time.Time
}

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
	v.add(code)
}

func (v *Codes) add(code preauth.Update) {
	if known := v.codes[code.AppID]; known == nil || known.Revision < code.Revision {
		v.codes[code.AppID] = newCode(code)
	}
}

func newCode(code preauth.Update) *Code {
	return &Code{code, preauth.Lookup{
		AppID: code.AppID, PreAuthCode: code.PreAuthCode, IssuedAt: code.IssuedAt, ExpiresAt: code.ExpiresAt, Revision: code.Revision,
	}.Answer()}
}

// Correct takes in what MySQL says of a component, nil for no code, when it was read after seen was
// in the view. It reports whether MySQL contradicts seen: no replica has committed that code. Such
// a code is in the view no more, and what else the stream said of a code gives way to MySQL. A code
// that came since is not touched.
func (v *Codes) Correct(appid string, seen *Code, truth *preauth.Update) (contradicted bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	contradicted = seen != nil && (truth == nil || seen.Revision > truth.Revision ||
		seen.Revision == truth.Revision && !seen.PreAuthCode.Equal(truth.PreAuthCode))
	if seen != nil && v.codes[appid] == seen && (contradicted || seen.Revision == truth.Revision) {
		delete(v.codes, appid)
	}
	if truth != nil {
		v.add(*truth)
	}
	return contradicted
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

// ForgetStored notes that the message known of a component is not the stream's last one, or is gone.
// Its revision stays: no older one is to follow it.
func (v *Codes) ForgetStored(appid string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if stored, ok := v.stored[appid]; ok {
		stored.Sequence = 0
		v.stored[appid] = stored
	}
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

// AppIDs returns the components with a code.
func (v *Codes) AppIDs() []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.Collect(maps.Keys(v.codes))
}

// Len returns the number of components with a code.
func (v *Codes) Len() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.codes)
}

// StoredLen returns for how many components the stream is known to hold an update whose code lives.
// Others may go away by themselves.
func (v *Codes) StoredLen(now time.Time) int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	living := 0
	for _, stored := range v.stored {
		if stored.Sequence > 0 && stored.ExpiresAt.After(now) {
			living++
		}
	}
	return living
}
