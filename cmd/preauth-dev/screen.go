package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"preauth"
	"preauth/consumer"
	"preauth/internal/app"
)

// screen shows a person what happens.
type screen struct {
	color bool
	width func() int // of the terminal; 0 where lines are not broken

	mu    sync.Mutex
	w     io.Writer
	appid int // length of the longest appid so far
}

func newScreen(w io.Writer) *screen {
	s := &screen{w: w, width: func() int { return 0 }}
	if file, ok := w.(*os.File); ok && app.IsTerminal(w) {
		s.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		s.width = func() int {
			width, _, _ := term.GetSize(int(file.Fd()))
			return width
		}
	}
	return s
}

// The names of the steps on the screen.
const (
	received  = "token"
	saved     = "saved"
	announced = "announced"
	lookedUp  = "looked up"
	failed    = "no code"
)

// hues are the ANSI colours of the steps.
var hues = map[string]string{received: "36", saved: "33", announced: "32", lookedUp: "35", failed: "31", "log": "2"}

// step prints the line of one step: the time, what happened, to which component, and the rest.
func (s *screen) step(what, appid, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	label := fmt.Sprintf("%-9s", what)
	if hue := hues[what]; s.color && hue != "" {
		label = "\x1b[" + hue + "m" + label + "\x1b[0m"
	}
	s.appid = max(s.appid, len(appid))
	text := fmt.Sprintf(format, args...)
	if appid != "" {
		text = fmt.Sprintf("%-*s  %s", s.appid, appid, text)
	}
	s.print(time.Now().Format("15:04:05.000")+"  "+label+"  ", 25, text)
}

// row prints a line about one of the parts that run.
func (s *screen) row(part, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.print(fmt.Sprintf("  %-9s  ", part), 13, fmt.Sprintf(format, args...))
}

// paragraph prints some words between two empty lines.
func (s *screen) paragraph(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.print("", 0, "\n"+fmt.Sprintf(format, args...)+"\n\n")
}

// gap prints an empty line.
func (s *screen) gap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(s.w)
}

// print prints the text behind a head of which indent characters are visible, and breaks it between
// words where the terminal ends. The caller holds mu.
func (s *screen) print(head string, indent int, text string) {
	room := s.width() - indent
	for lines := range strings.Lines(text) {
		line := strings.TrimRight(lines, "\n")
		for room >= 20 && len([]rune(line)) > room {
			end := strings.LastIndexByte(string([]rune(line)[:room+1]), ' ')
			if end <= 0 {
				break
			}
			fmt.Fprintln(s.w, head+strings.TrimRight(line[:end], " "))
			head, line = strings.Repeat(" ", indent), strings.TrimLeft(line[end:], " ")
		}
		fmt.Fprintln(s.w, head+line)
		head = strings.Repeat(" ", indent)
	}
}

// logger returns a log whose lines are shown among the others: all of them, or else only what goes
// wrong and is not shown otherwise.
func (s *screen) logger(all bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{} // each line begins with it
		}
		return a
	}}
	if all {
		options.Level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(logLines{s, all}, options))
}

// logLines takes the lines of a log.
type logLines struct {
	screen *screen
	all    bool
}

func (l logLines) Write(line []byte) (int, error) {
	failure := bytes.Contains(line, []byte(`msg="no code"`)) // shown when it is announced
	if l.all || !failure {
		l.screen.step("log", "", "%s", line)
	}
	return len(line), nil
}

// trace shows what the service does with an event.
func (s *screen) trace(step consumer.Step) {
	switch step.Name {
	case consumer.StepReceived:
		s.step(received, step.AppID, "taken up, number %d of its stream", step.Sequence)
	case consumer.StepRepeated:
		s.step(received, step.AppID, "announced again: the code that was made with it still lives")
	case consumer.StepSuperseded:
		s.step(received, step.AppID, "left out: a newer one is known, or this one was worked on before")
	case consumer.StepCommitted:
		s.step(saved, step.AppID, "revision %d  %s", step.Revision, causes[step.Cause])
	default: // is shown by what it leads to
	}
}

var causes = map[preauth.Cause]string{
	preauth.CauseToken: "for a new token", preauth.CauseRenewal: "ahead of the old code's end", preauth.CauseDemand: "for a look-up",
}

// instructions say what can be tried and what will be seen.
func (s *screen) instructions(url, appid, pace string) {
	s.paragraph("Try it in another terminal, with the nats CLI:")
	subjects := preauth.DefaultSubjects()
	nats := "nats -s " + url
	for _, each := range []struct{ command, does string }{
		{"sub " + subjects.Updated, "see each new code"},
		{"sub " + subjects.Failed, "see why a component got none"},
		{"pub " + subjects.TokenUpdated + ` \` + "\n" +
			`  '{"component_appid":"` + appid + `","component_access_token":"my-token-1"}'`, "announce a token"},
		{"req " + preauth.SubjectFor(subjects.Lookup, appid) + " ''", "look up the current code"},
		{"req " + preauth.SubjectFor(subjects.Claim, appid) + ` '{"claim_id":"visitor-1"}'`, "claim a code for one visitor"},
		{"micro ls", "list the service"},
		{"micro stats preauth", "see what it has answered"},
	} {
		s.command(each.does, nats+" "+each.command)
	}
	s.paragraph("What follows: %s, until Ctrl-C.", pace)
	s.row(received, "the service takes the token up from its stream")
	s.row(saved, "WeChat gave a code, and it is committed in the database")
	s.row(announced, "a subscriber of %s has got it", subjects.Updated)
	s.row(lookedUp, "a client has asked %s for it", subjects.Lookup)
	s.gap()
}

// command prints a command line, whole as it is to be copied.
func (s *screen) command(does, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, "  # %s\n  %s\n", does, strings.ReplaceAll(line, "\n", "\n  "))
}
