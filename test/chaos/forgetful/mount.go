package forgetful

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// mount mounts the file system on an existing directory. unmount ends that.
func (f *FS) mount(dir string) (unmount func() error, err error) {
	// The kernel must ask again after a cut: it may keep neither names nor attributes.
	var never time.Duration
	server, err := fs.Mount(dir, &node{f: f, i: f.root}, &fs.Options{
		EntryTimeout: &never, AttrTimeout: &never,
		MountOptions: fuse.MountOptions{FsName: "forgetful", Name: "forgetful", DirectMountStrict: true, DisableXAttrs: true},
	})
	if err != nil {
		return nil, fmt.Errorf("mount a FUSE file system (it needs root and /dev/fuse): %w", err)
	}
	return func() error {
		// A killed program may not have let go of its files yet.
		if err := server.Unmount(); err != nil {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", dir, err)
			}
			return nil
		}
		server.Wait()
		return nil
	}, nil
}

// node is an inode as FUSE sees it.
type node struct {
	fs.Inode
	f *FS
	i *inode
}

// handle is an open file.
type handle struct{ epoch int }

var (
	_ fs.NodeLookuper   = (*node)(nil)
	_ fs.NodeGetattrer  = (*node)(nil)
	_ fs.NodeSetattrer  = (*node)(nil)
	_ fs.NodeOpener     = (*node)(nil)
	_ fs.NodeCreater    = (*node)(nil)
	_ fs.NodeReader     = (*node)(nil)
	_ fs.NodeWriter     = (*node)(nil)
	_ fs.NodeFsyncer    = (*node)(nil)
	_ fs.NodeFlusher    = (*node)(nil)
	_ fs.NodeAllocater  = (*node)(nil)
	_ fs.NodeMkdirer    = (*node)(nil)
	_ fs.NodeMknoder    = (*node)(nil)
	_ fs.NodeSymlinker  = (*node)(nil)
	_ fs.NodeReadlinker = (*node)(nil)
	_ fs.NodeLinker     = (*node)(nil)
	_ fs.NodeUnlinker   = (*node)(nil)
	_ fs.NodeRmdirer    = (*node)(nil)
	_ fs.NodeRenamer    = (*node)(nil)
	_ fs.NodeReaddirer  = (*node)(nil)
	_ fs.NodeStatfser   = (*node)(nil)
)

func (n *node) lock() func() {
	n.f.mu.Lock()
	return n.f.mu.Unlock
}

// usable fails for a file that was opened before a cut.
func (n *node) usable(file fs.FileHandle) syscall.Errno {
	if h, ok := file.(*handle); ok && h.epoch != n.f.epoch {
		return syscall.EIO
	}
	return fs.OK
}

func (i *inode) attributes(out *fuse.Attr) {
	out.Ino, out.Mode, out.Uid, out.Gid, out.Rdev = i.ino, i.mode, i.uid, i.gid, i.rdev
	out.Nlink, out.Blksize = 1, blockSize
	out.Size = uint64(i.now.size)
	if i.target != "" {
		out.Size = uint64(len(i.target))
	}
	out.Blocks = (out.Size + 511) / 512
	out.SetTimes(nil, &i.mtime, &i.mtime)
}

func (n *node) child(ctx context.Context, i *inode, out *fuse.EntryOut) *fs.Inode {
	i.attributes(&out.Attr)
	return n.NewInode(ctx, &node{f: n.f, i: i}, fs.StableAttr{Mode: i.mode & syscall.S_IFMT, Ino: i.ino})
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	i := n.i.entries[name]
	if i == nil {
		return nil, syscall.ENOENT
	}
	return n.child(ctx, i, out), fs.OK
}

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	defer n.lock()()
	n.i.attributes(&out.Attr)
	return fs.OK
}

func (n *node) Setattr(_ context.Context, file fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	defer n.lock()()
	if errno := n.usable(file); errno != fs.OK {
		return errno
	}
	if mode, ok := in.GetMode(); ok {
		n.i.mode = n.i.mode&syscall.S_IFMT | mode&^syscall.S_IFMT
	}
	if uid, ok := in.GetUID(); ok {
		n.i.uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		n.i.gid = gid
	}
	if size, ok := in.GetSize(); ok {
		n.f.resize(n.i, int64(size))
	}
	if mtime, ok := in.GetMTime(); ok {
		n.i.mtime = mtime
	}
	n.i.attributes(&out.Attr)
	return fs.OK
}

func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	defer n.lock()()
	if flags&syscall.O_TRUNC != 0 {
		n.f.resize(n.i, 0)
	}
	return &handle{n.f.epoch}, 0, fs.OK
}

// add makes a new inode with a name in the directory.
func (n *node) add(ctx context.Context, name string, i *inode, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if n.i.entries[name] != nil {
		return nil, syscall.EEXIST
	}
	if caller, ok := fuse.FromContext(ctx); ok {
		i.uid, i.gid = caller.Uid, caller.Gid
	}
	n.f.change(operation{{n.i, name, i}})
	return n.child(ctx, i, out), fs.OK
}

func (n *node) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	defer n.lock()()
	child, errno := n.add(ctx, name, n.f.newInode(syscall.S_IFREG|mode&^syscall.S_IFMT), out)
	return child, &handle{n.f.epoch}, 0, errno
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	return n.add(ctx, name, n.f.newInode(syscall.S_IFDIR|mode&^syscall.S_IFMT), out)
}

func (n *node) Mknod(ctx context.Context, name string, mode, dev uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	i := n.f.newInode(mode)
	i.rdev = dev
	return n.add(ctx, name, i, out)
}

func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	i := n.f.newInode(syscall.S_IFLNK | 0o777)
	i.target = target
	return n.add(ctx, name, i, out)
}

func (n *node) Readlink(context.Context) ([]byte, syscall.Errno) { return []byte(n.i.target), fs.OK }

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	if n.i.entries[name] != nil {
		return nil, syscall.EEXIST
	}
	to, ok := target.(*node)
	if !ok {
		return nil, syscall.EXDEV
	}
	n.f.change(operation{{n.i, name, to.i}})
	return n.child(ctx, to.i, out), fs.OK
}

func (n *node) Read(_ context.Context, file fs.FileHandle, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	defer n.lock()()
	if errno := n.usable(file); errno != fs.OK {
		return nil, errno
	}
	return fuse.ReadResultData(dest[:n.i.read(dest, offset)]), fs.OK
}

func (n *node) Write(_ context.Context, file fs.FileHandle, data []byte, offset int64) (uint32, syscall.Errno) {
	defer n.lock()()
	if errno := n.usable(file); errno != fs.OK {
		return 0, errno
	}
	n.f.write(n.i, data, offset)
	return uint32(len(data)), fs.OK
}

// Fsync is fsync and fdatasync, of a file or a directory. The kernel writes the pages of mmap first,
// and it asks for one after each write to a file opened with O_SYNC or O_DSYNC.
func (n *node) Fsync(_ context.Context, file fs.FileHandle, _ uint32) syscall.Errno {
	defer n.lock()()
	if errno := n.usable(file); errno != fs.OK {
		return errno
	}
	n.f.sync(n.i)
	return fs.OK
}

// Flush is a close, which makes nothing durable.
func (n *node) Flush(context.Context, fs.FileHandle) syscall.Errno { return fs.OK }

func (n *node) Allocate(_ context.Context, file fs.FileHandle, offset, size uint64, mode uint32) syscall.Errno {
	defer n.lock()()
	if errno := n.usable(file); errno != fs.OK {
		return errno
	}
	end := int64(offset + size)
	switch mode &^ unix.FALLOC_FL_KEEP_SIZE {
	case 0:
	case unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE:
		n.f.drop(n.i, int64(offset), end)
	default:
		return syscall.EOPNOTSUPP
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && end > n.i.now.size {
		n.f.resize(n.i, end)
	}
	return fs.OK
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	defer n.lock()()
	if n.i.entries[name] == nil {
		return syscall.ENOENT
	}
	n.f.change(operation{{n.i, name, nil}})
	return fs.OK
}

func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	defer n.lock()()
	switch i := n.i.entries[name]; {
	case i == nil:
		return syscall.ENOENT
	case len(i.entries) > 0:
		return syscall.ENOTEMPTY
	}
	n.f.change(operation{{n.i, name, nil}})
	return fs.OK
}

func (n *node) Rename(_ context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	defer n.lock()()
	to, ok := parent.(*node)
	if !ok {
		return syscall.EXDEV
	}
	moved, old := n.i.entries[name], to.i.entries[newName]
	switch {
	case moved == nil:
		return syscall.ENOENT
	case flags&^unix.RENAME_NOREPLACE != 0:
		return syscall.EINVAL
	case old != nil && flags != 0:
		return syscall.EEXIST
	case old != nil && len(old.entries) > 0:
		return syscall.ENOTEMPTY
	case old == moved:
		return fs.OK
	}
	n.f.change(operation{{n.i, name, nil}, {to.i, newName, moved}})
	return fs.OK
}

func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	defer n.lock()()
	var entries []fuse.DirEntry
	for _, name := range slices.Sorted(maps.Keys(n.i.entries)) {
		i := n.i.entries[name]
		entries = append(entries, fuse.DirEntry{Name: name, Ino: i.ino, Mode: i.mode & syscall.S_IFMT})
	}
	return fs.NewListDirStream(entries), fs.OK
}

// Statfs reports room for what the tests write.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	const blocks = 16 << 30 / blockSize
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, 255
	out.Blocks, out.Bfree, out.Bavail, out.Files, out.Ffree = blocks, blocks, blocks, 1<<20, 1<<20
	return fs.OK
}
