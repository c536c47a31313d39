package fused

import (
	"bytes"
	"context"
	"fmt"
	"io"
	golog "log"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// exchangeNode is a file below a root; each open returns handle.
type exchangeNode struct {
	fs.Inode
	server *Server
	handle fs.FileHandle
}

func (n *exchangeNode) OnAdd(ctx context.Context) {
	if n.IsRoot() {
		child := &exchangeNode{server: n.server, handle: n.handle}
		n.AddChild("apdu", n.NewPersistentInode(ctx, child, fs.StableAttr{Mode: syscall.S_IFREG}), true)
	}
}

func (n *exchangeNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.server.Opened(ctx, n.handle, nobody{})
	return n.handle, fuse.FOPEN_DIRECT_IO, 0
}

// nobody is an owner that counts no errors.
type nobody struct{}

func (nobody) Failed(string, syscall.Errno) {}

// recorder is an exchange file that records its calls.
type recorder struct {
	mu    sync.Mutex
	calls []string
}

func (r *recorder) called(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

func (r *recorder) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

func (r *recorder) SetNonblock(on bool) { r.called("nonblock %v", on) }

func (r *recorder) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	r.called("read of %d at %d, %v", len(dest), off, ctx.Err())
	switch off % 5 {
	case 4:
		return nil, syscall.EAGAIN
	case 3:
		panic("here")
	case 2:
		return fuse.ReadResultData([]byte("elsewhere")[:min(9, len(dest))]), 0
	}
	n := len(dest) / 2
	for i := range dest[:n] {
		dest[i] = byte(i)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

func (r *recorder) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	r.called("write of %X at %d, %v", data, off, ctx.Err())
	switch len(data) % 5 {
	case 4:
		return 7, syscall.ENOBUFS
	case 3:
		panic("here")
	}
	return uint32(len(data)), 0
}

func (r *recorder) Ioctl(ctx context.Context, cmd uint32, arg uint64, input, output []byte) (int32, syscall.Errno) {
	r.called("ioctl %X, %X, of %X with room for %d, %v", cmd, arg, input, len(output), ctx.Err())
	for i := range output {
		output[i] = byte(i)
	}
	switch arg % 5 {
	case 4:
		return 1, syscall.ENOTTY
	case 3:
		panic("here")
	}
	return int32(uint8(arg >> 8)), 0
}

// startExchange starts a server with one exchange file and opens it. Without direct, go-fuse
// answers every request.
func startExchange(t testing.TB, handle fs.FileHandle, direct bool) (k *kernel, node, fh uint64) {
	t.Helper()
	quiet := golog.New(io.Discard, "", 0)
	golog.SetOutput(io.Discard) // go-fuse complains here about some requests
	t.Cleanup(func() { golog.SetOutput(os.Stderr) })
	root := &exchangeNode{handle: handle}
	tree := fs.NewNodeFS(root, &fs.Options{Logger: quiet})
	log := &counter{Handler: slog.DiscardHandler}
	k = newKernel(t, tree, &fuse.MountOptions{MaxWrite: MaxWrite, Logger: quiet, Debug: !direct}, slog.New(log))
	k.log = log
	for _, n := range append(slices.Collect(maps.Values(root.Children())), root.EmbeddedInode()) {
		n.Operations().(*exchangeNode).server = k.server
	}
	k.serve()
	if got := k.server.exchanges != nil; got != direct {
		t.Fatalf("answered directly: %v", got)
	}
	h := fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}
	entry := k.want(k.send(1, &h, bytesOf(&h), []byte("apdu\x00")), 0)
	node = (*fuse.EntryOut)(unsafe.Pointer(&entry[0])).NodeId
	o := fuse.OpenIn{Flags: syscall.O_RDWR}
	o.NodeId = node
	opened := k.want(k.send(opOpen, &o.InHeader, bytesOf(&o), nil), 0)
	return k, node, (*fuse.OpenOut)(unsafe.Pointer(&opened[0])).Fh
}

// exchangePair is two servers, with and without direct, that must answer each request alike.
type exchangePair struct {
	t        testing.TB
	k        [2]*kernel
	r        [2]*recorder
	node, fh uint64
}

func startPair(t testing.TB) *exchangePair {
	p := &exchangePair{t: t}
	for i := range p.k {
		p.r[i] = &recorder{}
		var node, fh uint64
		p.k[i], node, fh = startExchange(t, p.r[i], i == 0)
		if i == 1 && (node != p.node || fh != p.fh) {
			t.Fatalf("node %d, handle %d, and %d and %d of the other", p.node, p.fh, node, fh)
		}
		p.node, p.fh = node, fh
	}
	return p
}

// ask sends a request to both and sets its unique number.
func (p *exchangePair) ask(request []byte) (answer []byte, calls []string) {
	p.t.Helper()
	h := (*fuse.InHeader)(unsafe.Pointer(&request[0]))
	var got [2][]byte
	var did [2][]string
	for i, k := range p.k {
		k.unique += 2
		h.Unique = k.unique
		if _, err := unix.Write(k.fd, request); err != nil {
			p.t.Fatal(err)
		}
		buf := make([]byte, 2*MaxWrite)
		n, err := unix.Read(k.fd, buf)
		if err != nil {
			p.t.Fatal(err)
		}
		got[i], did[i] = buf[:n], p.r[i].taken()
	}
	if !bytes.Equal(got[0], got[1]) {
		p.t.Errorf("% X\nis answered  % X\nby go-fuse    % X", request, cut(got[0]), cut(got[1]))
	}
	if !slices.Equal(did[0], did[1]) {
		p.t.Errorf("% X\ndoes     %q\ngo-fuse's %q", request, did[0], did[1])
	}
	return got[0], did[0]
}

func cut(b []byte) []byte { return b[:min(len(b), 100)] }

// requestOf encodes a request for the open file.
func (p *exchangePair) requestOf(opcode uint32, h *fuse.InHeader, request, data []byte) []byte {
	h.Opcode, h.NodeId, h.Pid, h.Length = opcode, p.node, uint32(os.Getpid()), uint32(len(request)+len(data))
	return append(bytes.Clone(request), data...)
}

// "Whatever go-fuse checks is checked": both answer each request alike and do the same,
// whatever is wrong with it.
func TestDirect(t *testing.T) {
	p := startPair(t)
	var requests [][]byte
	for _, off := range []uint64{0, 1, 2, 3, 4, 1 << 40} {
		for _, size := range []uint32{0, 1, 100, 4096, 5000, MaxWrite, largeSize - 512, largeSize, 1<<32 - 1} {
			for _, flags := range []uint32{0, readLockOwner, readLockOwner | 8} {
				r := fuse.ReadIn{Fh: p.fh, Offset: off, Size: size, ReadFlags: flags, Flags: syscall.O_RDWR | uint32(off)<<11&syscall.O_NONBLOCK}
				requests = append(requests, p.requestOf(opRead, &r.InHeader, bytesOf(&r), nil))
			}
		}
	}
	for n := range 8 {
		for _, size := range []int{n, 0, 1 << 20} { // the size in the request may be wrong
			r := fuse.WriteIn{Fh: p.fh, Offset: uint64(n), Size: uint32(size), Flags: uint32(n) << 11 & syscall.O_NONBLOCK}
			requests = append(requests, p.requestOf(opWrite, &r.InHeader, bytesOf(&r), bytes.Repeat([]byte{0xA5}, n)))
		}
	}
	for _, n := range []int{4000, 5000, MaxWrite} {
		r := fuse.WriteIn{Fh: p.fh, Size: uint32(n)}
		requests = append(requests, p.requestOf(opWrite, &r.InHeader, bytesOf(&r), make([]byte, n)))
	}
	for _, room := range []uint32{0, 3, 4, 10, 1024, 5000, 16383, 1 << 31} {
		for _, cmd := range []uint32{exchangeRequest(int(room & 16383)), exchangeRequest(10), IoctlBinary, IoctlCTAPI, 0x5401} {
			for arg := range uint64(10) {
				for _, flags := range []uint32{0, 1, 2, 4, 8, 16} { // FUSE_IOCTL_COMPAT, _UNRESTRICTED, _RETRY, _32BIT, _DIR
					r := fuse.IoctlIn{Fh: p.fh, Cmd: cmd, Arg: arg | arg<<8, Flags: flags, InSize: 4, OutSize: room}
					requests = append(requests, p.requestOf(opIoctl, &r.InHeader, bytesOf(&r), []byte("wxyz")[:arg%5]))
				}
			}
		}
	}
	answered := 0
	for _, r := range requests {
		if _, calls := p.ask(r); len(calls) > 0 {
			answered++
		}
	}
	if answered < len(requests)/3 {
		t.Errorf("%d of %d requests came to the file", answered, len(requests))
	}
	// Requests without an open file, and requests longer than their structure says.
	for i, r := range requests {
		if i%16 != 0 {
			continue
		}
		for _, change := range []func(h *fuse.InHeader, r *fuse.ReadIn){
			func(h *fuse.InHeader, _ *fuse.ReadIn) { h.NodeId = fuse.FUSE_ROOT_ID },
			func(h *fuse.InHeader, _ *fuse.ReadIn) { h.NodeId += 7 },
			func(h *fuse.InHeader, _ *fuse.ReadIn) { h.NodeId = hackNode },
			func(h *fuse.InHeader, _ *fuse.ReadIn) { h.TotalExtlen = 1 },
			func(h *fuse.InHeader, _ *fuse.ReadIn) { h.TotalExtlen = 1000 },
			func(h *fuse.InHeader, _ *fuse.ReadIn) { h.Length = 1 },
			func(h *fuse.InHeader, _ *fuse.ReadIn) { h.Pid = 0 },
			func(_ *fuse.InHeader, r *fuse.ReadIn) { r.Fh = 0 },
			func(_ *fuse.InHeader, r *fuse.ReadIn) { r.Fh += 1000 },
			func(h *fuse.InHeader, _ *fuse.ReadIn) { h.Opcode = opFlush },
		} {
			changed := bytes.Clone(r)
			head := (*fuse.ReadIn)(unsafe.Pointer(&changed[0])) // all three have the handle at the same place
			change(&head.InHeader, head)
			p.ask(changed)
		}
	}
}

// A truncated request does nothing, and is not read beyond its end.
func TestDirectShort(t *testing.T) {
	p := startPair(t)
	read := fuse.ReadIn{Fh: p.fh, Size: 10, ReadFlags: readLockOwner}
	write := fuse.WriteIn{Fh: p.fh}
	ioctl := fuse.IoctlIn{Fh: p.fh}
	for _, r := range [][]byte{
		p.requestOf(opRead, &read.InHeader, bytesOf(&read), nil),
		p.requestOf(opWrite, &write.InHeader, bytesOf(&write), nil),
		p.requestOf(opIoctl, &ioctl.InHeader, bytesOf(&ioctl), nil),
	} {
		for n := inHeaderSize; n < len(r); n++ {
			if _, calls := p.ask(bytes.Clone(r[:n])); len(calls) > 0 {
				t.Errorf("%d of %d bytes: %q", n, len(r), calls)
			}
		}
		if _, calls := p.ask(r); len(calls) == 0 {
			t.Errorf("a whole request does nothing: % X", r)
		}
	}
	if n := p.k[0].log.count(); n > 0 {
		t.Errorf("%d lines in the log", n)
	}
}

func FuzzDirect(f *testing.F) {
	p := startPair(f)
	f.Add(uint8(0), []byte("0123456789012345678901234567890123456789"), true)
	f.Add(uint8(1), make([]byte, 60), true)
	f.Add(uint8(2), []byte{16: 1, 28: 100}, true)
	f.Fuzz(func(t *testing.T, op uint8, body []byte, ours bool) {
		p.t = t
		r := make([]byte, inHeaderSize+len(body))
		copy(r[inHeaderSize:], body)
		h := (*fuse.InHeader)(unsafe.Pointer(&r[0]))
		h.Opcode, h.NodeId = []uint32{opRead, opWrite, opIoctl}[op%3], p.node
		h.TotalExtlen = uint16(op / 3 % 2)
		if ours && len(r) >= readInSize {
			(*fuse.ReadIn)(unsafe.Pointer(h)).Fh = p.fh
		}
		if len(r) > MaxWrite {
			return
		}
		p.ask(r)
	})
}

// waitingFile's ioctl waits, and an interrupt ends the wait.
type waitingFile struct {
	recorder
	begun chan context.Context
}

func (w *waitingFile) Ioctl(ctx context.Context, cmd uint32, _ uint64, _, _ []byte) (int32, syscall.Errno) {
	if cmd == 0 {
		return 0, 0
	}
	w.begun <- ctx
	<-ctx.Done()
	if ctx.Err() == nil {
		panic("done without an error")
	}
	return 0, syscall.EINTR
}

func (k *kernel) ioctlOn(node, fh uint64, cmd uint32) uint64 {
	r := fuse.IoctlIn{Fh: fh, Cmd: cmd}
	r.NodeId, r.Pid = node, uint32(os.Getpid())
	return k.send(opIoctl, &r.InHeader, bytesOf(&r), nil)
}

// An interrupt ends the wait of its own request, and of no earlier or later one. One that
// comes late finds nothing.
func TestDirectInterrupt(t *testing.T) {
	w := &waitingFile{begun: make(chan context.Context)}
	k, node, fh := startExchange(t, w, true)
	for range 100 {
		done := k.ioctlOn(node, fh, 0)
		k.want(done, 0)
		first := k.ioctlOn(node, fh, 1)
		other := <-w.begun
		second := k.ioctlOn(node, fh, 1)
		<-w.begun
		k.interrupt(done)
		k.want(k.unique, syscall.EAGAIN)
		k.interrupt(second)
		k.want(second, syscall.EINTR)
		if err := other.Err(); err != nil {
			t.Fatalf("the interrupt of another ended it: %v", err)
		}
		k.interrupt(second)
		k.want(k.unique, syscall.EAGAIN)
		k.interrupt(first)
		k.want(first, syscall.EINTR)
	}
}

// busyFile's ioctl waits for the card, whatever signals come.
type busyFile struct {
	recorder
	begun, card chan struct{}
}

func (b *busyFile) Ioctl(_ context.Context, cmd uint32, _ uint64, _, _ []byte) (int32, syscall.Errno) {
	if cmd != 0 {
		b.begun <- struct{}{}
		<-b.card
	}
	return int32(cmd), 0
}

// "It returns the answer, whatever signals come but SIGKILL, which ends it within a
// second", here as in TestServeKilled.
func TestDirectKilled(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	b := &busyFile{begun: make(chan struct{}), card: make(chan struct{})}
	k, node, fh := startExchange(t, b, true)
	ask := func(pid int) uint64 {
		r := fuse.IoctlIn{Fh: fh, Cmd: 1}
		r.NodeId, r.Pid = node, uint32(pid)
		unique := k.send(opIoctl, &r.InHeader, bytesOf(&r), nil)
		<-b.begun
		k.interrupt(unique)
		return unique
	}
	dies, lives := ask(child.Process.Pid), ask(os.Getpid())
	k.want(k.ioctlOn(node, fh, 0), 0) // nobody got EINTR so far
	child.Process.Kill()
	child.Wait()
	k.want(dies, syscall.EINTR)
	b.card <- struct{}{}
	b.card <- struct{}{}
	k.want(lives, 0)
	k.want(k.ioctlOn(node, fh, 0), 0) // and not the late answer
}

// The end of a mount ends the requests that wait in it.
func TestDirectEnd(t *testing.T) {
	w := &waitingFile{begun: make(chan context.Context)}
	k, node, fh := startExchange(t, w, true)
	for range 50 {
		k.ioctlOn(node, fh, 1)
		<-w.begun
	}
	k.close()
}

// A panic fails one request, and its worker serves the next.
func TestDirectPanic(t *testing.T) {
	k, node, fh := startExchange(t, &recorder{}, true)
	r := fuse.IoctlIn{Fh: fh, Arg: 3, OutSize: 100}
	r.NodeId = node
	for range 20 {
		k.want(k.send(opIoctl, &r.InHeader, bytesOf(&r), nil), syscall.EIO)
		k.interrupt(k.unique)
		k.want(k.unique, syscall.EAGAIN)
	}
	if n := k.log.count(); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
}

// secretive fails a command and leaves the card's answer in its buffer.
type secretive struct{ recorder }

func (s *secretive) Ioctl(_ context.Context, _ uint32, arg uint64, _, output []byte) (int32, syscall.Errno) {
	if arg == 0 {
		return 0, 0 // fills nothing
	}
	for i := range output {
		output[i] = 0xA5
	}
	return 0, syscall.EPROTO
}

// A request that failed leaves nothing in the answer to the next one, with direct and without.
func TestNothingIsLeftBehind(t *testing.T) {
	for _, direct := range []bool{true, false} {
		k, node, fh := startExchange(t, &secretive{}, direct)
		for _, room := range []uint32{100, 3000, 16000} {
			for range 4 { // to reach the same worker again
				r := fuse.IoctlIn{Fh: fh, Arg: 1, OutSize: room}
				r.NodeId = node
				k.want(k.send(opIoctl, &r.InHeader, bytesOf(&r), nil), syscall.EPROTO)
				r.Arg = 0
				data := k.want(k.send(opIoctl, &r.InHeader, bytesOf(&r), nil), 0)
				if len(data) != ioctlOutSize+int(room) || bytes.IndexByte(data, 0xA5) >= 0 {
					t.Fatalf("directly %v, room for %d: an answer of %d bytes: % X", direct, room, len(data), cut(data))
				}
			}
		}
	}
}

// fineCard answers 90 00.
type fineCard struct{ recorder }

func (*fineCard) Ioctl(_ context.Context, _ uint32, _ uint64, input, output []byte) (int32, syscall.Errno) {
	_, room, _ := ExchangeIn(input, output)
	ExchangeOut(output, len(append(room, 0x90, 0x00)))
	return 2, 0
}

// An exchange allocates nothing.
func TestDirectGarbage(t *testing.T) {
	k, node, fh := startExchange(t, &fineCard{}, true)
	r := fuse.IoctlIn{Fh: fh, Cmd: exchangeRequest(100), InSize: 100, OutSize: 100}
	r.Opcode, r.NodeId, r.Unique = opIoctl, node, 1000
	in := append(bytesOf(&r), make([]byte, 100)...)
	in[ioctlInSize] = 4
	w, out := newWorker(), make([]byte, 4096)
	if n := testing.AllocsPerRun(100, func() {
		if n := k.server.answer(w, (*fuse.InHeader)(unsafe.Pointer(&in[0])), in, out); n != headerSize+ioctlOutSize+4+2 {
			t.Fatalf("an answer of %d bytes", n)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
