package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// image writes the image of a program for all architectures, as an archive of an OCI layout. It is
// the one that an engine makes of the program's Dockerfile: the last stage there says how it runs.
func (r release) image(p program, binaries map[string]string, to string) (err error) {
	dockerfile, err := os.ReadFile(filepath.Join(r.root, p.dockerfile))
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	config, err := parseDockerfile(dockerfile)
	if err != nil {
		return fmt.Errorf("image: %s: %w", p.dockerfile, err)
	}
	config.Labels = map[string]string{
		"org.opencontainers.image.title": p.name, "org.opencontainers.image.version": r.version, "org.opencontainers.image.revision": r.commit,
	}
	authorities, err := r.layer("etc/ssl/certs/ca-certificates.crt", authorities(), 0o644)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	images := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range architectures {
		content, err := os.ReadFile(binaries[arch])
		if err != nil {
			return fmt.Errorf("image: %w", err)
		}
		layer, err := r.layer(p.name, content, 0o755)
		if err != nil {
			return fmt.Errorf("image: %w", err)
		}
		platform := v1.Platform{OS: "linux", Architecture: arch}
		image, err := mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1), &v1.ConfigFile{
			Architecture: arch, OS: "linux", Created: v1.Time{Time: r.date}, Config: config, RootFS: v1.RootFS{Type: "layers"},
		})
		if err == nil {
			image, err = mutate.AppendLayers(mutate.ConfigMediaType(image, types.OCIConfigJSON), authorities, layer)
		}
		if err != nil {
			return fmt.Errorf("image: %w", err)
		}
		images = mutate.AppendManifests(images, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	work, err := os.MkdirTemp("", "preauth-image")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	at, err := layout.Write(work, empty.Index)
	if err == nil {
		err = at.AppendIndex(images, layout.WithAnnotations(map[string]string{
			"org.opencontainers.image.ref.name": r.version,
			"io.containerd.image.name":          "docker.io/library/" + p.name + ":" + r.version,
		}))
	}
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return r.tarDirectory(work, to)
}

// layer returns a layer with one file and its directories.
func (r release) layer(name string, content []byte, mode os.FileMode) (v1.Layer, error) {
	var archived bytes.Buffer
	t := tarArchive{tar.NewWriter(&archived), r.date}
	for i, letter := range name {
		if letter == '/' {
			if err := t.directory(name[:i+1]); err != nil {
				return nil, err
			}
		}
	}
	if err := errors.Join(t.add(name, content, mode), t.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archived.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// tarDirectory writes the files of a directory to a tar file.
func (r release) tarDirectory(directory, to string) error {
	var archived bytes.Buffer
	t := tarArchive{tar.NewWriter(&archived), r.date}
	files := os.DirFS(directory)
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		return t.add(name, content, 0o644)
	})
	if err := errors.Join(err, t.Close()); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return os.WriteFile(to, archived.Bytes(), 0o644) //nolint:gosec // everybody may read a release
}

// authorities returns Mozilla's list of certificate authorities, PEM. It leaves out those that
// Mozilla trusts under conditions only, which a file cannot express.
func authorities() []byte {
	var all bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			all.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return all.Bytes()
}

// parseDockerfile returns how the image of the last stage runs. It refuses instructions that it does
// not know, because the image would lack them.
func parseDockerfile(text []byte) (config v1.Config, err error) {
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", "")) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case name == "" || name[0] == '#':
		case name == "FROM":
			config = v1.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, WorkingDir: "/"}
			err = nil
		case name == "COPY":
		case name == "USER":
			config.User = rest
		case name == "ENTRYPOINT":
			err = errors.Join(err, json.Unmarshal([]byte(rest), &config.Entrypoint))
		case name == "CMD":
			err = errors.Join(err, json.Unmarshal([]byte(rest), &config.Cmd))
		case name == "HEALTHCHECK":
			var checkErr error
			config.Healthcheck, checkErr = parseHealthcheck(rest)
			err = errors.Join(err, checkErr)
		default:
			err = errors.Join(err, fmt.Errorf("dist does not know %s", name))
		}
	}
	return config, err
}

// parseHealthcheck returns a health check such as "--interval=10s CMD ["/preauth", "check"]".
func parseHealthcheck(text string) (*v1.HealthConfig, error) {
	options, command, _ := strings.Cut(text, "CMD ")
	check := v1.HealthConfig{}
	set := flag.NewFlagSet("HEALTHCHECK", flag.ContinueOnError)
	set.DurationVar(&check.Interval, "interval", 0, "")
	set.DurationVar(&check.Timeout, "timeout", 0, "")
	set.DurationVar(&check.StartPeriod, "start-period", 0, "")
	set.IntVar(&check.Retries, "retries", 0, "")
	if err := errors.Join(set.Parse(strings.Fields(options)), json.Unmarshal([]byte(command), &check.Test)); err != nil {
		return nil, err
	}
	check.Test = append([]string{"CMD"}, check.Test...)
	return &check, nil
}
