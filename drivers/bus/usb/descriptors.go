package usb

import (
	"encoding/binary"
	"fmt"

	"github.com/cardfs/cardfs/reader"
)

// Descriptor types and lengths (USB 2.0 tables 9-5, 9-8 to 9-13).
const (
	deviceDesc    = 1
	configDesc    = 2
	interfaceDesc = 4
	endpointDesc  = 5

	deviceLen    = 18
	configLen    = 9
	interfaceLen = 9
	endpointLen  = 7
)

// ActiveDescriptors reduces a device descriptor followed by all configuration descriptors
// to the device and one configuration: that with the given bConfigurationValue, or the
// first if value is 0.
func ActiveDescriptors(all []byte, value uint8) ([]byte, error) {
	if _, err := ParseDevice(all); err != nil {
		return nil, err
	}
	dev, rest := all[:deviceLen], all[deviceLen:]
	for len(rest) >= configLen {
		total := int(binary.LittleEndian.Uint16(rest[2:]))
		if rest[1] != configDesc || total < configLen || total > len(rest) {
			return nil, fmt.Errorf("configuration descriptor % X of %d bytes in all, %d are there: %w", rest[:configLen], total, len(rest), reader.ErrProtocol)
		}
		if value == 0 || rest[5] == value {
			return append(dev[:deviceLen:deviceLen], rest[:total]...), nil
		}
		rest = rest[total:]
	}
	if value == 0 {
		return nil, fmt.Errorf("no configuration descriptor: %w", reader.ErrProtocol)
	}
	return nil, fmt.Errorf("no configuration %d: %w", value, reader.ErrProtocol)
}

// Device has the fields that identify a device (USB 2.0 table 9-8).
type Device struct {
	Vendor, Product            uint16
	Release                    uint16 // bcdDevice
	Manufacturer, Name, Serial uint8  // indexes of string descriptors, 0: none
}

// ParseDevice reads the device descriptor that desc begins with.
func ParseDevice(desc []byte) (Device, error) {
	if len(desc) < deviceLen || desc[0] < deviceLen || desc[1] != deviceDesc {
		return Device{}, fmt.Errorf("no device descriptor in the first of %d bytes: %w", len(desc), reader.ErrProtocol)
	}
	le := binary.LittleEndian
	return Device{
		Vendor: le.Uint16(desc[8:]), Product: le.Uint16(desc[10:]), Release: le.Uint16(desc[12:]),
		Manufacturer: desc[14], Name: desc[15], Serial: desc[16],
	}, nil
}

// walk calls f with each descriptor behind the device descriptor. The latter has 18 bytes,
// whatever its length says: the kernel passes on no more. walk stops at an impossible
// length.
func walk(desc []byte, f func(d []byte)) {
	if len(desc) < deviceLen {
		return
	}
	for d := desc[deviceLen:]; len(d) >= 2; {
		n := int(d[0])
		if n < 2 || n > len(d) {
			return
		}
		f(d[:n])
		d = d[n:]
	}
}

// Interface is one interface of a device, in its alternate setting 0.
type Interface struct {
	Number                    uint8
	Class, Subclass, Protocol uint8
	Name                      uint8 // index of its string descriptor
	Endpoints                 []Endpoint
	// Extra are the class-specific and other descriptors between this
	// interface descriptor and the next.
	Extra []byte
}

// Endpoint is one endpoint.
type Endpoint struct {
	Address    uint8
	Attributes uint8 // bits 1-0: 0 control, 1 isochronous, 2 bulk, 3 interrupt
	MaxPacket  int
	Interval   uint8
}

// MaxInterfaces is the number of interfaces that Interfaces returns at most. Linux has the
// same limit.
const MaxInterfaces = 32

// Interfaces lists the interfaces of a configuration, as returned by Conn.Descriptors, in
// the order of the descriptors. An interface is in alternate setting 0 until another is
// selected (USB 2.0 §9.2.3), which no driver here does. So only the first descriptor of an
// interface number with setting 0 counts. Later ones are ignored with all that belongs to
// them. So are descriptors shorter than their fields, and those outside an interface.
//
// An endpoint address belongs to the first setting that has it. It is ignored in other
// interfaces, in any of their settings, and in a repetition of the same setting. Linux
// does the same: usbfs would send such transfers to the first interface, which another
// program may be using.
func Interfaces(desc []byte) []Interface {
	all, _ := interfaces(desc)
	return all
}

// Beyond returns the number of interfaces that Interfaces leaves out because there are
// more than MaxInterfaces.
func Beyond(desc []byte) int {
	_, beyond := interfaces(desc)
	return beyond
}

func interfaces(desc []byte) (all []Interface, beyond int) {
	type setting struct{ number, alternate uint8 }
	var cur *Interface // the one that descriptors now belong to; nil: they are ignored
	var at setting
	inside := false // in a setting whose endpoint addresses count, even if it is ignored
	known := map[setting]bool{}
	first := map[uint8]setting{} // the first to have an endpoint address
	walk(desc, func(d []byte) {
		switch d[1] {
		case interfaceDesc:
			if len(d) < interfaceLen {
				return
			}
			cur, at = nil, setting{d[2], d[3]}
			inside = !known[at]
			known[at] = true
			switch {
			case !inside, d[3] != 0:
				return
			case len(all) == MaxInterfaces:
				inside = false
				beyond++
				return
			}
			all = append(all, Interface{Number: d[2], Class: d[5], Subclass: d[6], Protocol: d[7], Name: d[8]})
			cur = &all[len(all)-1]
		case endpointDesc:
			if len(d) < endpointLen || !inside {
				return
			}
			was, taken := first[d[2]]
			switch {
			case !taken:
				first[d[2]] = at
			case was.number != at.number, was == at:
				return
			}
			if cur != nil {
				cur.Endpoints = append(cur.Endpoints, Endpoint{
					Address: d[2], Attributes: d[3],
					MaxPacket: int(binary.LittleEndian.Uint16(d[4:]) & 0x7FF), Interval: d[6],
				})
			}
		case deviceDesc, configDesc:
		default:
			if cur != nil {
				cur.Extra = append(cur.Extra, d...)
			}
		}
	})
	return all, beyond
}

// Split calls f with each descriptor of Extra.
func (i *Interface) Split(f func(d []byte)) {
	for d := i.Extra; len(d) > 0; d = d[d[0]:] {
		f(d[:d[0]])
	}
}

// Find returns the interface with that number.
func Find(desc []byte, number uint8) (Interface, error) {
	for _, i := range Interfaces(desc) {
		if i.Number == number {
			return i, nil
		}
	}
	return Interface{}, fmt.Errorf("no interface %d: %w", number, reader.ErrInvalid)
}
