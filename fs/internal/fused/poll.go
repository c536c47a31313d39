package fused

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// poll(2), select(2) and epoll(7) arrive as POLL: what is ready now, and how to tell when
// more is. The kernel gives each open a number of its own (kh); NOTIFY_POLL with that
// number wakes all who wait on the open, and each of them asks again before it says
// anything to its program. So a superfluous wake-up costs a request; a missing one leaves a
// program waiting for ever.
//
// An open is armed when the kernel asks, and when a READ or WRITE begins: from then on the
// program may learn that nothing is ready. The first change of an armed open is notified and
// disarms it: whoever was notified asks again.

// Pollable is a handle that has something to wait for. Any other is always ready.
type Pollable interface {
	// Ready is what poll(2) says now, in POLL… bits.
	Ready() uint32
	// Watch has wake called, from any goroutine and with any lock held, when a bit
	// may have become true, until stop is called.
	Watch(wake func()) (stop func())
}

// polled is an open's part in it.
type polled struct {
	kh    atomic.Uint64 // 0: nobody asked ever
	armed atomic.Bool

	mu    sync.Mutex
	stop  func()
	ended bool
}

// arm may be called for opens that nobody polls.
func (p *polled) arm() {
	if p.kh.Load() != 0 && !p.armed.Load() {
		p.armed.Store(true)
	}
}

// begin remembers how to notify the kernel. It does so whatever the answer is: epoll with
// EPOLLET waits for the next change even after an answer that something is ready.
func (p *polled) begin(kh uint64, h Pollable, tell func(kh uint64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kh.Store(kh)
	if p.stop == nil && !p.ended {
		p.stop = h.Watch(func() {
			if p.armed.CompareAndSwap(true, false) {
				tell(p.kh.Load())
			}
		})
	}
}

func (p *polled) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed.Store(false)
	p.kh.Store(0)
	p.ended = true
	if p.stop != nil {
		p.stop()
	}
}

// struct fuse_poll_in, fuse_poll_out and fuse_notify_poll_wakeup_out
// (linux/include/uapi/linux/fuse.h).
type (
	pollIn struct {
		fuse.InHeader
		fh, kh        uint64
		flags, events uint32
	}
	pollOut    struct{ revents, _ uint32 }
	pollWakeup struct {
		fuse.OutHeader
		kh uint64
	}
)

const (
	opPoll             = 40
	pollScheduleNotify = 1 // FUSE_POLL_SCHEDULE_NOTIFY
	notifyPoll         = 1 // FUSE_NOTIFY_POLL

	pollRdNorm = 0x40 // POLLRDNORM and POLLWRNORM, which x/sys does not have
	pollWrNorm = 0x100
)

// What Ready says.
const (
	Readable = unix.POLLIN | pollRdNorm
	Writable = unix.POLLOUT | pollWrNorm
	HungUp   = Readable | unix.POLLHUP | unix.POLLERR // a read and a write would say ENODEV
	Changed  = unix.POLLPRI | unix.POLLERR            // as sysfs says of an attribute that changed

	always = Readable | Writable
)

// poll answers POLL for an open; tell is what NOTIFY_POLL is sent by.
func (r *opens) poll(in *pollIn, tell func(kh uint64)) (revents uint32, status fuse.Status) {
	o := r.get(in.fh)
	if o == nil {
		return 0, fuse.EBADF
	}
	h, ok := o.handle.(Pollable)
	if !ok {
		return always, fuse.OK
	}
	if in.flags&pollScheduleNotify != 0 {
		o.poll.begin(in.kh, h, tell)
	}
	o.poll.arm() // before looking: what comes after is told
	return h.Ready(), fuse.OK
}

// answerPoll answers POLL in place of go-fuse, which says ENOSYS.
func (s *Server) answerPoll(in, out []byte) int {
	h := (*pollIn)(unsafe.Pointer(&in[0]))
	if len(in) < int(unsafe.Sizeof(*h)) {
		return reply(out, h.Unique, fuse.EIO, 0)
	}
	revents, status := s.opens.poll(h, s.tellPoll)
	*(*pollOut)(unsafe.Pointer(&out[headerSize])) = pollOut{revents: revents}
	return reply(out, h.Unique, status, int(unsafe.Sizeof(pollOut{})))
}

// tellPoll sends NOTIFY_POLL.
func (s *Server) tellPoll(kh uint64) {
	m := pollWakeup{kh: kh}
	m.Length, m.Status = uint32(unsafe.Sizeof(m)), notifyPoll
	s.writeOutside(bytesOf(&m), opPoll)
}
