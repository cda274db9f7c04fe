package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"

	"preauth/repo"
)

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

// untilAvailable repeats a call of package repo for as long as MySQL is away. It returns the call's
// other errors, and the error of ctx once that has ended. The health learns how the part fares.
func untilAvailable(ctx context.Context, health *health, part string, call func(context.Context) error) error {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 50*time.Millisecond, time.Second
	for {
		err := call(ctx)
		if ctx.Err() != nil && err != nil {
			return ctx.Err()
		}
		health.setUse(part, err)
		if !errors.Is(err, repo.ErrUnavailable) {
			return err
		}
		if !pause(ctx, retry.NextBackOff()) {
			return ctx.Err()
		}
	}
}
