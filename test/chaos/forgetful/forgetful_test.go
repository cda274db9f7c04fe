package forgetful

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// user is the environment variable that makes the test binary start a disk and keep it.
const user = "FORGETFUL_USER"

func TestMain(m *testing.M) {
	Main()
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or with -race each disk would take a second to end
	if dir := os.Getenv(user); dir != "" {
		if _, err := Start(dir, false); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stdout, "mounted")
		select {}
	}
	os.Exit(m.Run())
}

func writeMapped(name string, synced bool) error {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	memory, err := syscall.Mmap(int(file.Fd()), 0, len(before), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Munmap(memory) }()
	copy(memory, after)
	if !synced {
		return nil
	}
	return file.Sync() // on Linux also what msync(MS_SYNC) does
}

const before, after = "before", "after!"

func needFUSE(t *testing.T) {
	t.Helper()
	if err := Try(); err != nil {
		t.Skip("NOT CHECKED:", err)
	}
}

// mount mounts a new file system, or skips the test where that is impossible.
func mount(t *testing.T, strict bool) (*Disk, string) {
	t.Helper()
	needFUSE(t)
	dir := t.TempDir()
	d, err := Start(dir, strict)
	must(t, err)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, dir
}

// cut loses everything that was not synced.
func (d *Disk) cut(t *testing.T) {
	t.Helper()
	_, err := d.Cut(0)
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes a file, with a sync or without.
func put(t *testing.T, name, text string, flags int, sync func(*os.File) error) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|flags, 0o600)
	must(t, err)
	_, err = file.WriteString(text)
	must(t, err)
	if sync != nil {
		must(t, sync(file))
	}
	must(t, file.Close())
}

func syncDir(t *testing.T, dir string) {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	must(t, d.Sync())
	must(t, d.Close())
}

// TestWhatSyncsPromise makes each change with the sync that makes it durable, which keeps it at a
// cut, and without, which loses it.
func TestWhatSyncsPromise(t *testing.T) {
	fdatasync := func(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
	text := func(t *testing.T, name string) string {
		content, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			return "no file"
		}
		must(t, err)
		return string(content)
	}
	for name, c := range map[string]struct {
		strict bool
		act    func(t *testing.T, dir string, synced bool)
		lost   string // what file holds without the sync, and after with it
	}{
		"fsync": {true, func(t *testing.T, dir string, synced bool) {
			put(t, dir+"/file", after, 0, map[bool]func(*os.File) error{true: (*os.File).Sync}[synced])
		}, before},
		"fdatasync": {true, func(t *testing.T, dir string, synced bool) {
			put(t, dir+"/file", after, os.O_TRUNC, map[bool]func(*os.File) error{true: fdatasync}[synced])
		}, before},
		"O_SYNC": {true, func(t *testing.T, dir string, synced bool) {
			put(t, dir+"/file", after, map[bool]int{true: syscall.O_SYNC}[synced], nil)
		}, before},
		"O_DSYNC": {true, func(t *testing.T, dir string, synced bool) {
			put(t, dir+"/file", after, map[bool]int{true: syscall.O_DSYNC}[synced], nil)
		}, before},
		"truncate": {true, func(t *testing.T, dir string, synced bool) {
			file, err := os.OpenFile(dir+"/file", os.O_RDWR, 0)
			must(t, err)
			must(t, file.Truncate(0))
			_, err = file.WriteString(after)
			must(t, err)
			if synced {
				must(t, file.Sync())
			}
			must(t, file.Close())
		}, before},
		"mmap": {true, func(t *testing.T, dir string, synced bool) {
			must(t, writeMapped(dir+"/file", synced))
		}, before},
		"directory fsync after rename": {true, func(t *testing.T, dir string, synced bool) {
			put(t, dir+"/next", after, 0, (*os.File).Sync)
			must(t, os.Rename(dir+"/next", dir+"/file"))
			if synced {
				syncDir(t, dir)
			}
		}, before},
		"directory fsync after link": {true, func(t *testing.T, dir string, synced bool) {
			must(t, os.Remove(dir+"/file"))
			put(t, dir+"/other", after, 0, (*os.File).Sync)
			syncDir(t, dir)
			must(t, os.Link(dir+"/other", dir+"/file"))
			if synced {
				syncDir(t, dir)
			}
		}, "no file"},
		"directory fsync after creation": {true, func(t *testing.T, dir string, synced bool) {
			must(t, os.Remove(dir+"/file"))
			syncDir(t, dir)
			put(t, dir+"/file", after, 0, (*os.File).Sync)
			if synced {
				syncDir(t, dir)
			}
		}, "no file"},
		"with a journal, fsync after creation": {false, func(t *testing.T, dir string, synced bool) {
			must(t, os.Remove(dir+"/file"))
			syncDir(t, dir)
			put(t, dir+"/file", after, 0, map[bool]func(*os.File) error{true: (*os.File).Sync}[synced])
		}, "no file"},
	} {
		t.Run(name, func(t *testing.T) {
			for synced, want := range map[bool]string{true: after, false: c.lost} {
				d, dir := mount(t, c.strict)
				put(t, dir+"/file", before, 0, (*os.File).Sync)
				syncDir(t, dir)
				c.act(t, dir, synced)
				d.cut(t)
				if got := text(t, dir+"/file"); got != want {
					t.Errorf("synced: %v: the file holds %q, want %q", synced, got, want)
				}
			}
		})
	}
}

// TestSyncPastTheCache writes with O_DIRECT and O_DSYNC, as databases do.
func TestSyncPastTheCache(t *testing.T) {
	for synced, want := range map[int]byte{syscall.O_DSYNC: 1, 0: 0} {
		d, dir := mount(t, true)
		put(t, dir+"/file", string(make([]byte, blockSize)), 0, (*os.File).Sync)
		syncDir(t, dir)
		memory, err := syscall.Mmap(-1, 0, blockSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		must(t, err)
		memory[0] = 1
		file, err := os.OpenFile(dir+"/file", os.O_WRONLY|syscall.O_DIRECT|synced, 0)
		must(t, err)
		_, err = file.WriteAt(memory, 0)
		must(t, err)
		must(t, file.Close())
		must(t, syscall.Munmap(memory))
		d.cut(t)
		content, err := os.ReadFile(dir + "/file")
		must(t, err)
		if len(content) != blockSize || content[0] != want {
			t.Errorf("flags %#x: %d bytes, the first is %d, want %d", synced, len(content), content[0], want)
		}
	}
}

// TestRenameIsWhole shows that a cut leaves a renamed file with one of its names, never with both or
// none.
func TestRenameIsWhole(t *testing.T) {
	for _, strict := range []bool{true, false} {
		for seed := range uint64(100) {
			f := New(strict)
			from, to := f.newInode(syscall.S_IFDIR), f.newInode(syscall.S_IFDIR)
			f.change(operation{{f.root, "from", from}})
			f.change(operation{{f.root, "to", to}})
			file := f.newInode(syscall.S_IFREG)
			f.change(operation{{from, "file", file}})
			f.sync(f.root)
			f.sync(from)
			n := node{f: f, i: from}
			if errno := n.Rename(t.Context(), "file", &node{f: f, i: to}, "file", 0); errno != 0 {
				t.Fatal(errno)
			}
			f.Cut(1 + seed)
			if (from.entries["file"] == file) == (to.entries["file"] == file) {
				t.Fatalf("strict: %v, seed %d: before the rename %v, after it %v", strict, seed, from.entries, to.entries)
			}
		}
	}
}

// TestSyncKeepsTheOrder shows that an old name does not come back when its directory is synced after
// the one that the file was moved to.
func TestSyncKeepsTheOrder(t *testing.T) {
	f := New(true)
	from, to := f.newInode(syscall.S_IFDIR), f.newInode(syscall.S_IFDIR)
	f.change(operation{{f.root, "from", from}})
	f.change(operation{{f.root, "to", to}})
	f.sync(f.root)
	file := f.newInode(syscall.S_IFREG)
	f.change(operation{{from, "file", file}})
	f.change(operation{{from, "file", nil}, {to, "file", file}})
	f.sync(to)
	f.sync(from)
	f.Cut(0)
	if len(from.entries) > 0 || to.entries["file"] != file {
		t.Errorf("the old directory has %v, the new one %v", from.entries, to.entries)
	}
}

// TestUnlinkWithoutSync shows that a removed file comes back, and with a sync does not.
func TestUnlinkWithoutSync(t *testing.T) {
	for _, synced := range []bool{true, false} {
		d, dir := mount(t, true)
		put(t, dir+"/file", before, 0, (*os.File).Sync)
		syncDir(t, dir)
		must(t, os.Remove(dir+"/file"))
		if synced {
			syncDir(t, dir)
		}
		d.cut(t)
		if _, err := os.Stat(dir + "/file"); os.IsNotExist(err) != synced {
			t.Errorf("synced: %v: got %v", synced, err)
		}
	}
}

// TestOpenFileAfterCut shows that a file that was open at the cut can change nothing more.
func TestOpenFileAfterCut(t *testing.T) {
	d, dir := mount(t, false)
	file, err := os.Create(dir + "/file")
	must(t, err)
	defer file.Close()
	must(t, file.Sync())
	d.cut(t)
	if _, err := file.WriteString(after); err == nil {
		t.Error("it can be written to")
	}
}

// TestDiskEndsWithItsUser kills the process that started a disk. Then the disk's process ends too,
// and nothing stays mounted.
func TestDiskEndsWithItsUser(t *testing.T) {
	needFUSE(t)
	dir := t.TempDir()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), user+"="+dir)
	output, input, err := os.Pipe()
	must(t, err)
	defer output.Close()
	command.Stdout, command.Stderr = input, input
	must(t, command.Start())
	must(t, input.Close())
	lines := bufio.NewReader(output)
	if line, err := lines.ReadString('\n'); line != "mounted\n" {
		t.Errorf("%q, %v", line, err)
	}
	must(t, command.Process.Kill())
	_ = command.Wait()
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 { // it ends when both processes have
		t.Errorf("%q, %v", rest, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	if strings.Contains(string(mounts), dir) {
		t.Error("it is still mounted")
	}
}

// TestStartAfterKill starts a disk on what a killed one left.
func TestStartAfterKill(t *testing.T) {
	needFUSE(t)
	dir := t.TempDir()
	d, err := Start(dir, false)
	must(t, err)
	must(t, d.command.Process.Kill())
	if err := d.Close(); err == nil {
		t.Error("nobody says that it was killed")
	}
	if d, err = Start(dir, false); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/file", before, 0, nil)
	if lost, err := d.Cut(0); lost != 2 || err != nil {
		t.Errorf("a cut loses %d changes, want a block and a name: %v", lost, err)
	}
	must(t, d.Close())
}

// TestRandomOperations compares the mounted file system with a model of it: for each file the text
// now and the durable one. Names are durable in the order of their changes.
func TestRandomOperations(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			d, dir := mount(t, false)
			rng := rand.New(rand.NewPCG(seed, 0))
			type file struct{ now, durable []byte }
			now, durable := map[string]*file{}, map[string]*file{}
			for range 400 {
				name := string(rune('a' + rng.IntN(5)))
				path, known := filepath.Join(dir, name), now[name]
				switch rng.IntN(8) {
				case 0, 1, 2:
					if known == nil {
						known = new(file)
						now[name] = known
					}
					opened, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
					must(t, err)
					data := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, 1+rng.IntN(9000))
					at := rng.IntN(9000)
					_, err = opened.WriteAt(data, int64(at))
					must(t, err)
					must(t, opened.Close())
					next := make([]byte, max(len(known.now), at+len(data)))
					copy(next, known.now)
					copy(next[at:], data)
					known.now = next
				case 3:
					if known != nil {
						size := rng.IntN(12000)
						must(t, os.Truncate(path, int64(size)))
						next := make([]byte, size)
						copy(next, known.now)
						known.now = next
					}
				case 4:
					if known != nil {
						opened, err := os.Open(path)
						must(t, err)
						must(t, opened.Sync())
						must(t, opened.Close())
						known.durable, durable = known.now, maps.Clone(now)
					}
				case 5:
					if known != nil {
						must(t, os.Remove(path))
						delete(now, name)
					}
				case 6:
					if to := string(rune('a' + rng.IntN(5))); known != nil && to != name {
						must(t, os.Rename(path, filepath.Join(dir, to)))
						delete(now, name)
						now[to] = known
					}
				case 7:
					if rng.IntN(4) > 0 {
						continue
					}
					d.cut(t)
					now = maps.Clone(durable)
					for _, known := range now {
						known.now = known.durable
					}
				}
				entries, err := os.ReadDir(dir)
				must(t, err)
				var names []string
				for _, entry := range entries {
					names = append(names, entry.Name())
				}
				if want := slices.Sorted(maps.Keys(now)); !slices.Equal(names, want) {
					t.Fatalf("names %q, want %q", names, want)
				}
				for name, known := range now {
					if content, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(content, known.now) {
						t.Fatalf("%s: %v, %d bytes, want %d other ones", name, err, len(content), len(known.now))
					}
				}
			}
		})
	}
}

// TestTruncationIsWhole shows that a cut leaves a file that was truncated and written again as it
// was, empty, or new. Synced bytes never become zero behind a size that is still the old one.
func TestTruncationIsWhole(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(100) {
		f := New(false)
		i := f.newInode(syscall.S_IFREG)
		f.change(operation{{f.root, "file", i}})
		f.write(i, bytes.Repeat([]byte{1}, 10*blockSize-1), 0)
		f.sync(i)
		f.resize(i, 0)
		f.write(i, bytes.Repeat([]byte{2}, 5*blockSize+1), 0)
		f.Cut(1 + seed)
		content := make([]byte, i.now.size)
		i.read(content, 0)
		seen[string(content)]++
	}
	for _, outcome := range [][]byte{bytes.Repeat([]byte{1}, 10*blockSize-1), {}, bytes.Repeat([]byte{2}, 5*blockSize+1)} {
		if seen[string(outcome)] == 0 {
			t.Errorf("no cut leaves %d bytes", len(outcome))
		}
		delete(seen, string(outcome))
	}
	if len(seen) > 0 {
		t.Errorf("there are %d other outcomes", len(seen))
	}
}

// TestRandomCut shows that a cut keeps each sector old or new, that some blocks are torn, and that
// the same seed has the same result.
func TestRandomCut(t *testing.T) {
	torn := false
	for seed := range uint64(50) {
		var results [2][]byte
		for n := range results {
			f := New(false)
			i := f.newInode(syscall.S_IFREG)
			f.change(operation{{f.root, "file", i}})
			f.write(i, bytes.Repeat([]byte{1}, 10*blockSize), 0)
			f.sync(i)
			f.write(i, bytes.Repeat([]byte{2}, 10*blockSize), 0)
			f.Cut(1 + seed)
			results[n] = make([]byte, 10*blockSize)
			i.read(results[n], 0)
		}
		if !bytes.Equal(results[0], results[1]) {
			t.Fatalf("seed %d has two results", seed)
		}
		for at := 0; at < len(results[0]); at += sectorSize {
			sector := results[0][at : at+sectorSize]
			if c := bytes.Count(sector, sector[:1]); c != sectorSize || sector[0] != 1 && sector[0] != 2 {
				t.Fatalf("seed %d: the sector at %d is neither old nor new", seed, at)
			}
			torn = torn || at%blockSize > 0 && sector[0] != results[0][at-1]
		}
	}
	if !torn {
		t.Error("no block was torn")
	}
}
