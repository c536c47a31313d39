package usbtest_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
)

// Standard requests are answered from the descriptors (USB 2.0 §9.4). One that the device
// does not know stalls.
func TestStandardRequests(t *testing.T) {
	descriptors := []byte{18, 1, 0, 2, 0, 0, 0, 64, 1, 0, 2, 0, 0, 1, 1, 0, 0, 2,
		9, 2, 25, 0, 1, 1, 0, 0x80, 50, 9, 4, 3, 1, 1, 0xFF, 0, 0, 0, 7, 5, 0x81, 2, 64, 0, 0,
		9, 2, 0xFF, 0, 0, 2, 0, 0x80, 50} // longer than there is
	d := usbtest.New(usbtest.Model{Descriptors: descriptors, Strings: []string{"toy", "", "ü"}})
	p := d.Plug()
	defer d.Unplug()
	d.Halt(0x81)
	for _, tt := range []struct {
		what  string
		setup string
		room  int
		want  []byte
		stall bool
	}{
		{"device descriptor, its first 8 bytes", "\x80\x06\x00\x01\x00\x00", 8, descriptors[:8], false},
		{"device descriptor", "\x80\x06\x00\x01\x00\x00", 64, descriptors[:18], false},
		{"first configuration", "\x80\x06\x00\x02\x00\x00", 255, descriptors[18:43], false},
		{"second configuration, as far as it goes", "\x80\x06\x01\x02\x00\x00", 255, descriptors[43:], false},
		{"third configuration", "\x80\x06\x02\x02\x00\x00", 255, nil, true},
		{"languages", "\x80\x06\x00\x03\x00\x00", 255, []byte{4, 3, 9, 4}, false},
		{"string 1", "\x80\x06\x01\x03\x09\x04", 255, []byte{8, 3, 't', 0, 'o', 0, 'y', 0}, false},
		{"string 2", "\x80\x06\x02\x03\x09\x04", 255, nil, true},
		{"string 3", "\x80\x06\x03\x03\x09\x04", 255, []byte{4, 3, 0xFC, 0}, false},
		{"string 4", "\x80\x06\x04\x03\x09\x04", 255, nil, true},
		{"device qualifier", "\x80\x06\x00\x06\x00\x00", 10, nil, true},
		{"status of the device", "\x80\x00\x00\x00\x00\x00", 2, []byte{0, 0}, false},
		{"status of the interface", "\x81\x00\x00\x00\x03\x00", 2, []byte{0, 0}, false},
		{"status of a halted endpoint", "\x82\x00\x00\x00\x81\x00", 2, []byte{1, 0}, false},
		{"clear halt", "\x02\x01\x00\x00\x81\x00", 0, nil, false},
		{"status of the endpoint", "\x82\x00\x00\x00\x81\x00", 2, []byte{0, 0}, false},
		{"set halt", "\x02\x03\x00\x00\x81\x00", 0, nil, false},
		{"status after that", "\x82\x00\x00\x00\x81\x00", 2, []byte{1, 0}, false},
		{"clear another feature", "\x02\x01\x05\x00\x81\x00", 0, nil, true},
		{"configuration before one is set", "\x80\x08\x00\x00\x00\x00", 1, []byte{0}, false},
		{"set configuration", "\x00\x09\x01\x00\x00\x00", 0, nil, false},
		{"get configuration", "\x80\x08\x00\x00\x00\x00", 1, []byte{1}, false},
		{"which ended the halt (§9.1.1.5)", "\x82\x00\x00\x00\x81\x00", 2, []byte{0, 0}, false},
		{"set a configuration that is not there", "\x00\x09\x07\x00\x00\x00", 0, nil, true},
		{"set interface", "\x01\x0B\x01\x00\x03\x00", 0, nil, false},
		{"get interface", "\x81\x0A\x00\x00\x03\x00", 1, []byte{1}, false},
		{"set a setting that is not there", "\x01\x0B\x02\x00\x03\x00", 0, nil, true},
		{"remote wake-up", "\x00\x03\x01\x00\x00\x00", 0, nil, false},
		{"a vendor request", "\xC0\x01\x00\x00\x00\x00", 1, nil, true},
	} {
		b := []byte(tt.setup)
		s := usb.Setup{RequestType: b[0], Request: b[1], Value: uint16(b[2]) | uint16(b[3])<<8, Index: uint16(b[4]) | uint16(b[5])<<8}
		got := make([]byte, tt.room)
		n, err := p.Control(t.Context(), s, got, time.Minute)
		if errors.Is(err, usb.ErrStall) != tt.stall || !tt.stall && err != nil || !bytes.Equal(got[:n], tt.want) {
			t.Errorf("%s: % X, %v, want % X, stall %v", tt.what, got[:n], err, tt.want, tt.stall)
		}
	}
}

// A request of the standard type that is neither the device's, an interface's nor an
// endpoint's (USB 2.0 §9.4) is the device's own, and may fail like one.
func TestOwnStandardRequest(t *testing.T) {
	wake := usb.Setup{RequestType: 0x03, Request: 0x02, Value: 0x0002}
	var got []usb.Setup
	d := usbtest.New(usbtest.Model{
		Descriptors: []byte{18, 1, 0, 2, 0, 0, 0, 64, 1, 0, 2, 0, 0, 1, 0, 0, 0, 1, 9, 2, 18, 0, 1, 1, 0, 0x80, 50, 9, 4, 0, 0, 0, 0xFF, 0, 0, 0},
		Control: func(_ context.Context, s usb.Setup, _ []byte) (int, error) {
			got = append(got, s)
			return 0, nil
		},
	})
	p := d.Plug()
	defer d.Unplug()
	if _, err := p.Control(t.Context(), wake, nil, time.Second); err != nil || len(got) != 1 || got[0] != wake {
		t.Errorf("%v, %v", got, err)
	}
	d.Inject(usbtest.Fault{Kind: usbtest.Stalled})
	if _, err := p.Control(t.Context(), wake, nil, time.Second); !errors.Is(err, usb.ErrStall) {
		t.Errorf("with a fault: %v", err)
	}
	s := usbtest.Session{{Kind: usbtest.Transfer, Control: true, Setup: wake}}
	player := usbtest.NewPlayer(t, s)
	if _, err := player.Control(t.Context(), wake, nil, time.Second); err != nil {
		t.Errorf("played: %v", err)
	}
}
