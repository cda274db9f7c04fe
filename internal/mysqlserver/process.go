package mysqlserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// errPortTaken means that another process listens on the server's address.
var errPortTaken = errors.New("address is in use by another process")

// process is a running server program.
type process struct {
	command *exec.Cmd
	log     string // path of the file with its output
	exited  chan struct{}
}

// startProcess starts the program. Its output goes to the directory's log.
func startProcess(program string, arguments []string, dir *directory) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir.path, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.Command(program, arguments...)
	command.Dir = dir.path
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = childAttributes()
	command.ExtraFiles = []*os.File{dir.lock} // the server holds the lock too
	// The pipe closes with this process, and devdb ends when its standard input closes.
	if _, err := command.StdinPipe(); err != nil {
		return nil, err
	}
	p := &process{command: command, log: log.Name(), exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// To Linux, the parent of the child is this thread, not the process.
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

// stop ends the process with SIGTERM, or kills it if that takes too long.
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

// failure returns why the process ended by itself.
func (p *process) failure() error {
	tail := p.logTail()
	// MariaDB, MySQL and Go use these words.
	if strings.Contains(strings.ToLower(tail), "address already in use") {
		return fmt.Errorf("%s: %w", p.command.Path, errPortTaken)
	}
	return fmt.Errorf("%s ended: %v\n%s", p.command.Path, p.command.ProcessState, tail)
}

// logTail returns the last lines of the log.
func (p *process) logTail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text))
}
