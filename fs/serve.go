package fs

import (
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// server reads the kernel's requests, has go-fuse answer them, and writes the answers.
// It stands where go-fuse's Server.Serve would, which cannot do three things:
//
//   - What a WRITE handed over is sent by the goroutine that took it, once write(2) has
//     its answer. Else each command wakes a second thread, which then runs beside the
//     client (measured: 1.4 times the time of a file that echoes; so it is 0.9).
//   - A request that waits keeps a few KiB. There it is the buffer it was read into,
//     with room for the longest WRITE: 132 KiB for each ioctl under way.
//   - An ioctl makes no garbage here, and its answer is as long as the card's, not as
//     the room that the caller offers.
//
// go-fuse calls its ProtocolServer experimental; a new version of it may need work here.
type server struct {
	fd      int // /dev/fuse; a read waits
	raw     fuse.RawFileSystem
	session *fuse.Server
	proto   *fuse.ProtocolServer
	logAll  bool // go-fuse logs each request, so it has to see it
	log     *slog.Logger

	readers atomic.Int32 // loops that read, or are about to
	loops   sync.WaitGroup
	idle    sync.Pool // of *worker
	large   sync.Pool // of *[]byte, for what a worker has no room for
	dead    atomic.Bool

	leaving  atomic.Bool
	answered chan struct{} // gets one when there was an answer since, once leaving

	mu      sync.Mutex
	workers map[*worker]struct{}

	waiting atomic.Int32 // len(handed)
	handed  []*channel   // under mu: what writes handed over and nobody sends yet
}

// maxWrite is the longest WRITE; the kernel cuts a longer write(2).
const maxWrite = 128 << 10

// largeSize is what the kernel wants room for in every read: the largest WRITE with its
// headers (linux/fs/fuse/dev.c, fuse_dev_do_read), in whole pages.
const largeSize = maxWrite + 4096

// worker is what a loop needs for one request.
type worker struct {
	request atomic.Uint64 // the unique number of the one under way, or one of these
	ours    atomic.Bool   // it is not go-fuse's, so cancel is what interrupts it
	cancel  chan struct{}
	in, out []byte // a page each: the kernel copies page by page
	vin     [2][]byte
	message [1][]byte
	answer  [1][]byte
}

func newWorker() *worker {
	return &worker{cancel: make(chan struct{}), in: make([]byte, 4096), out: make([]byte, 4096)}
}

// The kernel's numbers are even (linux/fs/fuse/fuse_i.h, FUSE_REQ_ID_STEP), and never 0.
const (
	noRequest   = 0
	interrupted = 1
	answering   = 3 // too late to interrupt it
)

// The opcodes that say how large their answer may be, and those without one
// (linux/include/uapi/linux/fuse.h, enum fuse_opcode).
const (
	opForget      = 2
	opRead        = 15
	opGetXAttr    = 22
	opListXAttr   = 23
	opReadDir     = 28
	opInterrupt   = 36
	opIoctl       = 39
	opBatchForget = 42
	opReadDirPlus = 44
)

// newServer speaks INIT on fd, a mount's /dev/fuse, which it then owns.
func newServer(fd int, raw fuse.RawFileSystem, o *fuse.MountOptions, log *slog.Logger) (*server, error) {
	s := &server{fd: fd, raw: raw, logAll: o.Debug, log: log, workers: map[*worker]struct{}{}, answered: make(chan struct{}, 1)}
	s.idle.New = func() any { return newWorker() }
	s.large.New = func() any { b := make([]byte, largeSize); return &b }

	// go-fuse's Server answers INIT and sends the notices. It wants a descriptor of its
	// own, and never gets to serve.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if s.session, err = fuse.NewServer(raw, fuseFD(own), o); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// What it agreed on with the kernel, its other half is told by the same message.
	s.proto = fuse.NewProtocolServer(raw, o)
	init := *s.session.KernelSettings()
	var answer [256]byte
	s.proto.HandleRequest([][]byte{bytesOf(&init)}, [][]byte{answer[:]})

	s.readers.Store(1)
	s.loops.Add(1)
	return s, nil
}

// bytesOf is the memory of v, a structure of the protocol.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// serve answers requests until the mount is gone.
func (s *server) serve() {
	s.loop()
	s.loops.Wait()
	s.session.Serve() // sees that there is nothing left, and closes what is its own
	unix.Close(s.fd)
}

// loop answers requests one after the other. It does so as long as there are not too
// many that read, and sees to it that there is always one.
func (s *server) loop() {
	defer s.loops.Done()
	w := s.idle.Get().(*worker)
	s.mu.Lock()
	s.workers[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.workers, w)
		s.mu.Unlock()
		s.idle.Put(w)
	}()
	most := int32(runtime.GOMAXPROCS(0))
	for {
		large := s.large.Get().(*[]byte)
		w.vin = [2][]byte{w.in, (*large)[len(w.in):]}
		n, err := unix.Readv(s.fd, w.vin[:])
		switch {
		case err == unix.EINTR, err == unix.ENOENT: // the last: it was interrupted before
			s.large.Put(large)
			continue
		case err == unix.ENODEV, err == unix.ECONNABORTED, err == nil && n < inHeaderSize:
			s.large.Put(large)
			s.end()
			return
		case err != nil:
			// The request has failed, not the mount (linux/fs/fuse/dev.c,
			// fuse_dev_do_read).
			s.log.Error("read of /dev/fuse", "error", err)
			s.large.Put(large)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		in := w.in
		if n <= len(in) {
			s.large.Put(large)
			large = nil
		} else {
			in = *large // which has room for its beginning before what was read there
			copy(in, w.in)
		}
		h := (*fuse.InHeader)(unsafe.Pointer(&in[0]))
		if s.readers.Add(-1) == 0 && h.Opcode != opForget && h.Opcode != opBatchForget {
			s.readers.Add(1)
			s.loops.Add(1)
			go s.loop()
		}
		s.handle(w, h, in[:n])
		if s.leaving.Load() {
			select {
			case s.answered <- struct{}{}:
			default:
			}
		}
		if large != nil {
			s.large.Put(large)
		}
		if s.waiting.Load() > 0 {
			s.send()
		}
		if s.readers.Add(1) > most {
			s.readers.Add(-1)
			return
		}
	}
}

// handle answers the request in, whose header is h.
func (s *server) handle(w *worker, h *fuse.InHeader, in []byte) {
	out := w.out
	if need := answerSize(h); need > len(out) {
		if need <= largeSize {
			large := s.large.Get().(*[]byte)
			defer s.large.Put(large)
			out = *large
		} else {
			out = make([]byte, need)
		}
	}
	w.message[0], w.answer[0] = in, out
	ours := h.Opcode == opIoctl && h.TotalExtlen == 0 && !s.logAll
	w.ours.Store(ours)
	w.request.Store(h.Unique)
	if s.dead.Load() {
		w.request.Store(noRequest)
		return // nobody waits for it, and nobody would end its waiting
	}
	var n int
	switch {
	case ours:
		n = s.ioctl(w, in, out)
	case h.Opcode == opInterrupt && s.interrupt((*fuse.InterruptIn)(unsafe.Pointer(h)).Unique):
	default:
		var status fuse.Status
		if n, status = s.proto.HandleRequest(w.message[:], w.answer[:]); !status.Ok() { // it could not even be read
			n = reply(out, h.Unique, status, 0)
		}
	}
	if !w.request.CompareAndSwap(h.Unique, answering) {
		<-w.cancel
		w.cancel = make(chan struct{})
	}
	if n > 0 { // else it is FORGET or the like
		s.write(out[:n], h.Opcode)
	}
	w.message[0], w.answer[0] = nil, nil
	w.request.Store(noRequest)
}

func (s *server) write(answer []byte, opcode uint32) {
	for {
		// It does not wait, so Go's scheduler need not be told.
		_, _, err := unix.RawSyscall(unix.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(&answer[0])), uintptr(len(answer)))
		switch err {
		case unix.EINTR:
			continue
		case 0, unix.ENOENT, unix.ENODEV: // who asked is dead, or the mount
		default:
			s.log.Error("write to /dev/fuse", "opcode", opcode, "error", err)
		}
		return
	}
}

// ioctl is the one request that go-fuse's HandleRequest is not asked for: it makes a
// kilobyte of garbage each time, which costs a tenth of what 1,000 clients get done.
func (s *server) ioctl(w *worker, in, out []byte) (n int) {
	const inSize, outSize = int(unsafe.Sizeof(fuse.IoctlIn{})), int(unsafe.Sizeof(fuse.IoctlOut{}))
	request := (*fuse.IoctlIn)(unsafe.Pointer(&in[0]))
	if len(in) < inSize {
		return reply(out, request.Unique, fuse.EIO, 0)
	}
	defer func() {
		if p := recover(); p != nil { // as go-fuse does with the others
			s.log.Error("panic in an ioctl", "error", p, "stack", string(debug.Stack()))
			n = reply(out, request.Unique, fuse.EIO, 0)
		}
	}()
	out = out[:headerSize+outSize+int(request.OutSize)]
	result := (*fuse.IoctlOut)(unsafe.Pointer(&out[headerSize]))
	*result = fuse.IoctlOut{}
	status := s.raw.Ioctl(w.cancel, request, in[inSize:], result, out[headerSize+outSize:])
	size := len(out) - headerSize
	if request.Cmd&^iocSizeMask == iocExchange {
		size = outSize + exchangeSize(int(result.Result), int(request.OutSize))
	}
	return reply(out, request.Unique, status, size)
}

const (
	inHeaderSize = int(unsafe.Sizeof(fuse.InHeader{}))
	headerSize   = int(unsafe.Sizeof(fuse.OutHeader{}))
)

// reply puts the header of an answer with size bytes behind it into out. An error has
// none.
func reply(out []byte, unique uint64, status fuse.Status, size int) int {
	if !status.Ok() {
		size = 0
	}
	size += headerSize
	*(*fuse.OutHeader)(unsafe.Pointer(&out[0])) = fuse.OutHeader{
		Length: uint32(size), Status: -int32(status), Unique: unique,
	}
	return size
}

// interrupt ends the waiting of a request of ours.
func (s *server) interrupt(unique uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.workers {
		if w.request.Load() == unique && w.ours.Load() && w.request.CompareAndSwap(unique, interrupted) {
			close(w.cancel)
			return true
		}
	}
	return false
}

// answerSize is the most that the answer takes, in bytes.
func answerSize(h *fuse.InHeader) int {
	const fixed = 512 // more than any answer of a fixed size
	p := unsafe.Pointer(h)
	switch h.Opcode {
	case opRead, opReadDir, opReadDirPlus:
		return fixed + int((*fuse.ReadIn)(p).Size)
	case opIoctl:
		return fixed + int((*fuse.IoctlIn)(p).OutSize)
	case opGetXAttr, opListXAttr:
		return fixed + int((*fuse.GetXAttrIn)(p).Size)
	}
	return fixed
}

// later has c's commands sent as soon as the WRITE that brought them has its answer.
// Each WRITE that hands one over is followed by a call of send, which takes one.
func (s *server) later(c *channel) {
	s.mu.Lock()
	s.handed = append(s.handed, c)
	s.waiting.Store(int32(len(s.handed)))
	s.mu.Unlock()
}

func (s *server) send() {
	s.mu.Lock()
	if len(s.handed) == 0 {
		s.mu.Unlock()
		return
	}
	c := s.handed[0]
	last := len(s.handed) - 1
	copy(s.handed, s.handed[1:])
	s.handed[last] = nil
	s.handed = s.handed[:last]
	s.waiting.Store(int32(last))
	s.mu.Unlock()
	c.send()
}

// drain waits until no answer is under way, or until enough is closed. The loops go on, as
// who has a file open may ask again.
func (s *server) drain(enough <-chan struct{}) {
	s.leaving.Store(true)
	for s.underWay() {
		select {
		case <-s.answered:
		case <-enough:
			return
		}
	}
}

func (s *server) underWay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.workers {
		if w.request.Load() != noRequest {
			return true
		}
	}
	return false
}

// end interrupts all that is under way, as the mount is gone.
func (s *server) end() {
	if s.dead.Swap(true) {
		return
	}
	var workers []*worker
	s.mu.Lock()
	for w := range s.workers {
		workers = append(workers, w)
	}
	s.mu.Unlock()
	for _, w := range workers {
		unique := w.request.Load()
		// It may be about to begin, where nothing can interrupt it yet.
		for try := 0; try < 100 && unique > answering && w.request.Load() == unique && !s.interrupt(unique); try++ {
			request := fuse.InterruptIn{Unique: unique}
			request.Opcode = opInterrupt
			request.Length = uint32(unsafe.Sizeof(request))
			var answer [64]byte
			if n, _ := s.proto.HandleRequest([][]byte{bytesOf(&request)}, [][]byte{answer[:]}); n == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}
