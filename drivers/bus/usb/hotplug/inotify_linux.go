package hotplug

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inotify watches the device files: one directory for each bus.
type inotify struct {
	file *os.File
	raw  syscall.RawConn
	dir  string
	bus  map[int32]string // by watch: "003"; "" is the directory of buses
}

const (
	watchBuses = unix.IN_CREATE | unix.IN_ONLYDIR
	watchFiles = unix.IN_CREATE | unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_ONLYDIR
)

var readBuses = os.ReadDir

func openInotify(dir string) (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init", err)
	}
	in := &inotify{file: os.NewFile(uintptr(fd), "inotify"), dir: dir, bus: map[int32]string{}}
	if in.raw, err = in.file.SyscallConn(); err == nil {
		if err = in.watch(fd, "", watchBuses); err == nil {
			err = in.watchAll()
		}
	}
	if err != nil {
		in.file.Close()
		return nil, err
	}
	return in, nil
}

// Close ends follow.
func (in *inotify) Close() error { return in.file.Close() }

func (in *inotify) watch(fd int, bus string, mask uint32) error {
	path := filepath.Join(in.dir, bus)
	wd, err := unix.InotifyAddWatch(fd, path, mask)
	if err != nil {
		return &os.PathError{Op: "inotify_add_watch", Path: path, Err: err}
	}
	in.bus[int32(wd)] = bus
	return nil
}

// watchAll watches every existing bus. Watching a bus twice has no effect.
func (in *inotify) watchAll() error {
	buses, err := readBuses(in.dir)
	if err != nil {
		return err
	}
	return in.raw.Control(func(fd uintptr) {
		for _, b := range buses {
			// An error means that the bus disappeared meanwhile.
			_ = in.watch(int(fd), b.Name(), watchFiles)
		}
	})
}

// follow turns changes of device files into looks at sysfs.
func (in *inotify) follow(w *Watcher) error {
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := in.file.Read(buf)
		if err != nil {
			return err
		}
		look, lost := false, false
		for p := buf[:n]; len(p) >= unix.SizeofInotifyEvent; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&p[0]))
			size := unix.SizeofInotifyEvent + int(e.Len)
			if size > len(p) {
				break
			}
			name := unix.ByteSliceToString(p[unix.SizeofInotifyEvent:size])
			bus, known := in.bus[e.Wd]
			switch {
			case e.Mask&unix.IN_Q_OVERFLOW != 0:
				_ = in.watchAll()
				lost = true
			case e.Mask&unix.IN_IGNORED != 0: // the bus has gone
				delete(in.bus, e.Wd)
				if known && bus == "" {
					return fmt.Errorf("%s: %w", in.dir, os.ErrNotExist)
				}
			case known && bus == "":
				_ = in.watchAll()
				look = true
			case known && e.Mask&unix.IN_ATTRIB != 0:
				w.nodeChanged(bus, name)
			case known && e.Mask&unix.IN_DELETE != 0:
				w.nodeWent(bus, name)
			case known:
				look = !w.nodeCame(bus, name) || look
			}
			p = p[size:]
		}
		switch {
		case lost:
			w.lost()
		case look:
			w.scan(false, false)
		}
	}
}
