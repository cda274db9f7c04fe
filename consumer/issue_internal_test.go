package consumer

import (
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/repo"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// Each class of failure has a wait of its own, jittered by up to a quarter.
func TestWaitsAfterFailures(t *testing.T) {
	d := Config{}.withDefaults().Delays
	noon := time.Date(2026, 11, 30, 12, 0, 0, 0, china)
	night := time.Date(2026, 11, 30, 23, 50, 0, 0, china)
	for name, test := range map[string]struct {
		class    preauth.Class
		attempt  int
		fresh    bool
		now      time.Time
		min, max time.Duration
		again    bool
	}{
		"transient":                      {preauth.ClassTransient, 1, false, noon, 200 * time.Millisecond, 250 * time.Millisecond, true},
		"transient again":                {preauth.ClassTransient, 2, false, noon, 400 * time.Millisecond, 500 * time.Millisecond, true},
		"the last time that is doubled":  {preauth.ClassTransient, 6, false, noon, 6400 * time.Millisecond, 8 * time.Second, true},
		"transient for long":             {preauth.ClassTransient, 7, false, noon, 10 * time.Second, 12500 * time.Millisecond, true},
		"transient for weeks":            {preauth.ClassTransient, 100_000, false, noon, 10 * time.Second, 12500 * time.Millisecond, true},
		"a bad reply":                    {preauth.ClassBadReply, 2, false, noon, 400 * time.Millisecond, 500 * time.Millisecond, true},
		"throttled":                      {preauth.ClassThrottled, 1, false, noon, time.Minute, 75 * time.Second, true},
		"the quota is used up at noon":   {preauth.ClassQuota, 1, false, noon, 30 * time.Minute, 38 * time.Minute, true},
		"the quota is used up at night":  {preauth.ClassQuota, 1, false, night, 10 * time.Minute, 11 * time.Minute, true},
		"the same night elsewhere":       {preauth.ClassQuota, 1, false, night.UTC(), 10 * time.Minute, 11 * time.Minute, true},
		"an address that is not allowed": {preauth.ClassAddressNotAllowed, 1, false, noon, time.Minute, 75 * time.Second, true},
		"an account that cannot":         {preauth.ClassConfiguration, 1, false, noon, time.Minute, 75 * time.Second, true},
		"unknown":                        {preauth.ClassUnknown, 1, false, noon, 2 * time.Second, 2 * time.Second, true},
		"unknown again":                  {preauth.ClassUnknown, 2, false, noon, time.Minute, 75 * time.Second, true},
		"a fresh token is rejected":      {preauth.ClassTokenRejected, 1, true, noon, 2 * time.Second, 2 * time.Second, true},
		"a token is rejected":            {preauth.ClassTokenRejected, 1, false, noon, 0, time.Hour, false},
		"a request that is wrong":        {preauth.ClassRequest, 1, true, noon, 0, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			for range 100 {
				wait, again := d.after(test.class, test.attempt, test.fresh, test.now)
				if wait < test.min || wait > test.max || again != test.again {
					t.Fatalf("waits for %v, again: %v; want %v to %v, %v", wait, again, test.min, test.max, test.again)
				}
			}
		})
	}
	long := Delays{Transient: 24 * time.Hour, TransientMax: 25 * time.Hour}
	if wait, _ := long.after(preauth.ClassTransient, 100, false, noon); wait < 25*time.Hour {
		t.Errorf("waits for %v where doubling the wait is beyond all numbers", wait)
	}
}

// A code is renewed when a quarter of its life is left, or a little earlier, since codes that were
// made at the same time are not to be renewed at the same time.
func TestCodesAreRenewedInTheirLastQuarter(t *testing.T) {
	issued := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	code := repo.Code{IssuedAt: issued, ExpiresAt: issued.Add(100 * time.Minute)}
	first, last := code.ExpiresAt, issued
	for range 1000 {
		at := renewAt(&code)
		if at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	if first.Before(issued.Add(73*time.Minute)) || last.After(issued.Add(75*time.Minute)) || last.Sub(first) < time.Minute {
		t.Errorf("renewed %v to %v after it was made", first.Sub(issued), last.Sub(issued))
	}
}

// A failure is tried again while the token lives. After that only a newer token helps.
func TestFailuresAreRetriedWhileTheTokenLives(t *testing.T) {
	now := time.Date(2026, 11, 30, 20, 0, 0, 1_500, china)
	ends := now.Add(time.Hour)
	for name, test := range map[string]struct {
		retryAt, want time.Time
	}{
		"before the token ends": {ends.Add(-time.Second), ends.Add(-time.Second).Truncate(time.Microsecond)},
		"when the token ends":   {ends, time.Time{}},
		"after the token ends":  {ends.Add(time.Second), time.Time{}},
		"never":                 {time.Time{}, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			position := repo.Position{Stream: "COMPONENT_TOKENS", Sequence: 7}
			outcome := repo.Outcome{AppID: "wx1", Code: &repo.Code{}, Token: repo.Token{Position: position, ExpiresAt: ends}}
			got := fail(outcome, &wechat.Error{Class: preauth.ClassConfiguration, ErrCode: 48001, RID: "r", RequestIP: "203.0.113.1"}, 3, now, test.retryAt)
			f := got.Failure
			if f == nil || got.Code != nil || !got.At.Equal(now) || !got.DueAt.Equal(test.want) || !f.RetryAt.Equal(test.want) || got.FailureID == "" {
				t.Fatalf("got %+v with %+v", got, f)
			}
			want := preauth.Failure{
				AppID: "wx1", Class: preauth.ClassConfiguration, ErrCode: 48001, RID: "r", RequestIP: "203.0.113.1", Stream: "COMPONENT_TOKENS",
				StreamSequence: 7, Attempt: 3, OccurredAt: now.UTC().Truncate(time.Microsecond),
				ErrMsg: f.ErrMsg, RetryAt: f.RetryAt,
			}
			if *f != want || !strings.Contains(f.ErrMsg, "48001") {
				t.Errorf("got %+v, want %+v", *f, want)
			}
		})
	}
}

// A failure that passes is recorded after the calls that an order allows, or when the next wait is
// too long.
func TestCallsBeforeAFailureIsRecorded(t *testing.T) {
	for name, test := range map[string]struct {
		fault wechattest.Fault
		tries int
		calls int
	}{
		"one":                {wechattest.HTTPStatus(503), 1, 1},
		"three":              {wechattest.HTTPStatus(503), 3, 3},
		"a long wait":        {wechattest.Error(45011, ""), 3, 1},
		"no wait would help": {wechattest.Error(47001, ""), 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuotaRig(t, 0)
			q.wechat.Every(func(wechattest.Call) wechattest.Fault { return test.fault })
			i := q.replica()
			i.delays.Transient = time.Millisecond
			outcome, err := i.issue(t.Context(), order{
				outcome: repo.Outcome{AppID: quotaAppID, Token: repo.Token{ExpiresAt: q.clock().Add(time.Hour)}},
				secret:  q.token, issuedAt: q.clock().Add(-time.Hour), attempts: 4, tries: test.tries, unwanted: func() bool { return false },
			})
			if err != nil || outcome.Failure == nil || outcome.Failure.Attempt != 4+test.calls {
				t.Errorf("got %+v, %v", outcome.Failure, err)
			}
			if n := q.wechat.Count(quotaAppID); n != test.calls {
				t.Errorf("%d calls, want %d", n, test.calls)
			}
		})
	}
}
