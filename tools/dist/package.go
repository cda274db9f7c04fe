package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers itself
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm" // registers itself
)

// pack writes a package, a deb or an rpm, under the name that is usual for its kind. Its scripts
// neither start nor restart the service: it needs its settings first, and an upgrade the schema.
func (r release) pack(kind string, p program, arch string, contents []file, directory string) error {
	packager, err := nfpm.Get(kind)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "preauth-package")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	stop, err := os.ReadFile("scripts/stop.sh")
	if err != nil {
		return fmt.Errorf("package: %w", err)
	}
	stopping := filepath.Join(work, "stop.sh")
	if err := os.WriteFile(stopping, bytes.ReplaceAll(stop, []byte("UNITS"), []byte(p.units)), 0o600); err != nil { //nolint:gosec // in a temporary directory
		return fmt.Errorf("package: %w", err)
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: p.name, Arch: arch, Platform: "linux", Version: r.version, MTime: r.date,
		Section: "net", Priority: "optional", Maintainer: "The preauth developers <preauth@localhost>", Vendor: "preauth",
		Description: p.summary + "\n" + p.description,
		Overridables: nfpm.Overridables{
			Depends: []string{"ca-certificates"},
			Scripts: nfpm.Scripts{PostInstall: "scripts/reload.sh", PreRemove: stopping, PostRemove: "scripts/reload.sh"},
			RPM:     nfpm.RPM{BuildHost: "localhost", Summary: p.summary},
		},
	})
	for i, f := range contents {
		content, err := f.read()
		if err != nil {
			return fmt.Errorf("package: %w", err)
		}
		if strings.HasPrefix(f.install, "/usr/share/man/") {
			f.install += ".gz"
			if content, err = compress(content); err != nil {
				return fmt.Errorf("package: %w", err)
			}
		}
		source := filepath.Join(work, fmt.Sprint(i))
		if err := os.WriteFile(source, content, 0o600); err != nil {
			return fmt.Errorf("package: %w", err)
		}
		kept := ""
		if f.config {
			kept = files.TypeConfigNoReplace
		}
		info.Contents = append(info.Contents, &files.Content{
			Source: source, Destination: f.install, Type: kept,
			FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: f.mode, MTime: r.date},
		})
	}
	if err := nfpm.PrepareForPackager(info, kind); err != nil {
		return fmt.Errorf("package: %w", err)
	}
	var packed bytes.Buffer
	if err := packager.Package(info, &packed); err != nil {
		return fmt.Errorf("package: %w", err)
	}
	return os.WriteFile(filepath.Join(directory, packager.ConventionalFileName(info)), packed.Bytes(), 0o644) //nolint:gosec // everybody may read a release
}

// compress returns the content as gzip has it, without a name and a time.
func compress(content []byte) ([]byte, error) {
	var compressed bytes.Buffer
	w, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	err = w.Close()
	return compressed.Bytes(), err
}
