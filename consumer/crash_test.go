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

	"preauth"
	"preauth/consumer"
	"preauth/repo"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// The environment of a replica that runs as a process of its own and kills itself at a step.
const (
	envCrash  = "CONSUMER_TEST_CRASH_AT"
	envNATS   = "CONSUMER_TEST_NATS"
	envDSN    = "CONSUMER_TEST_DSN"
	envWeChat = "CONSUMER_TEST_WECHAT"
)

// never is no step.
const never consumer.StepName = "never"

// crashingReplica is the main function of that process.
func crashingReplica() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		fail(errors.Join(err, io.EOF)) // the test is over
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
			select {} // the signal is on its way
		}
	}}
	if crashAt != never {
		cfg.Spares = -1 // steps are those of the event alone
	}
	service, err := consumer.New(cfg, nc, db, api, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	fail(err)
	go func() {
		for service.Ready() != nil {
			<-time.After(10 * time.Millisecond)
		}
		fail(os.Stdout.Close()) // tells the test
	}()
	fail(service.Run(context.Background()))
}

// process is a replica in a process of its own, which kills itself at a step.
func (w *world) process(at consumer.StepName) *exec.Cmd {
	w.t.Helper()
	executable, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), executable)
	cmd.Env = append(os.Environ(), envCrash+"="+string(at), envNATS+"="+w.url, envDSN+"="+w.dsn, envWeChat+"="+w.wechat.URL())
	cmd.Stderr = os.Stderr
	// It ends with this process, however this one ends.
	if _, err := cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	return cmd
}

// killAfter runs a replica in a process of its own, and kills it some time after it got ready, which takes long on a
// slow machine.
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

// crash runs a replica in a process of its own until it kills itself.
func (w *world) crash(at consumer.StepName) {
	w.t.Helper()
	cmd := w.process(at)
	err := cmd.Run()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		w.t.Fatalf("the process did not kill itself at %q: %v", at, err)
	}
}

// The process ends in each gap between two outside effects; whatever the gap, a restart leaves one
// current code, announced, as the stream's last message.
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
				t.Errorf("revision %d: the event was worked on again after it was committed", update.Revision)
			}
			if got := w.wechat.Count("wx1"); got != want.calls {
				t.Errorf("%d calls of WeChat, want %d", got, want.calls)
			}
			// The service still works, and the revision grows.
			w.announce("wx1", w.token("b"))
			r.await(consumer.StepCleared, "wx1", r.count(consumer.StepCleared)+1)
			if update := w.settled(r, "wx1"); update.Revision != 2 || update.Cause != preauth.CauseToken {
				t.Errorf("then revision %d because of %s", update.Revision, update.Cause)
			}
		})
	}
}
