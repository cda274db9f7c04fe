package consumer

import (
	"context"
	"math/rand/v2"
	"time"
)

// apiTimeout bounds a request to the JetStream API, and one look at MySQL.
const apiTimeout = 5 * time.Second

// pause waits for d or for the end of ctx, and reports whether d is over.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jittered returns d or up to a quarter more.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Int64N(int64(d)/4+1))
}
