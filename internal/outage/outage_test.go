package outage_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"preauth/internal/outage"
)

func TestOutageOfTenMinutes(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	l := outage.New(log, "MySQL", func() time.Time { return now })
	if l.Back() {
		t.Error("it was not away")
	}
	for range 300 {
		l.Away(errors.New("connection refused"))
		now = now.Add(2 * time.Second)
	}
	if !l.Back() || l.Back() {
		t.Error("it was away once")
	}
	l.Away(errors.New("connection refused"))
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{
		`level=WARN msg="MySQL away" error="connection refused"`,
		`level=WARN msg="MySQL still away" error="connection refused" for=1m0s`,
		`level=WARN msg="MySQL still away" error="connection refused" for=3m0s`,
		`level=WARN msg="MySQL still away" error="connection refused" for=7m0s`,
		`level=INFO msg="MySQL back" after=10m0s`,
		`level=WARN msg="MySQL away" error="connection refused"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", out.String())
	}
}

// A part that fails each second with the same reason is no flood, and a new reason is news.
func TestDefectThatLasts(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	d := outage.NewDefects(log, func() time.Time { return now })
	lines := func() int {
		n := strings.Count(out.String(), "\n")
		out.Reset()
		return n
	}
	fail := func(what, reason string) {
		now = now.Add(time.Second)
		d.Log(t.Context(), slog.LevelWarn, what, errors.New(reason))
	}
	for range 150 {
		fail("not swept", "denied")
		fail("not deleted", "denied")
	}
	if n := lines(); n != 10 {
		t.Errorf("%d lines about two things in five minutes, want 10", n)
	}
	fail("not swept", "table is missing")
	if !strings.Contains(out.String(), `msg="not swept" error="table is missing"`) || lines() != 1 {
		t.Error("a new reason is not logged once")
	}
	d.Log(t.Context(), slog.LevelWarn, "not swept", nil)
	fail("not swept", "table is missing")
	if n := lines(); n != 1 {
		t.Errorf("%d lines about what worked meanwhile, want 1", n)
	}
	for range 3 {
		d.Log(t.Context(), slog.LevelInfo, "not swept", errors.New("away"))
	}
	if n := lines(); n != 3 {
		t.Errorf("%d lines about what is no defect, want all 3", n)
	}
}
