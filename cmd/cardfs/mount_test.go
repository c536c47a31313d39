package main

import (
	"errors"
	"os/user"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/gousb"
	"github.com/cardfs/cardfs/reader"
)

// "--allow-escape[=USER,…] gives escape to others": to all, or to those named, by name or
// number, and to nobody else.
func TestAllowEscape(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	for args, want := range map[string][3]bool{ // 1, nobody, 4294967295
		"":                      {},
		"--allow-escape":        {true, true, true},
		"--allow-escape=*":      {true, true, true},
		"--allow-escape=nobody": {false, true, false},
		"--allow-escape=1":      {true, false, false},
		"--allow-escape=1,nobody --allow-escape=4294967295": {true, true, true},
		"--allow-escape=1,*": {true, true, true},
	} {
		cmd := newMount()
		if err := cmd.ParseFlags(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		names, err := cmd.Flags().GetStringSlice("allow-escape")
		if err != nil {
			t.Fatal(err)
		}
		may, err := mayEscape(names)
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		if got := [3]bool{may(1), may(uint32(uid)), may(4294967295)}; got != want {
			t.Errorf("%s: %v, want %v", args, got, want)
		}
	}
	for _, bad := range []string{"no/such", "-1", "4294967296", ""} {
		if _, err := mayEscape([]string{"1", bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestLookupGroup(t *testing.T) {
	for name, want := range map[string]int{"root": 0, "0": 0, "12345": 12345} {
		if gid, err := lookupGroup(name); gid != want || err != nil {
			t.Errorf("%s: %d, %v", name, gid, err)
		}
	}
	if _, err := lookupGroup("no/such"); err == nil {
		t.Error("no error")
	}
}

// --usb takes a transport or off. The values from the time when it was a boolean flag keep
// their meaning.
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
