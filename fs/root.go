package fs

import (
	"context"
	"log/slog"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader/core"
)

// mount is what all nodes of one mount share.
type mount struct {
	manager     *core.Manager
	server      *fused.Server
	log         *slog.Logger // limited
	self        inode        // the file system's device
	uid, gid    uint32
	mode        uint32 // permission bits of files that may be written
	openTimeout time.Duration
	started     time.Time
	escape      func(uid uint32) bool
	access      atomic.Pointer[[]Access]
	rooms       rooms
	openers     openers
	dirsMu      sync.Mutex
	dirs        map[*core.Slot]*fs.Inode // see remember
	leaving     context.Context          // ended: no new opens, streams end
}

// owns reports whether a user is the owner: the one that runs the daemon, and root.
func (m *mount) owns(uid uint32) bool { return uid == m.uid || uid == 0 }

// mayEscape reports whether a user may send escape commands, which can rewrite a
// reader's firmware.
func (m *mount) mayEscape(uid uint32) bool {
	return m.owns(uid) || m.escape != nil && m.escape(uid)
}

func (m *mount) attr(out *fuse.Attr, mode uint32, size uint64, since time.Time) {
	out.Mode = mode
	out.Size = size
	out.Uid, out.Gid = m.uid, m.gid
	out.Nlink = 1
	out.SetTimes(&since, &since, &since)
}

// opening is a context for an open that may wait: it ends with the caller's
// interrupt, with the mount, or after --open-timeout.
func (m *mount) opening(ctx context.Context) (context.Context, context.CancelFunc) {
	if m.openTimeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, m.openTimeout)
}

// root is the mount's top directory.
type root struct {
	fs.Inode
	mount *mount
}

var (
	_ = (fs.NodeLookuper)((*root)(nil))
	_ = (fs.NodeReaddirer)((*root)(nil))
	_ = (fs.NodeGetattrer)((*root)(nil))
)

// long is how long the kernel may cache what never changes, and what it is notified of when it
// changes.
const long = time.Hour

// Inode numbers: a file's is its slot's serial and its place in the slot's
// directory, so that what comes under an old number is a new inode.
const (
	inoEvent = 2 + iota
	inoCtl
	inoByID
)

func (r *root) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	r.mount.attr(&out.Attr, syscall.S_IFDIR|r.mount.topMode(), 0, r.mount.started)
	out.SetTimeout(long)
	return 0
}

func (r *root) fixed() map[string]*file {
	return map[string]*file{
		"event": {mount: r.mount, spec: &specRootEvent},
		"ctl":   {mount: r.mount, spec: &specCtl},
	}
}

// Lookup finds a slot by its number. The kernel must not keep a slot's entry (timeout 0):
// a reply on its way while the reader leaves would bring back a name that is gone.
func (r *root) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if name == "by-id" {
		out.SetEntryTimeout(long)
		out.SetAttrTimeout(long)
		r.mount.attr(&out.Attr, syscall.S_IFDIR|r.mount.topMode(), 0, r.mount.started)
		return r.NewInode(ctx, &byID{mount: r.mount}, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: inoByID}), 0
	}
	if f := r.fixed()[name]; f != nil {
		f.entry(out)
		ino := uint64(inoEvent)
		if name == "ctl" {
			ino = inoCtl
		}
		return r.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG, Ino: ino}), 0
	}
	n, err := strconv.Atoi(name)
	if err != nil || strconv.Itoa(n) != name {
		return nil, syscall.ENOENT
	}
	s := r.mount.manager.Slot(n)
	if s == nil && r.mount.leaving.Err() != nil {
		return nil, syscall.ENODEV // the same as for a caller that already waits in open
	}
	if s == nil {
		return nil, syscall.ENOENT
	}
	d := &slotDir{mount: r.mount, slot: s}
	d.attr(&out.Attr)
	out.SetAttrTimeout(long)
	return r.NewInode(ctx, d, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: s.Serial() << 8}), 0
}

// remember keeps the directory of a slot whose files the kernel knows. forget needs it and
// cannot look it up: by then its name may belong to another slot.
func (m *mount) remember(s *core.Slot, dir *fs.Inode) {
	m.dirsMu.Lock()
	defer m.dirsMu.Unlock()
	if m.dirs == nil {
		m.dirs = make(map[*core.Slot]*fs.Inode)
	}
	if !s.Gone() { // else forget was here, or is about to be
		m.dirs[s] = dir
	}
}

// dirOf removes and returns the directory that remember kept.
func (m *mount) dirOf(s *core.Slot) *fs.Inode {
	m.dirsMu.Lock()
	defer m.dirsMu.Unlock()
	dir := m.dirs[s]
	delete(m.dirs, s)
	return dir
}

// forget makes the kernel drop what it knows of a slot that left. The files go first: in a
// directory that is in use the kernel would keep them for their long timeouts, and with them
// our nodes and the slot.
func (r *root) forget(s *core.Slot) {
	r.mount.rooms.forget(s)
	if dir := r.mount.dirOf(s); dir != nil {
		for file := range dir.Children() {
			dir.NotifyEntry(file)
		}
	}
	r.NotifyEntry(strconv.Itoa(s.Number()))
}

func (r *root) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	list := []fuse.DirEntry{
		{Name: "by-id", Mode: syscall.S_IFDIR, Ino: inoByID},
		{Name: "ctl", Mode: syscall.S_IFREG, Ino: inoCtl},
		{Name: "event", Mode: syscall.S_IFREG, Ino: inoEvent},
	}
	for _, s := range r.mount.manager.Slots() {
		list = append(list, fuse.DirEntry{
			Name: strconv.Itoa(s.Number()), Mode: syscall.S_IFDIR, Ino: s.Serial() << 8,
		})
	}
	return fs.NewListDirStream(list), 0
}

// byID is the directory of names that survive replugging.
type byID struct {
	fs.Inode
	mount *mount
}

func (d *byID) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	d.mount.attr(&out.Attr, syscall.S_IFDIR|d.mount.topMode(), 0, d.mount.started)
	out.SetTimeout(long)
	return 0
}

func (d *byID) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	s := d.mount.manager.Named(name)
	if s == nil {
		return nil, syscall.ENOENT
	}
	link := &fs.MemSymlink{Data: []byte("../" + strconv.Itoa(s.Number()))}
	d.mount.attr(&link.Attr, 0o777, uint64(len(link.Data)), d.mount.started)
	out.Attr = link.Attr
	out.SetAttrTimeout(long)
	return d.NewInode(ctx, link, fs.StableAttr{Mode: syscall.S_IFLNK}), 0
}

func (d *byID) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	var list []fuse.DirEntry
	for name := range d.mount.manager.ByID() {
		list = append(list, fuse.DirEntry{Name: name, Mode: syscall.S_IFLNK})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return fs.NewListDirStream(list), 0
}

// owner of the mount's files.
func owner() (uid, gid uint32) { return uint32(os.Getuid()), uint32(os.Getgid()) }
