package system

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a child that dies with the harness.
type process struct {
	command *exec.Cmd
	exited  chan struct{} // closed when it has ended; command.ProcessState then says how
}

// startProcess starts a program with its output appended to a log.
func startProcess(log string, env []string, program string, args ...string) (*process, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	p := &process{command: exec.Command(program, args...), exited: make(chan struct{})}
	p.command.Env = env
	p.command.Stdout, p.command.Stderr = output, output
	// Ctrl-C at the terminal must reach the harness alone.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Linux kills the child when this thread ends, not when the process does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.command.Start()
		started <- err
		if err == nil {
			_ = p.command.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return p, nil
}

func (p *process) signal(s syscall.Signal) error { return p.command.Process.Signal(s) }

// kill kills the process and returns when it is gone.
func (p *process) kill() {
	_ = p.command.Process.Kill()
	<-p.exited
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}
