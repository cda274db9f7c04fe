package mysqlserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// unusedFor is how long a build that nobody uses is kept.
const unusedFor = 30 * 24 * time.Hour

// tidbProgram returns the directory of module devdb, and where the program is that this version of it
// was or will be built to.
func tidbProgram() (source, program string, err error) {
	if source, err = findDevdb(); err != nil {
		return "", "", err
	}
	version, err := hashSource(source)
	if err != nil {
		return "", "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", fmt.Errorf("directory for the built TiDB: %w", err)
	}
	program = filepath.Join(cache, "preauth", "devdb-"+version)
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	return source, program, nil
}

// buildTiDB returns the path of the program of module devdb, built if this version of it never was.
func buildTiDB(ctx context.Context, opts Options) (string, error) {
	source, program, err := tidbProgram()
	if err != nil {
		return "", err
	}
	cache := filepath.Dir(program)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := lockFile(ctx, filepath.Join(cache, "devdb.lock"), func() {
		opts.Log("waiting for another process that builds TiDB")
	})
	if err != nil {
		return "", fmt.Errorf("wait for the build of TiDB: %w", err)
	}
	defer lock.Close()
	if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
		if err := goBuild(ctx, opts, source, program, lock); err != nil {
			return "", err
		}
	}
	now := time.Now()
	if err := os.Chtimes(program, now, now); err != nil {
		return "", err
	}
	removeUnused(cache)
	return program, nil
}

// goBuild builds the program. The lock goes to the go command too, so that a build goes on alone if
// this process is killed, and the next one waits for it and then finds most of its work done.
func goBuild(ctx context.Context, opts Options, source, program string, lock *os.File) error {
	opts.Log("building TiDB, as no other database server is used: about five minutes, this once (Debian's package mariadb-server-core makes it unnecessary)")
	unfinished := program + ".new"
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", unfinished, ".")
	command.Dir = source
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0")
	shareLock(command, lock)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 10 * time.Second
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output

	start := time.Now()
	if err := command.Start(); err != nil {
		return fmt.Errorf("build TiDB: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- command.Wait() }()
	progress := time.NewTicker(30 * time.Second)
	defer progress.Stop()
	for {
		select {
		case <-progress.C:
			opts.Log("still building TiDB (%s)", time.Since(start).Round(time.Second))
		case err := <-done:
			if err != nil {
				return fmt.Errorf("build TiDB in %s: %w\n%s", source, cmp.Or(ctx.Err(), err), lastLines(output.String()))
			}
			opts.Log("built TiDB in %s", time.Since(start).Round(time.Second))
			return os.Rename(unfinished, program)
		}
	}
}

// findDevdb returns the directory of module devdb: in the checkout of the working directory, else in
// the one that this program was built from.
func findDevdb() (string, error) {
	if directory, err := os.Getwd(); err == nil {
		for {
			if isDevdb(filepath.Join(directory, "test", "devdb")) {
				return filepath.Join(directory, "test", "devdb"), nil
			}
			parent := filepath.Dir(directory)
			if parent == directory {
				break
			}
			directory = parent
		}
	}
	if _, file, _, ok := runtime.Caller(0); ok {
		directory := filepath.Join(filepath.Dir(file), "..", "..", "test", "devdb")
		if isDevdb(directory) {
			return directory, nil
		}
	}
	return "", fmt.Errorf("%w: TiDB is built from the directory devdb of preauth's source, but this runs outside of it", ErrNotFound)
}

func isDevdb(directory string) bool {
	text, err := os.ReadFile(filepath.Join(directory, "go.mod"))
	return err == nil && strings.HasPrefix(string(text), "module preauth/test/devdb\n")
}

// hashSource identifies the version of the module and what it is built for.
func hashSource(directory string) (string, error) {
	sources, err := filepath.Glob(filepath.Join(directory, "*.go"))
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.GOOS, runtime.GOARCH)
	for _, path := range append([]string{filepath.Join(directory, "go.mod"), filepath.Join(directory, "go.sum")}, slices.Sorted(slices.Values(sources))...) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("source of TiDB: %w", err)
		}
		fmt.Fprintln(hash, filepath.Base(path), len(text))
		hash.Write(text)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:6]), nil
}

// removeUnused removes the builds of other versions that have not been used for long: each has 135 MB.
func removeUnused(cache string) {
	found, _ := filepath.Glob(filepath.Join(cache, "devdb-*"))
	for _, path := range found {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > unusedFor {
			_ = os.Remove(path)
		}
	}
}
