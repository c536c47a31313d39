package fused

import (
	"context"
	"io"
	golog "log"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// kernel is the other end of a server's /dev/fuse: a socket that keeps messages apart.
type kernel struct {
	t      testing.TB
	fd     int
	unique uint64
	server *Server
	ended  chan struct{}
	log    *counter
}

// counter is a log that counts its lines.
type counter struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func slogOf(c *counter) *slog.Logger { return slog.New(c) }

func (c *counter) Enabled(context.Context, slog.Level) bool { return true }

func (c *counter) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, r.Message)
	return nil
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.lines)
}

// answers is the file system of these tests: functions that answer requests.
type answers struct {
	fuse.RawFileSystem
	open  func(cancel <-chan struct{}) fuse.Status
	ioctl func(cancel <-chan struct{}, in, out []byte) fuse.Status
	read  func(dest []byte) []byte
	write func(data []byte)

	forget   func()
	exchange func() int // an ioctl's result
}

func (a *answers) Open(cancel <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return a.open(cancel)
}

func (a *answers) Ioctl(cancel <-chan struct{}, _ *fuse.IoctlIn, in []byte, result *fuse.IoctlOut, out []byte) fuse.Status {
	if a.exchange != nil {
		result.Result = int32(a.exchange())
		return fuse.OK
	}
	return a.ioctl(cancel, in, out)
}

func (a *answers) Read(_ <-chan struct{}, _ *fuse.ReadIn, dest []byte) (fuse.ReadResult, fuse.Status) {
	return fuse.ReadResultData(a.read(dest)), fuse.OK
}

func (a *answers) Write(_ <-chan struct{}, _ *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	a.write(data)
	return uint32(len(data)), fuse.OK
}

func (a *answers) GetXAttr(_ <-chan struct{}, _ *fuse.InHeader, _ string, dest []byte) (uint32, fuse.Status) {
	for i := range dest {
		dest[i] = byte(i)
	}
	return uint32(len(dest)), fuse.OK
}

func (a *answers) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	return a.GetXAttr(cancel, h, "", dest)
}

func (a *answers) Forget(uint64, uint64) {
	if a.forget != nil {
		a.forget()
	}
}

// exchangeRequest is a CARDFS_EXCHANGE of size bytes.
func exchangeRequest(size int) uint32 { return IoctlExchange | uint32(size)<<16 }

const opInit, opOpen, opFlush, opNotifyReply = 26, 14, 25, 41

func startServer(t testing.TB, a *answers) *kernel {
	t.Helper()
	log := &counter{Handler: slog.DiscardHandler}
	quiet := golog.New(io.Discard, "", 0)
	k := startServerWith(t, a, &fuse.MountOptions{MaxWrite: MaxWrite, Logger: quiet}, slog.New(log))
	k.log = log
	return k
}

func startServerWith(t testing.TB, a fuse.RawFileSystem, o *fuse.MountOptions, log *slog.Logger) *kernel {
	t.Helper()
	k := newKernel(t, a, o, log)
	k.serve()
	return k
}

// newKernel makes a server that does not serve yet.
func newKernel(t testing.TB, a fuse.RawFileSystem, o *fuse.MountOptions, log *slog.Logger) *kernel {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := a.(*answers); ok {
		a.RawFileSystem = fuse.NewDefaultRawFileSystem()
	}
	k := &kernel{t: t, fd: pair[0], ended: make(chan struct{})}
	init := fuse.InitIn{Major: 7, Minor: 38}
	k.send(opInit, &init.InHeader, bytesOf(&init), nil)
	if k.server, err = New(pair[1], a, o, log); err != nil {
		t.Fatal(err)
	}
	k.receive()
	return k
}

// serve starts the server.
func (k *kernel) serve() {
	go func() {
		k.server.Serve()
		close(k.ended)
	}()
	k.t.Cleanup(k.close)
}

// close ends the mount, as the server sees it.
func (k *kernel) close() {
	if k.fd >= 0 {
		unix.Close(k.fd)
		k.fd = -1
	}
	<-k.ended
}

// send sends a request and returns its number.
func (k *kernel) send(opcode uint32, h *fuse.InHeader, request, data []byte) uint64 {
	k.t.Helper()
	k.unique += 2
	h.Opcode, h.Unique = opcode, k.unique
	if h.NodeId == 0 {
		h.NodeId = 2
	}
	h.Length = uint32(len(request) + len(data))
	if _, err := unix.Writev(k.fd, [][]byte{request, data}); err != nil {
		k.t.Fatal(err)
	}
	return k.unique
}

func (k *kernel) ioctl(in []byte, room int) uint64 {
	r := fuse.IoctlIn{InSize: uint32(len(in)), OutSize: uint32(room)}
	return k.send(opIoctl, &r.InHeader, bytesOf(&r), in)
}

func (k *kernel) open() uint64 {
	r := fuse.OpenIn{}
	return k.send(opOpen, &r.InHeader, bytesOf(&r), nil)
}

func (k *kernel) interrupt(unique uint64) {
	r := fuse.InterruptIn{Unique: unique}
	k.send(opInterrupt, &r.InHeader, bytesOf(&r), nil)
}

// receive takes the next answer.
func (k *kernel) receive() (unique uint64, errno syscall.Errno, data []byte) {
	k.t.Helper()
	buf := make([]byte, 2*MaxWrite)
	n, err := unix.Read(k.fd, buf)
	if err != nil || n < headerSize {
		k.t.Fatalf("read of an answer: %d bytes, %v", n, err)
	}
	h := (*fuse.OutHeader)(unsafe.Pointer(&buf[0]))
	if int(h.Length) != n {
		k.t.Fatalf("an answer of %d bytes says it has %d", n, h.Length)
	}
	return h.Unique, syscall.Errno(-h.Status), buf[headerSize:n]
}

func (k *kernel) want(unique uint64, errno syscall.Errno) []byte {
	k.t.Helper()
	got, e, data := k.receive()
	if got != unique || e != errno {
		k.t.Fatalf("answer to %d: %v, want to %d: %v", got, e, unique, errno)
	}
	return data
}

// untilInterrupted returns a handler that waits for its interrupt.
func untilInterrupted(begun chan<- struct{}) func(<-chan struct{}) fuse.Status {
	return func(cancel <-chan struct{}) fuse.Status {
		begun <- struct{}{}
		<-cancel
		return fuse.EINTR
	}
}
