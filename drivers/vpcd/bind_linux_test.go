package vpcd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The socket file has its permissions from the beginning. They are never changed by name,
// which may belong to another file by then: inotify(7) reports its creation, and no change
// of its metadata.
func TestPermissionsAreNotSetByName(t *testing.T) {
	dir := t.TempDir()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE|unix.IN_ATTRIB); err != nil {
		t.Fatal(err)
	}
	o := options{network: "unix", address: filepath.Join(dir, "socket"), mode: 0o620}
	ln, err := o.listen(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func(ln net.Listener) { ln.Close() }(ln)
	if st, err := os.Lstat(o.address); err != nil || st.Mode() != os.ModeSocket|0o620 {
		t.Errorf("%v, %v", st, err)
	}
	// inotify queues an event before the call that caused it returns.
	buf := make([]byte, 4096)
	n, err := unix.Read(watch, buf)
	if err != nil {
		t.Fatal(err)
	}
	var seen []uint32
	for buf = buf[:n]; len(buf) >= unix.SizeofInotifyEvent; {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&buf[0]))
		seen = append(seen, e.Mask)
		buf = buf[unix.SizeofInotifyEvent+e.Len:]
	}
	if len(seen) != 1 || seen[0] != unix.IN_CREATE {
		t.Errorf("inotify events %#x, want IN_CREATE alone", seen)
	}
}
