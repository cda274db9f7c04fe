package main

import (
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"preauth/internal/app/apptest"
)

func TestDevEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the database server stays when dev is killed, and there is no /proc to look for it")
	}
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGKILL} {
		t.Run(s.String(), func(t *testing.T) {
			if signal.Ignored(s) {
				t.Skip("this process was started to ignore it, and so are its children")
			}
			t.Parallel()
			temporary := t.TempDir()
			p := apptest.StartProcess(t, temporary, nil, "--components=1")
			p.Out.Await(t, `wxdev1  token → saved → announced → looked up`)
			nats := p.Out.Await(t, `nats://(`+address+`)`)[1]
			if !isChild(t, temporary) {
				t.Error("no process works in the temporary directory: the test looks for the wrong ones")
			}
			ended := p.Signal(t, s)
			apptest.Eventually(t, "no process is left", func() bool { return !isChild(t, temporary) })
			if conn, err := net.Dial("tcp", nats); err == nil {
				conn.Close()
				t.Error("NATS still listens")
			}
			if s == syscall.SIGKILL {
				return // its files stay: nobody is there to remove them
			}
			if ended.ExitCode() != 0 {
				t.Errorf("ended with %v, want status 0", ended)
			}
			if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// isChild reports whether a process was started with a path below dir. It finds none where there is
// no /proc.
func isChild(t *testing.T, dir string) bool {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range lines {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), dir) {
			return true
		}
	}
	return false
}
