package ccid

import (
	"encoding/binary"
	"unicode/utf16"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// String is string descriptor i.
func (e *Emulator) String(i uint8) string {
	if all := []string{"", e.cfg.Manufacturer, e.cfg.Name, e.cfg.Serial}; int(i) < len(all) {
		return all[i]
	}
	return ""
}

// Descriptors are the device and the configuration descriptor.
func (e *Emulator) Descriptors() []byte { return append(e.deviceDescriptor(), e.configDescriptor()...) }

func (e *Emulator) deviceDescriptor() []byte {
	c := &e.cfg
	serial := byte(3)
	if c.Serial == "" {
		serial = 0
	}
	return []byte{18, 1, 0x00, 0x02, 0, 0, 0, 64,
		byte(c.Vendor), byte(c.Vendor >> 8), byte(c.Product), byte(c.Product >> 8),
		byte(c.Release), byte(c.Release >> 8), 1, 2, serial, 1}
}

func (e *Emulator) configDescriptor() []byte {
	c := &e.cfg
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
	if c.Protocol == ProtocolCCID {
		add(epBulkOut, 2, byte(c.PacketSize), 0)
		if c.PacketSize > 255 {
			eps[5] = byte(c.PacketSize >> 8)
		}
		add(epBulkIn, 2, byte(c.PacketSize), 0)
		if c.PacketSize > 255 {
			eps[12] = byte(c.PacketSize >> 8)
		}
	}
	if !c.NoInterrupt {
		add(epIntr, 3, 8, 24)
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

// standard answers the requests of USB 2.0 §9.4.
func (e *Emulator) standard(s usb.Setup, data []byte) (int, error) {
	const (
		getStatus, clearFeature, getDescriptor = 0, 1, 6
		getConfig, setConfig                   = 8, 9
		getInterface, setInterface             = 10, 11
	)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case s.RequestType == 0x80 && s.Request == getDescriptor:
		var d []byte
		switch index := byte(s.Value); s.Value >> 8 {
		case 1:
			d = e.deviceDescriptor()
		case 2:
			d = e.configDescriptor()
		case 3:
			if index == 0 {
				d = []byte{4, 3, 0x09, 0x04}
				break
			}
			text := e.String(index)
			if text == "" {
				return 0, usb.ErrStall
			}
			d = []byte{0, 3}
			for _, u := range utf16.Encode([]rune(text)) {
				d = append(d, byte(u), byte(u>>8))
			}
			d[0] = byte(len(d))
		default:
			return 0, usb.ErrStall
		}
		return copy(data, d), nil
	case s.Request == getStatus && s.RequestType&0x80 != 0:
		status := []byte{0, 0}
		if s.RequestType == 0x82 && e.halted[uint8(s.Index)] {
			status[0] = 1
		}
		return copy(data, status), nil
	case s.RequestType == 0x02 && s.Request == clearFeature && s.Value == 0:
		delete(e.halted, uint8(s.Index))
		e.stir()
		return 0, nil
	case s.RequestType == 0x80 && s.Request == getConfig:
		return copy(data, []byte{e.config}), nil
	case s.RequestType == 0x00 && s.Request == setConfig && s.Value <= 1:
		e.config = uint8(s.Value)
		for n, slot := range e.slots {
			e.changed[n] = slot.contact.Present()
		}
		e.stir()
		return 0, nil
	case s.RequestType == 0x81 && s.Request == getInterface:
		return copy(data, []byte{0}), nil
	case s.RequestType == 0x01 && s.Request == setInterface && s.Value == 0:
		return 0, nil
	}
	return 0, usb.ErrStall
}

// classDescriptor is CCID 1.1 table 5.1-1 filled in.
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
