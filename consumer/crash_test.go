package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"preauth"
	"preauth/consumer"
	"preauth/repo"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// Environment variables of a replica that runs in its own process and kills itself at a step.
const (
	envCrash  = "CONSUMER_TEST_CRASH_AT"
	envNATS   = "CONSUMER_TEST_NATS"
	envDSN    = "CONSUMER_TEST_DSN"
	envWeChat = "CONSUMER_TEST_WECHAT"
)

// never is a step that no replica takes.
const never consumer.StepName = "never"

// crashingReplica is the main function of a replica's own process. It closes stdout once the
// replica is ready, and exits when stdin is closed.
func crashingReplica() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		fail(errors.Join(err, io.EOF)) // the test has ended
	}()
	nc, err := nats.Connect(os.Getenv(envNATS), nats.Timeout(patience))
	fail(err)
	db, err := repo.Open(os.Getenv(envDSN), 4)
	fail(err)
	api, err := wechat.New(wechat.Config{BaseURLs: []string{os.Getenv(envWeChat)}})
	fail(err)
	crashAt := consumer.StepName(os.Getenv(envCrash))
	cfg := consumer.Config{Delays: quick, AckWait: time.Second, CallsPerDay: 1_000_000, Trace: func(step consumer.Step) {
		if step.Name == crashAt {
			fail(syscall.Kill(os.Getpid(), syscall.SIGKILL))
			select {} // until the signal arrives
		}
	}}
	cfg.Spans = sdktrace.NewTracerProvider() // which go nowhere
	if crashAt != never {
		cfg.Spares = -1 // so that all steps are the event's
	}
	service, err := consumer.New(cfg, nc, db, api, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	fail(err)
	go func() {
		for service.Ready() != nil {
			<-time.After(10 * time.Millisecond)
		}
		fail(os.Stdout.Close()) // signals the test
	}()
	fail(service.Run(context.Background()))
}

// process returns the command of a replica in its own process, which kills itself at the step.
func (w *world) process(at consumer.StepName) *exec.Cmd {
	w.t.Helper()
	executable, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), executable)
	cmd.Env = append(os.Environ(), envCrash+"="+string(at), envNATS+"="+w.url, envDSN+"="+w.dsn, envWeChat+"="+w.wechat.URL())
	cmd.Stderr = os.Stderr
	// The replica exits when this process ends, however it ends.
	if _, err := cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	return cmd
}

// killAfter runs a replica in its own process, and kills it the given time after it became ready.
// Counting from the start would kill it too early on a slow machine.
func (w *world) killAfter(life time.Duration) {
	cmd := w.process(never)
	untilReady, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.t.Error(err)
		return
	}
	_, _ = io.Copy(io.Discard, untilReady)
	time.AfterFunc(life, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
}

// crash runs a replica in its own process until it kills itself at the step.
func (w *world) crash(at consumer.StepName) {
	w.t.Helper()
	cmd := w.process(at)
	err := cmd.Run()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		w.t.Fatalf("the process did not kill itself at %q: %v", at, err)
	}
}

// The process is killed in each gap between two external effects. After a restart there is always
// one current code, and the stream's last message announces it.
func TestKilledInEachGap(t *testing.T) {
	gaps := map[consumer.StepName]struct{ calls int }{
		consumer.StepReceived:     {calls: 1},
		consumer.StepIssued:       {calls: 2}, // WeChat's answer was lost with the process
		consumer.StepCommitted:    {calls: 1},
		consumer.StepAcknowledged: {calls: 1},
		consumer.StepAnnounced:    {calls: 1},
		consumer.StepCleared:      {calls: 1},
	}
	for at, want := range gaps {
		t.Run(string(at), func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			w.createTokenStream()
			w.announce("wx1", w.token("a"))
			w.crash(at)

			r := w.start(redelivered)
			update := w.settled(r, "wx1")
			if update.Revision != 1 {
				t.Errorf("revision %d: the event was processed again after its commit", update.Revision)
			}
			if got := w.wechat.Count("wx1"); got != want.calls {
				t.Errorf("%d calls of WeChat, want %d", got, want.calls)
			}
			// The service still works, and the next revision is higher.
			w.announce("wx1", w.token("b"))
			r.await(consumer.StepCleared, "wx1", r.count(consumer.StepCleared)+1)
			if update := w.settled(r, "wx1"); update.Revision != 2 || update.Cause != preauth.CauseToken {
				t.Errorf("the next token gave revision %d with cause %s", update.Revision, update.Cause)
			}
		})
	}
}

// The same for the gaps of an authorization: after a restart its code is spent once, which is
// announced once, and one other code has taken its place.
func TestKilledInEachGapOfAnAuthorization(t *testing.T) {
	gaps := []struct {
		at   consumer.StepName
		lost int // calls whose answer may be lost with the process
	}{
		{at: consumer.StepReceived},
		{at: consumer.StepSpent},
		{at: consumer.StepAcknowledged},
		{at: consumer.StepAnnounced, lost: 1}, // WeChat is asked at the same time
		{at: consumer.StepIssued, lost: 1},
		{at: consumer.StepCommitted},
	}
	for _, gap := range gaps {
		t.Run(string(gap.at), func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			r := w.start().ready()
			w.announce("wx1", w.token("a"))
			code := w.settled(r, "wx1").PreAuthCode
			r.stop()
			before := w.wechat.Count("wx1")
			w.authorize("wx1", code, "wxa")
			w.crash(gap.at)

			r = w.start(redelivered)
			w.eventually("another code is current", func() bool { current := w.current("wx1"); return !current.Equal(code) })
			if update := w.settled(r, "wx1"); update.Revision != 3 || update.Cause != preauth.CauseSpent || update.Spent {
				t.Errorf("revision %d, made for %s, is current", update.Revision, update.Cause)
			}
			if got := w.wechat.Count("wx1") - before; got < 1 || got > 1+gap.lost {
				t.Errorf("%d calls of WeChat, want 1, and %d more at most", got, gap.lost)
			}
			if got := w.authorizedOf("wx1"); got != 1 {
				t.Errorf("%d authorizations announced, want 1", got)
			}
			resolved, err := w.resolve(code)
			if err != nil || resolved.AuthorizerAppID != "wxa" {
				t.Errorf("resolved to %+v, %v", resolved, err)
			}
		})
	}
}
