package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/natsserver"
	"preauth/internal/outage"
	"preauth/internal/view"
	"preauth/repo"
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
		got, err := parseStored("wx1", update.Encode(), test.known)
		if test.credible && (err != nil || got.Revision != test.revision) || !test.credible && (!errors.Is(err, errIncredible) || got.Revision != 0) {
			t.Errorf("%s: revision %d, %v", name, got.Revision, err)
		}
	}
	if _, err := parseStored("wx1", []byte("{}"), 0); err == nil || errors.Is(err, errIncredible) {
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

// A failed attempt is a reason for as long as something is left to do.
func TestFailedAnnouncementsAreForgotten(t *testing.T) {
	now := time.Now()
	alive, dead := now.Add(time.Hour), now.Add(-time.Second)
	code := func(expiresAt time.Time) repo.Announcement {
		return repo.Announcement{MessageID: "wx1.7", AppID: "wx1", Update: &preauth.Update{AppID: "wx1", Revision: 7, ExpiresAt: expiresAt}}
	}
	for name, test := range map[string]struct {
		announcement repo.Announcement
		ago          time.Duration // the attempt
		waiting      bool          // a row in the outbox
		underWay     bool
		stored       uint64 // the revision that the stream holds
		forgotten    bool
	}{
		"it waits in the outbox":           {code(alive), time.Minute, true, false, 0, false},
		"it is tried again":                {code(alive), time.Minute, false, true, 0, false},
		"it was published again from here": {code(alive), time.Minute, false, false, 0, false},
		"another replica published it":     {code(alive), time.Minute, false, false, 7, true},
		"a sweep may not see it yet":       {code(alive), sweepAge, false, false, 7, false},
		"the stream has an older one":      {code(alive), time.Minute, false, false, 6, false},
		"its code has died":                {code(dead), time.Minute, false, false, 0, true},
		"a failure of another replica": {
			repo.Announcement{MessageID: "f", AppID: "wx1", Failure: &preauth.Failure{}}, time.Minute, false, false, 0, true,
		},
		"a failure that waits": {
			repo.Announcement{MessageID: "f", AppID: "wx1", Failure: &preauth.Failure{}}, time.Minute, true, false, 0, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHealth(outage.New(slog.New(slog.DiscardHandler), mysqlPart, time.Now))
			p := newPublisher(Config{}.withDefaults(), nil, nil, view.NewCodes(), h, nil, slog.New(slog.DiscardHandler))
			if test.stored > 0 {
				p.codes.SetStored("wx1", view.Stored{Revision: test.stored, Sequence: 1})
			}
			q, key := p.queueOf(test.announcement), keyOf(test.announcement)
			q.finish(test.announcement, errors.New("no answer"), now.Add(-test.ago))
			q.underWay[key] = test.underWay
			p.forget(q, map[string]bool{key: test.waiting})
			if ready := joined(h.notReady()) == nil; ready != test.forgotten {
				t.Errorf("not ready: %v", joined(h.notReady()))
			}
		})
	}
}

// Where the stream's last message is another one than expected, the stream is asked for it.
func TestLastAnnouncementIsLearnt(t *testing.T) {
	t.Parallel()
	server, err := natsserver.Start(natsserver.Options{StoreDir: t.TempDir(), Config: `
authorization: { users: [
  { user: all, password: all }
  { user: blind, password: blind, permissions: { publish: { deny: ["$JS.API.DIRECT.GET.>"] } } }
] }
`})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	as := func(user string) jetstream.JetStream {
		nc, err := nats.Connect(server.URL(), nats.UserInfo(user, user), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	all, blind := as("all"), as("blind")
	now := time.Now()
	update := func(appid string, revision uint64) preauth.Update {
		return preauth.Update{
			AppID: appid, PreAuthCode: preauth.NewSecret("c"), IssuedAt: now, ExpiresAt: now.Add(time.Hour), Revision: revision, Cause: preauth.CauseToken,
		}
	}
	learn := func(js jetstream.JetStream) (learnt view.Stored, source jetstream.Stream, err error) {
		p := newPublisher(Config{}.withDefaults(), js, nil, view.NewCodes(), nil, nil, slog.New(slog.DiscardHandler))
		p.codes.SetStored("wx1", view.Stored{Revision: 3, Sequence: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		source, err = p.learnLast(ctx, update("wx1", 7))
		return p.codes.LastStored("wx1"), source, err
	}

	if _, _, err := learn(all); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("there is no stream: %v", err)
	}
	cfg := jetstream.StreamConfig{Name: "PREAUTH", Subjects: []string{"preauth.updated.>"}, AllowDirect: true, FirstSeq: 100}
	if _, err := all.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		body []byte // of the stream's last message, nil for none
		want view.Stored
	}{
		{"nothing is left", nil, view.Stored{Revision: 3}},
		{"what is not an update", []byte("{}"), view.Stored{Sequence: 100}},
		{"another revision", update("wx1", 5).Encode(), view.Stored{Revision: 5, Sequence: 101}},
		{"a revision that nobody has", update("wx1", preauth.MaxRevision).Encode(), view.Stored{Sequence: 102}},
		{"another component's", update("wx2", 9).Encode(), view.Stored{Sequence: 103}},
	} {
		if test.body != nil {
			if _, err := all.Publish(t.Context(), "preauth.updated.wx1", test.body); err != nil {
				t.Fatal(err)
			}
		}
		got, source, err := learn(all)
		if err != nil || source == nil || got.Revision != test.want.Revision || got.Sequence != test.want.Sequence {
			t.Errorf("%s: learnt %+v, %v", test.name, got, err)
		}
	}
	if got, _, err := learn(blind); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "last announcement: ") ||
		got.Revision != 3 || got.Sequence != 0 {
		t.Errorf("it cannot be read: %+v, %v", got, err)
	}
}
