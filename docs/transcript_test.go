package docs_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"preauth"
	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// go test ./docs -run Transcript -update writes the transcripts anew.
var update = flag.Bool("update", false, "write the transcripts anew")

const otherAppID = "wxfedcba9876543210"

// transcript is a page with commands and what they print, at a terminal of 80 columns.
type transcript struct {
	t    *testing.T
	dir  string
	env  []string
	text strings.Builder
	open bool // a block is
}

// newTranscript returns a page for commands in a directory of their own that has the programs.
func newTranscript(t *testing.T, s *service, programs ...string) *transcript {
	t.Helper()
	x := &transcript{t: t, dir: t.TempDir()}
	bin := t.TempDir()
	for _, program := range programs {
		if err := os.Symlink(program, filepath.Join(bin, filepath.Base(program))); err != nil {
			t.Fatal(err)
		}
	}
	x.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+x.dir, "NATS_URL="+s.nats.ClientURL(), "COLUMNS=80", "TZ=UTC", "NO_COLOR=1")
	return x
}

// buildPreauth builds the program, and returns its path.
func buildPreauth(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "preauth")
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, filepath.Join(root, "cmd", "preauth")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// say adds prose, or a heading.
func (x *transcript) say(prose string) {
	x.end()
	x.text.WriteString(strings.TrimSpace(prose) + "\n\n")
}

func (x *transcript) end() {
	if x.open {
		x.text.WriteString("```\n\n")
	}
	x.open = false
}

// show adds a command with what it printed.
func (x *transcript) show(command, output string) {
	if !x.open {
		x.text.WriteString("```text\n")
	}
	x.open = true
	fmt.Fprintf(&x.text, "$ %s\n", command)
	for line := range strings.Lines(shortened(output)) {
		fmt.Fprintln(&x.text, strings.TrimRight(line, " \n"))
	}
}

func (x *transcript) command(command string) *exec.Cmd {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), patience)
	x.t.Cleanup(cancel)
	shell := exec.CommandContext(ctx, "sh", "-c", command)
	shell.Dir, shell.Env = x.dir, x.env
	return shell
}

// run runs a command of the shell and adds it. status is the one it has to end with.
func (x *transcript) run(status int, command string) {
	x.t.Helper()
	shell := x.command(command)
	out, err := shell.CombinedOutput()
	if shell.ProcessState == nil || shell.ProcessState.ExitCode() != status {
		x.t.Fatalf("%s: %v, want status %d\n%s", command, err, status, out)
	}
	x.show(command, string(out))
}

// quietly runs a command that the page does not show.
func (x *transcript) quietly(command string) {
	x.t.Helper()
	if out, err := x.command(command).CombinedOutput(); err != nil {
		x.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// interrupt runs a command, does something once it has printed a text, and ends it by Ctrl-C when it
// has printed another.
func (x *transcript) interrupt(command, begin string, do func(), end string) {
	x.t.Helper()
	var out lockedBuffer
	shell := x.command("exec " + command)
	shell.Stdout, shell.Stderr = &out, &out
	if err := shell.Start(); err != nil {
		x.t.Fatal(err)
	}
	prints := func(text string) func() bool { return func() bool { return strings.Contains(out.String(), text) } }
	eventually(x.t, command+" prints "+begin, prints(begin))
	do()
	eventually(x.t, command+" prints "+end, prints(end))
	if err := shell.Process.Signal(syscall.SIGINT); err != nil {
		x.t.Fatal(err)
	}
	_ = shell.Wait()
	x.show(command, strings.TrimRight(out.String(), "\n")+"\n^C\n")
}

// check requires that a page is what was done, but for what is another each time. With -update it
// writes the page.
func (x *transcript) check(page string) {
	x.t.Helper()
	x.end()
	got := strings.TrimRight(x.text.String(), "\n") + "\n"
	if *update {
		if err := os.WriteFile(filepath.Join(root, page), []byte(got), 0o644); err != nil {
			x.t.Fatal(err)
		}
	}
	// The last line is empty in both.
	now, then := strings.SplitAfter(lasting(got), "\n"), strings.SplitAfter(lasting(read(x.t, page)), "\n")
	for i, line := range now[:min(len(now), len(then))] {
		if line != then[i] {
			x.t.Fatalf("%s is not current: run go test ./docs -run Transcript -update\nit has\n%sand should have\n%s", page, then[i], line)
		}
	}
}

// shortened shortens the codes in a text, as the program does.
func shortened(text string) string {
	return regexp.MustCompile(`preauthcode@@@[\w-]{26,}`).ReplaceAllStringFunc(text, func(code string) string {
		return preauth.NewSecret(code).Hint()
	})
}

// lasting returns a text without what is another each time.
func lasting(text string) string {
	for _, each := range [][2]string{
		{`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`, "TIME"},
		{`preauthcode@@@[\w-]*…[\w-]*`, "CODE"},
		{`\b(\d+h\d+m|(\d+m)?\d+(\.\d+)?s|\d+ms)\b`, "DURATION"},
		{`\b[0-9A-Za-z]{22}\b`, "ID"},
		{`rid:\s+[0-9a-f-]+`, "RID"},
		{`\b[A-Z0-9]{56}\b`, "KEY"},
		{`\b\d{4,}\b`, "NUMBER"},
		{`0\.0\.0-\S+`, "VERSION"},
		{` +`, " "},
		{`\d+ (B|KiB|bytes)`, "SIZE"},
	} {
		text = regexp.MustCompile(each[0]).ReplaceAllString(text, each[1])
	}
	return text
}

// docs/commands.md shows what the commands print.
func TestTranscriptOfCommands(t *testing.T) {
	s := start(t)
	for appid, token := range map[string]string{appID: "61_W3mEQkP0", otherAppID: "62_Kc0vQ2sN"} {
		s.wechat.SetToken(appid, preauth.NewSecret(token))
	}
	s.wechat.SetDailyQuota(appID, 10_000)
	client, err := preauth.NewClient(s.connect(t, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	settled := func(appid string, revision uint64, spares int) {
		t.Helper()
		eventually(t, "revision and spare are there", func() bool {
			status, err := client.Status(t.Context(), appid)
			return err == nil && status.Revision >= revision && status.Spares >= spares && (appid != appID || status.Quota != nil)
		})
	}

	x := newTranscript(t, s, buildPreauth(t))
	for name, text := range map[string]string{"token": "61_W3mEQkP0", "other-token": "62_Kc0vQ2sN"} {
		if err := os.WriteFile(filepath.Join(x.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	x.say(`
# The commands of ` + "`preauth`" + `

What [the command line](operation.md#the-command-line) prints in 80 columns. Codes are shortened unless you
pass ` + "`--reveal`" + `; tokens are never printed. The service, NATS and a database are real, and a stand-in
plays WeChat. ` + "`go test ./docs -run Transcript -update`" + ` writes this page.

## A token becomes a code`)
	x.run(0, "preauth announce "+appID+" < token")
	settled(appID, 1, 1)
	x.run(0, "preauth announce "+otherAppID+" --token-file other-token --expires-in 110m")
	settled(otherAppID, 1, 1)
	x.run(0, "preauth status")
	x.run(0, "preauth status "+appID)
	x.run(0, "preauth lookup "+appID)

	x.say("## A visitor")
	x.run(0, "preauth claim "+appID+" --claim-id visitor-1 --reference 'order 7'")
	settled(appID, 1, 1)
	x.quietly("preauth claim " + appID + " --claim-id visitor-1 --reference 'order 7' --reveal | head -n 1 > code")
	x.run(0, "preauth authorized "+appID+" wx8888888888888888 < code")
	eventually(t, "the authorization is committed", func() bool {
		text, err := os.ReadFile(filepath.Join(x.dir, "code"))
		if err != nil {
			t.Fatal(err)
		}
		resolved, err := client.Resolve(t.Context(), preauth.NewSecret(strings.TrimSpace(string(text))))
		return err == nil && resolved.AuthorizerAppID != ""
	})
	x.run(0, "preauth resolve < code")
	x.run(1, "preauth claim "+appID+" --claim-id visitor-1 --reference 'order 8'")

	x.say("## A new code, and a failure")
	x.run(0, "preauth renew "+otherAppID)
	s.wechat.Next(appID, wechattest.Error(61004, ""))
	x.run(1, "preauth renew "+appID)
	x.run(0, "preauth status "+appID)
	x.run(0, "preauth status --state failing")
	eventually(t, "the failure is announced", func() bool {
		out, err := x.command("preauth failures --json").Output()
		return err == nil && len(out) > 0
	})
	x.run(0, "preauth failures --since 1h")

	x.say("## As it happens\n\nMeanwhile somebody renews a code in another terminal.")
	x.interrupt("preauth watch", "Listening", func() { x.quietly("preauth renew " + appID) }, "updated")

	x.say("## The quota, and stored tokens")
	settled(appID, 2, 1)
	x.run(0, "preauth quota")
	x.run(0, "preauth replay --dry-run")
	x.run(0, "preauth replay "+otherAppID)

	x.say("## What is wrong is said")
	x.run(2, "preauth status --state broken")
	x.run(2, "preauth lookup "+appID+" --min-ttl 300")
	x.run(1, "preauth lookup wx0000000000000000")
	x.run(1, "preauth status --nats-url nats://127.0.0.1:1")
	x.check("docs/commands.md")
}

// docs/kv-transcript.md shows the KV bucket with the nats CLI.
func TestTranscriptOfBucket(t *testing.T) {
	cli, err := exec.LookPath("nats")
	if err != nil {
		t.Skip("the nats CLI is not installed: go install github.com/nats-io/natscli/nats@v0.5.1")
	}
	s := start(t, func(c *consumer.Config) { c.Bucket = "preauth" })
	x := newTranscript(t, s, buildPreauth(t), cli)
	x.say(`
# The KV bucket with the ` + "`nats`" + ` CLI

What the bucket promises is in [the contract](contract.md#kv-bucket). Codes are shortened.
` + "`go test ./docs -run Transcript -update`" + ` writes this page, with the ` + "`nats`" + ` CLI 0.5.1.`)
	x.quietly("echo 61_W3mEQkP0 | preauth announce " + appID)
	eventually(t, "the code is in the bucket", func() bool {
		return x.command("nats kv get preauth "+appID).Run() == nil
	})
	x.run(0, "nats kv ls preauth")
	x.run(0, "nats kv get preauth "+appID+" --raw")
	x.interrupt("nats kv watch preauth "+appID, "PUT", func() { x.quietly("preauth renew " + appID) }, `"revision":2`)
	x.run(1, "nats kv put preauth "+appID+" mine")
	x.run(0, "nats kv info preauth")
	x.check("docs/kv-transcript.md")
}
