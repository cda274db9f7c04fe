package main

import (
	"regexp"
	"strings"
	"testing"

	"preauth/internal/app/apptest"
)

func TestScreenBreaksLinesWhereTheTerminalEnds(t *testing.T) {
	t.Parallel()
	out := apptest.NewOutput()
	s := newScreen(out)
	s.width = func() int { return 50 }
	s.event(good, "wxdev1", "token → saved → announced → looked up, 24 ms")
	s.row("admin", "http://127.0.0.1:40000/readyz, /healthz and /metrics")
	s.row("state", "in %s until the end", strings.Repeat("x", 60))
	s.paragraph("a short one")
	want := `00:00:00  wxdev1  token → saved → announced →
          looked up, 24 ms
  admin     http://127.0.0.1:40000/readyz,
            /healthz and /metrics
  state     in
            ` + strings.Repeat("x", 60) + ` until the end

a short one

`
	if got := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d`).ReplaceAllString(out.String(), "00:00:00"); got != want {
		t.Errorf("the screen is\n%s\nwant\n%s", got, want)
	}
}
