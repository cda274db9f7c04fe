// Package pause waits. A pause ends with its context, and pauses of several replicas drift apart.
package pause

import (
	"context"
	"math/rand/v2"
	"time"
)

// For waits for d or for the end of ctx, and reports whether d is over.
func For(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Jittered returns d or up to a quarter more.
func Jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Int64N(int64(d)/4+1))
}
