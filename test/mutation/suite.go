package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"preauth/internal/mysqlserver"
)

// suite is the tests of a package, compiled with its mutants.
type suite struct {
	binary string
	dir    string // the package's
	grace  time.Duration
	tests  []*test
}

// test is a top-level test, example or fuzz target with its seeds.
type test struct {
	name  string
	takes time.Duration
	// reaches are the numbers of mutants.
	reaches map[int]bool
	// private tests do without the shared database, which they would harm.
	private bool
}

// fate is what became of a mutant.
type fate int

const (
	notCovered fate = iota
	survived
	killed
	timedOut
)

// failure is the first line of `go test -v` that tells of a failed test.
const failure = "--- FAIL"

func (s *schema) compile(ctx context.Context, root, dir string) (*suite, error) {
	overlay, err := s.overlay(dir)
	if err != nil {
		return nil, err
	}
	result := &suite{binary: filepath.Join(dir, "package.test"), dir: filepath.Dir(s.pkg.CompiledGoFiles[0])}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-overlay", overlay, "-o", result.binary, s.pkg.PkgPath)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the mutants of %s: %w\n%s", s.pkg.PkgPath, err, out)
	}
	list := exec.CommandContext(ctx, result.binary, "-test.list", ".")
	list.Dir, list.Stderr = result.dir, io.Discard
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests of %s: %w", s.pkg.PkgPath, err)
	}
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		if strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") || strings.HasPrefix(name, "Example") {
			result.tests = append(result.tests, &test{name: name})
		}
	}
	return result, nil
}

// observe runs a test alone, without a mutant, and records what it reaches. A busy machine may fail
// it once.
func (s *suite) observe(ctx context.Context, t *test, database *mysqlserver.Server, again bool) error {
	hits, err := os.CreateTemp("", "mutation-hits-")
	if err != nil {
		return err
	}
	defer os.Remove(hits.Name())
	defer hits.Close()
	begin := time.Now()
	skipped, err := s.run(ctx, []*test{t}, database, 0, hits.Name())
	if skipped && err == nil && database != nil {
		t.private = true
		begin = time.Now()
		_, err = s.run(ctx, []*test{t}, nil, 0, hits.Name())
	}
	if err != nil && !again {
		return s.observe(ctx, t, database, true)
	}
	if err != nil {
		return fmt.Errorf("%s fails without a mutant: %w", t.name, err)
	}
	t.takes = time.Since(begin)
	t.reaches = map[int]bool{}
	lines := bufio.NewScanner(hits)
	for lines.Scan() {
		id, err := strconv.Atoi(lines.Text())
		if err != nil {
			return fmt.Errorf("what %s reaches: %w", t.name, err)
		}
		t.reaches[id] = true
	}
	return lines.Err()
}

// try runs the tests that reach a mutant, the fastest first, in groups that grow: a process has a
// cost, and so has the rest of a group whose first test fails.
func (s *suite) try(ctx context.Context, m *mutant, database *mysqlserver.Server) (fate, error) {
	var tests []*test
	for _, t := range s.tests {
		if t.reaches[m.id] {
			tests = append(tests, t)
		}
	}
	if len(tests) == 0 {
		return notCovered, nil
	}
	slices.SortStableFunc(tests, func(a, b *test) int {
		if a.private != b.private {
			if b.private {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.takes, b.takes)
	})
	for room := time.Second; len(tests) > 0; room *= 4 {
		n, takes := 1, tests[0].takes
		for n < len(tests) && tests[n].private == tests[0].private && takes+tests[n].takes < room {
			takes += tests[n].takes
			n++
		}
		limit, cancel := context.WithTimeout(ctx, s.grace+5*takes)
		_, err := s.run(limit, tests[:n], database, m.id, "")
		late := limit.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return notCovered, ctx.Err()
		case late:
			return timedOut, nil
		case err != nil:
			return killed, nil
		}
		tests = tests[n:]
	}
	return survived, nil
}

var errFailed = errors.New("a test failed")

// run runs tests in one process with a mutant, 0 for none, and ends it at the first failure.
func (s *suite) run(ctx context.Context, tests []*test, database *mysqlserver.Server, mutant int, hits string) (skipped bool, err error) {
	names := make([]string, len(tests))
	for i, t := range tests {
		names[i] = t.name
	}
	// Mutants may allocate without end.
	command := exec.Command("sh", "-c", `ulimit -d 8388608; exec "$0" "$@"`, s.binary,
		"-test.v", "-test.failfast", "-test.timeout=0", "-test.run", "^("+strings.Join(names, "|")+")$")
	command.Dir = s.dir
	command.Env = append(os.Environ(), "MUTANT="+strconv.Itoa(mutant), "MUTANT_HITS="+hits)
	if database != nil && !tests[0].private {
		command.Env = append(command.Env, mysqlserver.EnvTestDSN+"="+database.DSN(""))
	}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	read, write, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer read.Close()
	command.Stdout, command.Stderr = write, write
	err = command.Start()
	write.Close()
	if err != nil {
		return false, err
	}
	// The tests may have started processes, which hold the pipe too.
	end := func() { _ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	stop := context.AfterFunc(ctx, end)
	defer stop()
	failed := false
	var last []string
	lines := bufio.NewReader(read)
	for {
		line, err := lines.ReadString('\n')
		skipped = skipped || strings.HasPrefix(line, "--- SKIP")
		if line != "" {
			last = append(last[max(0, len(last)-20):], line)
		}
		if strings.HasPrefix(line, failure) {
			failed = true
			end()
		}
		if err != nil {
			break
		}
	}
	err = command.Wait()
	end()
	if failed {
		err = errFailed
	}
	if err != nil && mutant == 0 {
		err = fmt.Errorf("%w\n%s", err, strings.Join(last, ""))
	}
	return skipped, err
}
