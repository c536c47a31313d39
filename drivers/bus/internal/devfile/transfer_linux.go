package devfile

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// transfer is the read or the write that may be under way. Its functions are made once, so
// that it costs no allocation unless it waits.
type transfer struct {
	bell
	event uint32 // EPOLLIN or EPOLLOUT
	call  func(fd int, p []byte) (int, error)

	first func(fd uintptr)         // tryFirst
	again func(epoll uintptr) bool // tryAgain
	try   func(fd uintptr)         // attempt
	wake  func()                   // wakes a transfer that waits

	mu   sync.Mutex // held while it is under way
	ctx  context.Context
	p    []byte
	soon time.Duration // how long tryFirst waits
	done bool
	n    int
	err  error
	stop func() bool // ends what ctx does; nil: it does nothing
}

// soon is how long a read for which there is a time first waits in a thread of its own: no
// timer has to be set, and nobody to be woken but this thread. It is about the time of a few
// characters on a fast line. The end of a context may be noticed as late.
const soon = 2 * time.Millisecond

var past = time.Unix(1, 0)

// open prepares for transfers, as bell's open.
func (r *transfer) open(file syscall.RawConn, event uint32, call func(int, []byte) (int, error)) error {
	r.event, r.call = event, call
	r.first, r.again, r.try = r.tryFirst, r.tryAgain, r.attempt
	r.wake = func() { r.epoll.SetReadDeadline(past) }
	return r.bell.open(file)
}

// close ends a transfer that is under way, and returns when it has ended.
func (r *transfer) close() {
	r.bell.close()
	r.mu.Lock()
	defer r.mu.Unlock()
}

// do runs one transfer.
func (r *transfer) do(ctx context.Context, p []byte, until time.Time) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	r.ctx, r.p, r.soon, r.done = ctx, p, 0, false
	defer r.forget()
	if r.event == unix.EPOLLIN && !until.IsZero() {
		r.soon = min(soon, time.Until(until))
	}
	if r.file.Control(r.first) != nil {
		return 0, reader.ErrGone // closed
	}
	if r.done {
		return r.n, r.err
	}
	return r.wait(until)
}

// tryFirst waits for a short time, and tries.
func (r *transfer) tryFirst(fd uintptr) {
	if r.soon > 0 {
		wait := unix.NsecToTimespec(int64(r.soon))
		_, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, &wait, nil)
	}
	r.attempt(fd)
}

// wait does what could not be done at once.
func (r *transfer) wait(until time.Time) (int, error) {
	if err := r.listen(r.event); err != nil {
		return 0, err
	}
	defer r.listen(0)
	for {
		if r.epoll.SetReadDeadline(until) != nil {
			return 0, reader.ErrGone // closed
		}
		if err := r.ctx.Err(); err != nil { // before this the deadline told the transfer nothing
			return 0, err
		}
		err := r.poll.Read(r.again)
		switch {
		case err == nil:
			return r.n, r.err
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, reader.ErrGone // closed
		case r.ctx.Err() != nil:
			return 0, r.ctx.Err()
		case !until.IsZero() && !time.Now().Before(until):
			return 0, reader.ErrTimeout
		}
		// It was woken by the context of an earlier transfer.
	}
}

// tryAgain tries, or reports that it has to wait.
func (r *transfer) tryAgain(uintptr) bool {
	if r.file.Control(r.try) != nil {
		r.n, r.err = 0, reader.ErrGone // closed
		return true
	}
	if !r.done && r.stop == nil && r.ctx.Done() != nil {
		r.stop = context.AfterFunc(r.ctx, r.wake)
	}
	return r.done
}

// attempt does the transfer, if the kernel is ready for it.
func (r *transfer) attempt(fd uintptr) {
	err := Again(func() (err error) {
		r.n, err = r.call(int(fd), r.p)
		return err
	})
	if err == unix.EAGAIN {
		return
	}
	r.done, r.n, r.err = true, max(r.n, 0), err
}

// forget drops what belongs to a transfer that has ended.
func (r *transfer) forget() {
	if r.stop != nil {
		r.stop()
	}
	r.ctx, r.p, r.stop = nil, nil, nil
}
