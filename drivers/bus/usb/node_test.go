package usb

import (
	"maps"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// A device is known to others by its bus and device number, written as in
// /dev/bus/usb, and by the one of its interfaces that stands for the reader.
func TestTell(t *testing.T) {
	// interfaces of these classes, the second of each with an alternate setting
	desc := func(classes ...byte) []byte {
		d := append([]byte{18, deviceDesc}, make([]byte, 16)...)
		d = append(d, 9, configDesc, 0, 0, byte(len(classes)), 1, 0, 0x80, 50)
		for i, c := range classes {
			d = append(d, 9, interfaceDesc, byte(i), 0, 0, c, 0, 0, 0)
			if i == 1 {
				d = append(d, 9, interfaceDesc, byte(i), 1, 0, 0x0B, 0, 0, 0)
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

// What happens while an attempt to open fails is not lost: it is tried again, and the
// device is announced anew by what happens from then on alone.
func TestStirredWhileFailing(t *testing.T) {
	for _, err := range []error{errNotConfigured, reader.ErrNoPermission, reader.ErrClaimed} {
		n := &node{stirred: make(chan struct{}), waiting: 1}
		before := n.stirred
		n.wake()
		if n.ended(err, before) || n.waiting != 1 || !n.ready() {
			t.Errorf("%v: given up though something happened meanwhile", err)
		}
		if !n.ended(err, n.stirred) || n.waiting != 0 || n.ready() {
			t.Errorf("%v: not given up though nothing happened", err)
		}
	}
	for _, err := range []error{nil, reader.ErrGone, reader.ErrProtocol} {
		n := &node{stirred: make(chan struct{}), waiting: 1}
		before := n.stirred
		n.wake()
		if !n.ended(err, before) || n.waiting != 0 || !n.ready() {
			t.Errorf("%v: tried again", err)
		}
	}
}
