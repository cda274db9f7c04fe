package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"preauth"
	"preauth/internal/app"
)

// screen is what a command prints for: a terminal, or a file or pipe, where lines may be long.
type screen struct {
	width, height int  // 0 where there is no bound
	color         bool // on a terminal, unless NO_COLOR is set (https://no-color.org)
	live          bool // the text can be replaced by another one
}

// screenOf returns what is behind out. COLUMNS sets the width where there is no terminal.
func screenOf(out io.Writer) screen {
	columns, _ := strconv.Atoi(os.Getenv("COLUMNS"))
	s := screen{width: max(0, columns)}
	if !app.IsTerminal(out) {
		return s
	}
	if file, ok := out.(*os.File); ok {
		if width, height, err := term.GetSize(int(file.Fd())); err == nil {
			s.width, s.height = width, height
		}
	}
	s.live = os.Getenv("TERM") != "dumb"
	s.color = s.live && os.Getenv("NO_COLOR") == ""
	return s
}

// state returns a state in its color.
func (s screen) state(state string) string {
	return s.paint(map[preauth.State]string{
		preauth.StateValid: green, preauth.StateExpiring: yellow, preauth.StateFailing: red, preauth.StateNoToken: red,
	}[preauth.State(state)], state)
}

// The colors that mean something.
const green, yellow, red = "32", "33", "31"

// paint returns text in a color, "" for none.
func (s screen) paint(color, text string) string {
	if !s.color || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// draw replaces what is on the screen, as far as there is room.
func (s screen) draw(out io.Writer, text string) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if room := s.height - 1; room > 0 && len(lines) > room {
		more := len(lines) - room + 1
		lines = append(lines[:room-1], fmt.Sprintf("… and %d lines more: --state and --prefix show fewer", more))
	}
	fmt.Fprint(out, "\x1b[H")
	for _, line := range lines {
		fmt.Fprintf(out, "%s\x1b[K\n", line)
	}
	fmt.Fprint(out, "\x1b[J")
}

// table is text in columns.
type table struct {
	titles []string
	rows   [][]string
	// expendable are the titles of columns that are left out where the width is not enough for all, the
	// first one first.
	expendable []string
}

// stateColumn is the title of the column whose cells have a color.
const stateColumn = "STATE"

// print prints the columns that the screen has room for. If the rest is still too wide, the last one
// of them is cut.
func (t table) print(out io.Writer, s screen) {
	widths := make([]int, len(t.titles))
	columns := make([]int, len(t.titles))
	lines := append([][]string{t.titles}, t.rows...)
	for i := range t.titles {
		columns[i] = i
		for _, line := range lines {
			widths[i] = max(widths[i], utf8.RuneCountInString(line[i]))
		}
	}
	const gap = 2
	total := func() int {
		sum := -gap
		for _, i := range columns {
			sum += widths[i] + gap
		}
		return sum
	}
	for _, title := range t.expendable {
		if s.width == 0 || total() <= s.width {
			break
		}
		columns = slices.DeleteFunc(columns, func(i int) bool { return t.titles[i] == title })
	}
	last := columns[len(columns)-1]
	if excess := total() - s.width; s.width > 0 && excess > 0 {
		widths[last] = max(1, widths[last]-excess)
	}
	for n, line := range lines {
		for _, i := range columns {
			text := cut(line[i], widths[i])
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)+gap)
			if n > 0 && t.titles[i] == stateColumn {
				text = s.state(text)
			}
			if i == last {
				padding = "\n"
			}
			fmt.Fprint(out, text, padding)
		}
	}
}

// cut returns a text, or as much of it as the width has room for.
func cut(text string, width int) string {
	if runes := []rune(text); len(runes) > width {
		return string(runes[:width-1]) + "…"
	}
	return text
}

// list prints rows of a name and a text. A text that is too wide continues on the next line, below
// its beginning.
func list(out io.Writer, s screen, rows [][2]string) {
	indent := 0
	for _, row := range rows {
		indent = max(indent, len(row[0])+2)
	}
	for _, row := range rows {
		name := row[0]
		for _, line := range wrapped(row[1], s.width-indent) {
			fmt.Fprintf(out, "%-*s%s\n", indent, name, line)
			name = ""
		}
	}
}

// wrapped breaks a text between words, so that its lines fit the width. A width below 20 bounds
// nothing.
func wrapped(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if width >= 20 && line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// printable replaces what a terminal would take for a command.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// short returns a duration in its largest two units.
func short(d time.Duration) string {
	sign := ""
	if d = d.Truncate(time.Second); d < 0 {
		sign, d = "-", -d
	}
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%s%dd%dh", sign, d/(24*time.Hour), d/time.Hour%24)
	case d >= time.Hour:
		return fmt.Sprintf("%s%dh%dm", sign, d/time.Hour, d/time.Minute%60)
	default:
		return sign + d.String()
	}
}

// since returns how long ago something was, "-" for the zero time.
func since(at, now time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return short(now.Sub(at))
}

// in returns how long it is until then, "-" for the zero time.
func in(at, now time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return short(at.Sub(now))
}

// until says when something is, as a time and from now.
func until(at, now time.Time) string {
	switch left := at.Sub(now); {
	case at.IsZero():
		return "-"
	case left < 0:
		return fmt.Sprintf("%s ago (%s)", short(-left), at.Format(time.RFC3339))
	default:
		return fmt.Sprintf("in %s (%s)", short(left), at.Format(time.RFC3339))
	}
}
