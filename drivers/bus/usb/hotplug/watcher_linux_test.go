package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

var (
	d1 = device{name: "3-1", bus: 3, dev: 5}
	d2 = device{name: "3-2", bus: 3, dev: 6}
)

// "those that are there before it returns", in the order of their names, each with its
// attributes from sysfs.
func TestWatchAtStart(t *testing.T) {
	f := newTree(t)
	var want []string
	for i := range 9 {
		f.plug(device{name: fmt.Sprintf("3-1.%d", i), bus: 3, dev: 10 + i, attrs: map[string]string{"serial": fmt.Sprint(i)}})
		want = append(want, fmt.Sprintf("usb:3-1.%d", i))
	}
	f.plug(device{name: "1-1", bus: 1, dev: 2, desc: madeup(0x08E6, 0x4433, 0x0B), attrs: map[string]string{
		"manufacturer": "maker\n", "product": "thing\n", "serial": "S1\n"}})
	f.plug(device{name: "3-9", bus: 3, dev: 99, desc: madeup(0x08E6, 0x4433, 0x03)})
	f.must(os.Mkdir(filepath.Join(f.w.sys, "3-1.1:1.0"), 0o755))
	f.start("uevents")
	if len(f.news) != 10 {
		t.Fatalf("%d devices when Watch returned, want 10", len(f.news))
	}
	d := f.next()
	if d.Driver != "class" || d.Address != "usb:1-1" || d.Bus != "usb" || d.Port != "1-1" || d.Serial != "S1" ||
		d.ID != (reader.ID{Vendor: 0x08E6, Product: 0x4433, Model: "maker thing"}) {
		t.Errorf("announced %+v", d)
	}
	if n := d.Link.(*node); n.path != f.devfile(1, 2) {
		t.Errorf("device file %s", n.path)
	}
	var got []string
	for len(f.news) > 0 {
		got = append(got, f.next().Address)
	}
	if !slices.Equal(got, want) {
		t.Errorf("announced %q, want %q", got, want)
	}
}

// Devices are plugged and replugged, reported by uevents. Each is announced once, and leaves
// when the kernel says so, though sysfs still shows it for a moment.
func TestUeventPlug(t *testing.T) {
	f := newTree(t).start("uevents")
	for i := range 3 {
		d := d1
		d.dev += i
		f.plug(d)
		f.say(d.event("add"), d.ifEvent("add"), d.ifEvent("bind"), d.event("bind"))
		f.send(&message{text: udevMessage(string(d.event("add"))), from: udevAddr, cred: root})
		r := f.next()
		f.none("more events of a known device")
		f.stays(r, "more events")
		f.say(d.event("remove"))
		f.gone(r)
		f.say(d.ifEvent("unbind"), d.ifEvent("remove"), d.event("unbind"))
		f.none("sysfs still shows a device that is leaving")
		f.unplug(d)
		f.say(d.event("unbind"))
		f.none("a device that left")
	}
	if len(f.all) != 3 {
		t.Errorf("%d announced, want 3", len(f.all))
	}
}

// Two sources report events, and one may lag behind: an "add" of a device whose file is
// already gone announces nothing.
func TestLateAdd(t *testing.T) {
	f := newTree(t).start("uevents")
	f.plug(d1)
	f.say(d1.event("add"))
	r := f.next()
	f.w.nodeWent("003", "005")
	f.gone(r)
	f.say(d1.event("add"), d1.ifEvent("add"))
	f.none("it is leaving, and sysfs still shows it")
	f.unplug(d1)
	f.say(d1.event("remove"))
	f.heard()

	f.plug(d1) // the next one, with the same number
	f.say(d1.event("add"))
	f.next()
}

// A number is used again, even for the next device in the same port.
func TestNumberReused(t *testing.T) {
	f := newTree(t).start("uevents")
	f.plug(d1)
	f.say(d1.event("add"))
	r := f.next()
	f.say(d1.event("remove"))
	f.gone(r)
	f.unplug(d1)
	f.plug(d1)
	f.say(d1.event("add"))
	r = f.next()

	// All messages of a replacement are lost except the first of the departure.
	f.say(d1.event("remove"))
	f.gone(r)
	f.unplug(d1)
	f.plug(d1)
	f.send(&message{err: unix.ENOBUFS})
	r = f.next()

	// All are lost.
	f.unplug(d1)
	f.plug(d1)
	f.send(&message{err: unix.ENOBUFS})
	f.gone(r)
	r = f.next()

	// udevd reports the previous device's departure late.
	d := d1
	d.dev++
	f.unplug(d1)
	f.plug(d)
	f.say(d.event("add"))
	f.gone(r)
	r = f.next()
	f.say(d1.event("remove"))
	f.stays(r, "the departure of another device in the same port")
	f.none("nothing new")
}

// A device's number in sysfs changed, and a single event reports it.
func TestAnotherInThePort(t *testing.T) {
	f := newTree(t).start("uevents")
	f.plug(d1)
	f.say(d1.event("add"))
	r := f.next()
	f.file(d1.name, "devnum", "7\n")
	f.say(d1.ifEvent("add"), d1.event("change"))
	f.stays(r, "events of the same device cost no look at sysfs")
	d := d1
	d.dev = 7
	f.say(d.event("change"))
	f.gone(r)
	if r := f.next(); r.Link.(*node).path != f.devfile(3, 7) {
		t.Errorf("the next has device file %s", r.Link.(*node).path)
	}
}

// The removal of a device that was not yet announced counts too.
func TestRemovedBeforeAnnounced(t *testing.T) {
	f := newTree(t).start("uevents")
	f.plug(d1)
	loose := f.stick(d1, "bConfigurationValue")
	f.say(d1.event("add"), d1.event("remove"))
	f.heard()
	loose("1\n")
	f.none("it is leaving")
	f.w.scan(false, true)
	f.none("it is leaving, and sysfs shows it")
	f.say(d1.event("remove"))
	f.quiet()
	f.w.Rescan()
	f.next() // after all it is there
}

// A hub leaves with all that is plugged into it, and is no reader itself.
func TestHub(t *testing.T) {
	f := newTree(t)
	hub := device{name: "3-1", bus: 3, dev: 2, desc: madeup(0x1209, 1, 0x0B)}
	hub.desc[4] = classHub
	f.plug(hub)
	f.stick(hub, "bConfigurationValue") // a hub that the kernel holds busy holds up nothing else
	var all []reader.Device
	var kids []device
	f.start("uevents")
	for i := range 4 {
		d := device{name: fmt.Sprintf("3-1.%d", i+1), bus: 3, dev: 10 + i}
		f.plug(d)
		f.say(d.event("add"))
		kids, all = append(kids, d), append(all, f.next())
	}
	for _, d := range kids {
		f.say(d.event("remove"))
		f.unplug(d)
	}
	f.say(hub.event("remove"))
	for _, r := range all {
		f.gone(r)
	}
	f.none("a hub is no reader")
}

// USBGuard, or authorized_default=0: the device is there without a configuration until
// somebody allows it.
func TestAuthorizedLater(t *testing.T) {
	unauthorized := map[string]string{"authorized": "0\n", "bConfigurationValue": "\n"}
	for _, how := range []string{"interface", "change", "bind", "rescan"} {
		t.Run(how, func(t *testing.T) {
			f := newTree(t)
			d := d1
			d.attrs = unauthorized
			f.plug(d)
			f.start("uevents")
			r := f.next()
			n := r.Link.(*node)
			n.since = n.since.Add(-configTime) // it came a while ago
			_, err := n.OpenUSB(t.Context(), 0)
			if !errors.Is(err, errNotConfigured) || !strings.Contains(err.Error(), "not authorized") {
				t.Errorf("open: %v", err)
			}
			f.say(d.event("change"))
			f.w.Rescan()
			f.stays(r, "it is still not authorized")
			f.none("it is still not authorized")
			f.file(d.name, "authorized", "1\n")
			f.file(d.name, "bConfigurationValue", "1\n")
			switch how {
			case "interface":
				f.say(d.ifEvent("add"))
			case "rescan":
				f.w.Rescan()
			default:
				f.say(d.event(how))
			}
			f.gone(r)
			r = f.next()
			f.say(d.ifEvent("bind"))
			f.stays(r, "it was announced anew")

			// The permission is withdrawn: the reader leaves until the device is allowed again.
			f.file(d.name, "bConfigurationValue", "\n")
			f.say(d.ifEvent("remove"))
			f.gone(r)
			f.say(d.event("change"))
			f.none("it is not authorized any more")
			f.file(d.name, "bConfigurationValue", "1\n")
			f.say(d.ifEvent("add"))
			r = f.next()
			f.say(d.ifEvent("add"))
			f.stays(r, "nothing new")
		})
	}
}

// A caller that waits in OpenUSB is woken by the configuration, and the reader stays.
func TestConfiguredWhileOpening(t *testing.T) {
	f := newTree(t)
	d := d1
	d.attrs = map[string]string{"bConfigurationValue": "\n"}
	f.plug(d)
	f.start("uevents")
	r := f.next()
	r.Link.(*node).since = r.Link.(*node).since.Add(1 << 40)
	end := make(chan error, 1)
	go func() {
		_, err := usb.Open(t.Context(), r, 0)
		end <- err
	}()
	f.file(d.name, "bConfigurationValue", "1\n")
	f.say(d.ifEvent("add"))
	if err := await(t, end, "end of OpenUSB"); err != nil {
		t.Errorf("open: %v", err)
	}
	f.stays(r, "it was opened in time")
}

// The configuration that the kernel chose may be another than the first.
func TestOtherConfiguration(t *testing.T) {
	f := newTree(t)
	two := madeup(0x1209, 1, 0xFF)
	two[17] = 2
	two = append(two, 9, 2, 18, 0, 1, 2, 0, 0x80, 50, 9, 4, 0, 0, 0, 0x0B, 0, 0, 0)
	d := d1
	d.desc, d.attrs = two, map[string]string{"bConfigurationValue": "\n"}
	f.plug(d)
	f.start("uevents")
	r := f.next()
	f.file(d.name, "bConfigurationValue", "2\n")
	f.w.Rescan()
	f.gone(r)
	if got := f.next().Link.(*node).Descriptors(); usb.Interfaces(got)[0].Class != 0x0B {
		t.Errorf("descriptors % X are not those of configuration 2", got)
	}
}

// A device that the kernel holds busy delays no other device, and Close does not wait for
// it.
func TestStuckDevice(t *testing.T) {
	for _, attr := range []string{"bConfigurationValue", "serial", "descriptors", "devnum"} {
		t.Run(attr, func(t *testing.T) {
			f := newTree(t)
			f.plug(d1)
			loose := f.stick(d1, attr)
			f.plug(d2)
			f.w.most = 200 * time.Millisecond
			f.start("uevents", "inotify")
			if r := f.next(); r.Address != "usb:3-2" || len(f.news) != 0 {
				t.Fatalf("announced %s", r.Address)
			}
			if f.log.count("the kernel is busy") == 0 {
				t.Error("nothing is said of the busy device")
			}
			d3 := device{name: "3-3", bus: 3, dev: 7}
			f.plug(d3)
			f.say(d1.event("bind"), d1.ifEvent("add"), d3.event("add"))
			r := f.next()
			f.unplug(d3)
			f.say(d3.event("remove"))
			f.gone(r)
			f.w.nodeCame("003", "005")
			f.w.nodeChanged("003", "005")
			f.w.nodeWent("003", "005")

			// Another device takes its place, and is not delayed.
			f.must(os.Rename(filepath.Join(f.root, "sys/devices", d1.name), filepath.Join(t.TempDir(), "was")))
			f.say(d1.event("remove"))
			d := d1
			d.dev = 9
			_ = os.Remove(filepath.Join(f.w.sys, d.name))
			f.plug(d)
			f.say(d.event("add"))
			if r := f.next(); r.Link.(*node).path != f.devfile(3, 9) {
				t.Errorf("announced %s", r.Link.(*node).path)
			}
			f.must(f.w.Close())
			loose("1\n")
			f.none("the watcher is closed")
		})
	}
}

// OpenUSB of a device that the kernel holds busy ends with its context, or when the device
// leaves.
func TestStuckOpen(t *testing.T) {
	f := newTree(t)
	f.plug(d1)
	f.start("uevents")
	r := f.next()
	loose := f.stick(d1, "bConfigurationValue")
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	open := func() { _, err := r.Link.(*node).OpenUSB(ctx, 0); end <- err }
	go open()
	cancel()
	if err := await(t, end, "end of OpenUSB"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	ctx = t.Context()
	go open()
	f.say(d1.event("remove"))
	if err := await(t, end, "end of OpenUSB"); !errors.Is(err, reader.ErrGone) {
		t.Errorf("gone: %v", err)
	}
	loose("1\n")
}

// A rescan announces a device anew that another program has, or that may not be opened. It
// leaves alone a device that was opened, or that nobody tried to open.
func TestRescan(t *testing.T) {
	for _, tt := range []struct {
		err     error
		waiting int
		mode    os.FileMode
		event   bool // the change of permissions is enough
		rescan  bool
	}{
		{nil, 0, 0o600, false, false},
		{reader.ErrClaimed, 0, 0o600, false, true},
		{reader.ErrClaimed, 1, 0o600, false, false},
		{reader.ErrNoPermission, 0, 0o600, true, true},
		{reader.ErrNoPermission, 1, 0o600, false, false},
	} {
		t.Run(fmt.Sprint(tt.err, tt.waiting), func(t *testing.T) {
			f := newTree(t)
			f.plug(d1)
			f.start("uevents")
			r := f.next()
			n := r.Link.(*node)
			changed := n.changed
			n.failure, n.waiting = tt.err, tt.waiting
			f.w.nodeChanged("003", "006")
			f.stays(r, "another device's file")
			f.w.nodeChanged("003", "005")
			await(t, changed, "wake-up")
			if !tt.event {
				f.stays(r, "its permissions are not what was missing")
				f.w.Rescan()
			}
			if !tt.event && !tt.rescan {
				f.stays(r, "rescan")
				return
			}
			f.gone(r)
			f.next()
			f.none("once")
		})
	}
}

// Still without permission, an event announces nothing.
func TestStillNoPermission(t *testing.T) {
	f := newTree(t)
	f.plug(d1)
	f.start("uevents")
	r := f.next()
	n := r.Link.(*node)
	n.failure, n.path = reader.ErrNoPermission, n.path+"/not/there" // root may open anything else
	f.say(d1.event("change"))
	f.stays(r, "no permission")
	f.w.Rescan()
	f.gone(r)
	f.next()
}

// A device that the host refuses is logged, and not announced again.
func TestRefused(t *testing.T) {
	f := newTree(t)
	f.fail = reader.ErrInvalid
	f.plug(d1)
	f.start("uevents")
	f.next()
	f.say(d1.event("bind"))
	f.w.Rescan()
	f.none("refused once")
	if f.log.count("USB reader not taken") != 1 {
		t.Error("the log does not say so")
	}
}

// Devices that left during a scan, and those that a source reported, are forgotten.
func TestForgets(t *testing.T) {
	f := newTree(t)
	f.plug(d1)
	f.plug(d2)
	f.start("uevents")
	a, b := f.next(), f.next()
	f.say(d1.event("remove"))
	f.gone(a)
	f.unplug(d1)
	f.unplug(d2)
	f.w.scan(false, true)
	f.gone(b)
	f.quiet()
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if len(f.w.known)+len(f.w.left)+len(f.w.resting)+len(f.w.early)+len(f.w.looks) != 0 {
		t.Errorf("known %v, left %v, resting %v, early %v", f.w.known, f.w.left, f.w.resting, f.w.early)
	}
}
