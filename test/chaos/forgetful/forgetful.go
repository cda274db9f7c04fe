// Package forgetful is a file system that forgets at a power cut what was not synced. It is held in
// memory and mounted by FUSE.
//
// Every operation changes the volatile state, which is what programs see. A sync copies a part of it
// to the durable state. [FS.Cut] rebuilds the volatile state from the durable one, with none or a
// random part of what was not synced. Modes, owners and times of files are durable at once.
package forgetful

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A cut leaves each unsynced block of blockSize bytes old, new or torn between sectors.
const blockSize, sectorSize = 4096, 512

type block [blockSize]byte

// inode is a file or a directory.
type inode struct {
	ino            uint64
	mode, uid, gid uint32
	rdev           uint32
	mtime          time.Time
	target         string // of a symbolic link

	now, durable content
	dirty        map[int64]bool // numbers of the blocks that differ
	least        int64          // the least size since the last sync if bytes were dropped, otherwise -1

	entries, durableEntries map[string]*inode // of a directory
}

// content is what a file holds. A block that is missing is zero. The two contents of a file share
// the blocks that do not differ, so a shared block is copied before it is changed.
type content struct {
	size   int64
	blocks map[int64]*block
}

// operation is a change of directories that happens as a whole.
type operation []entry

// entry makes a name stand for an inode, or for nothing.
type entry struct {
	dir  *inode
	name string
	to   *inode
}

type name struct {
	dir  *inode
	name string
}

// FS is the file system. It is safe for concurrent use.
type FS struct {
	strict bool

	mu      sync.Mutex
	root    *inode
	last    uint64 // inode number
	epoch   int    // the number of cuts
	pending []operation
	unsaved map[*inode]bool // with content that is not synced
}

// New returns an empty file system.
//
// Changes of directories are durable in their order, and the sync of any file or directory makes all
// earlier ones durable, as the journals of ext4 and XFS have it. With strict, only what POSIX
// promises is durable: the sync of a file makes no name durable, and the sync of a directory only
// the names in it, and what a rename did with them elsewhere.
func New(strict bool) *FS {
	f := &FS{strict: strict, unsaved: map[*inode]bool{}}
	f.root = f.newInode(syscall.S_IFDIR | 0o755)
	return f
}

func (f *FS) newInode(mode uint32) *inode {
	f.last++
	i := &inode{ino: f.last, mode: mode, mtime: time.Now(), dirty: map[int64]bool{}, least: -1}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		i.entries, i.durableEntries = map[string]*inode{}, map[string]*inode{}
	}
	i.now.blocks, i.durable.blocks = map[int64]*block{}, map[int64]*block{}
	return i
}

// change changes directories.
func (f *FS) change(op operation) {
	for _, e := range op {
		set(e.dir.entries, e)
		e.dir.mtime = time.Now()
	}
	f.pending = append(f.pending, op)
}

func set(entries map[string]*inode, e entry) {
	if e.to == nil {
		delete(entries, e.name)
	} else {
		entries[e.name] = e.to
	}
}

func (i *inode) read(dest []byte, offset int64) int {
	n := int(min(int64(len(dest)), max(i.now.size-offset, 0)))
	clear(dest[:n])
	for done := 0; done < n; {
		at := offset + int64(done)
		from := int(at % blockSize)
		count := min(n-done, blockSize-from)
		if b := i.now.blocks[at/blockSize]; b != nil {
			copy(dest[done:done+count], b[from:])
		}
		done += count
	}
	return n
}

// writable returns a block that may be changed.
func (f *FS) writable(i *inode, number int64) *block {
	b := new(block)
	switch old := i.now.blocks[number]; {
	case old != nil && old != i.durable.blocks[number]:
		b = old
	case old != nil:
		*b = *old
	}
	i.now.blocks[number] = b
	i.dirty[number], f.unsaved[i] = true, true
	return b
}

func (f *FS) write(i *inode, data []byte, offset int64) {
	for done := 0; done < len(data); {
		at := offset + int64(done)
		done += copy(f.writable(i, at/blockSize)[at%blockSize:], data[done:])
	}
	if end := offset + int64(len(data)); end > i.now.size {
		f.resize(i, end)
	}
	i.mtime = time.Now()
}

// drop makes a range of bytes zero. It does not change the size.
func (f *FS) drop(i *inode, from, to int64) {
	if i.least < 0 {
		i.least = i.now.size
	}
	for number := range i.now.blocks {
		begin := max(from-number*blockSize, 0)
		end := min(to-number*blockSize, blockSize)
		if begin < end {
			clear(f.writable(i, number)[begin:end])
		}
	}
}

func (f *FS) resize(i *inode, size int64) {
	if size < i.now.size {
		f.drop(i, size, i.now.size)
		i.least = min(i.least, size)
	}
	i.now.size, i.mtime = size, time.Now()
	f.unsaved[i] = true
}

// sync makes durable what the sync of a file or directory does.
func (f *FS) sync(i *inode) {
	i.durable.size = i.now.size
	for number := range i.dirty {
		i.durable.blocks[number] = i.now.blocks[number]
	}
	clear(i.dirty)
	i.least = -1
	delete(f.unsaved, i)
	if !f.strict {
		f.commit(func(operation) bool { return true })
	} else if i.entries != nil {
		f.commit(func(op operation) bool {
			return slices.ContainsFunc(op, func(e entry) bool { return e.dir == i })
		})
	}
}

// commit makes the chosen operations durable, and those before them on the same names.
func (f *FS) commit(chosen func(operation) bool) {
	needed := map[name]bool{}
	durable := make([]bool, len(f.pending))
	for n, op := range slices.Backward(f.pending) {
		durable[n] = chosen(op) || slices.ContainsFunc(op, func(e entry) bool { return needed[name{e.dir, e.name}] })
		if durable[n] {
			for _, e := range op {
				needed[name{e.dir, e.name}] = true
			}
		}
	}
	var left []operation
	for n, op := range f.pending {
		if !durable[n] {
			left = append(left, op)
			continue
		}
		for _, e := range op {
			set(e.dir.durableEntries, e)
		}
	}
	f.pending = left
}

// Cut is a power cut: what was not synced is lost, all of it if seed is 0, otherwise a part that
// depends on it. Files that are open can no longer be used. The programs that use the file system
// must have ended. Cut returns how many blocks and changes of directories were lost.
func (f *FS) Cut(seed uint64) (lost int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch++
	lost = len(f.pending)
	if seed != 0 {
		lost -= f.keepSome(rand.New(rand.NewPCG(seed, 0)))
	}
	for i := range f.unsaved {
		for number := range i.dirty {
			if i.durable.blocks[number] != i.now.blocks[number] {
				lost++
			}
		}
	}
	f.pending = nil
	f.restore(f.root)
	f.unsaved = map[*inode]bool{}
	return lost
}

// keepSome makes a random part durable of what is not, and returns how many changes of directories.
func (f *FS) keepSome(rng *rand.Rand) (kept int) {
	chance := rng.Float64()
	if f.strict {
		lost := map[name]bool{} // an operation on a name needs those before
		f.pending = slices.DeleteFunc(f.pending, func(op operation) bool {
			gone := rng.Float64() >= chance || slices.ContainsFunc(op, func(e entry) bool { return lost[name{e.dir, e.name}] })
			for _, e := range op {
				lost[name{e.dir, e.name}] = lost[name{e.dir, e.name}] || gone
			}
			return gone
		})
	} else {
		f.pending = f.pending[:rng.IntN(len(f.pending)+1)]
	}
	kept = len(f.pending)
	f.commit(func(operation) bool { return true })
	byNumber := func(a, b *inode) int { return int(a.ino) - int(b.ino) } // for the same choices with the same seed
	for _, i := range slices.SortedFunc(maps.Keys(f.unsaved), byNumber) {
		if i.least >= 0 {
			i.keepWhole(rng)
			continue
		}
		if rng.Float64() < chance {
			i.durable.size = i.now.size
		}
		for _, number := range slices.Sorted(maps.Keys(i.dirty)) {
			if number*blockSize >= i.durable.size {
				delete(i.durable.blocks, number)
				continue
			}
			i.durable.blocks[number] = tear(rng, chance, i.durable.blocks[number], i.now.blocks[number])
		}
		i.durable.end()
	}
	return kept
}

// keepWhole makes durable what was done with a file whose bytes were dropped: all of it, nothing, or
// that it became shorter. Journals know no other outcome, since such a file gets its blocks anew.
func (i *inode) keepWhole(rng *rand.Rand) {
	switch rng.IntN(3) {
	case 0:
		i.durable = content{i.now.size, maps.Clone(i.now.blocks)}
	case 1:
		i.durable.size = min(i.durable.size, i.least)
		maps.DeleteFunc(i.durable.blocks, func(number int64, _ *block) bool { return number*blockSize >= i.durable.size })
		i.durable.end()
	}
}

// end makes zero what the last block has behind the size.
func (c *content) end() {
	b, tail := c.blocks[c.size/blockSize], c.size%blockSize
	if b != nil && tail > 0 {
		last := *b
		clear(last[tail:])
		c.blocks[c.size/blockSize] = &last
	}
}

// tear returns the new block with the given chance, the old one, or some sectors of both.
func tear(rng *rand.Rand, chance float64, before, after *block) *block {
	torn := rng.Float64() < 0.25
	if !torn {
		if rng.Float64() < chance {
			return after
		}
		return before
	}
	b := new(block)
	for at := 0; at < blockSize; at += sectorSize {
		from := before
		if rng.Float64() < chance {
			from = after
		}
		if from != nil {
			copy(b[at:at+sectorSize], from[at:])
		}
	}
	return b
}

// restore makes the volatile state of a tree the durable one.
func (f *FS) restore(i *inode) {
	if i.entries != nil {
		i.entries = maps.Clone(i.durableEntries)
		for _, child := range i.entries {
			f.restore(child)
		}
		return
	}
	i.now = content{i.durable.size, maps.Clone(i.durable.blocks)}
	clear(i.dirty)
	i.least = -1
}
