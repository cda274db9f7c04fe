package consumer

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/internal/view"
	"preauth/repo"
)

// What this replica learnt after it had asked MySQL, the answer does not contradict.
func TestCodeCommittedMeanwhileIsNoForeignOne(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	code := func(revision uint64, code string) preauth.Update {
		return preauth.Update{
			AppID: "wx1", Revision: revision, PreAuthCode: preauth.NewSecret(code), IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		}
	}
	old, newer := code(1, "old"), code(2, "newer")
	known := repo.Component{Current: &repo.CurrentCode{
		Revision: 1, Code: repo.Code{PreAuthCode: old.PreAuthCode, IssuedAt: old.IssuedAt, ExpiresAt: old.ExpiresAt},
	}}
	for name, test := range map[string]struct {
		meanwhile bool // the newer code came after MySQL was asked, not before
		foreign   float64
		raises    int
		current   uint64
	}{
		"it was there before": {false, 1, 1, 1},
		"it came meanwhile":   {true, 0, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			codes, m := view.NewCodes(), newMetrics(registry)
			cfg := Config{Now: func() time.Time { return now }}.withDefaults()
			f := newCodeFollower(cfg, newRoles(cfg).updates, nil, nil, codes, nil, nil, m, slog.New(slog.DiscardHandler))
			learn := func(u preauth.Update) {
				codes.Add(u)
				codes.SetStored("wx1", storedAs(u, u.Revision))
			}
			learn(old)
			if !test.meanwhile {
				learn(newer)
			}
			before := f.see("wx1", 0)
			if test.meanwhile {
				learn(newer)
			}
			raises := f.judge(t.Context(), "wx1", known, before)
			if got := counted(t, registry, "preauth_foreign_updates_total"); got != test.foreign || len(raises) != test.raises {
				t.Errorf("%v foreign updates and %d corrections, want %v and %d", got, len(raises), test.foreign, test.raises)
			}
			if got := codes.Current("wx1"); got == nil || got.Revision != test.current {
				t.Errorf("the view has %+v, want revision %d", got, test.current)
			}
		})
	}
}

// The stream need not have a dead code, unless it says of the component something that looks alive.
func TestWhatTheStreamLacks(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	alive, dead := now.Add(time.Hour), now.Add(-time.Second)
	for name, test := range map[string]struct {
		stored  view.Stored
		expires time.Time // of the current code, revision 2
		want    bool
	}{
		"nothing stored":                     {view.Stored{}, alive, true},
		"nothing stored, and the code died":  {view.Stored{}, dead, false},
		"it is stored":                       {view.Stored{Revision: 2, Sequence: 1, ExpiresAt: alive}, alive, false},
		"it was stored and is gone":          {view.Stored{Revision: 2, ExpiresAt: alive}, alive, true},
		"the code before is stored":          {view.Stored{Revision: 1, Sequence: 1, ExpiresAt: alive}, alive, true},
		"both died":                          {view.Stored{Revision: 1, Sequence: 1, ExpiresAt: dead}, dead, false},
		"spent, and stored as alive":         {view.Stored{Revision: 1, Sequence: 1, ExpiresAt: alive}, dead, true},
		"spent, and what was stored is gone": {view.Stored{Revision: 1, ExpiresAt: alive}, dead, false},
	} {
		t.Run(name, func(t *testing.T) {
			codes := view.NewCodes()
			codes.SetStored("wx1", view.Stored{Revision: test.stored.Revision, Sequence: max(1, test.stored.Sequence), ExpiresAt: test.stored.ExpiresAt})
			if test.stored.Sequence == 0 {
				codes.ForgetStored("wx1")
			}
			f := &codeFollower{cfg: Config{Now: func() time.Time { return now }}, codes: codes}
			if got := f.lacks(preauth.Update{AppID: "wx1", Revision: 2, ExpiresAt: test.expires}); got != test.want {
				t.Errorf("lacks it: %v, want %v", got, test.want)
			}
		})
	}
}

// What is published again waits for room, until the follower ends.
func TestAnnouncementsWaitForRoom(t *testing.T) {
	for name, test := range map[string]struct {
		full  int // how often there is no room
		ends  bool
		tries int
	}{
		"there is room":          {0, false, 1},
		"there is room later":    {2, false, 3},
		"the follower has ended": {2, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.ends {
				cancel()
			}
			code := preauth.Update{AppID: "wx1", Revision: 7, TraceParent: "00-1-1-01"}
			tries := 0
			f := &codeFollower{announce: func(a repo.Announcement) bool {
				tries++
				if a.AppID != "wx1" || a.MessageID != code.MessageID() || a.Update.Revision != 7 || a.TraceParent != code.TraceParent {
					t.Errorf("announced %+v", a)
				}
				return tries > test.full
			}}
			f.publishAgain(ctx, code)
			if tries != test.tries {
				t.Errorf("%d tries, want %d", tries, test.tries)
			}
		})
	}
}

// counted returns the value of a counter without labels.
func counted(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
