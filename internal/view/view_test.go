package view_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"preauth"
	"preauth/internal/view"
	"preauth/repo"
)

var (
	now     = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	created = now.Add(-24 * time.Hour)
)

func at(sequence uint64, after time.Duration) repo.Position {
	return repo.Position{Stream: "COMPONENT_TOKENS", StreamCreated: created, Sequence: sequence, Time: now.Add(after)}
}

func event(token string, expiresAt time.Time) preauth.TokenEvent {
	return preauth.TokenEvent{AppID: "wx1", Token: preauth.NewSecret(token), ExpiresAt: expiresAt}
}

func TestNewestTokenIsKept(t *testing.T) {
	later := now.Add(time.Hour)
	v := view.NewTokens()
	if _, ok := v.Newest("wx1", now); ok {
		t.Error("a token that was never added")
	}
	v.Add(event("a", later), at(2, 0), now)
	v.Add(event("old", later), at(1, -time.Second), now)
	v.Add(event("dead", now), at(3, 0), now)
	if token, ok := v.Newest("wx1", now); !ok || token.Token.Reveal() != "a" || token.Position != at(2, 0) {
		t.Errorf("position %+v, %v, want the newest that lives", token.Position, ok)
	}
	if _, ok := v.Newest("wx1", later); ok {
		t.Error("a token that has expired")
	}
	if n := v.Len(); n != 1 {
		t.Errorf("%d components", n)
	}
	// Dead tokens are forgotten in time.
	other := event("b", later.Add(time.Hour))
	other.AppID = "wx2"
	v.Add(other, at(4, time.Hour), later)
	if n := v.Len(); n != 1 {
		t.Errorf("%d components, want the one whose token lives", n)
	}
}

func TestSuperseded(t *testing.T) {
	type added struct {
		token    string
		position repo.Position
	}
	for name, test := range map[string]struct {
		added    []added
		position repo.Position
		want     bool
	}{
		"nothing known":                     {nil, at(1, 0), false},
		"the newest":                        {[]added{{"a", at(1, 0)}, {"b", at(2, 0)}}, at(2, 0), false},
		"one before":                        {[]added{{"a", at(1, 0)}, {"b", at(2, 0)}}, at(1, 0), true},
		"the first of its token":            {[]added{{"a", at(1, 0)}, {"a", at(2, 0)}, {"a", at(3, 0)}}, at(1, 0), false},
		"between":                           {[]added{{"a", at(1, 0)}, {"a", at(2, 0)}, {"a", at(3, 0)}}, at(2, 0), true},
		"the last of its token":             {[]added{{"a", at(1, 0)}, {"a", at(2, 0)}, {"a", at(3, 0)}}, at(3, 0), false},
		"its token came again after others": {[]added{{"a", at(1, 0)}, {"b", at(2, 0)}, {"a", at(3, 0)}}, at(1, 0), true},
		// The stream lost messages, or its server's clock was put back. The event before may be lost, so the
		// one that comes is worked on.
		"rolled back":         {[]added{{"a", at(9, 0)}, {"a", at(4, 2*time.Minute)}}, at(4, 2*time.Minute), false},
		"the clock went back": {[]added{{"a", at(4, 2*time.Minute)}, {"a", at(9, 0)}}, at(9, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			v := view.NewTokens()
			for _, a := range test.added {
				v.Add(event(a.token, now.Add(time.Hour)), a.position, now)
			}
			if got := v.Superseded("wx1", test.position); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if v.Superseded("wx2", test.position) {
				t.Error("an event of another component is superseded")
			}
		})
	}
}

func TestFirstEventOfAToken(t *testing.T) {
	token := func(token string, position repo.Position) repo.Token {
		return repo.Token{Position: position, Fingerprint: repo.FingerprintOf(preauth.NewSecret(token))}
	}
	v := view.NewTokens()
	v.Add(event("a", now.Add(time.Hour)), at(5, 0), now)
	for name, test := range map[string]struct {
		event repo.Token
		want  repo.Position
	}{
		"itself":           {token("a", at(5, 0)), repo.Position{}},
		"a repetition":     {token("a", at(7, time.Second)), at(5, 0)},
		"another token":    {token("b", at(7, time.Second)), repo.Position{}},
		"an earlier event": {token("a", at(4, -time.Second)), repo.Position{}},
	} {
		if got := v.FirstOf("wx1", test.event); got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
	// Once the repetition is read, the first event stays the first.
	v.Add(event("a", now.Add(time.Hour)), at(7, time.Second), now)
	if got := v.FirstOf("wx1", token("a", at(7, time.Second))); got != at(5, 0) {
		t.Errorf("got %+v", got)
	}
}

// An event waits for the view to have read those before it, which may have announced its token.
func TestEventWaitsForThoseBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := view.NewTokens()
		waited := make(chan time.Duration)
		begin := time.Now()
		wait := func(sequence uint64) { go func() { v.Await(t.Context(), sequence); waited <- time.Since(begin) }() }

		wait(1)
		if took := <-waited; took != 0 {
			t.Errorf("the first event waited for %v", took)
		}
		v.Read(5)
		wait(8)
		synctest.Wait()
		<-time.After(time.Millisecond)
		v.Read(6)
		<-time.After(time.Millisecond)
		v.Read(7)
		if took := <-waited; took != 2*time.Millisecond {
			t.Errorf("event 8 waited for %v, event 7 was read after 2ms", took)
		}
		wait(100)
		if took := <-waited; took > 2*time.Second {
			t.Errorf("waited for %v", took)
		}
		v.Restart()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		begin = time.Now()
		v.Await(ctx, 8)
		if took := time.Since(begin); took != time.Millisecond {
			t.Errorf("a stream that is read anew was waited on for %v", took)
		}
	})
}

func TestTokensCaughtUp(t *testing.T) {
	v := view.NewTokens()
	if v.CaughtUp() {
		t.Error("caught up before anything was read")
	}
	v.MarkCaughtUp()
	v.MarkCaughtUp()
	v.Restart()
	if !v.CaughtUp() {
		t.Error("not caught up, and it was once")
	}
}

func TestNewestCodeIsKept(t *testing.T) {
	v := view.NewCodes()
	for _, revision := range []uint64{1, 3, 2} {
		v.Add(preauth.Update{
			AppID: "wx1", Revision: revision, PreAuthCode: preauth.NewSecret(fmt.Sprint(revision)),
			IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		})
	}
	v.Add(preauth.Update{AppID: "wx1", Revision: 3, PreAuthCode: preauth.NewSecret("another")})
	code := v.Current("wx1")
	if code == nil || code.Revision != 3 || code.PreAuthCode.Reveal() != "3" {
		t.Fatalf("got %+v", code)
	}
	answer, err := preauth.ParseLookup(code.Answer.Append(nil, 90*time.Second))
	if err != nil || answer.Revision != 3 || !answer.PreAuthCode.Equal(code.PreAuthCode) || answer.ExpiresIn != 90*time.Second {
		t.Errorf("the answer says %+v, %v", answer, err)
	}
	if v.Current("wx2") != nil || v.Len() != 1 {
		t.Errorf("%d components, and one that was never added", v.Len())
	}
}

// What MySQL contradicts is in the view no more, and what came since MySQL was asked stays.
func TestCorrect(t *testing.T) {
	code := func(revision uint64, code string) *preauth.Update {
		return &preauth.Update{AppID: "wx1", Revision: revision, PreAuthCode: preauth.NewSecret(code), IssuedAt: now, ExpiresAt: now.Add(time.Hour)}
	}
	for name, test := range map[string]struct {
		seen, since, truth *preauth.Update
		contradicted       bool
		want               *preauth.Update
	}{
		"nothing anywhere":              {},
		"MySQL has one":                 {truth: code(3, "c"), want: code(3, "c")},
		"the same":                      {seen: code(3, "c"), truth: code(3, "c"), want: code(3, "c")},
		"MySQL has a newer one":         {seen: code(2, "b"), truth: code(3, "c"), want: code(3, "c")},
		"a revision that MySQL has not": {seen: code(9, "x"), truth: code(3, "c"), contradicted: true, want: code(3, "c")},
		"another code of that revision": {seen: code(3, "x"), truth: code(3, "c"), contradicted: true, want: code(3, "c")},
		"MySQL has none":                {seen: code(3, "x"), contradicted: true},
		"committed since":               {seen: code(3, "c"), since: code(4, "d"), truth: code(3, "c"), want: code(4, "d")},
		"false, and committed since":    {seen: code(9, "x"), since: code(10, "d"), truth: code(3, "c"), contradicted: true, want: code(10, "d")},
	} {
		t.Run(name, func(t *testing.T) {
			v := view.NewCodes()
			if test.seen != nil {
				v.Add(*test.seen)
			}
			seen := v.Current("wx1")
			if test.since != nil {
				v.Add(*test.since)
			}
			if got := v.Correct("wx1", seen, test.truth); got != test.contradicted {
				t.Errorf("contradicted: %v, want %v", got, test.contradicted)
			}
			got := v.Current("wx1")
			if (got == nil) != (test.want == nil) || got != nil && (got.Revision != test.want.Revision || !got.PreAuthCode.Equal(test.want.PreAuthCode)) {
				t.Errorf("the view has %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestLastStored(t *testing.T) {
	stored := func(revision, sequence uint64) view.Stored {
		return view.Stored{Revision: revision, Sequence: sequence, ExpiresAt: now.Add(time.Hour)}
	}
	v := view.NewCodes()
	v.SetStored("wx1", stored(2, 20))
	v.SetStored("wx1", stored(3, 10)) // learnt late
	if got := v.LastStored("wx1"); got != stored(2, 20) {
		t.Errorf("got %+v, want the message that came last", got)
	}
	v.ForgetStored("wx1")
	if got := v.LastStored("wx1"); got != stored(2, 0) || v.StoredLen(now) != 0 {
		t.Errorf("got %+v of %d, want the revision of the message that is gone", got, v.StoredLen(now))
	}
	v.SetStored("wx1", stored(1, 5))
	v.SetStored("wx2", stored(1, 6))
	if got := v.LastStored("wx1"); got != stored(1, 5) || v.StoredLen(now) != 2 {
		t.Errorf("got %+v of %d, want what was learnt anew", got, v.StoredLen(now))
	}
	if n := v.StoredLen(now.Add(time.Hour)); n != 0 {
		t.Errorf("the stream has to hold %d updates of codes that have expired", n)
	}
	v.ForgetStored("wx3")
	if got := v.LastStored("wx3"); got != (view.Stored{}) {
		t.Errorf("got %+v of a component that was never stored", got)
	}
	v.Add(preauth.Update{AppID: "wx1", Revision: 1})
	v.Restart()
	if got := v.LastStored("wx1"); got != (view.Stored{}) || v.StoredLen(now) != 0 || v.Len() != 1 {
		t.Errorf("got %+v of %d, and %d codes: another stream holds nothing, and the codes stay", got, v.StoredLen(now), v.Len())
	}
}

func TestCodesCaughtUp(t *testing.T) {
	v := view.NewCodes()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.AwaitCaughtUp(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v before anything was read", err)
	}
	v.MarkCaughtUp()
	v.MarkCaughtUp()
	if err := v.AwaitCaughtUp(t.Context()); err != nil {
		t.Error(err)
	}
}
