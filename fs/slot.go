package fs

import (
	"context"
	"log/slog"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/reader/core"
)

// slotDir is the directory of one slot. It stays that slot's after the reader left and another
// took the number: everything in it then says ENODEV.
type slotDir struct {
	fs.Inode
	mount *mount
	slot  *core.Slot
}

func (d *slotDir) attr(out *fuse.Attr) {
	gid, mode := d.mount.modeOf(d.slot)
	d.mount.attr(out, syscall.S_IFDIR|dirMode(mode), 0, d.slot.Since())
	out.Gid = gid
}

func (d *slotDir) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	d.attr(&out.Attr)
	out.SetTimeout(long)
	return 0
}

func (d *slotDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if d.slot.Gone() {
		return nil, syscall.ENODEV
	}
	for i := range slotFiles {
		if s := &slotFiles[i]; s.name == name && s.fits(d.slot) {
			d.mount.remember(d.slot, d.EmbeddedInode())
			f := &file{mount: d.mount, slot: d.slot, spec: s}
			f.entry(out)
			if s.applies != nil {
				out.SetEntryTimeout(0) // it comes and goes with the card
			}
			return d.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG, Ino: d.ino(i)}), 0
		}
	}
	return nil, syscall.ENOENT
}

func (d *slotDir) ino(i int) uint64 { return d.slot.Serial()<<8 | uint64(i+1) }

func (d *slotDir) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	if d.slot.Gone() {
		return nil, syscall.ENODEV
	}
	var list []fuse.DirEntry
	for i := range slotFiles {
		if s := &slotFiles[i]; s.fits(d.slot) && (s.applies == nil || d.slot.Info().State != core.StateStarting) {
			list = append(list, fuse.DirEntry{Name: s.name, Mode: syscall.S_IFREG, Ino: d.ino(i)})
		}
	}
	return fs.NewListDirStream(list), 0
}

// spec is one kind of file.
type spec struct {
	name      string
	write     bool // it may be written
	ownerOnly bool // whatever --mode says, only the mounting user may open it
	ownWrite  bool // only the mounting user may write
	locks     bool // readable only for those who may write, because any open may lock
	// text returns the present text of a text file; nil for other files.
	text func(*file) []byte
	// watch registers a function to call when the text may have changed; nil: pollers of
	// the file are not woken.
	watch func(b *core.Slot, wake func()) (stop func())
	// changes counts changes, also those that leave the text as it was; nil: there are none.
	changes func(s *core.Slot) uint64
	// size is the present size of a file that has no text but a size; 0: not known before the open.
	size func(*core.Slot) int
	// applies reports whether a slot has such a file; nil: every slot.
	applies func(*core.Slot) bool
	// readOnly reports that it cannot be written now; nil: it can.
	readOnly func(*core.Slot) bool
	waits    bool // an open may wait for a reader or a card
	powers   bool // an open may power the card and so have more to show than before
	open     func(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error)
}

func (s *spec) fits(slot *core.Slot) bool { return s.applies == nil || s.applies(slot) }

// streamSize is what exchange files and streams show: sendfile(2) and splice(2) stop at a
// file's size, and at 0 they say end of file without asking.
const streamSize = 4096

var slotFiles = []spec{
	{name: "status", text: statusText, watch: (*core.Slot).Watch, changes: (*core.Slot).Changes, open: openStatus},
	{name: "stats", text: statsText, watch: (*core.Slot).WatchStats, open: openStatus},
	{name: "atr", text: atrText, waits: true, powers: true, open: openATR},
	{name: "power", text: powerText, write: true, waits: true, open: openPower},
	{name: "apdu", write: true, locks: true, waits: true, open: openAPDU},
	{name: "control", write: true, locks: true, waits: true, open: openControl},
	{name: "ctbcs", write: true, locks: true, waits: true, open: openCTBCS},
	{name: "memory", size: memorySize, applies: mayHaveMemory, readOnly: readOnlyMemory, write: true, locks: true, waits: true, powers: true, open: openMemory},
	{name: "protocol", text: protocolText, write: true, waits: true, open: openProtocol},
	{name: "event", open: openEvent},
	{name: "trace", ownerOnly: true, open: openTrace},
}

var (
	specRootEvent = spec{name: "event", open: openEvent}
	specCtl       = spec{name: "ctl", text: ctlText, write: true, ownWrite: true, open: openCtl}
)

// file is the node of one file; what an open does is in its handle.
type file struct {
	fs.Inode
	mount *mount
	slot  *core.Slot // nil at the top
	spec  *spec
	locks advisory
}

var (
	_ = (fs.NodeOpener)((*file)(nil))
	_ = (fs.NodeGetattrer)((*file)(nil))
)

func (f *file) changes() uint64 {
	if f.spec.changes == nil {
		return 0
	}
	return f.spec.changes(f.slot)
}

func (f *file) attr(out *fuse.Attr) {
	gid, mode := f.mount.gid, f.mount.mode
	if f.slot != nil {
		gid, mode = f.mount.modeOf(f.slot)
	}
	if !f.spec.write {
		mode &= 0o444
	}
	switch {
	case f.spec.locks:
		mode &= mode&0o222<<1 | 0o222
	case f.spec.ownerOnly:
		mode &= 0o600
	case f.spec.ownWrite:
		mode &^= 0o022
	}
	if f.readOnly() {
		mode &^= 0o222
	}
	since := f.mount.started
	if f.slot != nil {
		since = f.slot.Since()
	}
	f.mount.attr(out, syscall.S_IFREG|mode, streamSize, since)
	out.Gid = gid
}

// readOnly reports whether what is in the slot now cannot be written.
func (f *file) readOnly() bool {
	return f.spec.readOnly != nil && f.slot != nil && f.spec.readOnly(f.slot)
}

// measure sets the size that out shows, and returns how long the kernel may keep it.
func (f *file) measure(out *fuse.Attr) time.Duration {
	switch {
	case f.spec.text != nil:
		out.Size = uint64(len(f.spec.text(f)))
	case f.spec.size != nil:
		out.Size = uint64(f.spec.size(f.slot))
	default:
		return long
	}
	if out.Size == 0 && f.spec.powers {
		// The open fills the file, and a program may go by the size that it saw before.
		out.Size = streamSize
	}
	return 0
}

// entry is what a Lookup says of the file.
func (f *file) entry(out *fuse.EntryOut) {
	f.attr(&out.Attr)
	out.SetAttrTimeout(f.measure(&out.Attr))
	out.SetEntryTimeout(long)
}

func (f *file) Getattr(ctx context.Context, h fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.attr(&out.Attr)
	out.SetTimeout(f.measure(&out.Attr))
	return 0
}

// Open waits as the contract of each file says.
func (f *file) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	began := time.Now()
	h, errno := f.openHandle(ctx, flags)
	if f.spec.waits {
		f.slot.CountOpen(time.Since(began))
	}
	if errno != 0 {
		f.Failed("open", errno)
		return nil, 0, errno
	}
	f.mount.server.Opened(ctx, h, f)
	return h, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

func (f *file) openHandle(ctx context.Context, flags uint32) (fs.FileHandle, syscall.Errno) {
	if f.mount.leaving.Err() != nil || f.slot.Gone() {
		return nil, syscall.ENODEV
	}
	if (!f.spec.write || f.readOnly()) && flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, syscall.EACCES // modes do not stop root; sysfs refuses it too
	}
	bounded, cancel := f.mount.opening(ctx)
	defer cancel()
	h, err := f.spec.open(bounded, f, flags)
	if err != nil {
		return nil, waitErrno(bounded, err)
	}
	return h, 0
}

// Failed counts and logs an error that a program got. It may have asked whether the file
// is a terminal, which is no error of the slot.
func (f *file) Failed(call string, e syscall.Errno) {
	if f.slot != nil && e != syscall.ENOTTY {
		f.slot.CountError(e)
		f.refused(call, e)
	}
}

// refused logs why a program did not get what it asked for. It uses the words of the kind of
// error: the error's own words may quote what the program wrote.
func (f *file) refused(call string, e syscall.Errno) {
	switch e {
	case syscall.EAGAIN, syscall.EINTR: // as it wished
		return
	}
	if f.slot == nil || !f.slot.Log().Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	reason := ""
	for _, known := range errnos {
		if known.errno == e {
			reason = known.err.Error()
			break
		}
	}
	f.slot.Log().Debug(call+" refused", "file", f.spec.name, "errno", errnoName(e), "reason", reason)
}
