package emu

import (
	"encoding/binary"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
)

// identity is what the reader says of itself.
func (c *Config) identity() usbtest.Identity {
	class := c.classDescriptor()
	if c.Lie != nil {
		class = c.Lie(class)
	}
	var endpoints []usb.Endpoint
	if c.Protocol == CCID {
		endpoints = append(endpoints, usbtest.Bulk(bulkOut, c.PacketSize), usbtest.Bulk(bulkIn, c.PacketSize))
	}
	if !c.NoInterrupt {
		endpoints = append(endpoints, usbtest.Interrupt(interruptIn, 8, 24))
	}
	return usbtest.Identity{
		USB: 0x0200, ControlPacket: 64, Vendor: c.Vendor, Product: c.Product, Release: c.Release,
		Manufacturer: c.Manufacturer, Name: c.Name, Serial: c.Serial,
		Interfaces: []usb.Interface{{Class: c.Class, Protocol: c.Protocol, Endpoints: endpoints, Extra: class}},
		ExtraLast:  c.DescriptorLast,
	}
}

// classDescriptor returns the class descriptor of CCID 1.1 table 5.1-1.
func (c *Config) classDescriptor() []byte {
	d := make([]byte, 54)
	le := binary.LittleEndian
	d[0], d[1] = 54, 0x21
	le.PutUint16(d[2:], 0x0110)
	d[4] = byte(c.Slots - 1)
	d[5] = c.Voltages
	le.PutUint32(d[6:], c.Protocols)
	le.PutUint32(d[10:], uint32(c.Clock))
	le.PutUint32(d[14:], uint32(c.Clock))
	le.PutUint32(d[19:], uint32(c.DataRate))
	le.PutUint32(d[23:], uint32(c.MaxRate))
	d[27] = byte(len(c.Rates))
	le.PutUint32(d[28:], uint32(c.MaxIFSD))
	le.PutUint32(d[36:], c.Mechanical)
	features := uint32(c.Features)
	switch c.Level {
	case reader.TPDU:
		features |= 0x10000
	case reader.ShortAPDU:
		features |= 0x20000
	case reader.ExtendedAPDU:
		features |= 0x40000
	}
	le.PutUint32(d[40:], features)
	le.PutUint32(d[44:], uint32(c.MaxMessage))
	d[48], d[49] = 0xFF, 0xFF
	if c.PINPad {
		d[50], d[51] = 16, 2
		d[52] = 3
	}
	d[53] = byte(c.BusySlots)
	return d
}
