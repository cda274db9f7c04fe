package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"preauth/internal/app/apptest"
)

// completed are command lines that end in the middle of a word, and the word as it becomes.
var completed = []struct {
	words []string
	want  string
}{
	{[]string{"fail"}, "failures"},
	{[]string{"schema", "ad"}, "adopt"},
	{[]string{"completion", "f"}, "fish"},
	{[]string{"lookup", "--rev"}, "--reveal"},
	{[]string{"status", "--state", "fa"}, "failing"},
	{[]string{"status", "--state=fa"}, "--state=failing"},
	{[]string{"status", "-w", "--json", "--timeout", "1m", "wxb"}, "wxbeijing"},
	{[]string{"lookup", "--nats-url", "URL", "--min-ttl=5m", "--timeout=1m", "wxb"}, "wxbeijing"},
	{[]string{"resolve", "--code-file", "DIR/co"}, "DIR/code"},
	{[]string{"resolve", "--code-file=DIR/co"}, "--code-file=DIR/code"},
}

// completing returns a shell's command with preauth, which knows a component, and what replaces URL
// and DIR in the lines.
func completing(t *testing.T, shell string, args ...string) (command *exec.Cmd, here func(string) string) {
	t.Helper()
	program, err := exec.LookPath(shell)
	if err != nil {
		t.Skip(shell + " is not installed")
	}
	server, stand := newNATS(t), newWeChat(t, "")
	_, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn="+apptest.NewDatabase(t), "--schema-apply", "--wechat-url="+stand.URL(), "--spares=0")
	awaitReady(t, admin)
	nc := connect(t, server.URL())
	updates := subscribe(t, nc, "preauth.updated")
	if err := nc.Publish("component.token.updated", tokenEvent("wxbeijing", "first")); err != nil {
		t.Fatal(err)
	}
	nextUpdate(t, updates, "wxbeijing")

	dir := filepath.Dir(write(t, "code", secret))
	if err := os.Symlink(os.Args[0], filepath.Join(dir, "preauth")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	command = exec.CommandContext(ctx, program, args...)
	command.Env = append(os.Environ(), "PREAUTH_TEST_MAIN=1", "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "NATS_URL="+server.URL(), "PREAUTH_SPARES=2", "TERM=xterm")
	return command, strings.NewReplacer("URL", server.URL(), "DIR", dir).Replace
}

func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	command, here := completing(t, "bash", "--norc", "-u")
	script, want := "source <(preauth completion bash)\n", ""
	for _, each := range completed {
		var words []string
		for _, word := range each.words { // as bash takes a line apart
			if name, value, ok := strings.Cut(word, "="); ok && strings.HasPrefix(word, "--") {
				words = append(words, name, "=", value)
			} else {
				words = append(words, word)
			}
		}
		_, last, ok := strings.Cut(each.want, "=")
		if !ok {
			last = each.want
		}
		script += fmt.Sprintf("COMP_WORDS=(preauth %s) COMP_CWORD=%d\n_preauth\necho \"${COMPREPLY[*]}\"\n", strings.Join(words, " "), len(words))
		want += last + "\n"
	}
	script += "COMP_WORDS=(preauth status --state =) COMP_CWORD=3\n_preauth\necho \"${COMPREPLY[*]}\"\n"
	want += "any valid expiring failing no_token\n"
	command.Stdin = strings.NewReader(here(script))
	if out, err := command.CombinedOutput(); err != nil || string(out) != here(want) {
		t.Errorf("%v, completed are\n%swant\n%s", err, out, here(want))
	}
}

func TestCompletionInFish(t *testing.T) {
	t.Parallel()
	command, here := completing(t, "fish", "--no-config")
	script, want := "preauth completion fish | source\n", ""
	for _, each := range completed {
		script += fmt.Sprintf("complete -C 'preauth %s' | string replace -r '\\t.*' ''\n", strings.Join(each.words, " "))
		want += each.want + "\n"
	}
	command.Stdin = strings.NewReader(here(script + "true\n"))
	if out, err := command.CombinedOutput(); err != nil || string(out) != here(want) {
		t.Errorf("%v, completed are\n%swant\n%s", err, out, here(want))
	}
}

// zsh completes at a terminal only.
func TestCompletionInZsh(t *testing.T) {
	t.Parallel()
	command, here := completing(t, "zsh", "-f")
	script := `zmodload zsh/zpty
zpty terminal zsh -f -i
says() { zpty -r -m terminal answer "*$1*" || exit 1 }
zpty -w terminal 'PROMPT=; autoload -Uz compinit; compinit -u -D; source <(preauth completion zsh); echo READ""Y'
says READY
`
	for _, each := range completed {
		script += fmt.Sprintf("zpty -w -n terminal 'preauth %s'$'\\t'; says %s; zpty -w -n terminal $'\\x15'\n", strings.Join(each.words, " "), each.want)
	}
	command.Stdin = strings.NewReader(here(script + "zpty -d terminal\necho all\n"))
	if out, err := command.CombinedOutput(); err != nil || string(out) != "all\n" {
		t.Errorf("%v, %s", err, out)
	}
}

// Without the service, or with something wrong, nothing is suggested and nothing is said.
func TestCompletionIsSilentOnFailure(t *testing.T) {
	t.Parallel()
	for _, words := range [][]string{{"lookup", "--nats-url=nats://127.0.0.1:1", "wx"}, {"lookup", "--nats-url", "://", "wx"}, {"lookup", "--nats-url=nats://127.0.0.1:1", "a b"}, {"nonsense", "--more", "x"}, {"lookup", "wx1", "wx2"}} {
		status, out, stderr := do(t, append([]string{"complete", "--"}, words...)...)
		if status != 0 || out != "" || stderr != "" {
			t.Errorf("%q: status %d, %q %q", words, status, out, stderr)
		}
	}
	for _, words := range [][]string{nil, {""}} {
		if _, out, _ := do(t, append([]string{"complete", "--"}, words...)...); !strings.HasPrefix(out, "serve\tRun the service\n") || strings.Contains(out, "complete\t") {
			t.Errorf("%q: %s", words, out)
		}
	}
}
