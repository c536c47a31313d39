// Package devfile opens device files, for reads, writes and other calls that end with a
// context.
//
// For a file that can be polled see bell. A call that the kernel may block without
// regard to a context runs in a goroutine of its own. When the context ends first, the call
// goes on alone, and the next waits for it.
package devfile

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// File is an open device file. One Read and one Write may run at a time, and beside them
// one Do.
type File struct {
	file  *os.File // not in the runtime's poller: see bell
	raw   syscall.RawConn
	polls bool

	gone chan struct{}
	once sync.Once
	busy chan struct{} // full while Do, or a call of a file without polling, runs

	in, out transfer
}

// Open opens path, which must not be a link. A file that cannot be opened without blocking
// is opened with: its reads and writes run in goroutines.
func Open(path string) (*File, error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := open(path, flags|unix.O_NONBLOCK)
	polls := err == nil
	if errors.Is(err, unix.EAGAIN) {
		fd, err = open(path, flags)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.ENOTTY}
	}
	_ = unix.SetNonblock(fd, false) // or os.NewFile gives it to the poller
	f := &File{file: os.NewFile(uintptr(fd), path), gone: make(chan struct{}), busy: make(chan struct{}, 1)}
	if f.raw, err = f.file.SyscallConn(); err == nil && polls {
		f.polls, err = f.poll()
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}

// poll prepares for a file that can be polled, and reports whether it is one.
func (f *File) poll() (bool, error) {
	err := f.in.open(f.raw, unix.EPOLLIN, unix.Read)
	if errors.Is(err, unix.EPERM) {
		return false, nil
	}
	if err == nil {
		err = f.out.open(f.raw, unix.EPOLLOUT, unix.Write)
	}
	if err == nil {
		err = f.Control(func(fd int) error { return unix.SetNonblock(fd, true) })
	}
	return err == nil, err
}

func open(path string, flags int) (fd int, err error) {
	err = Again(func() error {
		fd, err = unix.Open(path, flags, 0)
		return err
	})
	return fd, err
}

// Polls reports whether the file can be polled.
func (f *File) Polls() bool { return f.polls }

// Gone is closed by Leave and Close.
func (f *File) Gone() <-chan struct{} { return f.gone }

// Leave says that the device has left. What is under way ends when the kernel ends it.
func (f *File) Leave() { f.once.Do(func() { close(f.gone) }) }

// Close ends what is under way, but a call that the kernel blocks: the file stays open for
// that until it ends.
func (f *File) Close() error {
	f.Leave()
	f.in.close()
	f.out.close()
	if err := f.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Control calls f with the descriptor. f must not block.
func (f *File) Control(call func(fd int) error) error {
	var err error
	if cerr := f.raw.Control(func(fd uintptr) { err = call(int(fd)) }); cerr != nil {
		return reader.ErrGone
	}
	return err
}

// Do calls call with the descriptor. It ends early with ctx, after limit (zero: none) with
// reader.ErrTimeout, and with the device; then call may still run, and must not touch what
// its caller uses.
func (f *File) Do(ctx context.Context, limit time.Duration, call func(fd int) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var late <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		late = t.C
	}
	wait := func(done <-chan error) error {
		var free chan<- struct{}
		if done == nil {
			free = f.busy
		}
		select {
		case free <- struct{}{}:
			return nil
		case err := <-done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return reader.ErrTimeout
		case <-f.gone:
			return reader.ErrGone
		}
	}
	if err := wait(nil); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-f.busy }()
		done <- f.Control(func(fd int) error { return Again(func() error { return call(fd) }) })
	}()
	return wait(done)
}

// Again repeats f while signals interrupt it.
func Again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Read reads once, when there is something, at most until then (zero: no limit), when it
// returns reader.ErrTimeout. Nothing read without an error is the end of the file.
func (f *File) Read(ctx context.Context, p []byte, until time.Time) (int, error) {
	if f.polls {
		return f.in.do(ctx, p, until)
	}
	buf, n := make([]byte, len(p)), 0 // the call's own: it may be left behind
	if err := f.Do(ctx, limit(until), func(fd int) (err error) {
		if err = f.readable(ctx, fd, until); err == nil {
			n, err = unix.Read(fd, buf)
		}
		return err
	}); err != nil {
		return 0, err
	}
	copy(p, buf[:n])
	clear(buf)
	return n, nil
}

// look is how often a read that waits by poll looks whether it was left.
const look = 50 * time.Millisecond

// readable waits until a read would not wait, if the file's driver can say that; another says
// that always. So a read that is left takes nothing, and the next call does not wait for it.
// What poll says first is passed over: cm4040_cs keeps what it saw up to 10 ms ago, until it is
// asked, so that after an answer was read there seems to be another.
func (f *File) readable(ctx context.Context, fd int, until time.Time) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(p, 0); err != nil {
		return err
	}
	for {
		wait := look
		if !until.IsZero() {
			wait = min(look, time.Until(until)+time.Millisecond)
		}
		n, err := unix.Poll(p, int(max(wait, 0)/time.Millisecond))
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case f.left():
			return reader.ErrGone
		case n > 0:
			return nil
		case !until.IsZero() && !time.Now().Before(until):
			return reader.ErrTimeout
		}
	}
}

// left reports whether the device has left.
func (f *File) left() bool {
	select {
	case <-f.gone:
		return true
	default:
		return false
	}
}

// Write writes once, as Read reads.
func (f *File) Write(ctx context.Context, p []byte, until time.Time) (int, error) {
	if f.polls {
		return f.out.do(ctx, p, until)
	}
	buf, n := slices.Clone(p), 0
	if err := f.Do(ctx, limit(until), func(fd int) (err error) {
		defer clear(buf) // it may contain a PIN
		n, err = unix.Write(fd, buf)
		return err
	}); err != nil {
		return 0, err
	}
	return n, nil
}

// limit is the time until then, for Do.
func limit(until time.Time) time.Duration {
	if until.IsZero() {
		return 0
	}
	return max(1, time.Until(until))
}
