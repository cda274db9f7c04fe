package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is the command as a process of its own.
type process struct {
	*exec.Cmd
	out  *output
	done chan struct{}
}

// startProcess starts the command as a process that has temporary files of its own.
func startProcess(t *testing.T, temporary string, env []string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], args...), out: newOutput(), done: make(chan struct{})}
	p.Env = append(append(os.Environ(), envMain+"=1", "TMPDIR="+temporary), env...)
	p.Stdout, p.Stderr = p.out, p.out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.Wait()
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.done
		hasNoSecret(t, p.out.String())
		if t.Failed() {
			t.Logf("preauth %s\n%s", strings.Join(args, " "), p.out)
		}
	})
	return p
}

// signal sends a signal and returns how the process ended.
func (p *process) signal(t *testing.T, s syscall.Signal) *os.ProcessState {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
		return p.ProcessState
	case <-time.After(patience):
		t.Fatalf("%v does not end the process", s)
		return nil
	}
}

func TestServeIsConfiguredByItsEnvironmentAndEndsOnSIGTERM(t *testing.T) {
	t.Parallel()
	server, stand := newNATS(t), newWeChat(t, "")
	p := startProcess(t, t.TempDir(), []string{
		"NATS_URL=" + server.URL(), "MYSQL_DSN=" + newDatabase(t), "PREAUTH_WECHAT_URL=" + stand.URL(), "PREAUTH_SCHEMA_APPLY=true",
		"PREAUTH_ADMIN_LISTEN=127.0.0.1:0", "PREAUTH_SUBJECT_UPDATED=codes", "PREAUTH_LOG_LEVEL=", "PREAUTH_LOG_FORMAT=text",
	}, "serve", "--log-format=json")
	awaitReady(t, p.out.await(t, `"admin":"([^"]+)"`)[1])
	nc := connect(t, server.URL())
	sub := subscribe(t, nc, "codes")
	if err := nc.Publish("component.token.updated", tokenEvent("wx1", "first")); err != nil {
		t.Fatal(err)
	}
	nextUpdate(t, sub, "wx1")
	if ended := p.signal(t, syscall.SIGTERM); ended.ExitCode() != 0 {
		t.Errorf("ended with %v, want status 0", ended)
	}
	p.out.await(t, `"msg":"stopped"`)
}
