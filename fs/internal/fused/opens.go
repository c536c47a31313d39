package fused

import (
	"context"
	"sync"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// opens adds to go-fuse's tree what its node API does not show: the flags of each READ and
// WRITE, and poll(2).
type opens struct {
	fuse.RawFileSystem // the tree

	opening sync.Map // of a request's Cancel: the *openFile that its open made

	mu   sync.RWMutex
	open map[uint64]*openFile // by go-fuse's number
}

// openFile is what the kernel calls a file: one open.
type openFile struct {
	handle   fs.FileHandle
	exchange exchangeFile // the handle, if it is one
	node     uint64       // the file's, by go-fuse's number
	owner    Owner
	poll     polled
}

// Owner is the node that an open is of.
type Owner interface {
	// Failed is told of an error that a program got.
	Failed(call string, e syscall.Errno)
}

func newOpens(tree fuse.RawFileSystem) *opens {
	return &opens{RawFileSystem: tree, open: make(map[uint64]*openFile)}
}

// Opened registers a handle. A node calls it in its Open with the handle that it returns;
// go-fuse passes on only the handle's number.
func (s *Server) Opened(ctx context.Context, h fs.FileHandle, by Owner) { s.opens.made(ctx, h, by) }

func (r *opens) made(ctx context.Context, h fs.FileHandle, by Owner) {
	if c, ok := ctx.(*fuse.Context); ok {
		o := &openFile{handle: h, owner: by}
		o.exchange, _ = h.(exchangeFile)
		r.opening.Store(c.Cancel, o)
	}
}

func (r *opens) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	status := r.RawFileSystem.Open(cancel, in, out)
	if made, ok := r.opening.LoadAndDelete(cancel); ok && status.Ok() {
		o := made.(*openFile)
		o.node = in.NodeId
		r.mu.Lock()
		r.open[out.Fh] = o
		r.mu.Unlock()
	}
	return status
}

func (r *opens) get(fh uint64) *openFile {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.open[fh]
}

// Nonblocker is a handle that honours O_NONBLOCK as fcntl(2) sets it.
type Nonblocker interface{ SetNonblock(bool) }

// flagged does what a READ and a WRITE have in common.
func (r *opens) flagged(fh uint64, flags uint32) {
	if o := r.get(fh); o != nil {
		o.flagged(flags)
	}
}

func (o *openFile) flagged(flags uint32) {
	o.poll.arm()
	if h, ok := o.handle.(Nonblocker); ok {
		h.SetNonblock(flags&syscall.O_NONBLOCK != 0)
	}
}

// readLockOwner is FUSE_READ_LOCKOWNER: the READ comes from a read(2).
const readLockOwner = 2

// pageCache reports whether it is the page cache that reads.
func pageCache(in *fuse.ReadIn) bool { return in.ReadFlags&readLockOwner == 0 }

// Read refuses reads by the page cache, which sendfile(2) and splice(2) cause: the page cache
// cuts and keeps the bytes at its own discretion. The two then fail with EINVAL, and their
// callers fall back to read(2).
func (r *opens) Read(cancel <-chan struct{}, in *fuse.ReadIn, dest []byte) (fuse.ReadResult, fuse.Status) {
	if pageCache(in) {
		return nil, fuse.EINVAL
	}
	r.flagged(in.Fh, in.Flags)
	result, status := r.RawFileSystem.Read(cancel, in, dest)
	return result, r.noted("read", in.Fh, status)
}

func (r *opens) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	wipeCopy(in)
	r.flagged(in.Fh, in.Flags)
	n, status := r.RawFileSystem.Write(cancel, in, data)
	return n, r.noted("write", in.Fh, status)
}

func (r *opens) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	wipeCopy(in)
	r.flagged(in.Fh, in.Flags)
	n, status := r.RawFileSystem.Writev(cancel, in, data)
	return n, r.noted("write", in.Fh, status)
}

func (r *opens) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	wipeCopy(in)
	return r.noted("ioctl", in.Fh, r.RawFileSystem.Ioctl(cancel, in, inbuf, out, outbuf))
}

// noted returns status, after counting and logging it if it is an error.
func (r *opens) noted(call string, fh uint64, status fuse.Status) fuse.Status {
	if !status.Ok() {
		if o := r.get(fh); o != nil {
			o.owner.Failed(call, syscall.Errno(status))
		}
	}
	return status
}

// wipeCopy clears what go-fuse copied besides a request's structure. Its ProtocolServer
// copies the first 128 bytes of each request into an array of its own, where a short
// command, which may be a PIN, would stay until the memory is used again; in points to the
// beginning of that array (fuse/request.go, requestAlloc.smallInputBuf). What is worked on
// is not in it.
func wipeCopy[T any](in *T) {
	const copied = 128
	clear(unsafe.Slice((*byte)(unsafe.Pointer(in)), copied)[unsafe.Sizeof(*in):])
}

func (r *opens) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	r.mu.Lock()
	o := r.open[in.Fh]
	delete(r.open, in.Fh)
	r.mu.Unlock()
	if o != nil {
		o.poll.end()
	}
	r.RawFileSystem.Release(cancel, in)
}
