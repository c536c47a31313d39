package hotplug

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Watcher announces USB readers when they are plugged in and reports when they leave.
//
// Three sources report possible changes: uevents of the kernel, uevents of udevd after its
// rules, and inotify on /dev/bus/usb, which also works in containers without uevents. The
// state itself is then read from sysfs. Nothing is polled while one of the sources works.
// The departure of an open device is reported first by its device file.
//
//	source --event--> look --sight--> apply --> announced, left, or unchanged
//
// A look reads sysfs in a goroutine for each device and holds no lock. The kernel may
// block it, and that must not delay other devices. Only apply changes the known devices.
type Watcher struct {
	host   reader.Host
	open   usb.Transport // of the devices that are announced
	serves table
	log    *slog.Logger
	sys    string        // /sys/bus/usb/devices
	char   string        // /sys/dev/char
	dev    string        // /dev/bus/usb
	every  time.Duration // pollEvery
	most   time.Duration // lookTime
	after  func(time.Duration) <-chan time.Time
	deaf   bool // takes no uevents, for tests
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup // all goroutines except looks, which may block for ever

	openUevents, openInotify func() (source, error)

	// mu is held while the host is called, but never during a read that may block.
	mu     sync.Mutex
	closed bool
	known  map[string]*node // by sysfs name
	looks  map[string]*look
	// left are devices that are leaving according to a source. sysfs may still show
	// them.
	left map[string]deviceNumber
	// resting are known devices that have lost their configuration: they are leaving, or
	// are no longer authorized.
	resting map[string]deviceNumber
	early   map[string]int // looks at directories that are not complete
}

// source reports possible changes.
type source interface {
	// follow reports changes to w until Close or a permanent error.
	follow(w *Watcher) error
	Close() error
}

// New makes a bus that opens devices with open. A nil log discards messages.
func New(open usb.Transport, log *slog.Logger) *Watcher {
	return newWatcher(open, log, "/sys/bus/usb/devices", "/dev/bus/usb")
}

var _ reader.Bus = (*Watcher)(nil)

// Name returns the name for the log.
func (w *Watcher) Name() string { return "USB" }

// Watch announces to host every device that one of the drivers serves by an ID pair or an
// interface class. An ID pair takes precedence. A device is announced once, however many
// of its interfaces match. Its Link is a usb.Opener on the watcher's transport.
func (w *Watcher) Watch(ctx context.Context, host reader.Host, drivers []reader.Driver) error {
	w.host, w.serves = host, newTable(drivers)
	if err := w.start(ctx); err != nil {
		w.Close()
		return err
	}
	return nil
}

func newWatcher(open usb.Transport, log *slog.Logger, sys, dev string) *Watcher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Watcher{
		open: open, log: log,
		sys: sys, char: filepath.Join(sys, "../../../dev/char"), dev: dev,
		every: pollEvery, most: lookTime, after: time.After,
		openUevents: openUevents,
		openInotify: func() (source, error) {
			in, err := openInotify(dev)
			if err != nil {
				return nil, err
			}
			return in, nil
		},
		known: map[string]*node{}, looks: map[string]*look{},
		left: map[string]deviceNumber{}, resting: map[string]deviceNumber{}, early: map[string]int{},
	}
}

const (
	// pollEvery is the interval of reading sysfs while no source works.
	pollEvery = time.Second
	// lookTime is how long Watch and Rescan wait for devices with which the kernel is
	// busy. Those are announced later.
	lookTime = time.Second
)

func (w *Watcher) start(ctx context.Context) error {
	w.ctx, w.cancel = context.WithCancel(ctx)
	sources := 0
	for _, s := range []struct {
		what string
		open func() (source, error)
	}{
		{"uevents", w.openUevents},
		{"events from " + w.dev, w.openInotify},
	} {
		if w.deaf && s.what == "uevents" {
			w.log.Info("no uevents, as told")
			continue
		}
		src, err := s.open()
		if err != nil {
			w.log.Info("no "+s.what, "error", err)
			continue
		}
		sources++
		w.work.Go(func() { w.keep(s.what, src, s.open) })
	}
	if sources == 0 {
		w.log.Warn("USB devices are looked for every second: there are no uevents, and no "+w.dev+" to watch", "every", w.every)
		w.work.Go(func() {
			for w.pause(w.every) {
				w.scan(false, false)
			}
		})
	}
	w.scan(false, true) // after subscribing: a device that comes meanwhile is not missed
	return nil
}

// keep follows a source. If it fails, keep polls sysfs until the source works again.
func (w *Watcher) keep(what string, src source, open func() (source, error)) {
	for told := false; ; {
		stop := context.AfterFunc(w.ctx, func() { src.Close() })
		err := src.follow(w)
		stop()
		src.Close()
		if w.ctx.Err() != nil {
			return
		}
		if !told {
			told = true
			w.log.Error("no more "+what+"; USB devices are looked for until they come again", "every", w.every, "error", err)
		}
		for err != nil {
			if !w.pause(w.every) {
				return
			}
			src, err = open()
			w.scan(false, false) // after subscribing
		}
	}
}

// pause waits for d. It returns false if the watcher was closed meanwhile.
func (w *Watcher) pause(d time.Duration) bool {
	select {
	case <-w.ctx.Done():
		return false
	case <-w.after(d):
		return true
	}
}

// Close ends watching. Announced devices stay. Close does not wait for looks, which the
// kernel may block; they no longer change anything.
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

// Rescan looks at all devices that are plugged in now. Devices that could not be opened,
// for lack of permission or because another program had them, are tried again. Detached
// devices are announced again.
func (w *Watcher) Rescan() {
	w.mu.Lock()
	clear(w.left) // sysfs is up to date by now
	w.mu.Unlock()
	w.scan(true, true)
}

// lost is called when a source has dropped events. sysfs is read now, and once more later:
// the first time it may still show a device whose departure was among the lost events.
func (w *Watcher) lost() {
	w.scan(false, false)
	w.work.Go(func() {
		if !w.pause(w.every) {
			return
		}
		w.mu.Lock()
		clear(w.left)
		w.mu.Unlock()
		w.scan(false, false)
	})
}

// scan compares sysfs with the known devices. With wait it returns after that, and
// announces devices in the order of their names, so that readers keep their numbers from
// one start to the next. Devices with which the kernel is busy come later.
func (w *Watcher) scan(retry, wait bool) {
	w.mu.Lock()
	entries, err := os.ReadDir(w.sys) // waits for no device
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.mu.Unlock()
		w.log.Warn("looking for USB devices", "error", err)
		return // this does not mean that there are no devices
	}
	var order, limit chan struct{}
	if wait {
		limit = make(chan struct{})
		defer time.AfterFunc(w.most, func() { close(limit) }).Stop()
	}
	there := map[string]bool{}
	looks := map[string]*look{}
	for _, e := range entries {
		if name := e.Name(); !strings.Contains(name, ":") { // an interface
			there[name] = true
			if l := w.look(name, retry, order, limit); l != nil && wait {
				looks[name], order = l, l.done
			}
		}
	}
	for name, n := range w.known {
		if !there[name] {
			w.leave(n)
		}
	}
	for _, waiting := range []map[string]deviceNumber{w.left, w.resting} {
		for name := range waiting {
			if !there[name] {
				delete(waiting, name)
			}
		}
	}
	w.mu.Unlock()
	for name, l := range looks {
		select {
		case <-l.done:
			continue
		case <-limit:
		}
		select {
		case <-l.seen: // the look only waits for its turn
			select {
			case <-l.done:
			case <-time.After(w.most):
			}
		default:
			w.log.Warn("the kernel is busy with a USB device; it is looked at when that ends", "port", name)
		}
	}
}

// look is a look at a device, under way.
type look struct {
	again bool // an event came since it began
	retry bool
	stale bool          // the device has left
	seen  chan struct{} // closed after the first sight
	done  chan struct{}
}

// look starts a look at one device. Its result is applied after order is closed, but not
// later than limit, unless these are nil. There is only one look at a time for each
// device. w.mu is held.
func (w *Watcher) look(name string, retry bool, order, limit <-chan struct{}) *look {
	if w.closed {
		return nil
	}
	if l := w.looks[name]; l != nil {
		l.again = true
		l.retry = l.retry || retry
		return l
	}
	l := &look{retry: retry, seen: make(chan struct{}), done: make(chan struct{})}
	w.looks[name] = l
	go func() {
		defer close(l.done)
		seen := sync.OnceFunc(func() { close(l.seen) })
		for {
			s := w.see(name)
			seen()
			if order != nil {
				select {
				case <-order:
				case <-limit:
				}
			}
			w.mu.Lock()
			switch {
			case l.stale:
			case w.closed:
				delete(w.looks, name)
			case l.again:
				l.again = false
				w.mu.Unlock()
				continue
			default:
				delete(w.looks, name)
				w.apply(name, s, l.retry)
			}
			w.mu.Unlock()
			return
		}
	}()
	return l
}

// forget drops the look under way at a device that has left. It reports whether there was
// one. w.mu is held.
func (w *Watcher) forget(name string) bool {
	l := w.looks[name]
	if l == nil {
		return false
	}
	l.stale = true
	delete(w.looks, name)
	return true
}

// apply applies the result of a look. w.mu is held.
func (w *Watcher) apply(name string, s sight, retry bool) {
	old := w.known[name]
	switch {
	case s.incomplete && (old == nil || s.number == old.number || s.number == deviceNumber{}):
		w.later(name)
		return
	case s.number == deviceNumber{}:
		if old != nil {
			w.leave(old)
		}
		delete(w.early, name)
		return
	case old == nil:
	case old.number != s.number:
		w.leave(old)
	case old.configured && !s.configured:
		w.leave(old)
		w.resting[name] = s.number
		return
	case s.configured && !bytes.Equal(old.desc, s.desc): // another configuration than expected
		w.leave(old)
	case old.again(s.configured, retry):
		w.leave(old)
	default:
		old.configured = s.configured
		old.wake()
		return
	}
	if w.left[name] == s.number || w.resting[name] == s.number && !s.configured {
		return
	}
	delete(w.left, name)
	delete(w.resting, name)
	if s.incomplete {
		w.later(name)
		return
	}
	delete(w.early, name)
	if s.err != nil {
		w.log.Warn("USB device with bad descriptors", "port", name, "error", s.err)
	}
	if s.served {
		w.arrive(name, s)
	}
}

const classHub = 0x09 // bDeviceClass, USB 2.0 §11.23.1

// arrive announces a device. w.mu is held.
func (w *Watcher) arrive(name string, s sight) {
	n := &node{
		name: name, number: s.number, desc: s.desc, sys: filepath.Join(w.sys, name), configured: s.configured,
		path: filepath.Join(w.dev, fmt.Sprintf("%03d", s.number.bus), fmt.Sprintf("%03d", s.number.dev)),
		gone: make(chan struct{}), changed: make(chan struct{}), since: time.Now(), strings: s.strings, log: w.log, transport: w.open,
	}
	n.departed = func() { w.departed(n) }
	id := s.id
	d, _ := usb.ParseDevice(s.desc) // no error: match has parsed it already
	if maker, product := n.strings[d.Manufacturer], n.strings[d.Name]; product != "" && (id.Model == "" || id.Class != 0) {
		id.Model = product
		if !strings.HasPrefix(product, maker) {
			id.Model = maker + " " + product
		}
	}
	n.device = reader.Device{
		Driver: s.driver.Name(), Address: "usb:" + name, Bus: "usb",
		ID:     reader.ID{Vendor: d.Vendor, Product: d.Product, Model: id.Model},
		Serial: n.strings[d.Serial], Port: name, Link: n,
	}
	if c, ok := s.driver.(reader.SlotCounter); ok {
		// If CountSlots panics, the device has one slot until its driver has opened it.
		_ = reader.Guard(w.log, "driver "+s.driver.Name()+": CountSlots", func() { n.device.Slots = c.CountSlots(s.desc) })
	}
	w.known[name] = n
	if err := w.host.Announce(n.device); err != nil {
		w.log.Warn("USB reader not taken", "reader", n.device.Name(), "error", err)
	}
}

const (
	laterTime = 10 * time.Millisecond
	laterMost = 100
)

// later schedules another look at a device whose directory in sysfs is incomplete. The
// kernel makes the device file before the directory and sends the uevent after it, so this
// happens where there are no uevents. A device that is being removed will be gone by then.
// w.mu is held.
func (w *Watcher) later(name string) {
	if w.early[name]++; w.early[name] > laterMost || w.ctx == nil {
		delete(w.early, name)
		return
	}
	w.work.Go(func() {
		if !w.pause(laterTime) {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.look(name, false, nil, nil)
	})
}

// leave marks a device as gone: it has left, or it will be announced again. w.mu is held.
func (w *Watcher) leave(n *node) {
	delete(w.known, n.name)
	close(n.gone)
}

// depart is leave for a device that sysfs may show for a little longer. w.mu is held.
func (w *Watcher) depart(n *node) {
	w.forget(n.name)
	w.left[n.name] = n.number
	w.leave(n)
}

// departed is called when n's open device file reports the departure of the device. That
// is as soon as the kernel gives the device up. The uevent comes only after the kernel has
// removed the device, and in a container not at all.
func (w *Watcher) departed(n *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[n.name] == n {
		w.depart(n)
	}
}
