package fs

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader/core"
)

// follower is one open of `event` or `trace`: lines that come as things happen.
type follower struct {
	flocked
	nonblock atomic.Bool
	leaving  context.Context
	close    func()
	// next gives the next line, waiting for it or not; ok is false when there
	// is none yet.
	next func(ctx context.Context, wait bool, dst []byte) (line []byte, ok bool, err error)
	// there reports what next would find; told registers a function to call when there is more.
	there func() (line, ended bool)
	told  func(func())

	turn chan struct{} // one reader at a time
	out  stream
	wake atomic.Pointer[func()] // the poller's: called when a read leaves something
}

var (
	_ = (fs.FileReader)((*follower)(nil))
	_ = (fs.FileReleaser)((*follower)(nil))
	_ = (fs.FileSetlker)((*follower)(nil))
	_ = (fs.FileSetlkwer)((*follower)(nil))
)

func newFollower(f *file, flags uint32) *follower {
	w := &follower{
		leaving: f.mount.leaving,
		turn:    make(chan struct{}, 1),
	}
	w.nonblock.Store(flags&syscall.O_NONBLOCK != 0)
	w.flocked = f.flock(w)
	return w
}

// feedNext adapts a feed; render writes an item as a line without its newline.
func feedNext[T any](feed *core.Feed[T], render func(dst []byte, item T, lost uint64) []byte) func(context.Context, bool, []byte) ([]byte, bool, error) {
	return func(ctx context.Context, wait bool, dst []byte) ([]byte, bool, error) {
		item, lost, ok, err := feed.TryNext()
		if !ok && err == nil && wait {
			item, lost, err = feed.Next(ctx)
			ok = err == nil
		}
		if !ok {
			return dst, false, err
		}
		return append(render(dst, item, lost), '\n'), true, nil
	}
}

// openEvent follows a slot, or at the top all slots. It begins with the present state.
func openEvent(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	w := newFollower(f, flags)
	feed := (*core.Feed[core.Event])(nil)
	if f.slot != nil {
		feed = f.slot.Follow()
	} else {
		feed = f.mount.manager.Follow()
	}
	w.close, w.there, w.told = feed.Close, feed.Ready, feed.Watch
	w.next = feedNext(feed, eventLine)
	return w, nil
}

// openTrace follows what crosses the slot.
func openTrace(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	w := newFollower(f, flags)
	feed := f.slot.FollowTrace()
	w.close = func() { f.slot.CloseTrace(feed) }
	w.there, w.told = feed.Ready, feed.Watch
	w.next = feedNext(feed, traceLine)
	return w, nil
}

// eventLine appends an event; "a slow reader is told how many it lost (lost=N)".
func eventLine(dst []byte, e core.Event, lost uint64) []byte {
	dst = e.Append(dst)
	if lost > 0 {
		dst = fmt.Appendf(dst, " lost=%d", lost)
	}
	return dst
}

// traceLine appends a line of the trace, after a comment that says how many were lost.
func traceLine(dst []byte, line string, lost uint64) []byte {
	if lost > 0 {
		dst = fmt.Appendf(dst, "# lost=%d\n", lost)
	}
	return append(dst, line...)
}

// Read returns as many of the available lines as fit, and waits for at least one.
func (w *follower) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	nonblock := w.nonblock.Load() // another READ may bring another
	select {
	case w.turn <- struct{}{}:
	default:
		if nonblock {
			return nil, syscall.EAGAIN // the next line is for the reader that waits
		}
		select {
		case w.turn <- struct{}{}:
		case <-w.leaving.Done():
			return nil, syscall.ENODEV
		case <-ctx.Done():
			if _, ended := w.there(); ended || w.leaving.Err() != nil {
				return nil, syscall.ENODEV
			}
			return nil, syscall.EINTR
		}
	}
	defer func() {
		left := w.out.ready() > 0
		<-w.turn
		if wake := w.wake.Load(); left && wake != nil {
			(*wake)()
		}
	}()
	if !w.out.seek(off) {
		return fuse.ReadResultData(nil), 0
	}
	if w.out.ready() == 0 {
		if errno := w.fill(ctx, len(dest), nonblock); errno != 0 {
			return nil, errno
		}
	}
	return fuse.ReadResultData(w.out.read(dest)), 0
}

func (w *follower) fill(ctx context.Context, size int, nonblock bool) syscall.Errno {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(w.leaving, cancel)
	defer stop()
	w.out.grow()
	for w.out.ready() < size {
		first := w.out.ready() == 0
		buf, ok, err := w.next(ctx, first && !nonblock, w.out.buf)
		w.out.buf = buf
		switch {
		case ok:
			continue
		case !first:
			return 0
		case w.leaving.Err() != nil:
			return syscall.ENODEV
		case err != nil:
			return toErrno(err)
		default:
			return syscall.EAGAIN
		}
	}
	return 0
}

func (w *follower) SetNonblock(on bool) { w.nonblock.Store(on) }

// Ready: "event, trace: readable when there is a line".
func (w *follower) Ready() uint32 {
	line, ended := w.there()
	switch {
	case w.leaving.Err() != nil || ended: // with lines or without, as a pipe whose writer is gone
		return fused.HungUp
	case line:
		return fused.Readable
	}
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
		if w.out.ready() > 0 {
			return fused.Readable
		}
	default: // somebody reads, and will tell of what is left
	}
	return 0
}

func (w *follower) Watch(wake func()) (stop func()) {
	w.wake.Store(&wake)
	w.told(wake)
	stopLeaving := context.AfterFunc(w.leaving, wake)
	return func() {
		stopLeaving()
		w.told(nil)
		w.wake.Store(nil)
	}
}

func (w *follower) Release(ctx context.Context) syscall.Errno {
	w.close()
	w.unlock()
	return 0
}
