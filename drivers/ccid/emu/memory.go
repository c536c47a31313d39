package emu

import (
	"context"
	"time"

	"github.com/cardfs/cardfs/reader/icc"
)

// memoryCard is what a reader of Config.Memory keeps of a memory card. It was written from the
// manuals of ACS (ACR38x (CCID) Reference Manual 6.04 §9.3).
type memoryCard struct {
	kind byte // FF A4: 1 and 2 I2C, 5 SLE 4418/28, 6 SLE 4432/42, 7 SLE 4406/36; 0: none selected
	page int
}

// isPseudo reports whether an XfrBlock is a pseudo-APDU, which the reader answers by itself.
func (s *slot) isPseudo(data []byte) bool {
	if !s.e.cfg.Memory || len(data) < 5 || data[0] != 0xFF {
		return false
	}
	return s.memory.kind != 0 || data[1] == 0xA4
}

func sw(in []byte, sw1, sw2 byte) reply { return reply{data: append(in, sw1, sw2)} }

// pseudo executes one.
func (s *slot) pseudo(ctx context.Context, c []byte) reply {
	ins, at, n := c[1], int(c[2])<<8|int(c[3]), int(c[4])
	data := c[5:]
	m := &s.memory
	if ins == 0xA4 {
		if at != 0 || n != 1 || len(data) != 1 || data[0] == 0 || data[0] > 7 {
			return sw(nil, 0x63, 0x00)
		}
		s.contact.Deactivate()
		if _, err := s.contact.ActivateMemory(ctx); err != nil {
			s.contact.Deactivate()
			m.kind = 0
			return sw(nil, 0x63, 0x00)
		}
		*m = memoryCard{kind: data[0], page: 8}
		return sw(nil, 0x90, 0x00)
	}
	i2c := m.kind == 1 || m.kind == 2
	counter, code, size := 0, 1, 3 // addresses in the chip, bytes of the code
	if m.kind == 5 {
		counter, code, size = 1021, 1022, 2
	}
	switch {
	case ins == 0x01 && i2c && len(data) == 1 && data[0] >= 3 && data[0] <= 7:
		m.page = 1 << data[0]
	case ins == 0xB0 && len(data) == 0 && n > 0:
		in, ok := s.read(ctx, at, n)
		if !ok {
			return sw(nil, 0x63, 0x00)
		}
		return sw(in, 0x90, 0x00)
	case ins == 0xD0 && len(data) == n && n > 0:
		if !s.write(ctx, at, data) {
			return sw(nil, 0x63, 0x00)
		}
	case ins == 0xB1 && m.kind == 6 && n == 4:
		in, _ := s.chip(ctx, []byte{0x31, 0, 0}, 4)
		return sw(in, 0x90, 0x00)
	case ins == 0xB1 && m.kind == 5 && n == 3:
		in, _ := s.chip(ctx, []byte{0xCE, 0xFD, 0}, 3)
		return sw(in, 0x90, 0x00)
	case ins == 0xB2 && m.kind == 6 && n == 4:
		in, _ := s.chip(ctx, []byte{0x34, 0, 0}, 4)
		return sw(in, 0x90, 0x00)
	case ins == 0xB2 && m.kind == 5 && n > 0:
		in, _ := s.chip(ctx, []byte{byte(at>>8)<<6 | 0x0C, byte(at), 0}, n)
		return sw(in, 0x90, 0x00)
	case ins == 0x20 && (m.kind == 5 || m.kind == 6) && len(data) == size:
		return sw(nil, 0x90, s.present(ctx, counter, code, data))
	case ins == 0xD2 && m.kind == 6 && at == 1 && len(data) == 3:
		for i, b := range data {
			s.chip(ctx, []byte{0x39, byte(1 + i), b}, 0)
		}
	default:
		return sw(nil, 0x6D, 0x00)
	}
	return sw(nil, 0x90, 0x00)
}

// chip clocks one command.
func (s *slot) chip(ctx context.Context, out []byte, n int) ([]byte, bool) {
	for range 50 {
		if in, ok := s.contact.Clock(ctx, out, n); ok {
			return in, true
		}
		if !s.contact.Hold(ctx, time.Millisecond) {
			break
		}
	}
	return make([]byte, n), false
}

func (s *slot) address(at int) []byte {
	switch s.memory.kind {
	case 1:
		return []byte{0xA0 | byte(at>>8&7)<<1, byte(at)}
	case 2:
		return []byte{0xA0, byte(at >> 8), byte(at)}
	}
	return nil
}

func (s *slot) read(ctx context.Context, at, n int) ([]byte, bool) {
	switch s.memory.kind {
	case 1, 2:
		return s.chip(ctx, s.address(at), n)
	case 5:
		return s.chip(ctx, []byte{byte(at>>8)<<6 | 0x0E, byte(at), 0}, n)
	case 6:
		return s.chip(ctx, []byte{0x30, byte(at), 0}, n)
	}
	in, ok := s.chip(ctx, nil, at+n)
	return in[at:], ok
}

func (s *slot) write(ctx context.Context, at int, data []byte) (ok bool) {
	for ok = true; ok && len(data) > 0; {
		k := 1
		switch s.memory.kind {
		case 1, 2:
			k = min(len(data), s.memory.page-at%s.memory.page)
			_, ok = s.chip(ctx, append(s.address(at), data[:k]...), 0)
		case 5:
			_, ok = s.chip(ctx, []byte{byte(at>>8)<<6 | 0x33, byte(at), data[0]}, 0)
		case 6:
			_, ok = s.chip(ctx, []byte{0x38, byte(at), data[0]}, 0)
		default:
			return false
		}
		at, data = at+k, data[k:]
	}
	return ok
}

// present does what the manual says: "search a '1' bit in the presentation error counter and
// write the bit to '0'; present the specified code to the card; try to erase the presentation
// error counter". It returns the counter.
func (s *slot) present(ctx context.Context, counter, code int, data []byte) byte {
	look, burn, compare, erase := []byte{0x31, 0, 0}, byte(0x39), byte(0x33), byte(0x39)
	if s.memory.kind == 5 {
		look, burn, compare, erase = []byte{0xCE, 0xFD, 0}, 0xF2, 0xCD, 0xF3
	}
	now, _ := s.chip(ctx, look, 1)
	for bit := byte(0x80); bit != 0; bit >>= 1 {
		if now[0]&bit != 0 {
			s.chip(ctx, []byte{burn, byte(counter), now[0] &^ bit}, 0)
			for i, b := range data {
				s.chip(ctx, []byte{compare, byte(code + i), b}, 0)
			}
			s.chip(ctx, []byte{erase, byte(counter), 0xFF}, 0)
			break
		}
	}
	now, _ = s.chip(ctx, look, 1)
	return now[0]
}

// synthetic is the ATR that a reader with Config.MemoryATR makes of what a memory card sends.
func (s *slot) synthetic(ctx context.Context) ([]byte, error) {
	s.contact.Deactivate()
	h, err := s.contact.ActivateMemory(ctx)
	if err != nil || h[0] == 0xFF {
		return nil, icc.ErrMute
	}
	return append([]byte{0x3B, 0x04}, h...), nil
}
