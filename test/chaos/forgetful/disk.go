package forgetful

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// The environment of a process that serves a disk.
const (
	envDir    = "FORGETFUL_DIR"
	envStrict = "FORGETFUL_STRICT"
)

// Disk is an [FS] that a process of its own serves. A process must not serve the file system that it
// uses: if one of its threads starts a program, the Go runtime cannot stop the world until the new
// process has closed its copies of the open files, which waits for an answer of the file system.
type Disk struct {
	command  *exec.Cmd
	requests io.WriteCloser
	answers  *bufio.Reader
}

// Start mounts a new file system on dir, which it creates. It runs the calling program once more, so
// that program's main function or TestMain must begin with [Main].
//
// The disk ends with the caller, however that ends. What a killed disk left on dir is unmounted
// first.
func Start(dir string, strict bool) (*Disk, error) {
	if _, err := os.Stat(dir); errors.Is(err, syscall.ENOTCONN) {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			return nil, fmt.Errorf("unmount what is left on %s: %w", dir, err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d := &Disk{command: exec.Command(program)}
	d.command.Env = append(os.Environ(), envDir+"="+dir)
	if strict {
		d.command.Env = append(d.command.Env, envStrict+"=1")
	}
	d.command.Stderr = os.Stderr
	d.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C at the terminal must not reach it
	if d.requests, err = d.command.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := d.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	d.answers = bufio.NewReader(answers)
	if err := d.command.Start(); err != nil {
		return nil, err
	}
	if _, err := d.answer(); err != nil {
		_ = d.Close() // says the same
		return nil, fmt.Errorf("mount a disk on %s: %w", dir, err)
	}
	return d, nil
}

// Try reports why [Start] cannot work here.
func Try() error {
	dir, err := os.MkdirTemp("", "forgetful-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d, err := Start(dir, false)
	if err != nil {
		return err
	}
	return d.Close()
}

// Cut is [FS.Cut].
func (d *Disk) Cut(seed uint64) (lost int, err error) {
	if _, err = fmt.Fprintln(d.requests, seed); err == nil {
		lost, err = d.answer()
	}
	if err != nil {
		return 0, fmt.Errorf("cut the power of a disk: %w", err)
	}
	return lost, nil
}

// answer reads a number, or a text that says what failed.
func (d *Disk) answer() (lost int, err error) {
	line, err := d.answers.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("its process does not answer: %w", err)
	}
	line = strings.TrimSpace(line)
	if lost, err = strconv.Atoi(line); err != nil {
		return 0, errors.New(line)
	}
	return lost, nil
}

// Close unmounts the disk and forgets what it holds.
func (d *Disk) Close() error {
	_ = d.requests.Close() // fails if the process has ended, and then Wait says so
	says, _ := io.ReadAll(d.answers)
	if err := d.command.Wait(); err != nil {
		return fmt.Errorf("the process of a disk: %w: %s", err, bytes.TrimSpace(says))
	}
	return nil
}

// Main serves a disk and does not return, if [Start] made this process for that.
func Main() {
	dir := os.Getenv(envDir)
	if dir == "" {
		return
	}
	if err := serve(dir, os.Getenv(envStrict) != ""); err != nil {
		fmt.Fprintln(os.Stdout, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve cuts the power whenever it reads a seed, until the input ends.
func serve(dir string, strict bool) (err error) {
	f := New(strict)
	unmount, err := f.mount(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	for lost := 0; ; {
		if _, err := fmt.Fprintln(os.Stdout, lost); err != nil {
			return err
		}
		var seed uint64
		if _, err := fmt.Scanln(&seed); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		lost = f.Cut(seed)
	}
}
