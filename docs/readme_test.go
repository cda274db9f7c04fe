package docs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/loopback"
)

// The commands and programs of README work when they are pasted in order.
func TestCommandsOfREADME(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not installed")
	}
	repository, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer(
		"127.0.0.1:4222", address, // README's port may be taken
		"nats.DefaultURL", `"nats://`+address+`"`,
		"$PWD", repository,
	).Replace
	fromShell := shown(t, "README.md", "sh", "From nothing to a claim")
	if len(fromShell) != 2 {
		t.Fatalf("README shows %d blocks, want one for each of two terminals", len(fromShell))
	}
	startDev(t, here(fromShell[0]), "nats://"+address)

	// This stands in for the repository's directory: README writes to its bin/.
	work := t.TempDir()
	visitor := filepath.Join(work, "bin", "first-visitor")
	if err := os.MkdirAll(visitor, 0o755); err != nil {
		t.Fatal(err)
	}
	linkNATS(t, filepath.Join(work, "bin"))
	run := func(t *testing.T, dir, script string) string {
		return runShell(t, dir, "NATS_URL=nats://"+address, script)
	}

	t.Run("a claim and its resolve", func(t *testing.T) {
		install := regexp.MustCompile(`(?m)^.*go install .*\n`) // linkNATS has done that
		commands := install.ReplaceAllString(here(fromShell[1]), "")
		if commands == here(fromShell[1]) {
			t.Error("README does not install the nats CLI")
		}
		output := run(t, work, commands)
		answers := strings.Split(strings.TrimSpace(output), "\n")
		resolved, err := preauth.ParseResolved([]byte(answers[len(answers)-1]))
		if err != nil || resolved.ClaimID != "visitor-1" || resolved.Reference != "order 7" {
			t.Errorf("resolved %+v, %v\n%s", resolved, err, output)
		}
	})
	t.Run("from Go", func(t *testing.T) {
		commands, program := shown(t, "README.md", "sh", "From Go"), shown(t, "README.md", "go", "From Go")
		if len(commands) != 2 || len(program) != 1 {
			t.Fatalf("README shows %d shell blocks and %d programs, want commands before and after one program", len(commands), len(program))
		}
		// With these sums "go mod tidy" needs no network.
		if err := os.WriteFile(filepath.Join(visitor, "go.sum"), []byte(read(t, "go.sum")), 0o644); err != nil {
			t.Fatal(err)
		}
		run(t, work, here(commands[0]))
		if err := os.WriteFile(filepath.Join(visitor, "main.go"), []byte(here(program[0])), 0o644); err != nil {
			t.Fatal(err)
		}
		if output := run(t, visitor, commands[1]); !strings.Contains(output, "visitor-2 authorized for order 8") {
			t.Errorf("it prints %q", output)
		}
	})
	t.Run("from Node.js", func(t *testing.T) {
		if _, err := exec.LookPath("node"); err != nil {
			t.Skip("node is not installed")
		}
		if _, err := os.Stat("examples/node_modules"); err != nil {
			t.Skip("run npm ci in docs/examples to have this tested")
		}
		commands := shown(t, "README.md", "sh", "From Node.js")
		output := run(t, repository, strings.Replace(commands[0], "npm ci\n", "", 1))
		for _, line := range []string{"announced: revision ", "redirect the browser to https://", "authorized: wx8888888888888888 for order 7", "resolved: this visitor, order 7", "looked up: revision "} {
			if !strings.Contains(output, line) {
				t.Errorf("it does not print %q:\n%s", line, output)
			}
		}
	})
}

// README shows parts of the first minute that dev-transcript.md has. A line "…" stands for what is
// left out.
func TestREADMEShowsTheTranscript(t *testing.T) {
	excerpt, transcript := shown(t, "README.md", "text", "See it run"), blocks(t, "docs/dev-transcript.md", "text")
	if len(excerpt) != 1 || len(transcript) != 1 {
		t.Fatalf("%d and %d blocks, want one each", len(excerpt), len(transcript))
	}
	rest := transcript[0].text
	for part := range strings.SplitSeq(excerpt[0], "  …\n") {
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Errorf("the transcript does not have, in this order,\n%s", part)
		}
		rest = after
	}
}

// startDev runs README's command for its first terminal, until the test ends, and returns when the
// service has a code of the sandbox's first component.
func startDev(t *testing.T, command, url string) {
	t.Helper()
	var screen lockedBuffer
	dev := exec.Command("sh", "-c", "exec "+command)
	dev.Dir = root
	dev.Env = append(os.Environ(), "NO_INSTALL=1", "TMPDIR="+t.TempDir())
	dev.Stdout, dev.Stderr = &screen, &screen
	dev.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that all of it gets the signal, as from a terminal
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- dev.Wait() }()
	t.Cleanup(func() {
		if err := syscall.Kill(-dev.Process.Pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
		if err := <-ended; t.Failed() {
			t.Logf("%s: %v\n%s", command, err, screen.String())
		}
	})
	eventually(t, "the sandbox works", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v", command, err)
		default:
		}
		nc, err := nats.Connect(url)
		if err != nil {
			return false
		}
		defer nc.Close()
		reply, err := nc.Request("preauth.lookup.wxdev1", nil, time.Second)
		return err == nil && preauth.ParseError(reply.Header.Get, reply.Data) == nil
	})
}

// runShell runs a script and returns what it prints on standard output.
func runShell(t *testing.T, dir, variable, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience) // a first build may be part of it
	defer cancel()
	shell := exec.CommandContext(ctx, "sh", "-eu", "-c", script)
	shell.Dir = dir
	shell.Env = append(os.Environ(), variable)
	var messages strings.Builder
	shell.Stderr = &messages
	output, err := shell.Output()
	if err != nil {
		t.Fatalf("%s\n%v\n%s%s", script, err, output, messages.String())
	}
	return string(output)
}

// linkNATS puts the nats CLI into a directory: an installed one, or else this program, which then
// acts as natsCLI.
func linkNATS(t *testing.T, dir string) {
	t.Helper()
	program, err := exec.LookPath("nats")
	if err != nil {
		if program, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(program, filepath.Join(dir, "nats")); err != nil {
		t.Fatal(err)
	}
}

// natsCLI does what the nats CLI does for the commands "pub" and "req" as the pages show them.
func natsCLI(args []string, stdout io.Writer) error {
	msg := nats.NewMsg("")
	var words []string
	stored := false
	for ; len(args) > 0; args = args[1:] {
		switch {
		case args[0] == "-H" && len(args) > 1:
			name, value, _ := strings.Cut(args[1], ":")
			msg.Header.Add(name, value)
			args = args[1:]
		case args[0] == "--jetstream":
			stored = true
		case args[0] == "--raw":
		default:
			words = append(words, args[0])
		}
	}
	if len(words) != 3 {
		return fmt.Errorf("%q: want a command, a subject and a body", words)
	}
	msg.Subject, msg.Data = words[1], []byte(words[2])
	nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.Timeout(patience))
	if err != nil {
		return err
	}
	defer nc.Close()
	switch {
	case words[0] == "req" || words[0] == "pub" && stored:
		reply, err := nc.RequestMsg(msg, patience)
		if err != nil {
			return err
		}
		if words[0] == "req" {
			fmt.Fprintf(stdout, "%s\n", reply.Data)
		}
		return nil
	case words[0] == "pub":
		return errors.Join(nc.PublishMsg(msg), nc.FlushTimeout(patience))
	}
	return fmt.Errorf("no command %q", words[0])
}

// README's table has an example for each subject of the contract, in the contract's form.
func TestSubjectsOfREADME(t *testing.T) {
	subjects := preauth.DefaultSubjects()
	parse := map[string]func(body []byte) error{
		subjects.TokenUpdated: func(body []byte) error {
			_, err := preauth.ParseTokenEvent(appID, nil, body, time.Now())
			return err
		},
		subjects.Authorization: func(body []byte) error {
			_, err := preauth.ParseAuthorizationEvent(appID, nil, body, time.Now())
			return err
		},
		subjects.Authorized: func(body []byte) error { _, err := preauth.ParseAuthorized(body); return err },
		subjects.Updated:    func(body []byte) error { _, err := preauth.ParseUpdate(body); return err },
		subjects.Failed:     func(body []byte) error { _, err := preauth.ParseFailure(body); return err },
		subjects.Lookup:     func(body []byte) error { _, err := preauth.ParseLookupRequest(appID, body); return err },
		subjects.Claim:      func(body []byte) error { _, err := preauth.ParseClaimRequest(appID, body); return err },
		subjects.Resolve:    func(body []byte) error { _, err := preauth.ParseResolveRequest(body); return err },
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z.]+?)(?:\\.<appid>)?` \\| .* \\| `(\\{.*\\})` \\|$")
	for _, cells := range row.FindAllStringSubmatch(read(t, "README.md"), -1) {
		subject, example := cells[1], []byte(cells[2])
		check := parse[subject]
		if check == nil {
			t.Errorf("%s is no subject of the contract, or has two rows", subject)
			continue
		}
		delete(parse, subject)
		if err := check(example); err != nil || !json.Valid(example) {
			t.Errorf("%s: %v", subject, err)
		}
	}
	for subject := range parse {
		t.Errorf("README has no row for %s", subject)
	}
}
