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
	"preauth/internal/app"
	"preauth/wechat/wechattest"
)

// screen shows a person what happens. Its lines fit 80 columns.
type screen struct {
	color bool
	width func() int // of the terminal; 0 means that lines are not broken

	mu sync.Mutex
	w  io.Writer
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

// The ANSI colors of events.
const (
	good    = "32"
	bad     = "31"
	other   = "36"
	neutral = "2"
)

// event prints a line with the time, the component and what happened.
func (s *screen) event(color, appid, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if appid != "" {
		text = appid + "  " + text
	}
	at := time.Now().Format(time.TimeOnly)
	head := at + "  "
	if s.color {
		head = "\x1b[" + color + "m" + at + "\x1b[0m  "
	}
	s.print(head, len(at)+2, text)
}

// row prints a line of a list.
func (s *screen) row(name, format string, args ...any) {
	s.print(fmt.Sprintf("  %-9s ", name), 12, fmt.Sprintf(format, args...))
}

// paragraph prints text between two empty lines.
func (s *screen) paragraph(text string) { s.print("", 0, "\n"+text+"\n\n") }

// print prints the text behind a head with the given number of visible characters. It breaks the
// text between words where the terminal ends.
func (s *screen) print(head string, indent int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
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

// logger returns a logger whose lines appear among the events: all of them, or only warnings and
// errors that no event shows.
func (s *screen) logger(all bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{} // the event has it
		}
		return a
	}}
	if all {
		options.Level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(logLines{s, all}, options))
}

// logLines shows the lines of a log.
type logLines struct {
	screen *screen
	all    bool
}

func (l logLines) Write(line []byte) (int, error) {
	// Events show the failures of WeChat.
	if l.all || !bytes.Contains(line, []byte(`msg="no code"`)) && !bytes.Contains(line, []byte(`msg="WeChat `)) {
		l.screen.event(neutral, "", "log: %s", line)
	}
	return len(line), nil
}

// kvBucket is the KV bucket of the current codes.
const kvBucket = "preauth"

// commands prints commands to try.
func (s *screen) commands(url, appid string) {
	subjects := preauth.DefaultSubjects()
	s.paragraph("To try in another terminal, with the nats CLI:")
	s.row("first", "export NATS_URL=%s", url)
	s.row("codes", "nats sub %s", subjects.Updated)
	s.row("failures", "nats sub %s", subjects.Failed)
	s.row("token", "nats pub %s \\\n  '{\"component_access_token\":\"my-token-1\"}'", preauth.SubjectFor(subjects.TokenUpdated, appid))
	s.row("look-up", "nats req %s ''", preauth.SubjectFor(subjects.Lookup, appid))
	s.row("claim", "nats req %s '{\"claim_id\":\"visitor-1\"}'", preauth.SubjectFor(subjects.Claim, appid))
	s.row("authorize", "nats pub %s \\\n  '{\"pre_auth_code\":\"CODE\",\"authorizer_appid\":\"wxvisitor\"}'", preauth.SubjectFor(subjects.Authorization, appid))
	s.row("cache", "nats kv watch %s", kvBucket)
	s.row("counts", "nats micro stats preauth")
	s.print("", 0, "\n")
}

// platform prints where pushes go, and the settings of a token service that takes them.
func (s *screen) platform(p wechattest.Platform, wechat string) {
	s.row("pushes", "to %s, for a token service with", p.PushURL)
	s.row("", "export WECHAT_URL=%s \\\n  WECHAT_APPID=%s WECHAT_APPSECRET=%s \\\n  WECHAT_PUSH_TOKEN=%s \\\n  WECHAT_ENCODING_AES_KEY=%s",
		wechat, p.AppID, p.AppSecret.Reveal(), p.PushToken.Reveal(), p.EncodingAESKey.Reveal())
}
