package consumer

import (
	"context"
	"testing"
	"time"

	"preauth"
	"preauth/repo"
)

// A min_ttl is refused that a code need not have any more when it is given out: a code may be five
// seconds old then, or a tenth of its life if that is less.
func TestMinTTLThatNoCodeHas(t *testing.T) {
	issued := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for life, most := range map[time.Duration]time.Duration{
		30 * time.Minute:      1795 * time.Second,
		50 * time.Second:      45 * time.Second,
		40 * time.Second:      36 * time.Second,
		8 * time.Second:       7 * time.Second,
		8*time.Second + 1e8:   7 * time.Second,
		time.Minute + 500*1e6: 55 * time.Second,
	} {
		code := &repo.CurrentCode{Code: repo.Code{IssuedAt: issued, ExpiresAt: issued.Add(life)}}
		if err := checkMinTTL(most, code); err != nil {
			t.Errorf("%v of %v: %v", most, life, err)
		}
		want := minTTLError{int64(most / time.Second), int64(life / time.Second)}
		if err := checkMinTTL(most+time.Millisecond, code); err != want { //nolint:errorlint // not wrapped
			t.Errorf("more than %v of %v: %v, want %v", most, life, err, want)
		}
	}
}

// A request waits for a retry that comes while it waits.
func TestRetriesWithinARequest(t *testing.T) {
	now := time.Now()
	hour, cancel := context.WithDeadline(t.Context(), now.Add(time.Hour))
	defer cancel()
	for name, test := range map[string]struct {
		ctx     context.Context //nolint:containedctx // a request's
		retryAt time.Time
		want    bool
	}{
		"soon":               {hour, now.Add(30 * time.Minute), true},
		"due":                {hour, now.Add(-time.Minute), true},
		"too late":           {hour, now.Add(2 * time.Hour), false},
		"never":              {hour, time.Time{}, false},
		"without time limit": {t.Context(), now.Add(time.Second), false},
	} {
		if got := retriesWithin(test.ctx, &preauth.Failure{RetryAt: test.retryAt}, now); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
