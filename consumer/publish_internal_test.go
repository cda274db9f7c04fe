package consumer

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/view"
)

// The stream keeps an update until its code is dead, in whole seconds and at least one.
func TestLivesOfUpdates(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		update preauth.Update
		want   time.Duration
	}{
		"whole seconds":   {preauth.Update{ExpiresAt: now.Add(90 * time.Second)}, 90 * time.Second},
		"a bit more":      {preauth.Update{ExpiresAt: now.Add(90*time.Second + 1)}, 91 * time.Second},
		"a bit less":      {preauth.Update{ExpiresAt: now.Add(90*time.Second - 1)}, 90 * time.Second},
		"almost dead":     {preauth.Update{ExpiresAt: now.Add(1)}, time.Second},
		"dead":            {preauth.Update{ExpiresAt: now.Add(-time.Hour)}, time.Second},
		"a spent code":    {preauth.Update{ExpiresAt: now, Spent: true}, time.Minute},
		"spent long ago":  {preauth.Update{ExpiresAt: now.Add(-time.Hour), Spent: true}, time.Minute},
		"half an hour":    {preauth.Update{ExpiresAt: now.Add(30 * time.Minute)}, 30 * time.Minute},
		"at the very end": {preauth.Update{ExpiresAt: now}, time.Second},
	} {
		if got := ttlOf(test.update, now); got != test.want {
			t.Errorf("%s: kept for %v, want %v", name, got, test.want)
		}
	}
}

// An update need not be published that the stream holds, or a newer one, or once held a newer one.
func TestWhatTheStreamHolds(t *testing.T) {
	for name, test := range map[string]struct {
		stored view.Stored
		gone   bool
		want   bool
	}{
		"nothing":                  {view.Stored{}, false, false},
		"an older one":             {view.Stored{Revision: 6, Sequence: 1}, false, false},
		"this one":                 {view.Stored{Revision: 7, Sequence: 1}, false, true},
		"this one, which is gone":  {view.Stored{Revision: 7, Sequence: 1}, true, false},
		"a newer one":              {view.Stored{Revision: 8, Sequence: 1}, false, true},
		"a newer one that is gone": {view.Stored{Revision: 8, Sequence: 1}, true, true},
	} {
		codes := view.NewCodes()
		codes.SetStored("wx1", test.stored)
		if test.gone {
			codes.ForgetStored("wx1")
		}
		p := &publisher{codes: codes}
		if got := p.isStored(preauth.Update{AppID: "wx1", Revision: 7}); got != test.want {
			t.Errorf("%s: stored: %v, want %v", name, got, test.want)
		}
	}
}

// A revision that nobody can have is not believed: those that follow it would soon be impossible.
func TestCredibleRevisions(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		revision, known uint64
		credible        bool
	}{
		"the first":                    {1, 0, true},
		"the highest":                  {maxCredible, 0, true},
		"above the highest":            {maxCredible + 1, 0, false},
		"above all":                    {preauth.MaxRevision, 7, false},
		"a little above the known one": {maxCredible + maxAhead, maxCredible, true},
		"more above the known one":     {maxCredible + maxAhead + 1, maxCredible, false},
		"below, and far ahead of it":   {maxAhead + 2, 1, true},
		"below the known one, which is above all credible": {maxCredible + 1, maxCredible + 5, true},
	} {
		update := preauth.Update{
			AppID: "wx1", PreAuthCode: preauth.NewSecret("c"), IssuedAt: now, ExpiresAt: now.Add(time.Hour), Revision: test.revision, Cause: preauth.CauseToken,
		}
		got, err := parseStored(update.Encode(), test.known)
		if test.credible && (err != nil || got.Revision != test.revision) || !test.credible && (!errors.Is(err, errIncredible) || got.Revision != 0) {
			t.Errorf("%s: revision %d, %v", name, got.Revision, err)
		}
	}
	if _, err := parseStored([]byte("{}"), 0); err == nil || errors.Is(err, errIncredible) {
		t.Errorf("what is not an update: %v", err)
	}
}

// A stream whose last message is another one than expected is asked for it. Other refusals are
// failures.
func TestConflictsOfAnnouncements(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{&jetstream.APIError{ErrorCode: jetstream.JSErrCodeStreamWrongLastSequence}, true},
		{fmt.Errorf("publishing: %w", &jetstream.APIError{ErrorCode: jetstream.JSErrCodeStreamWrongLastSequenceConstant}), true},
		{&jetstream.APIError{ErrorCode: 10077}, false},
		{errors.New("no answer"), false},
	} {
		if got := isConflict(test.err); got != test.want {
			t.Errorf("%v: %v, want %v", test.err, got, test.want)
		}
	}
}
