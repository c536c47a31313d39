package byname

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// news reports that a file may have come, or may be opened now: inotify on the
// directories of its name. The kernel makes the files of devices in /dev and udevd their
// links and permissions, so inotify sees what uevents would tell, in containers too.
type news struct {
	file *os.File // nil: nothing is watched
}

const watchMask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_ONLYDIR

// watchFor watches for name. What changes from now on is reported.
func watchFor(name string) (news, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return news{}, os.NewSyscallError("inotify_init", err)
	}
	watched := 0
	watch := func(path string) {
		for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
			if _, err := unix.InotifyAddWatch(fd, dir, watchMask); err == nil {
				watched++
			}
			if dir == "/" || dir == "." {
				return
			}
		}
	}
	watch(name)
	if target, err := filepath.EvalSymlinks(name); err == nil && target != name {
		watch(target)
	}
	if watched == 0 {
		unix.Close(fd)
		return news{}, &os.PathError{Op: "watch", Path: name, Err: unix.ENOENT}
	}
	return news{os.NewFile(uintptr(fd), "inotify")}, nil
}

// wait waits for news, at most d if that is not negative, and for ctx.
func (n news) wait(ctx context.Context, d time.Duration) {
	if n.file == nil {
		if d < 0 || d > lookTime {
			d = lookTime
		}
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		return
	}
	if d >= 0 {
		n.file.SetReadDeadline(time.Now().Add(d))
	}
	stop := context.AfterFunc(ctx, func() { n.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var buf [16 * (unix.SizeofInotifyEvent + unix.NAME_MAX + 1)]byte
	_, _ = n.file.Read(buf[:])
}

func (n news) close() {
	if n.file != nil {
		n.file.Close()
	}
}

// Watch is a watch for the removal of a file.
type Watch struct {
	file *os.File
	over chan struct{}
}

// WatchRemoval calls gone when the file at path is removed.
func WatchRemoval(path string, gone func()) (*Watch, error) {
	before, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init", err)
	}
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: filepath.Dir(path), Err: err}
	}
	w := &Watch{os.NewFile(uintptr(fd), "inotify"), make(chan struct{})}
	go func() {
		defer close(w.over)
		var buf [16 * (unix.SizeofInotifyEvent + unix.NAME_MAX + 1)]byte
		for {
			now, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, now) {
				gone()
				return
			}
			if _, err := w.file.Read(buf[:]); err != nil {
				return // closed
			}
		}
	}()
	return w, nil
}

// Close ends the watch. A nil Watch watches nothing.
func (w *Watch) Close() {
	if w != nil {
		w.file.Close()
		<-w.over
	}
}
