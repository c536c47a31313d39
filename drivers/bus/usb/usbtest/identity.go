package usbtest

import (
	"cmp"
	"encoding/binary"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// Identity is what the descriptors of a device say. It has one configuration, of value 1, with
// power from the bus and without remote wake-up, and each interface has one setting. A field that
// is zero means the value behind the colon here, which most of the emulated devices have.
type Identity struct {
	USB             uint16 // bcdUSB: 0110
	Class           uint8  // bDeviceClass, and so on; each interface has its own
	Subclass        uint8
	Protocol        uint8
	ControlPacket   uint8 // bMaxPacketSize0: 8
	Vendor, Product uint16
	Release         uint16 // bcdDevice: 0100
	Power           uint8  // bMaxPower, in 2 mA: 50

	// Manufacturer and Name are the strings 1 and 2. Serial is string 3; a device without one
	// says that it has none.
	Manufacturer, Name, Serial string

	Interfaces []usb.Interface
	// ExtraLast: Extra of an interface comes behind its endpoints, instead of before them.
	ExtraLast bool
}

// Bulk is a bulk endpoint.
func Bulk(address uint8, packet int) usb.Endpoint {
	return usb.Endpoint{Address: address, Attributes: 2, MaxPacket: packet}
}

// Interrupt is an interrupt endpoint.
func Interrupt(address uint8, packet int, interval uint8) usb.Endpoint {
	return usb.Endpoint{Address: address, Attributes: 3, MaxPacket: packet, Interval: interval}
}

// Descriptors returns the device descriptor (USB 2.0 table 9-8), followed by the configuration
// descriptor (table 9-10) with all that belongs to it.
func (i Identity) Descriptors() []byte {
	le := binary.LittleEndian
	serial := uint8(3)
	if i.Serial == "" {
		serial = 0
	}
	b := []byte{18, 1}
	b = le.AppendUint16(b, cmp.Or(i.USB, 0x0110))
	b = append(b, i.Class, i.Subclass, i.Protocol, cmp.Or(i.ControlPacket, 8))
	b = le.AppendUint16(b, i.Vendor)
	b = le.AppendUint16(b, i.Product)
	b = le.AppendUint16(b, cmp.Or(i.Release, 0x0100))
	b = append(b, 1, 2, serial, 1)

	var parts []byte
	for _, f := range i.Interfaces {
		parts = append(parts, i.describe(f)...)
	}
	b = append(b, 9, 2)
	b = le.AppendUint16(b, uint16(9+len(parts)))
	b = append(b, uint8(len(i.Interfaces)), 1, 0, 0x80, cmp.Or(i.Power, 50))
	return append(b, parts...)
}

// describe returns an interface descriptor (USB 2.0 table 9-12) with its endpoint descriptors
// (table 9-13).
func (i Identity) describe(f usb.Interface) []byte {
	b := []byte{9, 4, f.Number, 0, uint8(len(f.Endpoints)), f.Class, f.Subclass, f.Protocol, f.Name}
	if !i.ExtraLast {
		b = append(b, f.Extra...)
	}
	for _, e := range f.Endpoints {
		b = append(b, 7, 5, e.Address, e.Attributes)
		b = binary.LittleEndian.AppendUint16(b, uint16(e.MaxPacket))
		b = append(b, e.Interval)
	}
	if i.ExtraLast {
		b = append(b, f.Extra...)
	}
	return b
}

// strings returns the strings of a Model.
func (i Identity) strings() []string { return []string{i.Manufacturer, i.Name, i.Serial} }
