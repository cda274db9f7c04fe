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
	s.width = func() int { return 60 }
	s.step(lookedUp, "wxdev0001", "revision 1  preauthcode@@@ab…wxyz  valid 9m59s")
	s.row("admin", "http://127.0.0.1:40000/readyz, /healthz and /metrics")
	s.row("state", "in %s until the end", strings.Repeat("x", 60))
	s.command("list the service", "nats -s "+strings.Repeat("x", 60)+" micro ls")
	s.paragraph("a short one")
	want := `00:00:00.000  looked up  wxdev0001  revision 1
                         preauthcode@@@ab…wxyz  valid 9m59s
  admin      http://127.0.0.1:40000/readyz, /healthz and
             /metrics
  state      in
             ` + strings.Repeat("x", 60) + ` until the end
  # list the service
  nats -s ` + strings.Repeat("x", 60) + ` micro ls

a short one

`
	if got := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d{3}`).ReplaceAllString(out.String(), "00:00:00.000"); got != want {
		t.Errorf("the screen is\n%s\nwant\n%s", got, want)
	}
}
