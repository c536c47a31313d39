package hotplug

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// handle takes one uevent.
func (w *Watcher) handle(e uevent) {
	device := e.devtype == "usb_device"
	name := e.name()
	if e.subsys != "usb" || !device && e.devtype != "usb_interface" || strings.Contains(name, ":") || !filepath.IsLocal(name) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.known[name]
	if device && e.action == "remove" {
		w.removed(name, e)
		return
	}
	// An "add" does not clear left: it may be late, of the very device whose file has
	// gone meanwhile. The next device in the port has a directory of its own in sysfs,
	// and so another number.
	// Half a dozen events tell of a device that comes, from the kernel and from udevd,
	// while its driver starts it. One is enough to look at sysfs; one more is needed
	// for another device in the same port, for a device that could not be opened, and
	// for one that loses its interfaces.
	if n == nil || device && !n.number.is(e.bus, e.dev) || !device && e.action == "remove" || !n.ready() {
		w.look(name, false, nil, nil)
	}
	if n != nil {
		n.wake()
	}
}

// removed takes the uevent of a device that is leaving. sysfs may show it for a
// little longer. w.mu is held.
func (w *Watcher) removed(name string, e uevent) {
	if n := w.known[name]; n == nil {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(w.sys, name), &st) == nil {
			w.left[name] = deviceNumber{e.bus, e.dev, uint64(st.Ino)}
		}
		if w.forget(name) { // it may be another device's already
			w.look(name, false, nil, nil)
		}
	} else if n.number.is(e.bus, e.dev) || e.dev == 0 {
		w.depart(n)
	}
}

// byFile is the known device whose device file has that name. w.mu is held.
func (w *Watcher) byFile(bus, dev string) *node {
	path := filepath.Join(w.dev, bus, dev)
	for _, n := range w.known {
		if n.path == path {
			return n
		}
	}
	return nil
}

// nodeChanged is called when a device file changed its permissions.
func (w *Watcher) nodeChanged(bus, dev string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.byFile(bus, dev); n != nil {
		if !n.ready() {
			w.look(n.name, false, nil, nil)
		}
		n.wake()
	}
}

// nodeWent is called when a device file went. The kernel takes it away before
// sysfs stops showing the device, and says no more of it on this way: a look at
// sysfs alone could find the device still there for ever.
func (w *Watcher) nodeWent(bus, dev string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.byFile(bus, dev); n != nil {
		w.depart(n)
	}
}

// nodeCame is called when a device file came. Only that device is looked at: to
// read all of sysfs takes as long as the kernel's enumeration where there are many
// hubs, and while the driver starts. It is false where the device is not found by
// its file, and all of sysfs has to be read.
func (w *Watcher) nodeCame(bus, dev string) bool {
	b, err := strconv.Atoi(bus)
	d, err2 := strconv.Atoi(dev)
	if err != nil || err2 != nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, is := range w.left {
		if is.is(b, d) {
			delete(w.left, name)
		}
	}
	target, err := os.Readlink(filepath.Join(w.char, charDevice(b, d))) // …/usb1/1-1
	if err != nil {
		return false
	}
	name := filepath.Base(target)
	if _, err := os.Stat(filepath.Join(w.sys, name)); err != nil {
		return false
	}
	w.look(name, false, nil, nil)
	return true
}
