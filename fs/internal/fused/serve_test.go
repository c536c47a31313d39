package fused

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader/limitlog"
)

// struct fuse_ioctl_out, then what is copied to the caller (linux/uapi/linux/fuse.h);
// an error has neither.
func TestServeIoctl(t *testing.T) {
	k := startServer(t, &answers{ioctl: func(_ <-chan struct{}, in, out []byte) fuse.Status {
		if len(in) > 0 && in[0] == 0xFF {
			return fuse.EINVAL
		}
		copy(out, in)
		return fuse.OK
	}})
	const head = int(unsafe.Sizeof(fuse.IoctlOut{}))
	for _, size := range []int{0, 1, 4, 1024, 3000, 4096, 9000, 16383} {
		in := bytes.Repeat([]byte{0xA5}, size)
		data := k.want(k.ioctl(in, size), 0)
		if len(data) != head+size || !bytes.Equal(data[head:], in) {
			t.Fatalf("%d bytes came back as %d", size, len(data)-head)
		}
		if data := k.want(k.ioctl([]byte{0xFF}, size), syscall.EINVAL); len(data) != 0 {
			t.Fatalf("an error with %d bytes", len(data))
		}
	}
}

// After an exchange only the part of the buffer that the answer fills is copied back; if the
// answer does not fit, only its length (cardfs.h).
func TestServeExchangeCopiesTheAnswer(t *testing.T) {
	var n atomic.Int32
	k := startServer(t, &answers{exchange: func() int { return int(n.Load()) }})
	for _, room := range []int{1024, 16383} {
		for _, c := range []struct{ answer, copied int }{{0, 4}, {2, 6}, {room - 4, room}, {room - 3, 4}, {65538, 4}} {
			n.Store(int32(c.answer))
			r := fuse.IoctlIn{Cmd: exchangeRequest(room), InSize: uint32(room), OutSize: uint32(room)}
			data := k.want(k.send(opIoctl, &r.InHeader, bytesOf(&r), make([]byte, room)), 0)
			out := (*fuse.IoctlOut)(unsafe.Pointer(&data[0]))
			if got := len(data) - int(unsafe.Sizeof(*out)); got != c.copied || int(out.Result) != c.answer {
				t.Errorf("an answer of %d bytes, room %d: %d returned, %d copied, want %d", c.answer, room, out.Result, got, c.copied)
			}
		}
	}
}

// After a panic the caller gets EIO, and the mount lives on. A caller who causes panics over
// and over does not fill the log.
func TestServePanic(t *testing.T) {
	k := startServer(t, &answers{
		exchange: func() int { panic("a driver's") },
		open:     func(<-chan struct{}) fuse.Status { panic("a driver's") },
		read:     func([]byte) []byte { panic("a driver's") },
		write:    func([]byte) { panic("a driver's") },
		forget:   func() { panic("unknown node") },
	})
	for range 100 {
		k.want(k.ioctl(nil, 0), syscall.EIO)
		k.want(k.open(), syscall.EIO)
		r := fuse.ReadIn{Size: 100, ReadFlags: readLockOwner}
		k.want(k.send(opRead, &r.InHeader, bytesOf(&r), nil), syscall.EIO)
		w := fuse.WriteIn{Size: 1}
		k.want(k.send(opWrite, &w.InHeader, bytesOf(&w), []byte("x")), syscall.EIO)
		f := fuse.ForgetIn{Nlookup: 1}
		k.send(opForget, &f.InHeader, bytesOf(&f), nil) // has no answer
	}
	if n := k.log.count(); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
}

// go-fuse's own extra file cannot be reached, neither by name nor by node number.
func TestServeNoHack(t *testing.T) {
	k := startServer(t, &answers{})
	name := []byte(".go-fuse-epoll-hack\x00")
	for op := range uint32(60) {
		var h fuse.InHeader
		var body [200]byte
		switch op {
		case opForget, opBatchForget, opInterrupt, opInit, 0:
			continue
		}
		h.NodeId = fuse.FUSE_ROOT_ID
		k.want(k.send(op, &h, bytesOf(&h), append(body[:], name...)), syscall.ENOENT)
		h.NodeId = ^uint64(0)
		k.want(k.send(op, &h, bytesOf(&h), body[:]), syscall.ENOENT)
	}
	f := fuse.ForgetIn{Nlookup: 1}
	f.NodeId = ^uint64(0)
	k.send(opForget, &f.InHeader, bytesOf(&f), nil) // has no answer
	var h fuse.InHeader
	k.want(k.send(opFlush, &h, bytesOf(&h), make([]byte, 24)), 0)
	if n := k.log.count(); n != 0 {
		t.Errorf("%d lines in the log", n)
	}
}

// Any bytes may come as a request. Each request that expects an answer gets one, and the
// server goes on.
func TestServeAnything(t *testing.T) {
	k := startServer(t, &answers{
		open:  func(<-chan struct{}) fuse.Status { return fuse.OK },
		ioctl: func(<-chan struct{}, []byte, []byte) fuse.Status { return fuse.OK },
		read:  func(dest []byte) []byte { return dest },
		write: func([]byte) {},
	})
	rnd := rand.New(rand.NewPCG(1, 2))
	for op := range uint32(130) {
		for range 20 {
			body := make([]byte, rnd.IntN(150))
			for i := range body {
				more := byte(rnd.Uint32()) // few bits are set, as in flags
				body[i] = byte(rnd.Uint32()) & more
			}
			h := fuse.InHeader{TotalExtlen: uint16(rnd.IntN(3) * 1000)}
			unique := k.send(op, &h, bytesOf(&h), body)
			switch op {
			case opForget, opBatchForget, opNotifyReply:
			default:
				if got, _, _ := k.receive(); got != unique {
					t.Fatalf("opcode %d: answer to %d, not %d", op, got, unique)
				}
			}
		}
	}
	k.want(k.open(), 0)
}

// An INIT that go-fuse refuses is an error: go-fuse would answer nothing, or in another
// version.
func TestServeInit(t *testing.T) {
	k := startServer(t, &answers{})
	for _, c := range []struct {
		major, minor uint32
		ok           bool
	}{{7, 38, true}, {7, 12, true}, {6, 38, false}, {8, 0, false}, {7, 1, false}} {
		init := fuse.InitIn{Major: c.major, Minor: c.minor}
		init.Opcode, init.Unique, init.Length = opInit, 2, uint32(unsafe.Sizeof(init))
		if err := k.server.replayInit(init); (err == nil) != c.ok {
			t.Errorf("version %d.%d: %v", c.major, c.minor, err)
		}
	}
}

// A mount whose /dev/fuse can no longer be read is given up without a busy loop.
func TestServeReadErrors(t *testing.T) {
	k := startServer(t, &answers{})
	k.close()
	fd, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	log := &counter{Handler: slog.DiscardHandler}
	s := k.server
	s = &Server{fd: fd, log: limitlog.WithBurst(slog.New(log), 1), session: s.session, proto: s.proto,
		workers: map[*worker]struct{}{}, gone: make(chan struct{}), answered: make(chan struct{}, 1)}
	s.idle.New, s.large.New = k.server.idle.New, k.server.large.New
	s.readers.Store(1)
	s.loops.Add(1)
	s.loop()
	<-s.gone
	if n := log.count(); n != 2 {
		t.Errorf("%d lines in the log: %q", n, log.lines)
	}
	unix.Close(fd)
}

// Requests and answers longer than a worker's own buffer pass whole.
func TestServeLong(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789abcdef"), MaxWrite/16)
	arrived := make(chan []byte, 1)
	k := startServer(t, &answers{
		write: func(data []byte) { arrived <- bytes.Clone(data) },
		read:  func(dest []byte) []byte { return dest[:copy(dest, long)] },
	})
	for _, size := range []int{1, 4000, 4096, 4097, 70_000, MaxWrite} {
		w := fuse.WriteIn{Size: uint32(size)}
		data := k.want(k.send(opWrite, &w.InHeader, bytesOf(&w), long[:size]), 0)
		got := <-arrived
		if n := (*fuse.WriteOut)(unsafe.Pointer(&data[0])).Size; int(n) != size || !bytes.Equal(got, long[:size]) {
			t.Fatalf("a WRITE of %d: answer %d, arrived %d", size, n, len(got))
		}
		r := fuse.ReadIn{Size: uint32(size), ReadFlags: readLockOwner}
		if data := k.want(k.send(opRead, &r.InHeader, bytesOf(&r), nil), 0); !bytes.Equal(data, long[:size]) {
			t.Fatalf("a READ of %d gave %d", size, len(data))
		}
	}
}

// There is room for the answers whose size the request gives (linux/uapi/linux/fuse.h:
// fuse_getxattr_in). A request for more than the maximum gets none.
func TestServeRoom(t *testing.T) {
	k := startServer(t, &answers{read: func(dest []byte) []byte { return dest }})
	for _, size := range []uint32{1, 3000, 4096, 5000, 65536} {
		for _, op := range []uint32{opGetXAttr, opListXAttr} {
			r := fuse.GetXAttrIn{Size: size}
			if data := k.want(k.send(op, &r.InHeader, bytesOf(&r), []byte("user.x\x00")), 0); len(data) != int(size) {
				t.Errorf("opcode %d, room for %d: %d bytes", op, size, len(data))
			}
		}
	}
	for _, size := range []uint32{largeSize, 1 << 30, 1<<32 - 1} {
		r := fuse.ReadIn{Size: size}
		k.want(k.send(opRead, &r.InHeader, bytesOf(&r), nil), syscall.EIO)
	}
}

// An interrupt that comes after its request was answered, or a second one, must not end
// another request: the worker may already serve the next.
func TestServeLateInterrupt(t *testing.T) {
	begun := make(chan struct{})
	k := startServer(t, &answers{
		open:  untilInterrupted(begun),
		ioctl: func(<-chan struct{}, []byte, []byte) fuse.Status { return fuse.OK },
	})
	for range 50 {
		done := k.ioctl(nil, 0)
		k.want(done, 0)
		waits := k.open()
		<-begun
		k.interrupt(done)
		k.want(k.unique, syscall.EAGAIN)
		k.interrupt(waits)
		k.want(waits, syscall.EINTR)
		k.interrupt(waits)
		k.want(k.unique, syscall.EAGAIN)
	}
}

// "If the INTERRUPT is found, the request is to be answered with EINTR" (linux,
// Documentation/filesystems/fuse/fuse.rst, Interrupting filesystem operations): that
// request and no later one.
func TestServeInterrupt(t *testing.T) {
	begun := make(chan struct{})
	wait := untilInterrupted(begun)
	k := startServer(t, &answers{
		open:  wait,
		ioctl: func(cancel <-chan struct{}, _, _ []byte) fuse.Status { return wait(cancel) },
	})
	for i := range 200 {
		send := k.open
		if i%2 == 0 {
			send = func() uint64 { return k.ioctl([]byte{1}, 1) }
		}
		unique := send()
		<-begun
		k.interrupt(unique)
		k.want(unique, syscall.EINTR)
	}
	// An interrupt of an unknown request gets EAGAIN: the kernel sends it again.
	k.interrupt(k.unique - 2)
	k.want(k.unique, syscall.EAGAIN)
}

// The next request is read however many wait.
func TestServeReadsOn(t *testing.T) {
	const n = 300
	begun := make(chan struct{})
	k := startServer(t, &answers{
		open:  untilInterrupted(begun),
		ioctl: func(<-chan struct{}, []byte, []byte) fuse.Status { return fuse.OK },
	})
	for range n {
		k.open()
		<-begun
	}
	k.want(k.ioctl(nil, 0), 0)
}

// The end of a mount ends the requests that wait in it, and then the server.
func TestServeEnd(t *testing.T) {
	begun := make(chan struct{})
	wait := untilInterrupted(begun)
	var ended atomic.Int32
	k := startServer(t, &answers{
		open: func(cancel <-chan struct{}) fuse.Status { defer ended.Add(1); return wait(cancel) },
		ioctl: func(cancel <-chan struct{}, _, _ []byte) fuse.Status {
			defer ended.Add(1)
			return wait(cancel)
		},
	})
	for range 50 {
		k.open()
		<-begun
		k.ioctl(nil, 0)
		<-begun
	}
	k.close()
	if n := ended.Load(); n != 100 {
		t.Errorf("%d of 100 handlers have ended", n)
	}
}

// Leaving waits for the outstanding answers, but not for open files to be closed.
func TestServeDrain(t *testing.T) {
	begun := make(chan struct{})
	k := startServer(t, &answers{open: untilInterrupted(begun)})
	never := make(chan struct{})
	k.server.Drain(never)

	waits := k.open()
	<-begun
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		k.server.Drain(never)
	}()
	enough := make(chan struct{})
	close(enough)
	k.server.Drain(enough)
	select {
	case <-drained:
		t.Error("drained while a request waits")
	default:
	}
	k.interrupt(waits)
	k.want(waits, syscall.EINTR)
	<-drained
}

// sending is an open that has commands to send.
type sending func()

func (s sending) Send() { s() }

// A write(2) does not wait for the card: it is answered first. A slow card does not hold up
// the commands of others.
func TestServeSendsAfterAnswer(t *testing.T) {
	const n = 20
	var k *kernel
	var all sync.WaitGroup
	answered, begun := make(chan struct{}), make(chan struct{}, n)
	k = startServer(t, &answers{write: func([]byte) {
		k.server.Later(sending(func() {
			defer all.Done()
			begun <- struct{}{}
			<-answered
		}))
	}})
	all.Add(n)
	for range n {
		w := fuse.WriteIn{Size: 1}
		k.want(k.send(opWrite, &w.InHeader, bytesOf(&w), []byte("x")), 0)
	}
	for range n {
		<-begun // while the others all wait for their cards
	}
	close(answered)
	all.Wait()
}

// A read of /dev/fuse that a signal interrupts returned nothing and is not an error. Signals
// come all the time: the Go runtime preempts threads by SIGURG.
func TestServeReadInterrupted(t *testing.T) {
	k := newKernel(t, &answers{ioctl: func(_ <-chan struct{}, in, out []byte) fuse.Status { copy(out, in); return fuse.OK }},
		&fuse.MountOptions{MaxWrite: MaxWrite}, slog.New(slog.DiscardHandler))
	log := &counter{Handler: slog.DiscardHandler}
	k.server.log = slog.New(log)
	// With a timeout set, the kernel does not restart an interrupted read of a socket (signal(7)).
	if err := unix.SetsockoptTimeval(k.server.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3600}); err != nil {
		t.Fatal(err)
	}
	k.serve()
	for range 100 {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			tid, _ := strconv.Atoi(thread.Name())
			unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		}
		if data := k.want(k.ioctl([]byte{0xA5}, 1), 0); data[len(data)-1] != 0xA5 {
			t.Fatalf("answer % X", data)
		}
	}
	if n := log.count(); n != 0 {
		t.Errorf("%d lines in the log: %q", n, log.lines)
	}
}

// Two loops may both see that something was queued, and one of them takes it.
func TestServeSendsNothing(t *testing.T) {
	k := startServer(t, &answers{open: func(<-chan struct{}) fuse.Status { return fuse.OK }})
	sent := ""
	for _, name := range []string{"a", "b", "c"} {
		k.server.Later(sending(func() { sent += name }))
	}
	for i, want := range []string{"a", "ab", "abc", "abc", "abc"} {
		if k.server.send(); sent != want {
			t.Errorf("%d times: %q", i+1, sent)
		}
		if left := k.server.waiting.Load(); int(left) != max(0, 2-i) {
			t.Errorf("%d times: %d wait", i+1, left)
		}
	}
	k.want(k.open(), 0) // nothing is held
	if !k.server.mu.TryLock() {
		t.Fatal("it holds its lock")
	}
	k.server.mu.Unlock()
}

// Once the server has ended nothing is written: its descriptor may belong to another file.
func TestServeEnded(t *testing.T) {
	k := startServer(t, &answers{})
	k.close()
	<-k.server.Gone()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	k.server.fd = pair[0]
	k.server.tellPoll(7)
	if k.server.Connected() {
		t.Error("connected")
	}
	if n, err := unix.Read(pair[1], make([]byte, 100)); err != unix.EAGAIN {
		t.Errorf("%d bytes were written, %v", n, err)
	}
}

// "loop … makes sure that one always is [reading]": however loops overtake each other, they do
// not all end while there are requests.
func TestOneLoopAlwaysReads(t *testing.T) {
	for _, most := range []int32{1, 2} {
		for range 20 {
			var s Server
			var requests atomic.Int32
			var loops sync.WaitGroup
			requests.Store(20000)
			s.readers.Store(1)
			var loop func()
			loop = func() {
				defer loops.Done()
				for requests.Add(-1) >= 0 {
					if s.readers.Add(-1) == 0 {
						s.readers.Add(1)
						loops.Add(1)
						go loop()
					}
					if !s.rejoin(most) {
						return
					}
				}
			}
			loops.Add(1)
			go loop()
			loops.Wait()
			if left := requests.Load(); left >= 0 {
				t.Fatalf("at most %d: nobody reads, with %d requests left", most, left)
			}
		}
	}
}
