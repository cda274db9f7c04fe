// Package apptest runs whole commands within tests, against a real database server.
package apptest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
)

// envMain makes a test binary act as the command itself, for tests that need a process.
const envMain = "PREAUTH_TEST_MAIN"

// Patience is how long a test waits for what must happen. No machine is too slow for it.
const Patience = 2 * time.Minute

// Secret is part of every password, token and DSN in tests of commands. No output may contain it.
const Secret = "N0tToBePr1nted"

// MySQL is the database server of the package's tests.
var MySQL *mysqlserver.Server

// Main is the body of TestMain for a package whose command is main.
func Main(m *testing.M, main func()) {
	if os.Getenv(envMain) != "" {
		main()
	}
	err := flag.Set("test.parallel", "8") // the tests wait more than they compute
	if err == nil {
		unsetSettings()
		MySQL, err = mysqlserver.Start(context.Background(), mysqlserver.TestOptions())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	err = MySQL.Close()
	if err == nil && status == 0 {
		err = leak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// unsetSettings unsets the variables of a service that this machine may have.
func unsetSettings() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if regexp.MustCompile(`^(NATS|MYSQL|PREAUTH|OTEL)_`).MatchString(name) && !strings.HasPrefix(name, "PREAUTH_TEST_") {
			_ = os.Unsetenv(name)
		}
	}
}

// Output is what a command prints.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed and replaced at each write
}

// NewOutput returns an empty output.
func NewOutput() *Output { return &Output{more: make(chan struct{})} }

// Write appends the text.
func (o *Output) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.text.Write(text)
}

// String returns everything printed so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Await waits until the pattern matches, and returns what its groups match.
func (o *Output) Await(t *testing.T, pattern string) []string {
	t.Helper()
	expression, deadline := regexp.MustCompile(pattern), time.After(Patience)
	for {
		o.mu.Lock()
		found, more := expression.FindStringSubmatch(o.text.String()), o.more
		o.mu.Unlock()
		if found != nil {
			return found
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("never printed: %s\n%s", pattern, o)
		}
	}
}

// Eventually waits until the condition holds.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline, tick := time.After(Patience), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		}
	}
}

// Run is a command: it returns the exit status.
type Run func(ctx context.Context, args []string, stdout, stderr io.Writer) int

// Command is a command that runs in this process.
type Command struct {
	Out, Err *Output

	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
	status int
}

// Start runs a command until the test stops it or ends.
func Start(t *testing.T, run Run, args ...string) *Command {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &Command{Out: NewOutput(), Err: NewOutput(), t: t, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		c.status = run(ctx, args, c.Out, c.Err)
	}()
	t.Cleanup(func() {
		c.Stop()
		if t.Failed() {
			t.Logf("%s\n%s%s", strings.Join(args, " "), c.Out, c.Err)
		}
		HasNoSecret(t, c.Out.String()+c.Err.String())
	})
	return c
}

// Stop ends the command as Ctrl-C does, and returns its exit status.
func (c *Command) Stop() int {
	c.t.Helper()
	c.cancel()
	return c.Wait()
}

// Wait returns the exit status once the command has ended.
func (c *Command) Wait() int {
	c.t.Helper()
	select {
	case <-c.ended:
		return c.status
	case <-time.After(Patience):
		c.t.Fatal("the command does not end")
		return -1
	}
}

// Do runs a command to its end.
func Do(t *testing.T, run Run, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	status = run(ctx, args, &out, &err)
	HasNoSecret(t, out.String()+err.String())
	return status, out.String(), err.String()
}

// Refused requires that a command rejects its arguments with status 2, in words that include says.
func Refused(t *testing.T, run Run, says []string, args ...string) {
	t.Helper()
	// A command that takes the arguments ends at once, with status 0 or 1.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, stderr bytes.Buffer
	status := run(ctx, args, &out, &stderr)
	if status != 2 || out.String() != "" {
		t.Errorf("%q: status %d, output %q; want 2 and nothing", args, status, out.String())
	}
	for _, text := range says {
		if !strings.Contains(stderr.String(), text) {
			t.Errorf("%q: the error is %q, want it to say %q", args, stderr.String(), text)
		}
	}
	HasNoSecret(t, stderr.String())
}

// HasNoSecret requires that a text does not contain [Secret].
func HasNoSecret(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, Secret) {
		t.Errorf("a secret is printed:\n%s", text)
	}
}

// Process is the command in a process of its own.
type Process struct {
	*exec.Cmd

	Out  *Output // standard output and standard error
	done chan struct{}
}

// StartProcess starts the command in a process with its own directory for temporary files.
func StartProcess(t *testing.T, temporary string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{Cmd: exec.Command(os.Args[0], args...), Out: NewOutput(), done: make(chan struct{})}
	p.Env = append(append(os.Environ(), envMain+"=1", "TMPDIR="+temporary), env...)
	p.Stdout, p.Stderr = p.Out, p.Out
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
		HasNoSecret(t, p.Out.String())
		if t.Failed() {
			t.Logf("%s\n%s", strings.Join(args, " "), p.Out)
		}
	})
	return p
}

// Signal sends a signal and returns how the process ended.
func (p *Process) Signal(t *testing.T, s syscall.Signal) *os.ProcessState {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
		return p.ProcessState
	case <-time.After(Patience):
		t.Fatalf("%v does not end the process", s)
		return nil
	}
}

var databases atomic.Int64

// NewDatabase returns the DSN of an empty database on [MySQL].
func NewDatabase(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("command_%d_%d", os.Getpid(), databases.Add(1))
	if err := MySQL.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := MySQL.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	return MySQL.DSN(name)
}
