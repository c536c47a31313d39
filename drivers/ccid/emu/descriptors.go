package emu

import (
	"encoding/binary"

	"github.com/cardfs/cardfs/reader"
)

// descriptors returns the device descriptor followed by the configuration descriptor.
func (c *Config) descriptors() []byte { return append(c.deviceDescriptor(), c.configDescriptor()...) }

func (c *Config) deviceDescriptor() []byte {
	serial := byte(3)
	if c.Serial == "" {
		serial = 0
	}
	return []byte{18, 1, 0x00, 0x02, 0, 0, 0, 64,
		byte(c.Vendor), byte(c.Vendor >> 8), byte(c.Product), byte(c.Product >> 8),
		byte(c.Release), byte(c.Release >> 8), 1, 2, serial, 1}
}

func (c *Config) configDescriptor() []byte {
	class := c.classDescriptor()
	if c.Lie != nil {
		class = c.Lie(class)
	}
	var eps []byte
	count := byte(0)
	add := func(address, kind, size, interval byte) {
		eps = append(eps, 7, 5, address, kind, size, 0, interval)
		count++
	}
	if c.Protocol == CCID {
		add(bulkOut, 2, byte(c.PacketSize), 0)
		if c.PacketSize > 255 {
			eps[5] = byte(c.PacketSize >> 8)
		}
		add(bulkIn, 2, byte(c.PacketSize), 0)
		if c.PacketSize > 255 {
			eps[12] = byte(c.PacketSize >> 8)
		}
	}
	if !c.NoInterrupt {
		add(interruptIn, 3, 8, 24)
	}
	b := []byte{9, 2, 0, 0, 1, 1, 0, 0x80, 50, 9, 4, 0, 0, count, c.Class, 0, c.Protocol, 0}
	if c.DescriptorLast {
		b = append(append(b, eps...), class...)
	} else {
		b = append(append(b, class...), eps...)
	}
	b[2], b[3] = byte(len(b)), byte(len(b)>>8)
	return b
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
