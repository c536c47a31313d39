package emu

import (
	"context"
	"strings"
	"time"

	"github.com/cardfs/cardfs/reader/icc"
)

// kindOf is the type of a memory card: I2C 80, 3-wire 81, 2-wire 82, counter 90.
func kindOf(m *icc.Memory) byte {
	switch name := m.Kind(); {
	case strings.HasPrefix(name, "at24"):
		return 0x80
	case name == "sle4418" || name == "sle4428":
		return 0x81
	case name == "sle4432" || name == "sle4442":
		return 0x82
	}
	return 0x90
}

func (s *slot) resetMemory(ctx context.Context, m *icc.Memory) []byte {
	s.Deactivate()
	h, err := s.ActivateMemory(ctx)
	if err != nil {
		return sw(nil, 0x6400)
	}
	if kindOf(m) == 0x80 {
		return sw(nil, 0x62A7)
	}
	return sw(append([]byte(nil), h...), 0x9000)
}

// files serves 3F00, 7F70 and 7F71, 7021 and 7121.
func (t *Terminal) files(c []byte) []byte {
	switch {
	case c[1] == 0xA4 && len(c) == 7 && c[4] == 2:
		id := uint16(c[5])<<8 | uint16(c[6])
		switch was := t.file; {
		case id == 0x3F00:
		case was == 0x3F00 && id >= 0x7F70 && int(id-0x7F70) < len(t.slots):
		case was >= 0x7F70 && was <= 0x7F71 && id == 0x7021+(was-0x7F70)<<8:
		default:
			return sw(nil, 0x6A82)
		}
		t.file = id
		return sw([]byte{0, 16}, 0x9000)
	case c[1] == 0xB0 && len(c) == 5:
		n := int(t.file>>8) - 0x70
		if t.file&0xFF != 0x21 || n < 0 || n >= len(t.slots) {
			return sw(nil, 0x6986)
		}
		s := t.slots[n]
		var b []byte
		if t.cfg.B1 {
			b = []byte{0x21, 1, 0}
			if s.Present() {
				b[2] = 1
			}
		}
		if m, ok := s.Card().(*icc.Memory); ok {
			b = append(b, 0x22, 1, kindOf(m))
		}
		off := int(c[2])<<8 | int(c[3])
		if off >= len(b) {
			return sw(nil, 0x6B00)
		}
		return sw(b[off:], 0x6282)
	}
	return sw(nil, 0x6D00)
}

// memory answers READ and UPDATE BINARY to a memory card.
func (s *slot) memory(ctx context.Context, m *icc.Memory, c []byte) []byte {
	if kind := kindOf(m); kind&0xF0 != s.t&0xF0 || kind < 0x90 && kind != s.t {
		return sw(nil, 0x6F00) // no protocol was chosen, or a wrong one
	}
	size := len(m.Contents())
	at := int(c[2])<<8 | int(c[3])
	if at >= size {
		return sw(nil, 0x6B00)
	}
	switch {
	case c[1] == 0xB0 && len(c) == 5:
		n := int(c[4])
		if n == 0 {
			n = 256
		}
		w := uint16(0x9000)
		if at+n > size {
			n, w = size-at, 0x6282
		}
		return sw(s.read(ctx, at, n, size), w)
	case c[1] == 0xD0 && len(c) > 5 && len(c) == 5+int(c[4]) && at+int(c[4]) <= size:
		for i, b := range c[5:] {
			if !s.write(ctx, at+i, b, size) {
				return sw(nil, 0x6581)
			}
		}
		return sw(nil, 0x9000)
	}
	return sw(nil, 0x6700)
}

func device(at, size int) []byte {
	if size > 2048 {
		return []byte{0xA0, byte(at >> 8), byte(at)}
	}
	return []byte{0xA0 | byte(at>>8)<<1, byte(at)}
}

func (s *slot) read(ctx context.Context, at, n, size int) []byte {
	switch s.t {
	case 0x80:
		return s.chip(ctx, device(at, size), n)
	case 0x81:
		return s.chip(ctx, []byte{byte(at>>8)<<6 | 0x0E, byte(at), 0}, n)
	case 0x82:
		return s.chip(ctx, []byte{0x30, byte(at), 0}, n)
	}
	if in := s.chip(ctx, nil, at+n); in != nil {
		return in[at:]
	}
	return nil
}

func (s *slot) write(ctx context.Context, at int, b byte, size int) bool {
	switch s.t {
	case 0x80:
		return s.chip(ctx, append(device(at, size), b), 0) != nil
	case 0x81:
		return s.chip(ctx, []byte{byte(at>>8)<<6 | 0x33, byte(at), b}, 0) != nil
	case 0x82:
		return s.chip(ctx, []byte{0x38, byte(at), b}, 0) != nil
	}
	return false
}

// chip clocks one command, and again as long as the chip is busy.
func (s *slot) chip(ctx context.Context, out []byte, n int) []byte {
	for range 50 {
		if in, ok := s.Clock(ctx, out, n); ok {
			return append([]byte{}, in...)
		}
		if !s.Hold(ctx, time.Millisecond) {
			break
		}
	}
	return nil
}
