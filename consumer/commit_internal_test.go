package consumer

import (
	"testing"
	"time"

	"preauth"
)

// A lasting failure is announced again when it says something new or the attempt count doubles.
func TestFailuresWorthAnnouncing(t *testing.T) {
	last := preauth.Failure{
		Class: preauth.ClassAddressNotAllowed, ErrCode: 61004, RequestIP: "203.0.113.1", Stream: "TOKENS", StreamSequence: 7,
		Attempt: 5, RetryAt: time.Now(), RID: "1",
	}
	for name, test := range map[string]struct {
		change func(*preauth.Failure)
		new    bool
	}{
		"the same again":         {func(f *preauth.Failure) { f.RID, f.RetryAt = "2", f.RetryAt.Add(time.Minute) }, false},
		"twice as many attempts": {func(f *preauth.Failure) { f.Attempt = 8 }, true},
		"another class":          {func(f *preauth.Failure) { f.Class = preauth.ClassTransient }, true},
		"another errcode":        {func(f *preauth.Failure) { f.ErrCode = 40164 }, true},
		"another address":        {func(f *preauth.Failure) { f.RequestIP = "203.0.113.2" }, true},
		"another event":          {func(f *preauth.Failure) { f.StreamSequence = 8 }, true},
		"another stream":         {func(f *preauth.Failure) { f.Stream = "T" }, true},
		"given up":               {func(f *preauth.Failure) { f.RetryAt = time.Time{} }, true},
	} {
		failure := last
		failure.Attempt++
		test.change(&failure)
		if got := isNews(&failure, &last); got != test.new {
			t.Errorf("%s: isNews is %v, want %v", name, got, test.new)
		}
	}
}
