package scratch_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"preauth/internal/leak"
	"preauth/internal/scratch"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func scratchDir(t *testing.T, prefix string) *scratch.Dir {
	t.Helper()
	d, err := scratch.New(prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// age has a directory look an hour old.
func age(t *testing.T, path string) {
	t.Helper()
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
}

func TestAbandonedDirectoriesAreRemoved(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	abandoned := filepath.Join(parent, "test-abandoned")
	young, another := filepath.Join(parent, "test-young"), filepath.Join(parent, "another")
	for _, path := range []string{abandoned, young, another} {
		if err := os.MkdirAll(filepath.Join(path, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	living := scratchDir(t, "test-")
	for _, path := range []string{abandoned, another, living.Path} {
		age(t, path)
	}
	made := scratchDir(t, "test-")

	want := []string{young, another, living.Path, made.Path}
	slices.Sort(want)
	if got, err := filepath.Glob(filepath.Join(parent, "*")); err != nil || !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q, %v", got, want, err)
	}
}

func TestADirectoryIsLockedOnce(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	d := scratchDir(t, "test-")
	if _, err := scratch.TryLock(d.Path); !errors.Is(err, scratch.ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	if _, err := scratch.TryLock(filepath.Join(d.Path, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is missing: %v", err)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	d, err := scratch.New("test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}
