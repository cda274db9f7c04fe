package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const (
	root    = "../.."
	version = "1.2.3-rc.1"
)

var date = time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC)

// What the tests look at: a release that "make dist" made of a commit of these sources.
var (
	made   string // its directory
	commit string
)

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := makeAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func makeAndRun(m *testing.M) (status int, err error) {
	clone, err := os.MkdirTemp("", "preauth-release")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(clone)) }()
	if err := copyTo(clone); err != nil {
		return 1, err
	}
	if commit, err = commitAll(clone); err != nil {
		return 1, err
	}
	if _, err := output(context.Background(), clone, "make", "dist", "VERSION="+version); err != nil {
		return 1, err
	}
	made = filepath.Join(clone, "dist")
	return m.Run(), nil
}

// copyTo copies the sources as they are now, whether they are committed or not.
func copyTo(directory string) error {
	listed, err := output(context.Background(), root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimRight(listed, "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		copied := filepath.Join(directory, name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(copied), 0o700), os.WriteFile(copied, text, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// commitAll makes a repository of a directory, with one commit of all its files, and returns it.
func commitAll(directory string) (string, error) {
	at, head := date.Format(time.RFC3339), ""
	for _, arguments := range [][]string{
		{"git", "init", "-q"},
		{"git", "add", "-A"},
		{"env", "GIT_COMMITTER_DATE=" + at, "git", "-c", "user.name=me", "-c", "user.email=me@localhost", "commit", "-q", "--allow-empty", "-m", "first"},
		{"git", "rev-parse", "HEAD"},
	} {
		var err error
		if head, err = output(context.Background(), directory, arguments[0], arguments[1:]...); err != nil {
			return "", err
		}
	}
	return strings.TrimSpace(head), nil
}

// The same commit makes the same bytes, from another directory, at another time, in another time
// zone and with another umask.
func TestReleaseIsReproducible(t *testing.T) {
	out := t.TempDir()
	t.Setenv("TZ", "Asia/Shanghai")
	t.Setenv("GOFLAGS", "-buildvcs=true -mod=vendor")
	defer syscall.Umask(syscall.Umask(0o077))
	if err := (release{root, version, commit, date}).make(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	for _, name := range names(t, made) {
		if !bytes.Equal(content(t, made, name), content(t, out, name)) {
			t.Errorf("%s has other bytes", name)
		}
	}
	if again := names(t, out); !slices.Equal(again, names(t, made)) {
		t.Errorf("there are %q", again)
	}
}

func TestReleaseIsComplete(t *testing.T) {
	want := []string{
		"SHA256SUMS", "preauth-1.2.3~rc.1-1.aarch64.rpm", "preauth-1.2.3~rc.1-1.x86_64.rpm",
		"preauth-bridge-1.2.3~rc.1-1.aarch64.rpm", "preauth-bridge-1.2.3~rc.1-1.x86_64.rpm", "preauth-bridge_1.2.3-rc.1_image.tar",
		"preauth-bridge_1.2.3-rc.1_linux_amd64.cdx.json", "preauth-bridge_1.2.3-rc.1_linux_amd64.tar.gz", "preauth-bridge_1.2.3-rc.1_linux_arm64.cdx.json", "preauth-bridge_1.2.3-rc.1_linux_arm64.tar.gz",
		"preauth-bridge_1.2.3~rc.1_amd64.deb", "preauth-bridge_1.2.3~rc.1_arm64.deb", "preauth_1.2.3-rc.1_image.tar",
		"preauth_1.2.3-rc.1_linux_amd64.cdx.json", "preauth_1.2.3-rc.1_linux_amd64.tar.gz", "preauth_1.2.3-rc.1_linux_arm64.cdx.json", "preauth_1.2.3-rc.1_linux_arm64.tar.gz",
		"preauth_1.2.3~rc.1_amd64.deb", "preauth_1.2.3~rc.1_arm64.deb",
	}
	if got := names(t, made); !slices.Equal(got, want) {
		t.Errorf("there are %q", got)
	}
	sums := strings.Split(strings.TrimSpace(string(content(t, made, "SHA256SUMS"))), "\n")
	if len(sums) != len(want)-1 {
		t.Errorf("SHA256SUMS has %d lines", len(sums))
	}
	for _, line := range sums {
		sum, name, _ := strings.Cut(line, "  ")
		if got := fmt.Sprintf("%x", sha256.Sum256(content(t, made, name))); got != sum {
			t.Errorf("the checksum of %s is %s, not %s", name, got, sum)
		}
	}
}

func TestArchiveHasTheProgramOfItsArchitecture(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		files := archived(t, "preauth", arch, "preauth.1", "preauth.service", "preauth.env", "preauth-gateway.service", "preauth-gateway.env", "completion/preauth.bash", "completion/preauth.zsh", "completion/preauth.fish", "CHANGELOG.md")
		isFor(t, files["preauth"], machine)
		if page := string(files["preauth.1"]); !strings.HasPrefix(page, `.TH PREAUTH 1 2026-03-14 "preauth 1.2.3-rc.1"`) {
			t.Errorf("the man page begins %q", page[:60])
		}
		files = archived(t, "preauth-bridge", arch, "preauth-bridge@.service", "bridge-tokens.env", "bridge-codes.env", "bridge-wxcomponent.env", "CHANGELOG.md")
		isFor(t, files["preauth-bridge"], machine)
	}
}

// archived returns the files of the archive of a program, which are the program and those named.
func archived(t *testing.T, program, arch string, others ...string) map[string][]byte {
	t.Helper()
	name := program + "_" + version + "_linux_" + arch
	unzipped, err := gzip.NewReader(bytes.NewReader(content(t, made, name+".tar.gz")))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for file, content := range untar(t, unzipped) {
		files[strings.TrimPrefix(file, name+"/")] = content
	}
	for _, want := range append(others, program) {
		if files[want] == nil {
			t.Errorf("%s has no %s", name, want)
		}
	}
	if len(files) != len(others)+1 {
		t.Errorf("%s has %d files", name, len(files))
	}
	return files
}

// isFor expects a program that is linked statically for an architecture.
func isFor(t *testing.T, program []byte, machine elf.Machine) {
	t.Helper()
	parsed, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Machine != machine || parsed.Section(".interp") != nil {
		t.Errorf("the program is for %v, statically linked: %v", parsed.Machine, parsed.Section(".interp") == nil)
	}
}

// A Debian package is unpacked and removed by dpkg in a root directory of its own, and its scripts
// run.
func TestDebianPackage(t *testing.T) {
	dpkg := installed(t, "dpkg")
	if os.Getuid() != 0 {
		t.Skip("only root installs packages")
	}
	architecture, err := output(t.Context(), ".", "dpkg", "--print-architecture")
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	for _, name := range []string{"var/lib/dpkg/updates", "var/lib/dpkg/info"} {
		if err := os.MkdirAll(filepath.Join(directory, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(directory, "var/lib/dpkg/status"), "")
	do := func(action ...string) {
		t.Helper()
		// The directory has no ca-certificates, which the package depends on, and no shell for the scripts.
		command := append([]string{"--root=" + directory, "--force-depends", "--force-script-chrootless", "--log=" + os.DevNull}, action...)
		if _, err := output(t.Context(), ".", dpkg, command...); err != nil {
			t.Fatal(err)
		}
	}
	for program, settings := range map[string]string{"preauth": "preauth.env", "preauth-bridge": "bridge-tokens.env"} {
		file := filepath.Join(made, program+"_1.2.3~rc.1_"+strings.TrimSpace(architecture)+".deb")
		do("--install", file)
		packaged(t, directory, program)
		settings := filepath.Join(directory, "etc/preauth", settings)
		write(t, settings, "NATS_URL=nats://mine:4222\n")
		do("--install", file)
		if kept := content(t, filepath.Dir(settings), filepath.Base(settings)); string(kept) != "NATS_URL=nats://mine:4222\n" {
			t.Errorf("an upgrade makes the settings %q", kept)
		}
		do("--remove", program)
		isRemoved(t, directory, program)
		if _, err := os.Stat(settings); err != nil {
			t.Errorf("the settings do not stay: %v", err)
		}
		do("--purge", program)
		if _, err := os.Stat(filepath.Dir(settings)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the settings stay: %v", err)
		}
	}
}

func isRemoved(t *testing.T, directory, program string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(directory, "usr/bin", program)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s stays: %v", program, err)
	}
}

// An RPM is unpacked and removed by rpm in a root directory of its own.
func TestRPM(t *testing.T) {
	rpm := installed(t, "rpm")
	if os.Getuid() != 0 {
		t.Skip("only root installs packages")
	}
	directory := t.TempDir()
	do := func(arguments ...string) string {
		t.Helper()
		said, err := output(t.Context(), ".", rpm, append([]string{"--root=" + directory}, arguments...)...)
		if err != nil {
			t.Fatal(err)
		}
		return said
	}
	for _, test := range []struct{ program, config, stops string }{
		{"preauth", "/etc/preauth/preauth-gateway.env\n/etc/preauth/preauth.env\n", "systemctl disable --now preauth.service preauth-gateway.service\n"},
		{
			"preauth-bridge", "/etc/preauth/bridge-codes.env\n/etc/preauth/bridge-tokens.env\n/etc/preauth/bridge-wxcomponent.env\n",
			"systemctl disable --now preauth-bridge@tokens.service preauth-bridge@codes.service preauth-bridge@wxcomponent.service\n",
		},
	} {
		file := filepath.Join(made, test.program+"-1.2.3~rc.1-1."+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]+".rpm")
		if config := do("--query", "--configfiles", "--package", file); config != test.config {
			t.Errorf("the settings are %q", config)
		}
		if scripts := do("--query", "--scripts", "--package", file); !strings.Contains(scripts, test.stops) || strings.Contains(scripts, "restart") {
			t.Errorf("the scripts are %s", scripts)
		}
		do("--install", "--nodeps", "--noscripts", "--ignorearch", file) // the directory has nothing but the package
		packaged(t, directory, test.program)
		do("--erase", "--nodeps", "--noscripts", test.program)
		isRemoved(t, directory, test.program)
	}
}

// modes are the files that the packages install, and their modes.
var modes = map[string]map[string]os.FileMode{
	"preauth": {
		"usr/bin/preauth": 0o755, "usr/share/man/man1/preauth.1.gz": 0o644, "usr/lib/systemd/system/preauth.service": 0o644, "etc/preauth/preauth.env": 0o644,
		"usr/lib/systemd/system/preauth-gateway.service": 0o644, "etc/preauth/preauth-gateway.env": 0o644,
		"usr/share/bash-completion/completions/preauth": 0o644, "usr/share/zsh/site-functions/_preauth": 0o644, "usr/share/fish/vendor_completions.d/preauth.fish": 0o644,
	},
	"preauth-bridge": {
		"usr/bin/preauth-bridge": 0o755, "usr/lib/systemd/system/preauth-bridge@.service": 0o644,
		"etc/preauth/bridge-tokens.env": 0o600, "etc/preauth/bridge-codes.env": 0o600, "etc/preauth/bridge-wxcomponent.env": 0o600,
	},
}

// packaged expects what the package of a program installs.
func packaged(t *testing.T, directory, program string) {
	t.Helper()
	file := filepath.Join(directory, "usr/bin", program)
	if program == "preauth" {
		said, err := output(t.Context(), ".", file, "version", "--json")
		saysItsOrigin(t, said, err)
	} else {
		said, err := output(t.Context(), ".", file, "--version")
		saysItsVersion(t, said, err)
	}
	for name, mode := range modes[program] {
		if info, err := os.Stat(filepath.Join(directory, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func saysItsVersion(t *testing.T, said string, err error) {
	t.Helper()
	if err != nil || strings.TrimSpace(said) != version {
		t.Errorf("the program says %q, %v", said, err)
	}
}

func saysItsOrigin(t *testing.T, said string, err error) {
	t.Helper()
	var build struct {
		Version, Commit string
		Date            time.Time
	}
	if err := errors.Join(err, json.Unmarshal([]byte(said), &build)); err != nil {
		t.Fatal(err)
	}
	if build.Version != version || build.Commit != commit || !build.Date.Equal(date) {
		t.Errorf("the program says %s", said)
	}
}

// The image holds the program and the authorities alone, runs as the Dockerfile says, and its
// program runs with nothing else there.
func TestImage(t *testing.T) {
	for _, program := range []string{"preauth", "preauth-bridge"} {
		t.Run(program, func(t *testing.T) { isImageOf(t, program) })
	}
}

func isImageOf(t *testing.T, program string) {
	t.Helper()
	directory := t.TempDir()
	for name, content := range untar(t, bytes.NewReader(content(t, made, program+"_"+version+"_image.tar"))) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(directory, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(directory, name), string(content))
	}
	outer, err := layout.ImageIndexFromPath(directory)
	if err == nil {
		err = validate.Index(outer)
	}
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	images, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err == nil {
		manifest, err = images.IndexManifest()
	}
	if err != nil {
		t.Fatal(err)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, descriptor := range manifest.Manifests {
		image, err := images.Image(descriptor.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != descriptor.Platform.Architecture || config.OS != "linux" || !config.Created.Equal(date) {
			t.Errorf("the image for %v has %+v", descriptor.Platform, config)
		}
		runsAsTheDockerfileSays(t, program, config.Config)
		files := untar(t, mutate.Extract(image))
		if len(files) != 2 {
			t.Errorf("the image has %d files", len(files))
		}
		isFor(t, files[program], machines[config.Architecture])
		hasAuthority(t, files["etc/ssl/certs/ca-certificates.crt"], "DigiCert Global Root G2")
		if config.Architecture == runtime.GOARCH {
			runsAlone(t, program, files[program])
		}
		delete(machines, config.Architecture)
	}
	if len(machines) > 0 {
		t.Errorf("there is no image for %v", machines)
	}
}

func runsAsTheDockerfileSays(t *testing.T, program string, config v1.Config) {
	t.Helper()
	if config.User != "65532:65532" || !slices.Equal(config.Entrypoint, []string{"/" + program}) {
		t.Errorf("it runs as %s: %q", config.User, config.Entrypoint)
	}
	if config.Labels["org.opencontainers.image.version"] != version || config.Labels["org.opencontainers.image.revision"] != commit || config.Labels["org.opencontainers.image.title"] != program {
		t.Errorf("the labels are %v", config.Labels)
	}
	if program != "preauth" {
		if config.Cmd != nil || config.Healthcheck != nil {
			t.Errorf("it runs %q, and checks %+v", config.Cmd, config.Healthcheck)
		}
		return
	}
	check := config.Healthcheck
	if check == nil || !slices.Equal(check.Test, []string{"CMD", "/preauth", "check"}) || check.Interval != 10*time.Second || check.Timeout != 5*time.Second || check.StartPeriod != 30*time.Second || check.Retries != 3 {
		t.Errorf("the health check is %+v", check)
	}
	if !slices.Equal(config.Cmd, []string{"serve"}) {
		t.Errorf("it runs %q", config.Cmd)
	}
}

// The Dockerfiles copy what make dist puts into the images.
func TestDockerfileCopiesTheSame(t *testing.T) {
	for dockerfile, program := range map[string]string{"Dockerfile": "/preauth", "bridge/Dockerfile": "/preauth-bridge"} {
		var copied []string
		for _, line := range regexp.MustCompile(`(?m)^COPY --from=build \S+ (\S+)$`).FindAllSubmatch(content(t, root, dockerfile), -1) {
			copied = append(copied, string(line[1]))
		}
		if !slices.Equal(copied, []string{"/etc/ssl/certs/", program}) {
			t.Errorf("%s copies %q", dockerfile, copied)
		}
	}
}

func TestDockerfileThatTheImageWouldNotFollow(t *testing.T) {
	for text, says := range map[string]string{
		"FROM scratch\nVOLUME /data\n":                "dist does not know VOLUME",
		"FROM scratch\nENTRYPOINT /preauth\n":         "invalid character",
		"FROM scratch\nHEALTHCHECK CMD check\n":       "invalid character",
		"FROM scratch\nHEALTHCHECK --every=1s CMD []": "flag provided but not defined",
	} {
		if _, err := parseDockerfile([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
	if _, err := parseDockerfile([]byte("FROM golang AS build\nRUN make\nFROM scratch\nCMD [\"serve\"]\n")); err != nil {
		t.Errorf("instructions of other stages do not matter: %v", err)
	}
}

func hasAuthority(t *testing.T, all []byte, name string) {
	t.Helper()
	for block, rest := pem.Decode(all); block != nil; block, rest = pem.Decode(rest) {
		if certificate, err := x509.ParseCertificate(block.Bytes); err != nil || certificate.Subject.CommonName == name {
			return
		}
	}
	t.Errorf("%s is not among the authorities", name)
}

// runsAlone runs the program as nobody in a directory with nothing else.
func runsAlone(t *testing.T, name string, program []byte) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Log("only root changes the root directory")
		return
	}
	directory := t.TempDir()
	write(t, filepath.Join(directory, name), string(program))
	if err := os.Chmod(filepath.Join(directory, name), 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "/"+name, "--version")
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: directory, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	command.Dir = "/"
	said, err := command.Output()
	saysItsVersion(t, string(said), err)
}

// The bill of materials has each module that is linked into the program, and the standard library.
func TestBillOfMaterials(t *testing.T) {
	for _, p := range []program{service, bridge} {
		for _, arch := range architectures {
			var bom cdx.BOM
			if err := json.Unmarshal(content(t, made, p.name+"_"+version+"_linux_"+arch+".cdx.json"), &bom); err != nil {
				t.Fatal(err)
			}
			main := map[string]string{"preauth": "preauth", "preauth-bridge": "preauth/bridge"}[p.name]
			if bom.Metadata.Component.Name != main || bom.Metadata.Component.Version != version || bom.Metadata.Timestamp != "2026-03-14T09:00:00Z" || bom.SerialNumber == "" {
				t.Errorf("it is about %+v", bom.Metadata.Component)
			}
			listed := map[string]bool{main: true}
			for _, component := range *bom.Components {
				listed[component.Name] = true
				if component.Name != "std" && component.Name != "preauth" && (component.Hashes == nil || component.Evidence == nil) {
					t.Errorf("%s has no checksum or no license", component.Name)
				}
			}
			linked, err := output(t.Context(), filepath.Join(root, p.module), "env", "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", p.pkg)
			if err != nil {
				t.Fatal(err)
			}
			for module := range strings.FieldsSeq(linked + " std") {
				if !listed[module] {
					t.Errorf("the bill of %s for %s does not list %s", p.name, arch, module)
				}
			}
		}
	}
}

func TestVersionsThatAreNoVersion(t *testing.T) {
	for version, says := range map[string]string{"1.2": "must be semantic", "latest": "must be semantic"} {
		if _, err := fromGit(t.Context(), repository(t), version); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("version %q: %v, want %q", version, err, says)
		}
	}
}

// A release says the commit and the date of what is checked out, unless there are changes.
func TestReleaseOfACommit(t *testing.T) {
	directory := repository(t)
	r, err := fromGit(t.Context(), directory, "v1.0.0")
	if err != nil || r.version != "1.0.0" || len(r.commit) != 40 || !r.date.Equal(date) {
		t.Errorf("%+v, %v", r, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	if r, err = fromGit(t.Context(), directory, ""); err != nil || r.version != "0.0.0-dev" || r.date.Unix() != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "today")
	if _, err := fromGit(t.Context(), directory, ""); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH must be seconds") {
		t.Errorf("an impossible date: %v", err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "")
	write(t, filepath.Join(directory, "new"), "")
	if r, err = fromGit(t.Context(), directory, ""); err != nil || r.commit != "" {
		t.Errorf("%+v, %v; want no commit", r, err)
	}
	if _, err = fromGit(t.Context(), directory, "1.0.0"); err == nil || !strings.Contains(err.Error(), "commit or remove the changes first") {
		t.Errorf("a version of changes: %v", err)
	}
}

// repository returns a repository with one commit.
func repository(t *testing.T) string {
	t.Helper()
	directory := t.TempDir()
	if _, err := commitAll(directory); err != nil {
		t.Fatal(err)
	}
	return directory
}

// untar returns the files of a tar file. All belong to root and have the date of the release.
func untar(t *testing.T, from io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for tarred := tar.NewReader(from); ; {
		header, err := tarred.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.Uname+header.Gname != "" || !header.ModTime.Equal(date) {
			t.Errorf("%s belongs to %d:%d, and is of %v", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if files[header.Name], err = io.ReadAll(tarred); err != nil {
			t.Fatal(err)
		}
	}
}

func names(t *testing.T, directory string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

func content(t *testing.T, directory, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// installed returns the file of a program that the test needs.
func installed(t *testing.T, name string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if err != nil {
		t.Skip(name + " is not installed")
	}
	return file
}
