// Package fused is the FUSE server below package fs: it reads the kernel's requests from
// /dev/fuse and writes the answers. It knows requests, opens and file handles, but no
// reader, no card and no directory.
//
// The interface between the two is small. Package fs gives New a tree of go-fuse's nodes, and
// tells Opened which handle each open got. Of a handle the server uses, besides go-fuse's
// interfaces, Pollable and Nonblocker; it reports to the Owner of an open each error that
// a program got. A handle calls Later when a WRITE left it something to send, and the
// server calls its Send once that WRITE has its answer.
//
// Lock order: polled.mu, then what a handle's Ready and Watch take, then Server.closing.
// Server.mu and opens.mu are leaves: nothing is called while one is held.
package fused

import (
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader/limitlog"
)

// Server reads the kernel's requests, has go-fuse answer them, and writes the answers.
// It stands where go-fuse's Server.Serve would, which cannot do these things:
//
//   - The goroutine that served a WRITE also sends its commands, after replying. Sent by
//     another, each command wakes a second thread, which then runs beside the client
//     (measured: 1.4 times the time of a file that echoes; this way 0.9).
//   - A request that waits keeps a few KiB. With go-fuse it keeps the buffer into which
//     it was read, with room for the longest WRITE: 132 KiB for each ioctl under way.
//   - Of an ioctl's answer only what the card answered is copied back, not all the room
//     that the caller offers.
//   - poll(2) is answered (poll.go).
//   - A process that is killed while its command is with the card ends at once (killed.go).
//   - An exchange makes no garbage (direct.go).
//
// All loops read one descriptor. A clone for each (FUSE_DEV_IOC_CLONE), more loops, and a
// processor for each made 16 clients on two processors no faster: what their exchanges cost is
// the kernel's waking of one processor by the other.
//
// go-fuse calls its ProtocolServer experimental. TestProtocolServer holds what this server
// takes for granted of it.
type Server struct {
	fd      int // /dev/fuse; a read waits
	session *fuse.Server
	proto   *fuse.ProtocolServer
	log     *slog.Logger // limited: anybody may make an error happen over and over
	opens   *opens
	// exchanges has the opens whose requests go-fuse is not asked for (direct.go); nil
	// where all is to be logged, which go-fuse does.
	exchanges *opens

	readers atomic.Int32 // loops that read, or are about to
	loops   sync.WaitGroup
	idle    sync.Pool // of *worker
	large   sync.Pool // of *[]byte, for what a worker has no room for
	dead    atomic.Bool
	gone    chan struct{} // closed when the mount is gone, or nobody can serve it

	closing sync.RWMutex // held for reading by a write from outside of the loops
	closed  bool         // under closing: fd is

	leaving  atomic.Bool
	answered chan struct{} // gets one when there was an answer since, once leaving

	mu      sync.Mutex
	workers map[*worker]struct{}
	watched []watched // requests that a signal interrupted and that go on

	waiting atomic.Int32 // len(handed)
	handed  []Sender     // under mu: what writes handed over and nobody sends yet
}

// MaxWrite is the longest WRITE; the kernel cuts a longer write(2).
const MaxWrite = 128 << 10

// Gone is closed when the mount is gone.
func (s *Server) Gone() <-chan struct{} { return s.gone }

// largeSize is what the kernel wants room for in every read: the largest WRITE with its
// headers (linux/fs/fuse/dev.c, fuse_dev_do_read), in whole pages.
const largeSize = MaxWrite + 4096

// worker holds what a loop needs for one request.
type worker struct {
	request atomic.Uint64 // the unique number of the one under way, or one of these
	pid     atomic.Uint32 // of the thread that asks
	in, out []byte        // a page each: the kernel copies page by page
	vin     [2][]byte
	message [1][]byte
	answer  [1][]byte
	direct  atomic.Uint64 // the request if direct.go answers it; answering: that was interrupted
	cancel  chan struct{} // closed when it was
}

func newWorker() *worker {
	return &worker{in: make([]byte, 4096), out: make([]byte, 4096), cancel: make(chan struct{})}
}

// The kernel's numbers are even (linux/fs/fuse/fuse_i.h, FUSE_REQ_ID_STEP), and never 0.
const (
	noRequest = 0
	answering = 1 // the worker writes the answer
	abandoned = 3 // who asked was killed and has an answer
)

// New speaks INIT on fd, a mount's /dev/fuse, which the server then owns.
func New(fd int, tree fuse.RawFileSystem, o *fuse.MountOptions, log *slog.Logger) (*Server, error) {
	s := &Server{fd: fd, log: limitlog.WithBurst(log, 1), workers: map[*worker]struct{}{}, gone: make(chan struct{}), answered: make(chan struct{}, 1)}
	s.opens = newOpens(tree)
	if !o.Debug {
		s.exchanges = s.opens
	}
	o.PanicHandler = func(p any) fuse.Status { s.Panicked(p); return fuse.EIO }
	s.idle.New = func() any { return newWorker() }
	s.large.New = func() any { b := make([]byte, largeSize); return &b }

	// go-fuse's Server answers INIT and sends the notices. It wants a descriptor of its
	// own, and never gets to serve.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if s.session, err = fuse.NewServer(s.opens, "/dev/fd/"+strconv.Itoa(own), o); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// The ProtocolServer learns from the same message what was negotiated.
	s.proto = fuse.NewProtocolServer(s.opens, o)
	if err := s.replayInit(*s.session.KernelSettings()); err != nil {
		unix.Close(fd)
		return nil, err
	}
	s.readers.Store(1)
	s.loops.Add(1)
	return s, nil
}

func (s *Server) replayInit(init fuse.InitIn) error {
	var answer [256]byte
	n, status := s.proto.HandleRequest([][]byte{bytesOf(&init)}, [][]byte{answer[:]})
	if h := (*fuse.OutHeader)(unsafe.Pointer(&answer[0])); status.Ok() && n > headerSize {
		status = fuse.Status(-h.Status)
	} else if status.Ok() {
		status = fuse.EIO
	}
	if !status.Ok() {
		return fmt.Errorf("FUSE's INIT, repeated: %v", status)
	}
	return nil
}

// Serve answers requests until the mount is gone.
func (s *Server) Serve() {
	s.loop()
	s.loops.Wait()
	s.session.Serve() // sees that there is nothing left, and closes what is its own
	s.closing.Lock()
	defer s.closing.Unlock()
	s.closed = true
	unix.Close(s.fd)
}

// mostReadErrors is how many reads of /dev/fuse in a row may fail before a loop gives up.
const mostReadErrors = 10

// loop answers requests one after the other. It ends when too many loops are reading, and
// makes sure that one always is.
func (s *Server) loop() {
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
	failed := 0
	for {
		large := s.large.Get().(*[]byte)
		w.vin = [2][]byte{w.in, (*large)[len(w.in):]}
		n, err := unix.Readv(s.fd, w.vin[:])
		switch {
		case err == unix.EINTR, err == unix.ENOENT: // the last: it was interrupted before
			s.large.Put(large)
			continue
		case err == unix.ENODEV, err == unix.ECONNABORTED, err == nil && n == 0:
			s.large.Put(large)
			s.end()
			return
		case err == nil && n < inHeaderSize:
			err = fmt.Errorf("%d bytes", n)
			fallthrough
		case err != nil:
			// The request has failed, not the mount (linux/fs/fuse/dev.c,
			// fuse_dev_do_read); unless they all do.
			s.large.Put(large)
			s.log.Error("read of /dev/fuse", "error", err)
			if failed++; failed == mostReadErrors {
				s.log.Error("giving up the mount: /dev/fuse cannot be read", "error", err)
				s.end()
				return
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		failed = 0
		in := w.in
		if n <= len(in) {
			s.large.Put(large)
			large = nil
		} else {
			in = *large // it has room for the beginning, in front of what was read into it
			copy(in, w.in)
		}
		h := (*fuse.InHeader)(unsafe.Pointer(&in[0]))
		if s.readers.Add(-1) == 0 && h.Opcode != opForget && h.Opcode != opBatchForget {
			s.readers.Add(1)
			s.loops.Add(1)
			go s.loop()
		}
		carries := h.Opcode == opWrite || h.Opcode == opIoctl
		s.handle(w, h, in[:n])
		if carries { // a command, which may be a PIN
			clear(in[:n])
			if large != nil { // to which its beginning was copied
				clear(w.in)
			}
		}
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
		if !s.rejoin(most) {
			return
		}
	}
}

// rejoin counts a loop that has answered its request among those that read again. It returns
// false, and counts nothing, where most do already. Loops that counted themselves in before they
// looked, and out again, would be taken for readers meanwhile, and the last reader could end.
func (s *Server) rejoin(most int32) bool {
	for {
		n := s.readers.Load()
		if n >= most {
			return false
		}
		if s.readers.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// handle answers the request in, whose header is h.
func (s *Server) handle(w *worker, h *fuse.InHeader, in []byte) {
	out := w.out
	need := answerSize(h)
	if need > largeSize {
		out = out[:reply(out, h.Unique, fuse.EIO, 0)] // nobody asks for so much
		s.write(out, h.Opcode)
		return
	} else if need > len(out) {
		large := s.large.Get().(*[]byte)
		defer s.large.Put(large)
		out = *large
	}
	w.pid.Store(h.Pid)
	w.request.Store(h.Unique)
	if s.dead.Load() {
		w.request.Store(noRequest)
		return // nobody waits for it, and nobody would end its waiting
	}
	n := s.answer(w, h, in, out)
	if n > 0 && w.request.CompareAndSwap(h.Unique, answering) { // 0: it is FORGET or the like
		s.write(out[:n], h.Opcode)
	}
	if n > 0 && (*fuse.OutHeader)(unsafe.Pointer(&out[0])).Status != 0 {
		n = need // a handler may have begun to fill it
	}
	clear(out[:n])
	w.message[0], w.answer[0] = nil, nil
	w.request.Store(noRequest)
}

// answer puts the answer to a request into out, whatever happens.
func (s *Server) answer(w *worker, h *fuse.InHeader, in, out []byte) (n int) {
	silent := h.Opcode == opForget || h.Opcode == opBatchForget
	defer func() {
		if p := recover(); p != nil {
			s.Panicked(p)
			if n = 0; !silent {
				n = reply(out, h.Unique, fuse.EIO, 0)
			}
		}
	}()
	switch {
	case h.NodeId == hackNode && silent:
		return 0
	case isHack(h, in):
		return reply(out, h.Unique, fuse.ENOENT, 0)
	case h.Opcode == opPoll:
		return s.answerPoll(in, out)
	case h.Opcode == opInterrupt && len(in) >= interruptInSize && s.interrupt((*fuse.InterruptIn)(unsafe.Pointer(h)).Unique):
		s.watch((*fuse.InterruptIn)(unsafe.Pointer(h)).Unique)
		return 0
	}
	if o := s.exchangeOpen(h, in); o != nil {
		return s.answerExchange(w, o, h, in, out)
	}
	w.message[0], w.answer[0] = in, out
	n, status := s.proto.HandleRequest(w.message[:], w.answer[:])
	switch {
	case !status.Ok() && silent:
		return 0
	case !status.Ok(): // it could not even be read
		return reply(out, h.Unique, status, 0)
	case h.Opcode == opIoctl:
		return shorten((*fuse.IoctlIn)(unsafe.Pointer(h)).Cmd, out[:n])
	case h.Opcode == opInterrupt && n == 0: // one that is under way
		s.watch((*fuse.InterruptIn)(unsafe.Pointer(h)).Unique)
	}
	return n
}

func (s *Server) write(answer []byte, opcode uint32) {
	for {
		// It does not wait, so Go's scheduler need not be told.
		_, _, err := unix.RawSyscall(unix.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(&answer[0])), uintptr(len(answer)))
		switch err {
		case unix.EINTR:
			continue
		case 0, unix.ENOENT, unix.ENODEV: // who asked is dead, or the mount
		default:
			s.log.Error("write to /dev/fuse", "opcode", opcode, "error", err)
			// If the kernel rejected the answer, the caller would wait for ever.
			h := (*fuse.OutHeader)(unsafe.Pointer(&answer[0]))
			if h.Status != -int32(fuse.EIO) && h.Unique != 0 {
				answer = answer[:reply(answer, h.Unique, fuse.EIO, 0)]
				continue
			}
		}
		return
	}
}

// writeOutside is write for callers outside the loops, which may call it after the server ended.
func (s *Server) writeOutside(answer []byte, opcode uint32) {
	s.closing.RLock()
	defer s.closing.RUnlock()
	if !s.closed {
		s.write(answer, opcode)
	}
}

// Connected reports whether the kernel still has the mount's connection.
func (s *Server) Connected() bool {
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed {
		return false
	}
	now := []unix.PollFd{{Fd: int32(s.fd)}}
	for {
		if _, err := unix.Poll(now, 0); err != unix.EINTR {
			return err == nil && now[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) == 0
		}
	}
}

// Panicked logs a panic. Only the request that panicked fails, with EIO.
func (s *Server) Panicked(p any) {
	s.log.Error("panic", "error", p, "stack", string(debug.Stack()))
}

// Sender is an open with commands to send.
type Sender interface{ Send() }

// Later has c's commands sent as soon as the WRITE that brought them has its answer.
// Each WRITE that hands one over is followed by a call of send, which takes one.
func (s *Server) Later(c Sender) {
	s.mu.Lock()
	s.handed = append(s.handed, c)
	s.waiting.Store(int32(len(s.handed)))
	s.mu.Unlock()
}

func (s *Server) send() {
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
	c.Send()
}
