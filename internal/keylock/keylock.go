// Package keylock locks by key: one holder for each key at a time.
package keylock

import (
	"context"
	"sync"
)

// Locks are locks that exist while somebody holds them or waits for them. The zero value is ready
// for use. It is safe for concurrent use.
type Locks struct {
	mu    sync.Mutex
	byKey map[string]*lock
}

type lock struct {
	free  chan struct{} // holds an item while nobody holds the lock
	users int           // the holder and those that wait
}

// Lock waits until nobody else holds the key's lock, and takes it. Call unlock once, unless err is
// not nil: it is the error of ctx, which ended first.
func (l *Locks) Lock(ctx context.Context, key string) (unlock func(), err error) {
	k := l.enter(key)
	select {
	case <-k.free:
		return func() { k.free <- struct{}{}; l.leave(key, k) }, nil
	case <-ctx.Done():
		l.leave(key, k)
		return nil, ctx.Err()
	}
}

func (l *Locks) enter(key string) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.byKey[key]
	if k == nil {
		if l.byKey == nil {
			l.byKey = map[string]*lock{}
		}
		k = &lock{free: make(chan struct{}, 1)}
		k.free <- struct{}{}
		l.byKey[key] = k
	}
	k.users++
	return k
}

func (l *Locks) leave(key string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.byKey, key)
	}
}

// Len returns the number of keys whose lock is held or waited for.
func (l *Locks) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byKey)
}
