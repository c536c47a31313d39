package hotplug

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// udevMessage is a message of udevd with these properties.
func udevMessage(props string) []byte {
	m := []byte("libudev\x00")
	m = binary.BigEndian.AppendUint32(m, udevMagic)
	for _, n := range []uint32{40, 40, uint32(len(props)), 1, 2, 3, 4} {
		m = binary.NativeEndian.AppendUint32(m, n)
	}
	return append(m, props...)
}

const (
	kernelAdd = "add@/devices/pci0000:00/0000:00:04.0/usb1/1-1\x00ACTION=add\x00DEVPATH=/devices/pci0000:00/0000:00:04.0/usb1/1-1\x00" +
		"SUBSYSTEM=usb\x00MAJOR=189\x00MINOR=1\x00DEVNAME=bus/usb/001/002\x00DEVTYPE=usb_device\x00PRODUCT=8e6/4433/0\x00" +
		"TYPE=0/0/0\x00BUSNUM=001\x00DEVNUM=002\x00SEQNUM=1800\x00"
	udevBind = "ACTION=bind\x00DEVPATH=/devices/pci0000:00/0000:00:04.0/usb1/1-1/1-1:1.0\x00SUBSYSTEM=usb\x00DEVTYPE=usb_interface\x00"
)

func TestParseUevent(t *testing.T) {
	for _, tt := range []struct {
		msg  []byte
		want uevent
		name string
	}{
		{[]byte(kernelAdd), uevent{"add", "/devices/pci0000:00/0000:00:04.0/usb1/1-1", "usb", "usb_device", 1, 2}, "1-1"},
		{udevMessage(udevBind), uevent{"bind", "/devices/pci0000:00/0000:00:04.0/usb1/1-1/1-1:1.0", "usb", "usb_interface", 0, 0}, "1-1"},
	} {
		got, err := parseUevent(tt.msg)
		if err != nil || got != tt.want || got.name() != tt.name {
			t.Errorf("%q: %+v (%s), %v, want %+v", tt.msg, got, got.name(), err, tt.want)
		}
	}
	for _, bad := range [][]byte{
		nil, {0}, []byte("add"), []byte("add@/x\x00"), []byte("add@/x\x00ACTION=add\x00"), []byte("no path\x00ACTION=add\x00DEVPATH=/x\x00"),
		[]byte("libudev\x00"), udevMessage("")[:20], udevMessage("ACTION=add"),
		slices.Concat([]byte("libudev\x00\xFE\xED\xCA\xFE"), bytes.Repeat([]byte{0xFF}, 28)),
		slices.Concat([]byte("libudev\x00\x00\x00\x00\x00"), make([]byte, 28)),
	} {
		if e, err := parseUevent(bad); err == nil {
			t.Errorf("%q: %+v, want an error", bad, e)
		}
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte(kernelAdd))
	f.Add([]byte("remove@/devices/usb1/1-1\x00ACTION=remove\x00DEVPATH=/devices/usb1/1-1\x00BUSNUM=x\x00DEVNUM=99999999999\x00"))
	f.Add(udevMessage(udevBind))
	f.Add(udevMessage(udevBind)[:30])
	f.Fuzz(func(t *testing.T, msg []byte) {
		e, err := parseUevent(msg)
		if err != nil {
			return
		}
		if e.action == "" || e.devpath == "" || e.bus < 0 || e.dev < 0 {
			t.Errorf("%q: %+v", msg, e)
		}
		e.name()
	})
}

// A device may send anything as descriptors.
func FuzzMatch(f *testing.F) {
	f.Add(madeup(0x1209, 1, 0x0B))
	f.Add(append(madeup(0x1209, 1, 0x03), 9, 4, 1, 0, 0, 0x0B, 0, 0, 0))
	serves := newTable([]reader.Driver{byPair, byClass})
	f.Fuzz(func(t *testing.T, desc []byte) {
		if len(desc) >= 18 { // as usb.ActiveDescriptors gives them
			serves.match(desc)
		}
	})
}
