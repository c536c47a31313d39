package fs

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/reader"
)

// The kernel brings every flock(2) in the mount to us (EnableLocks). On `apdu`
// it is the slot's transaction; on the other files it is advisory, as on any file system.

// locker carries out flock(2). Each file decides what LOCK_SH means. Without wait, lock returns
// reader.ErrLocked after releaseLag.
type locker interface {
	lock(ctx context.Context, shared, wait bool) error
	unlock()
}

// setlk serves SETLK and SETLKW. It refuses fcntl(2) and lockf(3) locks.
func setlk(ctx context.Context, l locker, lk *fuse.FileLock, flags uint32, wait bool) syscall.Errno {
	if flags&fuse.FUSE_LK_FLOCK == 0 {
		return syscall.EOPNOTSUPP
	}
	if lk.Typ == syscall.F_UNLCK {
		l.unlock()
		return 0
	}
	shared := lk.Typ == syscall.F_RDLCK
	err := l.lock(ctx, shared, wait)
	if !wait && errors.Is(err, reader.ErrLocked) {
		if r, ok := l.(interface{ lockRefused() }); ok {
			r.lockRefused()
		}
		return syscall.EWOULDBLOCK // flock(1) knows it by this
	}
	return toErrno(err)
}

// A LOCK_NB request still waits for releaseLag. close(2) and exit return before the RELEASE
// arrives that ends a lock here: a holder that has closed would still seem to hold it.
const releaseLag = 20 * time.Millisecond

// flocked gives a handle the two methods by which the kernel locks.
type flocked struct{ locker }

func (f flocked) Setlk(ctx context.Context, owner uint64, lk *fuse.FileLock, flags uint32) syscall.Errno {
	return setlk(ctx, f.locker, lk, flags, false)
}

func (f flocked) Setlkw(ctx context.Context, owner uint64, lk *fuse.FileLock, flags uint32) syscall.Errno {
	return setlk(ctx, f.locker, lk, flags, true)
}

// byOwner is one open's part in an advisory lock.
type byOwner struct {
	*advisory
	owner any
	gone  <-chan struct{} // closed when the reader left; nil: there is none
}

// flock makes flock(2) on an open merely advisory.
func (f *file) flock(owner any) flocked {
	b := byOwner{advisory: &f.locks, owner: owner}
	if f.slot != nil {
		b.gone = f.slot.Done()
	}
	return flocked{b}
}

func (b byOwner) lock(ctx context.Context, shared, wait bool) error {
	if wait {
		return b.advisory.lock(ctx, b.owner, shared, true, b.gone)
	}
	soon, cancel := context.WithTimeout(ctx, releaseLag)
	defer cancel()
	err := b.advisory.lock(soon, b.owner, shared, true, b.gone)
	if errors.Is(err, reader.ErrInterrupted) && ctx.Err() == nil {
		return reader.ErrLocked
	}
	return err
}

func (b byOwner) unlock() { b.advisory.unlock(b.owner) }

// advisory is the state of flock(2) on one file where it has no other meaning.
type advisory struct {
	mu      sync.Mutex
	holders map[any]bool // owner: shared
	changed chan struct{}
}

func (a *advisory) lock(ctx context.Context, owner any, shared, wait bool, gone <-chan struct{}) error {
	for {
		if closed(gone) {
			return reader.ErrGone
		}
		a.mu.Lock()
		free := true
		for other, theirs := range a.holders {
			if other != owner && !(shared && theirs) {
				free = false
			}
		}
		if free {
			if a.holders == nil {
				a.holders = make(map[any]bool)
			}
			a.holders[owner] = shared
			a.wake() // an exclusive lock may have become a shared one
			a.mu.Unlock()
			return nil
		}
		// A conversion gives up the old lock first (flock(2)). Otherwise two holders
		// that both convert from shared to exclusive would wait for each other.
		if _, held := a.holders[owner]; held {
			delete(a.holders, owner)
			a.wake()
		}
		if a.changed == nil {
			a.changed = make(chan struct{})
		}
		changed := a.changed
		a.mu.Unlock()
		if !wait {
			return reader.ErrLocked
		}
		select {
		case <-changed:
		case <-gone:
		case <-ctx.Done():
			if !closed(gone) {
				return reader.ErrInterrupted
			}
		}
	}
}

func (a *advisory) unlock(owner any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, held := a.holders[owner]; held {
		delete(a.holders, owner)
		a.wake()
	}
}

func (a *advisory) wake() {
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

// closed reports whether c is closed; nil never is.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
