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

// activeDescriptors takes a device descriptor followed by all configuration
// descriptors and leaves the one with the given bConfigurationValue, or the
// first where value is 0.
func activeDescriptors(all []byte, value uint8) ([]byte, error) {
	if len(all) < deviceLen || all[0] < deviceLen || all[1] != deviceDesc {
		return nil, fmt.Errorf("no device descriptor in % X: %w", all[:min(len(all), 32)], reader.ErrProtocol)
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

// walk calls f with each descriptor behind the device descriptor. It stops
// where a length is impossible.
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

// Interface is one interface of a device, in its first alternate setting.
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

// Interfaces lists the interfaces of a configuration, as Conn.Descriptors gives
// it, by their first alternate settings in the order of the descriptor.
// Descriptors that are cut short or too small are passed over.
func Interfaces(desc []byte) []Interface {
	var all []Interface
	at := -1 // the interface that descriptors belong to
	walk(desc, func(d []byte) {
		switch {
		case d[1] == interfaceDesc && len(d) >= interfaceLen:
			at = -1
			for _, i := range all {
				if i.Number == d[2] {
					return // another alternate setting
				}
			}
			at = len(all)
			all = append(all, Interface{Number: d[2], Class: d[5], Subclass: d[6], Protocol: d[7], Name: d[8]})
		case at < 0:
		case d[1] == endpointDesc && len(d) >= endpointLen:
			all[at].Endpoints = append(all[at].Endpoints, Endpoint{
				Address: d[2], Attributes: d[3],
				MaxPacket: int(binary.LittleEndian.Uint16(d[4:]) & 0x7FF), Interval: d[6],
			})
		default:
			all[at].Extra = append(all[at].Extra, d...)
		}
	})
	return all
}

// endpointTypes tells how usbfs transfers on each endpoint of an interface.
func endpointTypes(desc []byte, iface uint8) (map[uint8]uint8, error) {
	for _, i := range Interfaces(desc) {
		if i.Number != iface {
			continue
		}
		types := map[uint8]uint8{}
		for _, e := range i.Endpoints {
			switch e.Attributes & 3 {
			case 2:
				types[e.Address] = urbBulk
			case 3:
				types[e.Address] = urbInterrupt
			}
		}
		return types, nil
	}
	return nil, fmt.Errorf("no interface %d: %w", iface, reader.ErrInvalid)
}
