package usbip

import (
	"context"
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

	descDevice = 1
	descConfig = 2
	descString = 3

	langEnglishUS = 0x0409
)

// standard answers the standard requests that are the same for any device; ok
// is false for what the device itself must answer.
func (s *server) standard(ctx context.Context, r usb.Setup, data []byte) (n int, err error, ok bool) {
	if r.RequestType&0x60 != 0 {
		return 0, nil, false
	}
	switch [2]uint8{r.RequestType, r.Request} {
	case [2]uint8{0x80, getDescriptor}:
		d, found := s.descriptor(uint8(r.Value>>8), uint8(r.Value))
		if !found {
			return 0, nil, false
		}
		return copy(data, d), nil, true
	case [2]uint8{0x80, getStatus}, [2]uint8{0x81, getStatus}, [2]uint8{0x82, getStatus}:
		return copy(data, []byte{0, 0}), nil, true
	case [2]uint8{0x80, getConfiguration}:
		s.mu.Lock()
		defer s.mu.Unlock()
		return copy(data, []byte{s.config}), nil, true
	case [2]uint8{0x00, setConfiguration}:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.config = uint8(r.Value)
		clear(s.alt)
		return 0, nil, true
	case [2]uint8{0x81, getInterface}:
		s.mu.Lock()
		defer s.mu.Unlock()
		return copy(data, []byte{s.alt[r.Index]}), nil, true
	case [2]uint8{0x01, setInterface}:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.alt[r.Index] = uint8(r.Value)
		return 0, nil, true
	case [2]uint8{0x02, clearFeature}: // ENDPOINT_HALT is the only one
		return 0, s.dev.ClearHalt(ctx, uint8(r.Index)), true
	case [2]uint8{0x00, clearFeature}, [2]uint8{0x00, setFeature}: // remote wake-up
		return 0, nil, true
	}
	return 0, nil, false
}

func (s *server) descriptor(kind, index uint8) ([]byte, bool) {
	all := s.dev.Descriptors()
	if len(all) == 0 || int(all[0]) > len(all) {
		return nil, false
	}
	switch kind {
	case descDevice:
		return all[:all[0]], true
	case descConfig:
		// Configurations follow the device descriptor, each wTotalLength long.
		rest := all[all[0]:]
		for ; len(rest) >= 4; index-- {
			total := int(binary.LittleEndian.Uint16(rest[2:]))
			if total < 4 || total > len(rest) {
				total = len(rest) // a lie that the kernel is to find out
			}
			if index == 0 {
				return rest[:total], true
			}
			rest = rest[total:]
		}
		return nil, false
	case descString:
		if index == 0 {
			return []byte{4, descString, langEnglishUS & 0xFF, langEnglishUS >> 8}, true
		}
		text := s.dev.String(index)
		if text == "" {
			return nil, false
		}
		d := []byte{0, descString}
		for _, c := range utf16.Encode([]rune(text)) {
			if len(d) > 252 {
				break
			}
			d = binary.LittleEndian.AppendUint16(d, c)
		}
		d[0] = uint8(len(d))
		return d, true
	}
	return nil, false
}
