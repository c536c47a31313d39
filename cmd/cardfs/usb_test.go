package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/gousb"
	"github.com/cardfs/cardfs/reader"
)

// --usb names a transport, or off. What it took when it was a flag of yes and no keeps
// its meaning.
func TestUSBFlag(t *testing.T) {
	same := func(a, b usb.Transport) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }
	for args, want := range map[string]usb.Transport{
		"": usb.Usbfs, "--usb": usb.Usbfs, "--usb=usbfs": usb.Usbfs, "--usb=true": usb.Usbfs, "--usb=1": usb.Usbfs,
		"--usb=gousb": gousb.Open, "--usb=off": nil, "--usb=false": nil, "--usb=0": nil,
	} {
		cmd := newMount()
		if err := cmd.ParseFlags(strings.Fields(args)); err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		name := cmd.Flag("usb").Value.String()
		got, err := usbTransport(name)
		if args == "--usb=gousb" && gousb.Missing() != nil {
			if !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "without cgo") {
				t.Errorf("%s: %v, want what is missing", args, err)
			}
			continue
		}
		if err != nil || (got == nil) != (want == nil) || got != nil && !same(got, want) {
			t.Errorf("%s: %s, %v", args, name, err)
		}
	}
	for _, bad := range []string{"", "libusb", "on", "USBFS"} {
		if _, err := usbTransport(bad); !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), "gousb and usbfs") {
			t.Errorf("%q: %v, want what there is", bad, err)
		}
	}
}
