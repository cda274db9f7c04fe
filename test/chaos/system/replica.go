package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Replica is one process of the service. It can be killed and started again.
type Replica struct {
	Name string
	// NATS has a proxy for each server. No other replica uses these proxies.
	NATS          []*Proxy
	MySQL, WeChat *Proxy

	program, admin, log, clock string
	env                        []string

	mu      sync.Mutex
	process *process
	stopped bool     // by SIGSTOP
	ended   bool     // by the harness
	faults  []string // what it did that a service must never do
}

// stopLimit bounds the time that the service may take to stop after SIGTERM: its own limit of 15 s,
// 5 s for the last messages, and as much again for a busy machine.
const stopLimit = 40 * time.Second

// ErrDown means that the replica does not run or is stopped.
var ErrDown = errors.New("the replica is down")

// Start starts the replica unless it runs.
func (r *Replica) Start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process != nil && r.process.running() {
		return nil
	}
	p, err := startProcess(r.log, r.env, r.program, "serve")
	if err != nil {
		return err
	}
	r.process, r.stopped, r.ended = p, false, false
	go func() {
		<-p.exited
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.process == p && !r.ended {
			r.faults = append(r.faults, fmt.Sprintf("%s ended by itself: %v", r.Name, p.command.ProcessState))
		}
	}()
	return nil
}

// Kill kills the replica with SIGKILL. It returns ErrDown if it does not run.
func (r *Replica) Kill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil || !r.process.running() {
		return ErrDown
	}
	r.ended, r.stopped = true, false
	r.process.kill()
	return nil
}

// Terminate stops the replica with SIGTERM and waits until it is gone. It returns ErrDown for a
// replica that is still starting.
func (r *Replica) Terminate() error {
	asked, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, _, err := r.get(asked, "/healthz"); err != nil {
		return ErrDown
	}
	r.mu.Lock()
	p := r.process
	if p == nil || !p.running() || r.stopped || r.ended {
		r.mu.Unlock()
		return ErrDown
	}
	r.ended = true
	err := p.signal(syscall.SIGTERM)
	r.mu.Unlock()
	if err != nil {
		return ErrDown
	}
	select {
	case <-p.exited:
	case <-time.After(stopLimit):
		p.kill()
		r.blame("%s did not end within %v of SIGTERM", r.Name, stopLimit)
		return nil
	}
	// Another fault may have killed it before it was done.
	status, ok := p.command.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL && status.ExitStatus() != 0 {
		r.blame("%s ended with %v after SIGTERM", r.Name, p.command.ProcessState)
	}
	return nil
}

// Replace stops the replica with SIGTERM, starts another build of the service in its place, and
// returns when that is ready.
func (r *Replica) Replace(ctx context.Context, program string) error {
	if err := r.Terminate(); err != nil {
		return fmt.Errorf("stop %s: %w", r.Name, err)
	}
	r.mu.Lock()
	r.program = program
	r.mu.Unlock()
	return r.Restart(ctx)
}

// Restart starts the replica unless it runs, and returns when it is ready.
func (r *Replica) Restart(ctx context.Context) error {
	if err := r.Start(); err != nil {
		return err
	}
	return r.awaitReady(ctx)
}

// awaitReady waits for a minute at most.
func (r *Replica) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for err := r.Ready(ctx); err != nil; err = r.Ready(ctx) {
		if !Wait(ctx, 100*time.Millisecond) {
			return fmt.Errorf("not ready within a minute: %w", err)
		}
	}
	return nil
}

func (r *Replica) blame(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// Faults returns what the replica did that a service must never do, such as exit by itself.
func (r *Replica) Faults() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.faults)
}

// Stop stops the replica with SIGSTOP until [Replica.Continue].
func (r *Replica) Stop() error { return r.freeze(true, syscall.SIGSTOP) }

// Continue continues a stopped replica with SIGCONT.
func (r *Replica) Continue() error { return r.freeze(false, syscall.SIGCONT) }

func (r *Replica) freeze(stop bool, s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil || !r.process.running() || r.ended || r.stopped == stop {
		return ErrDown
	}
	r.stopped = stop
	return r.process.signal(s)
}

// SetClock sets the replica's clock ahead of the machine's by offset.
func (r *Replica) SetClock(offset time.Duration) error {
	next := r.clock + ".next"
	if err := os.WriteFile(next, []byte(offset.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(next, r.clock)
}

// Ready returns nil if the replica is ready, and otherwise its reason.
func (r *Replica) Ready(ctx context.Context) error {
	status, body, err := r.get(ctx, "/readyz")
	if err == nil && status != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.Name, err)
	}
	return nil
}

// Metrics returns the replica's metrics.
func (r *Replica) Metrics(ctx context.Context) ([]byte, error) {
	_, body, err := r.get(ctx, "/metrics")
	return body, err
}

// Log is the name of the file with everything that the replica ever printed.
func (r *Replica) Log() string { return r.log }

func (r *Replica) get(ctx context.Context, path string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.admin+path, nil)
	if err != nil {
		return 0, nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}
