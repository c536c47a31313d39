package hotplug

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// handle processes one uevent.
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
	// An "add" does not clear left: it may be late and belong to the device whose file
	// has gone meanwhile. The next device in the port has another directory in sysfs, and
	// so another number.
	//
	// The kernel and udevd send half a dozen events for a new device, while its driver
	// starts it. One look at sysfs is enough. Another look is needed only for another
	// device in the same port, for a device that could not be opened, and for one that
	// loses its interfaces.
	if n == nil || device && !n.number.is(e.bus, e.dev) || !device && e.action == "remove" || !n.ready() {
		w.look(name, false, nil, nil)
	}
	if n != nil {
		n.wake()
	}
}

// removed processes the uevent of a device that is leaving. sysfs may show the device a
// little longer. w.mu is held.
func (w *Watcher) removed(name string, e uevent) {
	if n := w.known[name]; n == nil {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(w.sys, name), &st) == nil {
			w.left[name] = deviceNumber{e.bus, e.dev, uint64(st.Ino)}
		}
		if w.forget(name) { // the look may have been at the next device already
			w.look(name, false, nil, nil)
		}
	} else if n.number.is(e.bus, e.dev) || e.dev == 0 {
		w.depart(n)
	}
}

// byFile returns the known device with that device file. w.mu is held.
func (w *Watcher) byFile(bus, dev string) *node {
	path := filepath.Join(w.dev, bus, dev)
	for _, n := range w.known {
		if n.path == path {
			return n
		}
	}
	return nil
}

// nodeChanged is called when the permissions of a device file changed.
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

// nodeWent is called when a device file was removed. The kernel does that before it
// removes the device from sysfs, and inotify reports nothing afterwards. So this must not
// depend on a look at sysfs, which may still find the device.
func (w *Watcher) nodeWent(bus, dev string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.byFile(bus, dev); n != nil {
		w.depart(n)
	}
}

// nodeCame is called when a device file appeared. It looks at that device only: with many
// hubs, reading all of sysfs takes as long as the kernel's enumeration. It returns false
// if it cannot find the device by its file, so that all of sysfs must be read.
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
