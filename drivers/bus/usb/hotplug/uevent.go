package hotplug

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"strconv"

	"github.com/cardfs/cardfs/reader"
)

// uevent has the fields needed here of a message about a device, which is sent by the
// kernel, or by udevd after its rules.
type uevent struct {
	action  string // "add", "remove", "change", "bind" …
	devpath string // below /sys
	subsys  string
	devtype string // "usb_device" or "usb_interface"
	bus     int
	dev     int
}

// name returns the directory of the event's USB device in /sys/bus/usb/devices. The event
// of an interface belongs to its device.
func (e uevent) name() string {
	p := e.devpath
	if e.devtype == "usb_interface" {
		p = path.Dir(p)
	}
	return path.Base(p)
}

// udevMagic follows "libudev\0" in a message of udevd (systemd
// src/libsystemd/sd-device/device-monitor.c, monitor_netlink_header). Numbers
// behind the magic are in the machine's byte order.
const udevMagic = 0xFEEDCAFE

// parseUevent reads a message of the kernel ("ACTION@DEVPATH", then KEY=VALUE,
// each with a NUL; Linux lib/kobject_uevent.c) or of udevd.
func parseUevent(msg []byte) (uevent, error) {
	var props []byte
	if rest, ok := bytes.CutPrefix(msg, []byte("libudev\x00")); ok {
		// magic, header size, offset and length of the properties
		if len(rest) < 16 || binary.BigEndian.Uint32(rest) != udevMagic {
			return uevent{}, fmt.Errorf("uevent of udevd: bad header: %w", reader.ErrProtocol)
		}
		off, n := uint64(binary.NativeEndian.Uint32(rest[8:])), uint64(binary.NativeEndian.Uint32(rest[12:]))
		if off+n > uint64(len(msg)) {
			return uevent{}, fmt.Errorf("uevent of udevd: %d bytes at %d in a message of %d: %w", n, off, len(msg), reader.ErrProtocol)
		}
		props = msg[off : off+n]
	} else {
		head, rest, ok := bytes.Cut(msg, []byte{0})
		if !ok || !bytes.Contains(head, []byte("@/")) {
			return uevent{}, fmt.Errorf("uevent: starts with %q: %w", head[:min(len(head), 40)], reader.ErrProtocol)
		}
		props = rest
	}
	var e uevent
	for kv := range bytes.SplitSeq(props, []byte{0}) {
		k, v, _ := bytes.Cut(kv, []byte("="))
		switch string(k) {
		case "ACTION":
			e.action = string(v)
		case "DEVPATH":
			e.devpath = string(v)
		case "SUBSYSTEM":
			e.subsys = string(v)
		case "DEVTYPE":
			e.devtype = string(v)
		case "BUSNUM":
			e.bus = decimal(v)
		case "DEVNUM":
			e.dev = decimal(v)
		}
	}
	if e.action == "" || e.devpath == "" {
		return uevent{}, fmt.Errorf("uevent: no ACTION or no DEVPATH: %w", reader.ErrProtocol)
	}
	return e, nil
}

func decimal(b []byte) int {
	n, err := strconv.ParseUint(string(b), 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}
