// Command dist makes everything of a release, for Linux on amd64 and arm64: of each program archives,
// packages for Debian and for RPM, an image, and bills of materials, and the checksums of all. It
// needs neither a container engine nor a network beyond the module proxy, and makes the same bytes of
// the same commit each time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// architectures are what a release runs on.
var architectures = []string{"amd64", "arm64"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root := flag.String("root", "../..", "the directory with the source code")
	out := flag.String("out", "../../dist", "the directory to write to")
	version := flag.String("version", "", "the semantic version of the release, such as 1.2.3")
	flag.Parse()
	r, err := fromGit(ctx, *root, *version)
	if err == nil {
		err = r.make(ctx, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

// release is what is released.
type release struct {
	root    string    // the directory with the source code
	version string    // a semantic version
	commit  string    // empty if the source code is not that of a commit
	date    time.Time // of all files
}

// semantic matches a semantic version without build metadata, whose "+" no image's tag may have.
var semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

// fromGit returns the release of what is checked out. Its date is that of the commit, or the seconds
// in SOURCE_DATE_EPOCH.
func fromGit(ctx context.Context, root, version string) (release, error) {
	r := release{root: root, version: strings.TrimPrefix(version, "v")}
	head, err := output(ctx, root, "git", "log", "-1", "--format=%H %ct")
	if err != nil {
		return r, err
	}
	commit, seconds, _ := strings.Cut(strings.TrimSpace(head), " ")
	changes, err := output(ctx, root, "git", "status", "--porcelain")
	switch {
	case err != nil:
		return r, err
	case changes == "":
		r.commit = commit
	case version != "":
		return r, fmt.Errorf("version %s must be that of a commit: commit or remove the changes first\n%s", version, changes)
	}
	if version == "" {
		r.version = "0.0.0-dev"
	}
	if !semantic.MatchString(r.version) {
		return r, fmt.Errorf("the version must be semantic, such as 1.2.3: %q is not", version)
	}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds = epoch
	}
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return r, fmt.Errorf("SOURCE_DATE_EPOCH must be seconds since 1970: %w", err)
	}
	r.date = time.Unix(unix, 0).UTC()
	return r, nil
}

// make writes the files of the release to a directory, in which it replaces those of an earlier one.
func (r release) make(ctx context.Context, out string) (err error) {
	work, err := os.MkdirTemp("", "preauth-dist")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := prepare(out); err != nil {
		return err
	}
	for _, p := range []program{service, bridge} {
		if err := r.program(ctx, p, work, out); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return checksums(out)
}

// program writes the files of a program.
func (r release) program(ctx context.Context, p program, work, out string) error {
	binaries := map[string]string{}
	for _, arch := range architectures {
		binaries[arch] = filepath.Join(work, arch, p.name)
		if err := r.build(ctx, p, "linux", arch, binaries[arch]); err != nil {
			return err
		}
	}
	var page []byte
	if p.manual {
		var err error
		if page, err = r.manual(ctx, p, work, binaries); err != nil {
			return err
		}
	}
	for _, arch := range architectures {
		files := r.files(p, binaries[arch], page)
		name := filepath.Join(out, fmt.Sprintf("%s_%s_linux_%s", p.name, r.version, arch))
		if err := errors.Join(
			r.archive(files, name+".tar.gz"), r.materials(ctx, p, binaries[arch], name+".cdx.json"),
			r.pack("deb", p, arch, files, out), r.pack("rpm", p, arch, files, out),
		); err != nil {
			return err
		}
	}
	return r.image(p, binaries, filepath.Join(out, fmt.Sprintf("%s_%s_image.tar", p.name, r.version)))
}

// prepare makes a directory that has no files of an earlier release.
func prepare(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // everybody may read a release
		return err
	}
	for _, pattern := range []string{"preauth_*", "preauth-*", sums} {
		old, err := filepath.Glob(filepath.Join(out, pattern))
		if err != nil {
			return err
		}
		for _, file := range old {
			if err := os.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// build builds a program. The bytes depend on the source code and the version of Go only.
func (r release) build(ctx context.Context, p program, system, arch, file string) error {
	app := "-X preauth/internal/app."
	flags := "-s -w " + app + "release=" + r.version + " " + app + "date=" + r.date.Format(time.RFC3339)
	if r.commit != "" {
		flags += " " + app + "commit=" + r.commit
	}
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	_, err = output(ctx, filepath.Join(r.root, p.module), "env", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off", "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0",
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", file, p.pkg)
	return err
}

// manual returns the man page, as a program for this machine prints it.
func (r release) manual(ctx context.Context, p program, work string, binaries map[string]string) (page []byte, err error) {
	file := binaries[runtime.GOARCH]
	if runtime.GOOS != "linux" || file == "" {
		file = filepath.Join(work, "host", p.name)
		if err := r.build(ctx, p, runtime.GOOS, runtime.GOARCH, file); err != nil {
			return nil, err
		}
	}
	said, err := output(ctx, r.root, file, "man")
	return []byte(said), err
}

// output returns what a command prints.
func output(ctx context.Context, directory, name string, arguments ...string) (string, error) {
	command := exec.CommandContext(ctx, name, arguments...) //nolint:gosec // git, go and what go built
	command.Dir = directory
	out, err := command.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(arguments, " "), err)
	}
	return string(out), nil
}
