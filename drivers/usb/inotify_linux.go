package usb

import (
	"errors"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inotify watches the device files: one directory a bus.
type inotify struct {
	file *os.File
	dir  string
	bus  map[int32]string // by watch: "003"; "" is the directory of buses
}

const (
	watchBuses = unix.IN_CREATE | unix.IN_ONLYDIR
	watchFiles = unix.IN_CREATE | unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_ONLYDIR
)

func openInotify(dir string) (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init", err)
	}
	in := &inotify{file: os.NewFile(uintptr(fd), "inotify"), dir: dir, bus: map[int32]string{}}
	if err := in.watch(fd, "", watchBuses); err != nil {
		in.file.Close()
		return nil, err
	}
	return in, in.watchAll()
}

func (in *inotify) watch(fd int, bus string, mask uint32) error {
	path := filepath.Join(in.dir, bus)
	wd, err := unix.InotifyAddWatch(fd, path, mask)
	if err != nil {
		return &os.PathError{Op: "inotify_add_watch", Path: path, Err: err}
	}
	in.bus[int32(wd)] = bus
	return nil
}

// watchAll watches every bus that there is; one watched twice is watched once.
func (in *inotify) watchAll() error {
	buses, err := os.ReadDir(in.dir)
	if err != nil {
		return err
	}
	raw, err := in.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		for _, b := range buses {
			// An error: the bus went while we looked.
			_ = in.watch(int(fd), b.Name(), watchFiles)
		}
	})
}

// readInotify turns changes of device files into looks at sysfs.
func (w *Watcher) readInotify() {
	in := w.inotify
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := in.file.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				w.log.Error("no more events from "+w.dev, "error", err)
			}
			return
		}
		look := false
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
				look = true
			case e.Mask&unix.IN_IGNORED != 0: // the bus has gone
				delete(in.bus, e.Wd)
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
		if look {
			w.scan(false)
		}
	}
}
