package consumer

import (
	"cmp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"preauth"
	"preauth/internal/view"
	"preauth/repo"
)

// sparesAt returns spares without a database at a time that stands still, with a current code of wx1
// if there is an update.
func sparesAt(now time.Time, current ...preauth.Update) *spares {
	cfg := Config{Now: func() time.Time { return now }}.withDefaults()
	s := newSpares(cfg, nil, view.NewTokens(), view.NewCodes(), nil, nil, nil, nil)
	for _, update := range current {
		update.AppID, update.Revision = "wx1", cmp.Or(update.Revision, 1)
		s.codes.Add(update)
	}
	return s
}

// After a failure WeChat is not asked again with the same token, before it is time to try again or
// a renewal has succeeded.
func TestCooldownOfClaims(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	failed := now.Add(-time.Minute)
	token, other := repo.FingerprintOf(preauth.NewSecret("a")), repo.FingerprintOf(preauth.NewSecret("b"))
	issued := func(at time.Time) []preauth.Update {
		return []preauth.Update{{IssuedAt: at, ExpiresAt: at.Add(time.Hour)}}
	}
	for name, test := range map[string]struct {
		retryAt time.Time
		token   repo.Fingerprint
		current []preauth.Update
		cools   bool
	}{
		"it is not time yet":                     {now.Add(1), token, nil, true},
		"it is time":                             {now, token, nil, false},
		"it is past the time":                    {now.Add(-time.Second), token, nil, false},
		"given up":                               {time.Time{}, token, nil, true},
		"another token":                          {time.Time{}, other, nil, false},
		"renewed since":                          {time.Time{}, token, issued(failed.Add(1)), false},
		"renewed since, though it is not time":   {now.Add(time.Hour), token, issued(now), false},
		"renewed before":                         {time.Time{}, token, issued(failed.Add(-1)), true},
		"renewed when it failed":                 {time.Time{}, token, issued(failed), true},
		"another token, though it was given up":  {time.Time{}, other, issued(failed.Add(-1)), false},
		"renewed before, though it is time":      {now, token, issued(failed.Add(-1)), false},
		"renewed before, and it is not time yet": {now.Add(1), token, issued(failed.Add(-1)), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := sparesAt(now, test.current...)
			if f, cools := s.coolingDown("wx1", test.token); cools {
				t.Errorf("cools down before a failure: %+v", f)
			}
			failure := preauth.Failure{AppID: "wx1", Class: preauth.ClassTokenRejected, OccurredAt: failed, RetryAt: test.retryAt}
			s.coolDown("wx1", cooldown{failure, token})
			if _, cools := s.coolingDown("wx2", test.token); cools {
				t.Error("another component cools down")
			}
			f, cools := s.coolingDown("wx1", test.token)
			if cools != test.cools || cools && f != failure {
				t.Errorf("cools down: %v because of %+v, want %v", cools, f, test.cools)
			}
			// What is over stays over.
			if _, cools := s.coolingDown("wx1", token); cools != test.cools {
				t.Errorf("then cools down: %v, want %v", cools, test.cools)
			}
		})
	}
}

// A spare that is given has a minute left, and less where codes live for less than ten.
func TestLifeThatASpareMustHaveLeft(t *testing.T) {
	now := time.Now()
	lives := func(life time.Duration) preauth.Update {
		return preauth.Update{IssuedAt: now, ExpiresAt: now.Add(life)}
	}
	spent := lives(5 * time.Minute)
	spent.Spent = true
	for name, test := range map[string]struct {
		current []preauth.Update
		want    time.Duration
	}{
		"half an hour": {[]preauth.Update{lives(30 * time.Minute)}, time.Minute},
		"ten minutes":  {[]preauth.Update{lives(10 * time.Minute)}, time.Minute},
		"five minutes": {[]preauth.Update{lives(5 * time.Minute)}, 30 * time.Second},
		"spent":        {[]preauth.Update{spent}, time.Minute},
		"no code yet":  {nil, 0},
	} {
		if got := sparesAt(now, test.current...).minTTL("wx1"); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// The view of tokens may lag behind the one of codes for ten seconds.
func TestCodeThatIsNew(t *testing.T) {
	now := time.Now()
	if sparesAt(now).codeIsNew("wx1") {
		t.Error("no code is new")
	}
	for age, want := range map[time.Duration]bool{0: true, viewLag - 1: true, viewLag: false, time.Hour: false} {
		s := sparesAt(now, preauth.Update{IssuedAt: now.Add(-age), ExpiresAt: now.Add(time.Hour)})
		if got := s.codeIsNew("wx1"); got != want {
			t.Errorf("%v old: new: %v, want %v", age, got, want)
		}
	}
}

// A component is queued once, however often it may lack spares. If it may lack some again while
// they are made, it is looked at once more. Nothing is queued at the end of the service, or
// without spares.
func TestComponentsThatMayLackSparesAreQueuedOnce(t *testing.T) {
	s := sparesAt(time.Now())
	queued := func(when string, want ...string) {
		t.Helper()
		var got []string
		for appid, ok := s.next(); ok; appid, ok = s.next() {
			got = append(got, appid)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	s.topUp("wx1")
	s.topUp("wx2")
	if len(s.wake) != 1 {
		t.Error("nobody is told")
	}
	queued("at first", "wx1", "wx2")
	s.topUp("wx1")
	queued("while they are made")
	s.work(t.Context(), "wx1") // it has no code, so nothing is made
	s.work(t.Context(), "wx2")
	queued("afterwards", "wx1")
	s.work(t.Context(), "wx1")
	queued("after that")
	s.topUp("wx2")
	s.stop(true)
	s.topUp("wx1")
	queued("at the end")
	s.stop(false)
	s.topUp("wx2")
	s.topUp("wx1")
	queued("when it goes on", "wx2", "wx1")
	s.topUp("wx1")
	s.stop(true)
	s.work(t.Context(), "wx1")
	queued("at the end of what was begun")

	without := sparesAt(time.Now())
	without.perComponent = 0
	without.topUp("wx1")
	if _, ok := without.next(); ok {
		t.Error("queued, though there are to be no spares")
	}
}

// A component is topped up at its time, once, and may then be so again.
func TestComponentIsToppedUpAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sparesAt(time.Now())
		s.now = time.Now
		due := func(want bool) {
			t.Helper()
			synctest.Wait()
			appid, ok := s.next()
			if ok != want || ok && appid != "wx1" {
				t.Errorf("queued: %q, %v, want %v", appid, ok, want)
			}
			if ok {
				s.work(t.Context(), appid)
			}
		}
		later, sooner := time.Now().Add(2*time.Hour), time.Now().Add(time.Hour)
		s.topUpAt("wx1", later)
		s.topUpAt("wx1", sooner)
		<-time.After(time.Hour - 1)
		due(false)
		<-time.After(1)
		due(true)
		if !s.topUpAt("wx1", later.Add(time.Hour)) {
			t.Error("a time that has passed keeps later ones away")
		}
		<-time.After(time.Hour)
		due(true) // by the first timer
		if s.topUpAt("wx1", later.Add(time.Hour)) {
			t.Error("the first timer has dropped another one's time")
		}
		<-time.After(time.Hour)
		due(true)
		<-time.After(time.Hour)
		due(false)
	})
}

// Claims during an outage of WeChat don't pile up timers: an earlier pending timer wins.
func TestTimersForSparesDoNotPileUp(t *testing.T) {
	for name, test := range map[string]struct {
		waits []time.Duration
		set   int
	}{
		"later ones are dropped": {[]time.Duration{time.Hour, time.Hour, 2 * time.Hour}, 1},
		"an earlier one is set":  {[]time.Duration{2 * time.Hour, time.Hour}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpares(Config{}.withDefaults(), nil, view.NewTokens(), view.NewCodes(), nil, nil, nil, nil)
			s.stop(true) // a timer that fires does nothing
			now, set := time.Now(), 0
			for _, wait := range test.waits {
				if s.topUpAt("wx1", now.Add(wait)) {
					set++
				}
			}
			if set != test.set {
				t.Errorf("%d timers set, want %d", set, test.set)
			}
		})
	}
}
