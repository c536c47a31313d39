package fused

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fakeFile is a handle that can be polled.
type fakeFile struct {
	bits     atomic.Uint32
	nonblock atomic.Int32 // how often it was set, negative: the last was false

	mu      sync.Mutex
	wake    func()
	watched atomic.Int32
	stopped atomic.Int32
}

func (f *fakeFile) Ready() uint32 { return f.bits.Load() }

func (f *fakeFile) SetNonblock(on bool) {
	if on {
		f.nonblock.Store(1)
	} else {
		f.nonblock.Store(-1)
	}
}

func (f *fakeFile) Watch(wake func()) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wake = wake
	f.watched.Add(1)
	return func() { f.stopped.Add(1) }
}

// happen makes something ready.
func (f *fakeFile) happen(bits uint32) {
	f.bits.Store(bits)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wake != nil {
		f.wake()
	}
}

// pollTree is a tree of fakeFiles: each OPEN makes the next.
type pollTree struct {
	fuse.RawFileSystem
	server *Server
	next   []fs.FileHandle
	n      uint64
	calls  []string
}

func (p *pollTree) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	p.server.Opened(&fuse.Context{Cancel: cancel}, p.next[p.n], nobody{})
	p.n++
	out.Fh = p.n
	return fuse.OK
}

func (p *pollTree) Read(_ <-chan struct{}, in *fuse.ReadIn, dest []byte) (fuse.ReadResult, fuse.Status) {
	p.calls = append(p.calls, "read")
	return fuse.ReadResultData([]byte("x")), fuse.OK
}

func (p *pollTree) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return uint32(len(data)), fuse.OK
}

func (p *pollTree) Release(<-chan struct{}, *fuse.ReleaseIn) {}

func startPoll(t *testing.T, handles ...fs.FileHandle) (*kernel, *pollTree) {
	tree := &pollTree{RawFileSystem: fuse.NewDefaultRawFileSystem(), next: handles}
	log := &counter{}
	k := newKernel(t, tree, &fuse.MountOptions{MaxWrite: MaxWrite}, slogOf(log))
	tree.server = k.server
	k.serve()
	for range handles {
		k.want(k.open(), 0)
	}
	return k, tree
}

func (k *kernel) poll(fh, kh uint64, flags uint32, errno syscall.Errno) uint32 {
	k.t.Helper()
	in := pollIn{fh: fh, kh: kh, flags: flags}
	data := k.want(k.send(opPoll, &in.InHeader, bytesOf(&in), nil), errno)
	if errno != 0 {
		return 0
	}
	if len(data) != 8 {
		k.t.Fatalf("a fuse_poll_out of %d bytes", len(data))
	}
	return *(*uint32)(unsafe.Pointer(&data[0]))
}

// notified receives a NOTIFY_POLL: unique is 0, error 1, and the body kh.
func (k *kernel) notified(kh uint64) {
	k.t.Helper()
	buf := make([]byte, 100)
	n, err := unix.Read(k.fd, buf)
	if err != nil {
		k.t.Fatal(err)
	}
	h := (*fuse.OutHeader)(unsafe.Pointer(&buf[0]))
	if n != 24 || h.Length != 24 || h.Unique != 0 || h.Status != 1 || *(*uint64)(unsafe.Pointer(&buf[16])) != kh {
		k.t.Fatalf("instead of NOTIFY_POLL for %d: % X", kh, buf[:n])
	}
}

// quiet fails the test if anything but the next answer comes.
func (k *kernel) quiet() {
	k.t.Helper()
	r := fuse.ReadIn{Fh: 99, ReadFlags: readLockOwner, Size: 1}
	k.want(k.send(opRead, &r.InHeader, bytesOf(&r), nil), 0)
}

func (k *kernel) read(fh uint64, readFlags, flags uint32, errno syscall.Errno) {
	k.t.Helper()
	r := fuse.ReadIn{Fh: fh, ReadFlags: readFlags, Flags: flags, Size: 1}
	k.want(k.send(opRead, &r.InHeader, bytesOf(&r), nil), errno)
}

const schedule = 1

// "With FUSE_POLL_SCHEDULE_NOTIFY remember kh, whatever the answer is, and send
// NOTIFY_POLL whenever a bit of revents becomes true; the kernel then asks again. Drop kh
// at RELEASE."
func TestPoll(t *testing.T) {
	f, g := &fakeFile{}, &fakeFile{}
	k, _ := startPoll(t, f, g)
	if bits := k.poll(1, 7, 0, 0); bits != 0 {
		t.Errorf("nothing is ready: %#x", bits)
	}
	f.happen(unix.POLLIN)
	k.quiet() // nobody asked for a notification
	if bits := k.poll(1, 7, 0, 0); bits != unix.POLLIN {
		t.Errorf("ready: %#x", bits)
	}
	f.bits.Store(0)
	for i := range 3 {
		if i > 0 {
			f.bits.Store(unix.POLLIN) // the answer does not matter
		}
		k.poll(1, 7, schedule, 0)
		k.poll(2, 8, schedule, 0)
		f.happen(unix.POLLIN)
		k.notified(7)
		f.happen(unix.POLLIN)
		k.quiet() // a notified poller must ask again
		g.happen(unix.POLLHUP)
		k.notified(8)
	}
	// A read that finds nothing counts as a POLL: epoll with EPOLLET does not poll again.
	k.read(1, readLockOwner, 0, 0)
	f.happen(unix.POLLIN)
	k.notified(7)
	w := fuse.WriteIn{Fh: 1, Size: 1}
	k.want(k.send(opWrite, &w.InHeader, bytesOf(&w), []byte("x")), 0)
	f.happen(unix.POLLIN)
	k.notified(7)
	// The last number counts.
	k.poll(1, 9, schedule, 0)
	f.happen(unix.POLLIN)
	k.notified(9)
	k.poll(1, 9, schedule, 0)
	r := fuse.ReleaseIn{Fh: 1}
	k.want(k.send(18, &r.InHeader, bytesOf(&r), nil), 0)
	f.happen(unix.POLLIN)
	k.quiet()
	k.poll(1, 9, schedule, syscall.EBADF)
	if f.watched.Load() != 1 || f.stopped.Load() != 1 || g.stopped.Load() != 0 {
		t.Errorf("watched %d times, stopped %d and %d times", f.watched.Load(), f.stopped.Load(), g.stopped.Load())
	}
}

// A file that cannot be polled is always ready. A truncated POLL is an error.
func TestPollOthers(t *testing.T) {
	k, _ := startPoll(t, struct{}{})
	if bits := k.poll(1, 7, schedule, 0); bits != unix.POLLIN|0x40|unix.POLLOUT|0x100 {
		t.Errorf("%#x", bits)
	}
	var h fuse.InHeader
	k.want(k.send(opPoll, &h, bytesOf(&h), make([]byte, 8)), syscall.EIO)
}

// "A READ whose read_flags lack FUSE_READ_LOCKOWNER is the page cache's: answer EINVAL,
// take nothing." And "O_NONBLOCK as it stands at each READ is honoured".
func TestReadFlags(t *testing.T) {
	f := &fakeFile{}
	k, tree := startPoll(t, f)
	for _, flags := range []uint32{0, 1, 4, ^uint32(readLockOwner)} {
		k.read(1, flags, 0, syscall.EINVAL)
	}
	if len(tree.calls) != 0 || f.nonblock.Load() != 0 {
		t.Error("a read for the page cache reached the file")
	}
	for _, flags := range []uint32{syscall.O_NONBLOCK, 0, syscall.O_NONBLOCK | syscall.O_RDWR, syscall.O_RDWR} {
		want := int32(-1)
		if flags&syscall.O_NONBLOCK != 0 {
			want = 1
		}
		k.read(1, readLockOwner, flags, 0)
		if got := f.nonblock.Swap(0); got != want {
			t.Errorf("READ with flags %#o: %d", flags, got)
		}
		w := fuse.WriteIn{Fh: 1, Size: 1, Flags: flags}
		k.want(k.send(opWrite, &w.InHeader, bytesOf(&w), []byte("x")), 0)
		if got := f.nonblock.Swap(0); got != want {
			t.Errorf("WRITE with flags %#o: %d", flags, got)
		}
	}
}
