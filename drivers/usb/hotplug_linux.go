package usb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// Watcher announces USB readers as they come and tells when they leave.
//
// Three sources say that something may have changed: uevents of the kernel, of
// udevd after its rules, and inotify on /dev/bus/usb, which works in containers
// that get no uevents. What is there is then read from sysfs. Nothing is polled
// unless all three are missing.
type Watcher struct {
	host    reader.Host
	serves  table
	log     *slog.Logger
	sys     string // /sys/bus/usb/devices
	dev     string // /dev/bus/usb
	deaf    bool   // takes no uevents, for tests
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup
	files   []*os.File
	inotify *inotify

	mu     sync.Mutex
	closed bool
	known  map[string]*node // by sysfs name
	// left are devices that a uevent said are leaving, while sysfs may still
	// show them.
	left  map[string]deviceNumber
	early map[string]int // looks at directories that are not complete
}

// deviceNumber tells a device from the next one in the same port.
type deviceNumber struct{ bus, dev int }

// SlotCounter is a driver that finds in a device's descriptors how many slots it
// has, so that all their directories are there at once.
type SlotCounter interface {
	CountSlots(descriptors []byte) int
}

// Watch announces to host every device that one of the drivers serves, by IDs or
// interface class: those that are there before it returns, others as they come.
// A device is announced once, whatever number of its interfaces match; an ID pair
// goes before a class. The Device has Link, which is an Opener with the methods
//
//	Descriptors() []byte     as Conn's, without opening the device
//	Gone() <-chan struct{}   closed when the device leaves, or is to be announced anew
func Watch(ctx context.Context, host reader.Host, drivers []reader.Driver, log *slog.Logger) (*Watcher, error) {
	w := newWatcher(host, drivers, log, "/sys/bus/usb/devices", "/dev/bus/usb")
	if err := w.start(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func newWatcher(host reader.Host, drivers []reader.Driver, log *slog.Logger, sys, dev string) *Watcher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Watcher{
		host: host, serves: newTable(drivers), log: log, sys: sys, dev: dev,
		known: map[string]*node{}, left: map[string]deviceNumber{}, early: map[string]int{},
	}
}

// pollEvery is how often sysfs is read where nothing tells of changes.
const pollEvery = time.Second

func (w *Watcher) start(ctx context.Context) error {
	ctx, w.cancel = context.WithCancel(ctx)
	w.ctx = ctx
	events := 0
	if w.deaf {
		w.log.Info("no uevents, as told")
	} else if f, err := openUevents(); err != nil {
		w.log.Info("no uevents", "error", err)
	} else {
		events++
		w.files = append(w.files, f)
		w.work.Go(func() { w.readUevents(f) })
	}
	in, err := openInotify(w.dev)
	if err != nil {
		w.log.Info("no events from "+w.dev, "error", err)
	} else {
		events++
		w.inotify = in
		w.files = append(w.files, in.file)
		w.work.Go(func() { w.readInotify() })
	}
	w.work.Go(func() {
		<-ctx.Done()
		for _, f := range w.files {
			f.Close()
		}
	})
	if events == 0 {
		w.log.Warn("USB devices are looked for every second: there are no uevents, and no "+w.dev+" to watch", "every", pollEvery)
		w.work.Go(func() {
			t := time.NewTicker(pollEvery)
			defer t.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-t.C:
					w.scan(false)
				}
			}
		})
	}
	w.scan(false) // after subscribing: what comes meanwhile is seen twice, not missed
	return nil
}

// Close ends watching. Devices that were announced stay.
func (w *Watcher) Close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	if w.cancel != nil {
		w.cancel()
	}
	w.work.Wait()
	return nil
}

// Rescan looks at what is plugged in now. Devices that could not be opened for
// lack of permission, or because another program had them, are tried again.
func (w *Watcher) Rescan() { w.scan(true) }

// scan compares sysfs with what is known.
func (w *Watcher) scan(retry bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	entries, err := os.ReadDir(w.sys)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.log.Warn("looking for USB devices", "error", err)
		return // not the same as none
	}
	there := map[string]bool{}
	for _, e := range entries {
		if !strings.Contains(e.Name(), ":") { // an interface
			there[e.Name()] = true
			w.update(e.Name())
		}
	}
	for name, n := range w.known {
		if !there[name] {
			w.leave(n)
		} else if retry && n.refused() {
			w.again(n)
		}
	}
	for name := range w.left {
		if !there[name] {
			delete(w.left, name)
		}
	}
}

// update looks at one device. w.mu is held.
func (w *Watcher) update(name string) {
	if w.closed {
		return
	}
	dir := filepath.Join(w.sys, name)
	is := deviceNumber{int(readDecimal(dir, "busnum")), int(readDecimal(dir, "devnum"))}
	old := w.known[name]
	if is.dev == 0 { // gone, or not a device
		if old != nil {
			w.leave(old)
		}
		return
	}
	if old != nil {
		if old.number == is {
			return
		}
		w.leave(old)
	}
	if w.left[name] == is {
		return
	}
	delete(w.left, name)
	w.arrive(name, is)
}

const classHub = 0x09 // bDeviceClass, USB 2.0 §11.23.1

// arrive announces a device if a driver serves it. w.mu is held.
func (w *Watcher) arrive(name string, number deviceNumber) {
	dir := filepath.Join(w.sys, name)
	all, err := readSysfs(filepath.Join(dir, "descriptors"))
	if err != nil {
		w.later(name)
		return
	}
	delete(w.early, name)
	if len(all) > 4 && all[4] == classHub {
		// Most of its attributes can be read only when it has brought up what
		// was plugged into it, which is what we are in a hurry for.
		return
	}
	desc, err := activeDescriptors(all, uint8(readDecimal(dir, "bConfigurationValue")))
	if err != nil {
		w.log.Warn("USB device with bad descriptors", "port", name, "error", err)
		return
	}
	d, id, ok := w.serves.match(desc)
	if !ok {
		return
	}
	n := &node{
		name: name, number: number, desc: desc, sys: dir,
		path: filepath.Join(w.dev, fmt.Sprintf("%03d", number.bus), fmt.Sprintf("%03d", number.dev)),
		gone: make(chan struct{}), stirred: make(chan struct{}), since: time.Now(),
	}
	n.strings = kernelStrings(dir, desc)
	if maker, product := n.strings[desc[manufacturerAt]], n.strings[desc[productAt]]; product != "" && (id.Model == "" || id.Class != 0) {
		id.Model = product
		if !strings.HasPrefix(product, maker) {
			id.Model = maker + " " + product
		}
	}
	n.device = reader.Device{
		Driver: d.Name(), Address: "usb:" + name, Bus: "usb",
		ID: reader.ID{
			Vendor: uint16(desc[8]) | uint16(desc[9])<<8, Product: uint16(desc[10]) | uint16(desc[11])<<8,
			Model: id.Model,
		},
		Serial: n.strings[desc[serialAt]], Port: name, Link: n,
	}
	if c, ok := d.(SlotCounter); ok {
		n.device.Slots = c.CountSlots(desc)
	}
	w.announce(n)
}

const (
	laterTime = 10 * time.Millisecond
	laterMost = 100
)

// later looks at a device again whose directory in sysfs is not complete: the
// kernel makes the device file before it and the uevent after it, so that this
// happens where no uevents come. If it is being taken down, it will be gone then.
// w.mu is held.
func (w *Watcher) later(name string) {
	if w.early[name]++; w.early[name] > laterMost || w.ctx == nil {
		delete(w.early, name)
		return
	}
	w.work.Go(func() {
		t := time.NewTimer(laterTime)
		defer t.Stop()
		select {
		case <-w.ctx.Done():
			return
		case <-t.C:
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, err := os.Stat(filepath.Join(w.sys, name)); err != nil {
			delete(w.early, name)
			return
		}
		w.update(name)
	})
}

// announce is with w.mu held.
func (w *Watcher) announce(n *node) {
	w.known[n.name] = n
	if err := w.host.Announce(n.device); err != nil {
		w.log.Warn("USB reader not taken", "device", n.device.Address, "driver", n.device.Driver, "error", err)
	}
}

// leave tells that a device has left. w.mu is held.
func (w *Watcher) leave(n *node) {
	delete(w.known, n.name)
	close(n.gone)
}

// again announces a device that could not be opened anew. w.mu is held.
func (w *Watcher) again(n *node) {
	w.leave(n)
	w.arrive(n.name, n.number)
}

// handle takes one uevent.
func (w *Watcher) handle(e uevent) {
	if e.subsys != "usb" || e.devtype != "usb_device" && e.devtype != "usb_interface" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := e.name()
	if e.devtype == "usb_device" && e.action == "add" {
		delete(w.left, name)
	}
	if e.devtype == "usb_device" && e.action == "remove" {
		// sysfs may show the device for a little longer.
		is := deviceNumber{e.bus, e.dev}
		if n := w.known[name]; n != nil && (n.number == is || is.dev == 0) {
			w.left[name] = n.number
			w.leave(n)
		} else if n == nil {
			w.left[name] = is
		}
		return
	}
	// Half a dozen events tell of a device that comes, from the kernel and from udevd,
	// while its driver starts it. One is enough to look at sysfs; only an event of
	// another device in the same port needs one more look.
	if n := w.known[name]; n == nil || e.devtype == "usb_device" && n.number != (deviceNumber{e.bus, e.dev}) {
		w.update(name)
	}
	if n := w.known[name]; n != nil {
		w.stir(n)
	}
}

// stir is called when a device may have become usable: configured by the
// kernel, or given to our group by udevd. w.mu is held.
func (w *Watcher) stir(n *node) {
	if n.stir() {
		w.again(n)
	}
}

// nodeChanged is called when a device file changed its permissions.
func (w *Watcher) nodeChanged(bus, dev string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.known {
		if n.path == filepath.Join(w.dev, bus, dev) {
			w.stir(n)
			return
		}
	}
}

// nodeWent is called when a device file went. The kernel takes it away before
// sysfs stops showing the device, and says no more of it on this way: a look at
// sysfs alone could find the device still there for ever.
func (w *Watcher) nodeWent(bus, dev string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.known {
		if n.path == filepath.Join(w.dev, bus, dev) {
			w.left[n.name] = n.number
			w.leave(n)
		}
	}
}

// nodeCame is called when a device file came. Only that device is looked at: to
// read all of sysfs takes as long as the kernel's enumeration where there are many
// hubs, and while the driver starts. It is false where the device is not found by
// its file, and all of sysfs has to be read.
func (w *Watcher) nodeCame(bus, dev string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, is := range w.left {
		if filepath.Join(fmt.Sprintf("%03d", is.bus), fmt.Sprintf("%03d", is.dev)) == filepath.Join(bus, dev) {
			delete(w.left, name)
		}
	}
	dir, ok := sysfsDir(filepath.Join(w.dev, bus, dev))
	if !ok {
		return false
	}
	target, err := os.Readlink(dir) // …/usb1/1-1
	if err != nil {
		return false
	}
	name := filepath.Base(target)
	if _, err := os.Stat(filepath.Join(w.sys, name)); err != nil {
		return false
	}
	w.update(name)
	return true
}

func (w *Watcher) readUevents(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 16<<10) // a uevent has at most 2 KiB, udevd's at most 8
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		var n int
		var trusted bool
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			n, trusted, rerr = recvUevent(int(fd), buf, oob)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return // closed
		case errors.Is(rerr, unix.ENOBUFS):
			// Messages were dropped.
			w.scan(false)
			continue
		case errors.Is(rerr, unix.EINTR):
			continue
		case rerr != nil:
			w.log.Error("no more uevents", "error", rerr)
			return
		case !trusted:
			continue
		}
		e, err := parseUevent(buf[:n])
		if err != nil {
			w.log.Debug("uevent not understood", "error", err)
			continue
		}
		w.handle(e)
	}
}

// Groups of NETLINK_KOBJECT_UEVENT.
const (
	groupKernel = 1
	groupUdev   = 2
)

func openUevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// A hub full of readers makes hundreds of messages at once; without the
	// privilege the system's limit holds, and a scan makes good what was lost.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20)
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groupKernel | groupUdev})
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// recvUevent receives one message. Only the kernel is trusted, and root in udevd's
// group.
func recvUevent(fd int, buf, oob []byte) (n int, trusted bool, err error) {
	n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
	if err != nil {
		return 0, false, err
	}
	addr, ok := from.(*unix.SockaddrNetlink)
	if !ok {
		return n, false, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) == 0 {
		return n, false, nil
	}
	cred, err := unix.ParseUnixCredentials(&msgs[0])
	if err != nil || cred.Uid != 0 {
		return n, false, nil
	}
	return n, addr.Groups == groupKernel && addr.Pid == 0 || addr.Groups == groupUdev, nil
}

func readDecimal(dir, name string) (n uint64) {
	return uint64(decimal([]byte(readAttr(dir, name))))
}
