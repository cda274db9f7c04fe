package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"preauth"
	"preauth/internal/app/apptest"
)

// What a terminal takes for a command does not reach it.
func TestNothingPrintedMovesTheCursor(t *testing.T) {
	t.Parallel()
	if got := printable("a\x1b[2J\r\n\u009bb 预授权"); got != "a?[2J???b 预授权" {
		t.Errorf("printed as %q", got)
	}
}

// A table that is too wide loses the columns that matter least, and then the end of its last one.
func TestTableFitsTheScreen(t *testing.T) {
	t.Parallel()
	text := table{
		titles:     []string{"COMPONENT", stateColumn, "SPARES", "FAILURE"},
		rows:       [][]string{{"wx1", "valid", "2", "-"}, {"wx0123456789abcdef", "failing", "0", "address_not_allowed 61004"}},
		expendable: []string{"SPARES"},
	}
	for _, test := range []struct {
		width int
		want  string
	}{
		{0, "" +
			"COMPONENT           STATE    SPARES  FAILURE\n" +
			"wx1                 valid    2       -\n" +
			"wx0123456789abcdef  failing  0       address_not_allowed 61004\n"},
		{61, "" +
			"COMPONENT           STATE    FAILURE\n" +
			"wx1                 valid    -\n" +
			"wx0123456789abcdef  failing  address_not_allowed 61004\n"},
		{40, "" +
			"COMPONENT           STATE    FAILURE\n" +
			"wx1                 valid    -\n" +
			"wx0123456789abcdef  failing  address_no…\n"},
	} {
		var plain, colored strings.Builder
		text.print(&plain, screen{width: test.width})
		if plain.String() != test.want {
			t.Errorf("%d columns:\n%swant\n%s", test.width, plain.String(), test.want)
		}
		text.print(&colored, screen{width: test.width, color: true})
		if got := strings.NewReplacer("\x1b[32m", "", "\x1b[31m", "", "\x1b[0m", "").Replace(colored.String()); got != test.want || got == colored.String() {
			t.Errorf("in color, the columns of\n%sare not in line", colored.String())
		}
	}
}

// Every state of the contract fits a terminal of 80 columns, with its failure.
func TestComponentsFitEightyColumns(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var all []preauth.Status
	for _, state := range preauth.States() {
		all = append(all, preauth.Status{
			AppID: "wx0123456789abcdef", State: state, Revision: 4711, IssuedAt: now, ExpiresAt: now.Add(29*time.Minute + 59*time.Second),
			DueAt: now.Add(22*time.Minute + 59*time.Second), TokenExpiresAt: now.Add(119 * time.Minute), Spares: 10,
			Failure: &preauth.Failure{Class: preauth.ClassAddressNotAllowed, ErrCode: 61004},
		})
	}
	var out strings.Builder
	printTable(&out, all, screen{width: 80})
	printReplicas(&out, []preauth.Replica{{ID: "0MSTjVJvQYxKZ5Qkp0fVzU", Version: "0.0.0-20261130162920-cbeb34311111", StartedAt: now, Reasons: []string{"MySQL: dial tcp 10.0.0.7:3306: connect: connection refused"}}}, screen{width: 80})
	printSummary(&out, preauth.Summary{Components: 12345, Valid: 12345, CodeExpiresAt: now, TokenExpiresAt: now, Outbox: 1000, OutboxSince: now})
	for line := range strings.Lines(out.String()) {
		if utf8.RuneCountInString(line) > 81 || strings.Contains(line, "…") {
			t.Errorf("%d columns or cut: %s", utf8.RuneCountInString(line), line)
		}
	}
	if n := strings.Count(out.String(), "address_not_allowed 61004\n"); n != len(all) {
		t.Errorf("%d failures are shown whole, want %d:\n%s", n, len(all), out.String())
	}
}

// A long text continues below its beginning.
func TestListWrapsItsTexts(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	list(&out, screen{width: 36}, [][2]string{{"state", "failing"}, {"what to do", "wait for midnight, or have WeChat raise the quota"}})
	want := "" +
		"state       failing\n" +
		"what to do  wait for midnight, or\n" +
		"            have WeChat raise the\n" +
		"            quota\n"
	if out.String() != want {
		t.Errorf("printed as\n%swant\n%s", out.String(), want)
	}
}

// What is drawn does not scroll, and leaves nothing of what was there.
func TestDrawingStaysOnTheScreen(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	screen{height: 4}.draw(&out, "1\n2\n3\n4\n5\n")
	if want := "\x1b[H1\x1b[K\n2\x1b[K\n… and 3 lines more: --state and --prefix show fewer\x1b[K\n\x1b[J"; out.String() != want {
		t.Errorf("drawn as %q, want %q", out.String(), want)
	}
}

// Ctrl-C gives a terminal its former screen and its cursor back.
func TestWatchGivesTheScreenBack(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("script")
	if err != nil {
		t.Skip("script is not installed")
	}
	server := newNATS(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// exec, because a shell that waits for the program gets Ctrl-C too, and dash then ends by it.
	terminal := exec.CommandContext(ctx, program, "-qefc", "exec "+os.Args[0]+" status --watch --every=100ms --nats-url="+server.URL(), os.DevNull)
	terminal.Env = append(os.Environ(), "PREAUTH_TEST_MAIN=1", "TERM=xterm")
	keys, err := terminal.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := apptest.NewOutput()
	terminal.Stdout, terminal.Stderr = out, out
	if err := terminal.Start(); err != nil {
		t.Fatal(err)
	}
	out.Await(t, `^\x1b\[\?1049h\x1b\[\?25l(?s:.*)nobody answers on preauth\.status`)
	if _, err := keys.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	if err := terminal.Wait(); err != nil {
		t.Errorf("%v, the terminal gets\n%q", err, out)
	}
	// The terminal echoes the key as ^C, before or after what the program writes at its end.
	if got := strings.ReplaceAll(out.String(), "^C", ""); !strings.HasSuffix(got, "\x1b[?25h\x1b[?1049l") {
		t.Errorf("the terminal gets\n%q", out)
	}
}

func TestDurationsAreShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 999 * time.Millisecond: "0s", -time.Millisecond: "0s", 59 * time.Second: "59s", 29*time.Minute + 59*time.Second: "29m59s",
		2*time.Hour + 59*time.Second: "2h0m", 49 * time.Hour: "2d1h", -61 * time.Second: "-1m1s",
	} {
		if got := short(d); got != want {
			t.Errorf("%v is printed as %q, want %q", d, got, want)
		}
	}
}
