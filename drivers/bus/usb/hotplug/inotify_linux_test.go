package hotplug

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Without uevents the device files show arrivals, departures and changes of permissions.
func TestInotify(t *testing.T) {
	f := newTree(t)
	f.plug(d1)
	f.start("inotify")
	r := f.next()
	f.must(os.Remove(f.devfile(3, 5)))
	f.gone(r)
	f.w.scan(false, true)
	f.none("sysfs still shows it")
	f.hide(d1)

	f.plug(d1) // the same number
	r = f.next()
	n := r.Link.(*node)
	n.mu.Lock()
	changed := n.changed
	n.mu.Unlock()
	f.must(os.Chmod(n.path, 0o660))
	await(t, changed, "wake-up")

	// A bus arrives.
	f.must(os.Mkdir(filepath.Join(f.w.dev, "007"), 0o755))
	d := device{name: "7-1", bus: 7, dev: 1}
	f.plug(d)
	f.next()
	f.unplug(d)
	f.must(os.Remove(filepath.Join(f.w.dev, "007")))
	f.stays(r, "the device of another bus left")
}

// A device file that has no link in sysfs causes a scan of all of sysfs.
func TestNodeCame(t *testing.T) {
	f := newTree(t)
	f.start("inotify")
	f.plug(d1)
	r := f.next()
	f.must(os.Remove(filepath.Join(f.root, "sys/dev/char", charDevice(3, 5))))
	for _, tt := range []struct {
		bus, dev string
		want     bool
	}{
		{"003", "005", false}, // no link
		{"003", "x", false},
		{"x", "005", false},
	} {
		if got := f.w.nodeCame(tt.bus, tt.dev); got != tt.want {
			t.Errorf("%s/%s: %v, want %v", tt.bus, tt.dev, got, tt.want)
		}
	}
	f.must(os.Symlink("../../devices/3-77", filepath.Join(f.root, "sys/dev/char", charDevice(3, 77))))
	if f.w.nodeCame("003", "077") {
		t.Error("a device that sysfs does not list is found")
	}
	f.must(os.Remove(f.devfile(3, 5)))
	f.gone(r)
	f.must(os.WriteFile(f.devfile(3, 5), nil, 0o600))
	f.next() // by a scan: there is no link
}

// Linux Documentation/admin-guide/devices.txt, 189 char: "0 = /dev/bus/usb/001/001 …
// 128 = /dev/bus/usb/002/001".
func TestCharDevice(t *testing.T) {
	for _, tt := range []struct {
		bus, dev int
		want     string
	}{{1, 1, "189:0"}, {1, 2, "189:1"}, {1, 128, "189:127"}, {2, 1, "189:128"}, {3, 5, "189:260"}} {
		if got := charDevice(tt.bus, tt.dev); got != tt.want {
			t.Errorf("%d/%d: %s, want %s", tt.bus, tt.dev, got, tt.want)
		}
	}
}

// When the directory disappears, sysfs is polled until it is back.
func TestInotifyEnds(t *testing.T) {
	f := newTree(t)
	f.start("inotify")
	f.must(os.RemoveAll(f.w.dev))
	f.must(os.MkdirAll(filepath.Join(f.root, "elsewhere/003"), 0o755))
	dir := f.w.dev
	// Only sysfs shows it.
	f.must(os.MkdirAll(filepath.Join(dir, "003"), 0o755))
	f.plug(d1)
	r := f.next()
	f.unplug(d1)
	f.gone(r)
	f.plug(d1)
	f.next()
}

// A directory that cannot be watched costs no descriptor.
func TestInotifyFails(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	before := descriptors(t)
	for range 20 {
		if in, err := openInotify(missing); err == nil {
			in.Close()
			t.Fatal("a directory that is not there is watched")
		}
	}
	// It can be watched, but not listed.
	old := readBuses
	defer func() { readBuses = old }()
	readBuses = func(string) ([]os.DirEntry, error) { return nil, unix.EMFILE }
	for range 20 {
		if in, err := openInotify(dir); err == nil {
			in.Close()
			t.Fatal("a directory that cannot be listed is watched")
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	// The runtime's poller may close, a little later, what earlier tests closed.
	least := 1 << 30
	for range 50 {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		least = min(least, len(all))
		time.Sleep(time.Millisecond)
	}
	return least
}
