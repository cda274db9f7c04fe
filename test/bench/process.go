package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a running program of the set-up.
type process struct {
	name    string
	command *exec.Cmd
	stdin   io.Closer
	lines   *bufio.Reader // its standard output
	log     *os.File      // its standard error
	exited  chan struct{}
}

// start starts a program. At the latest it ends with this process, and one of this command's own
// programs also when its standard input closes.
func start(dir, name string, environment []string, program string, args ...string) (*process, error) {
	log, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	p := &process{name: name, command: exec.Command(program, args...), log: log, exited: make(chan struct{})}
	p.command.Env = append(os.Environ(), environment...)
	p.command.Stderr = log
	p.command.SysProcAttr = endWithParent()
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.lines = bufio.NewReader(stdout)
	if p.stdin, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel takes the end of this thread for the parent's
		defer runtime.UnlockOSThread()
		err := p.command.Start()
		started <- err
		if err == nil {
			_, _ = p.command.Process.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// await returns the rest of the first line of the program's output that begins with prefix.
func (p *process) await(ctx context.Context, prefix string) (string, error) {
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		for {
			line, err := p.lines.ReadString('\n')
			if rest, ok := strings.CutPrefix(line, prefix); ok || err != nil {
				read <- answer{strings.TrimSpace(rest), err}
				return
			}
		}
	}()
	select {
	case a := <-read:
		if a.err != nil {
			return "", p.failure()
		}
		return a.line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// collect hands what a tracer prints to f, until the process ends.
func (p *process) collect(f func(what string, s span)) {
	for {
		line, err := p.lines.ReadString('\n')
		if err != nil {
			return
		}
		var what string
		var begin, end int64
		if n, _ := fmt.Sscanf(line, traceLine+"%s %d %d", &what, &begin, &end); n == 3 {
			f(what, span{time.Unix(0, begin), time.Unix(0, end)})
		}
	}
}

// ended reports whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// failure says why the process ended by itself.
func (p *process) failure() error {
	text, _ := os.ReadFile(p.log.Name())
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("%s ended: %s", p.name, strings.Join(lines[max(0, len(lines)-10):], "\n"))
}

// warnings returns the warnings and errors in the log of the process.
func (p *process) warnings() []string {
	text, _ := os.ReadFile(p.log.Name())
	var found []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// stop ends the process in an orderly way, and kills it if that takes too long.
func (p *process) stop() error {
	defer p.log.Close()
	_ = p.stdin.Close()
	_ = p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return nil
	case <-time.After(30 * time.Second):
		_ = p.command.Process.Kill()
		<-p.exited
		return errors.New(p.name + " did not stop by itself")
	}
}

// cpu returns the processor time that a process has used.
func cpu(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0 // not Linux, or it is gone
	}
	// The name, in parentheses, may hold spaces.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const userTime, systemTime, ticks = 11, 12, 100
	user, _ := strconv.Atoi(fields[userTime])
	system, _ := strconv.Atoi(fields[systemTime])
	return time.Duration(user+system) * time.Second / ticks
}
