package system

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Programs are the paths of the programs under test.
type Programs struct {
	Preauth, NATS string
	// Before is an older build of the service to start with, "" for none.
	Before string
}

// first returns the build of the service to start with.
func (p Programs) first() string { return cmp.Or(p.Before, p.Preauth) }

// Build builds the service into dir, as for production but with a clock that can be set wrong, and
// nats-server in the version of the project's go.mod. overlay has other texts for source files of
// the project, by their path within it; nil has none.
func Build(ctx context.Context, dir string, overlay map[string]string) (Programs, error) {
	programs := Programs{Preauth: filepath.Join(dir, "preauth"), NATS: filepath.Join(dir, "nats-server")}
	root, err := Root(ctx)
	if err != nil {
		return programs, err
	}
	name, err := writeOverlay(dir, root, overlay)
	if err != nil {
		return programs, fmt.Errorf("overlay: %w", err)
	}
	if err := goIn(ctx, root, "build", "-tags", "faultclock", "-overlay", name, "-o", programs.Preauth, "./cmd/preauth"); err != nil {
		return programs, err
	}
	return programs, goIn(ctx, root, "build", "-o", programs.NATS, "github.com/nats-io/nats-server/v2")
}

// BuildCommit builds the service as it was at a commit of the project, and returns the path of the
// program. Builds are kept in the user's cache directory.
func BuildCommit(ctx context.Context, commit string) (program string, err error) {
	root, err := Root(ctx)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "preauth", "builds")
	program = filepath.Join(dir, "preauth-"+commit)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	source, err := os.MkdirTemp(dir, "source-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(source)) }()
	archive := filepath.Join(source, "source.tar")
	for _, args := range [][]string{
		{"git", "-C", root, "archive", "--output=" + archive, commit},
		{"tar", "-xf", archive, "-C", source},
		{"go", "-C", source, "build", "-tags", "faultclock", "-o", archive + ".preauth", "./cmd/preauth"},
	} {
		if output, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("build commit %s: %s: %w\n%s", commit, args[0], err, output)
		}
	}
	return program, os.Rename(archive+".preauth", program)
}

// Compile compiles the packages of the files in overlay, without linking a program. dir takes files
// of its own.
func Compile(ctx context.Context, dir string, overlay map[string]string) error {
	root, err := Root(ctx)
	if err != nil {
		return err
	}
	name, err := writeOverlay(dir, root, overlay)
	if err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	packages := []string{}
	for file := range overlay {
		if p := "./" + path.Dir(file); !slices.Contains(packages, p) {
			packages = append(packages, p)
		}
	}
	return goIn(ctx, root, append([]string{"build", "-overlay", name}, packages...)...)
}

// Root returns the directory of the project that the harness belongs to. The working directory must
// be in the harness's module.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "preauth").Output()
	if err != nil {
		return "", fmt.Errorf("find the project, for which the working directory has to be in test/chaos: go list: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func goIn(ctx context.Context, dir string, args ...string) error {
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = dir
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return nil
}

// writeOverlay writes the texts, and the file for go build -overlay that names them. It returns the
// name of that file.
func writeOverlay(dir, root string, texts map[string]string) (string, error) {
	replace := map[string]string{}
	for name, text := range texts {
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, name)] = file
	}
	content, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, content, 0o600)
}
