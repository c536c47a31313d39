package hotplug

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// A device is known to other programs by its bus and device number, written as in
// /dev/bus/usb, and by the interface that stands for the reader.
func TestDescribe(t *testing.T) {
	// interfaces of these classes, the second of each with an alternate setting
	desc := func(classes ...byte) []byte {
		d := append([]byte{18, 1}, make([]byte, 16)...)
		d = append(d, 9, 2, 0, 0, byte(len(classes)), 1, 0, 0x80, 50)
		for i, c := range classes {
			d = append(d, 9, 4, byte(i), 0, 0, c, 0, 0, 0)
			if i == 1 {
				d = append(d, 9, 4, byte(i), 1, 0, 0x0B, 0, 0, 0)
			}
		}
		return d
	}
	for _, tt := range []struct {
		classes []byte
		want    string
	}{
		{nil, "0"},
		{[]byte{0xFF}, "0"},
		{[]byte{0x03, 0x0B}, "1"},             // a keyboard with a reader
		{[]byte{0xFF, 0x03, 0x0B, 0x0B}, "2"}, // CCID before the vendor's own
		{[]byte{0x03, 0x03, 0xFF}, "2"},
		{[]byte{0x03, 0x08}, "0"},
	} {
		n := &node{number: deviceNumber{bus: 4, dev: 12}, desc: desc(tt.classes...)}
		if got, want := n.Describe(), map[string]string{"usb": "004/012", "interface": tt.want}; !maps.Equal(got, want) {
			t.Errorf("classes % X: %v, want %v", tt.classes, got, want)
		}
	}
}

// An event during a failing attempt to open is not lost: the attempt is repeated. Afterwards
// only later events announce the device anew.
func TestChangedWhileFailing(t *testing.T) {
	for _, err := range []error{errNotConfigured, reader.ErrNoPermission, reader.ErrClaimed} {
		n := &node{changed: make(chan struct{}), waiting: 1}
		before := n.changed
		n.wake()
		if n.ended(err, before) || n.waiting != 1 || !n.ready() {
			t.Errorf("%v: given up though something happened meanwhile", err)
		}
		if !n.ended(err, n.changed) || n.waiting != 0 || n.ready() {
			t.Errorf("%v: not given up though nothing happened", err)
		}
	}
	for _, err := range []error{nil, reader.ErrGone, reader.ErrProtocol} {
		n := &node{changed: make(chan struct{}), waiting: 1}
		before := n.changed
		n.wake()
		if !n.ended(err, before) || n.waiting != 0 || !n.ready() {
			t.Errorf("%v: tried again", err)
		}
	}
}

// A transport receives the device's place and what sysfs says of it. The result of its open
// decides whether the device is announced again.
func TestOpenUSB(t *testing.T) {
	f := newTree(t)
	d := d1
	d.attrs = map[string]string{"serial": "S1\n"}
	f.plug(d)
	f.start("uevents")
	r := f.next()
	n := r.Link.(*node)
	c, err := usb.Open(t.Context(), r, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := c.(openConn).at
	if at.Name != "usb:3-1" || at.Path != f.devfile(3, 5) || at.Bus != 3 || at.Number != 5 || at.Config != 1 || at.Strings[3] != "S1" ||
		!bytes.Equal(at.Descriptors, madeup(0x1209, 1, 0xFF)) || at.Gone == nil || at.Log == nil {
		t.Errorf("opened at %+v", at)
	}
	if !n.ready() || n.waiting != 0 {
		t.Errorf("failure %v, %d waiting", n.failure, n.waiting)
	}
	f.refuseOpen(reader.ErrClaimed)
	if _, err := usb.Open(t.Context(), r, 0); !errors.Is(err, reader.ErrClaimed) || n.ready() || n.waiting != 0 {
		t.Errorf("claimed: %v; ready %v, %d waiting", err, n.ready(), n.waiting)
	}
	f.refuseOpen(nil)
	if _, err := usb.Open(t.Context(), r, 0); err != nil || !n.ready() {
		t.Fatalf("%v; failure %v", err, n.failure)
	}
	// The transport reports the departure; there is no event yet, and sysfs still shows the
	// device.
	at.Departed()
	if f.gone(r); len(f.news) > 0 {
		t.Error("announced anew")
	}
	f.w.scan(false, true)
	f.none("it is leaving, and sysfs shows it")
	if _, err := usb.Open(t.Context(), r, 0); !errors.Is(err, reader.ErrGone) {
		t.Errorf("gone: %v", err)
	}
	f.say(d.event("remove"))
	f.quiet()
	// "write rescan to ctl": the device is there after all.
	f.w.Rescan()
	r = f.next()
	at.Departed() // of the device before it
	f.stays(r, "another device's file")
}

// A refusal says what helps: the rule for that device.
func TestPermissionHint(t *testing.T) {
	f := newTree(t)
	f.plug(d1)
	f.start("uevents")
	n := f.next().Link.(*node)
	f.refuseOpen(fmt.Errorf("usb:3-1: open /dev/bus/usb/003/005: %w", reader.ErrNoPermission))
	_, err := n.open(0)
	if !errors.Is(err, reader.ErrNoPermission) {
		t.Fatal(err)
	}
	for _, want := range []string{
		"usb:3-1: open /dev/bus/usb/003/005", "no permission", `ATTR{idVendor}=="1209", ATTR{idProduct}=="0001"`, Group, RulesFile,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}
