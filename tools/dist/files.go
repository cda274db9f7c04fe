package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// file is a file of archives and packages.
type file struct {
	name    string // in the archive
	install string // where a package installs it
	source  string // the file that has the content, if that is not given
	content []byte
	mode    os.FileMode
	config  bool // whether an upgrade keeps the changes of an administrator
}

// files returns what archives and packages of a program contain.
func (r release) files(p program, binary string, manual []byte) []file {
	files := []file{{name: p.name, install: "/usr/bin/" + p.name, source: binary, mode: 0o755}}
	if p.manual {
		files = append(files, file{name: p.name + ".1", install: "/usr/share/man/man1/" + p.name + ".1", content: manual, mode: 0o644})
	}
	changes := file{name: "CHANGELOG.md", install: "/usr/share/doc/" + p.name + "/CHANGELOG.md", source: "CHANGELOG.md", mode: 0o644}
	for _, f := range append(slices.Clone(p.files), changes) {
		f.source = filepath.Join(r.root, f.source)
		files = append(files, f)
	}
	return files
}

// read returns the content.
func (f file) read() ([]byte, error) {
	if f.source == "" {
		return f.content, nil
	}
	return os.ReadFile(f.source)
}

// archive writes the files to a tar.gz, in a directory with the name of the archive.
func (r release) archive(files []file, to string) error {
	var archived bytes.Buffer
	compressed := gzip.NewWriter(&archived)
	tarred := tarArchive{tar.NewWriter(compressed), r.date}
	directory := strings.TrimSuffix(filepath.Base(to), ".tar.gz")
	for _, f := range files {
		content, err := f.read()
		if err == nil {
			err = tarred.add(path.Join(directory, f.name), content, f.mode)
		}
		if err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
	if err := errors.Join(tarred.Close(), compressed.Close()); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return os.WriteFile(to, archived.Bytes(), 0o644) //nolint:gosec // everybody may read a release
}

// tarArchive is a tar file whose bytes depend only on what it contains.
type tarArchive struct {
	*tar.Writer

	date time.Time
}

// add adds a file that belongs to root.
func (t tarArchive) add(name string, content []byte, mode os.FileMode) error {
	header := &tar.Header{Name: name, Size: int64(len(content)), Mode: int64(mode), ModTime: t.date, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
	err := t.WriteHeader(header)
	if err == nil {
		_, err = t.Write(content)
	}
	return err
}

// directory adds a directory that belongs to root.
func (t tarArchive) directory(name string) error {
	return t.WriteHeader(&tar.Header{Name: name, Mode: 0o755, ModTime: t.date, Typeflag: tar.TypeDir, Format: tar.FormatUSTAR})
}

// sums is the name of the file with the checksums, which sha256sum checks.
const sums = "SHA256SUMS"

// checksums writes the checksums of the files in a directory.
func checksums(directory string) error {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return err
	}
	var lines strings.Builder
	for _, entry := range entries { // in the order of their names
		if !strings.HasPrefix(entry.Name(), "preauth") {
			continue
		}
		sum, err := digest(filepath.Join(directory, entry.Name()))
		if err != nil {
			return fmt.Errorf("checksums: %w", err)
		}
		fmt.Fprintf(&lines, "%x  %s\n", sum, entry.Name())
	}
	return os.WriteFile(filepath.Join(directory, sums), []byte(lines.String()), 0o644) //nolint:gosec // everybody may read a release
}

// digest returns the SHA-256 of a file.
func digest(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	hash := sha256.New()
	_, err = io.Copy(hash, f)
	return hash.Sum(nil), cmp.Or(err, f.Close())
}
