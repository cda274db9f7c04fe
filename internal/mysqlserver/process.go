package mysqlserver

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is a running server program.
type process struct {
	command  *exec.Cmd
	log      string // path of the file that holds its output
	logStart int64  // where in the file its own output begins
	exited   chan struct{}
}

// startProcess starts the program with its output in the directory's log. It does not wait until the
// server answers.
func startProcess(program string, arguments []string, dir *directory) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir.path, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	command := exec.Command(program, arguments...)
	command.Dir = dir.path
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = childAttributes()
	shareLock(command, dir.lock)
	// Nobody writes to it, but devdb ends when it closes, which it does with this process.
	if _, err := command.StdinPipe(); err != nil {
		return nil, err
	}
	p := &process{command: command, log: log.Name(), logStart: info.Size(), exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Linux tells the child of its parent's death when this thread ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			_ = command.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return p, nil
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.command.Process.Kill()
	<-p.exited
}

// stop asks the process to end in good order, and kills it if it takes too long.
func (p *process) stop() {
	if err := p.command.Process.Signal(syscall.SIGTERM); err == nil {
		select {
		case <-p.exited:
			return
		case <-time.After(30 * time.Second):
		}
	}
	p.kill()
}

// failure says why a process that ended by itself did so.
func (p *process) failure() error {
	tail := p.logTail()
	// Both MariaDB and Go say it in these words.
	if strings.Contains(strings.ToLower(tail), "address already in use") {
		return fmt.Errorf("%s: %w", p.command.Path, ErrPortTaken)
	}
	return fmt.Errorf("%s ended: %v\n%s", p.command.Path, p.command.ProcessState, tail)
}

// logTail returns the last lines of what the process printed.
func (p *process) logTail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(bytes.TrimSpace(text[min(int64(len(text)), p.logStart):])))
}
