package usbtest

import (
	"encoding/binary"
	"unicode/utf16"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// Standard requests (USB 2.0 table 9-4).
const (
	getStatus        = 0x00
	clearFeature     = 0x01
	setFeature       = 0x03
	getDescriptor    = 0x06
	getConfiguration = 0x08
	setConfiguration = 0x09
	getInterface     = 0x0A
	setInterface     = 0x0B

	deviceDesc = 1
	configDesc = 2
	stringDesc = 3

	endpointHalt  = 0 // table 9-6
	langEnglishUS = 0x0409
)

// isStandard reports whether a request is one of USB 2.0 §9.4: these go to the device, an
// interface or an endpoint. Some devices have requests of their own that claim to be standard
// ones to something else.
func isStandard(s usb.Setup) bool { return s.RequestType&0x60 == 0 && s.RequestType&0x1F <= 2 }

// standard serves the standard requests (USB 2.0 §9.4).
func (d *Device) standard(s usb.Setup, data []byte) (int, error) {
	n, err := d.answer(s, data)
	if err == nil && s.RequestType == 0x00 && s.Request == setConfiguration && d.model.Configured != nil {
		d.model.Configured()
	}
	return n, err
}

func (d *Device) answer(s usb.Setup, data []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	type request struct{ kind, request uint8 }
	switch (request{s.RequestType, s.Request}) {
	case request{0x80, getDescriptor}:
		p := d.descriptor(uint8(s.Value>>8), uint8(s.Value))
		if p == nil {
			return 0, usb.ErrStall
		}
		return copy(data, p), nil
	case request{0x80, getStatus}, request{0x81, getStatus}:
		return copy(data, []byte{0, 0}), nil
	case request{0x82, getStatus}:
		var halted byte
		if d.at(uint8(s.Index)).halted {
			halted = 1
		}
		return copy(data, []byte{halted, 0}), nil
	case request{0x80, getConfiguration}:
		return copy(data, []byte{d.config}), nil
	case request{0x00, setConfiguration}:
		if value := uint8(s.Value); value != 0 && d.configuration(func(p []byte) bool { return p[5] == value }) == nil {
			return 0, usb.ErrStall
		}
		d.config = uint8(s.Value)
		clear(d.alternate)
		for i := range d.endpoints {
			d.endpoints[i].halted = false // §9.1.1.5
		}
		d.wakeAll()
		return 0, nil
	case request{0x81, getInterface}:
		return copy(data, []byte{d.alternate[s.Index]}), nil
	case request{0x01, setInterface}:
		if !d.hasSetting(uint8(s.Index), uint8(s.Value)) {
			return 0, usb.ErrStall
		}
		d.alternate[s.Index] = uint8(s.Value)
		return 0, nil
	case request{0x02, clearFeature}:
		if s.Value != endpointHalt {
			return 0, usb.ErrStall
		}
		d.at(uint8(s.Index)).halted = false
		d.wakeAll()
		return 0, nil
	case request{0x02, setFeature}:
		if s.Value != endpointHalt {
			return 0, usb.ErrStall
		}
		d.at(uint8(s.Index)).halted = true
		d.wakeAll()
		return 0, nil
	case request{0x00, clearFeature}, request{0x00, setFeature}: // remote wake-up
		return 0, nil
	}
	return 0, usb.ErrStall
}

// configuration is the first configuration that is wanted, with its interfaces;
// nil if there is none.
func (d *Device) configuration(wanted func(p []byte) bool) []byte {
	all := d.model.Descriptors
	if len(all) == 0 || int(all[0]) > len(all) {
		return nil
	}
	for rest := all[all[0]:]; len(rest) >= 9; {
		total := int(binary.LittleEndian.Uint16(rest[2:]))
		if total < 9 || total > len(rest) {
			total = len(rest) // the host is to find out
		}
		if wanted(rest) {
			return rest[:total]
		}
		rest = rest[total:]
	}
	return nil
}

// hasSetting reports whether an interface has an alternate setting.
func (d *Device) hasSetting(iface, setting uint8) bool {
	const interfaceDesc = 4
	for p := d.model.Descriptors; len(p) >= 4 && p[0] >= 2 && int(p[0]) <= len(p); p = p[p[0]:] {
		if p[1] == interfaceDesc && p[2] == iface && p[3] == setting {
			return true
		}
	}
	return false
}

// descriptor is one that a host can ask for; nil if there is none.
func (d *Device) descriptor(kind, index uint8) []byte {
	all := d.model.Descriptors
	switch {
	case len(all) == 0 || int(all[0]) > len(all):
	case kind == deviceDesc:
		return all[:all[0]]
	case kind == configDesc:
		n := -1
		return d.configuration(func([]byte) bool { n++; return n == int(index) })
	case kind == stringDesc && index == 0:
		return []byte{4, stringDesc, langEnglishUS & 0xFF, langEnglishUS >> 8}
	case kind == stringDesc && d.String(index) != "":
		return stringDescriptor(d.String(index))
	}
	return nil
}

// stringDescriptor is a string as a device sends it (USB 2.0 table 9-16).
func stringDescriptor(text string) []byte {
	p := []byte{0, stringDesc}
	for _, u := range utf16.Encode([]rune(text)) {
		if len(p) > 252 {
			break
		}
		p = binary.LittleEndian.AppendUint16(p, u)
	}
	p[0] = uint8(len(p))
	return p
}
