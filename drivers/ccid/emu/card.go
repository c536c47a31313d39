package emu

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// execute runs a command to its end, or until ctx ends.
func (s *slot) execute(ctx context.Context, m []byte) reply {
	e, data := s.e, m[10:]
	switch m[0] {
	case 0x62:
		return s.powerOn(ctx, m[7])
	case 0x63:
		s.memory.kind = 0
		s.contact.Deactivate()
		return reply{}
	case 0x65:
		return reply{}
	case 0x6B:
		if e.cfg.EMV && len(data) == 2 && data[0] == 0x1F {
			e.mu.Lock()
			e.emv = data[1] == 2
			e.mu.Unlock()
			return reply{}
		}
		return reply{data: data} // an echo
	case 0x71:
		if e.cfg.Mechanical&(1<<(m[7]-1)) == 0 || m[7] == 0 || m[7] > 5 {
			return failure(7)
		}
		if m[7] == 2 {
			s.contact.Remove()
		}
		return reply{}
	case 0x61, 0x6C, 0x6D, 0x6F, 0x69, 0x6E, 0x73, 0x6A:
	default:
		return reply{kind: 0x81, fail: true, code: 0}
	}
	if m[0] == 0x6F && s.isPseudo(data) && s.contact.Present() {
		return s.pseudo(ctx, data)
	}
	if s.icc() != 0 {
		return failure(0xFE)
	}
	switch m[0] {
	case 0x61:
		return s.setParameters(m[7], data)
	case 0x6C:
		return reply{param: s.proto, data: s.block}
	case 0x6D:
		s.proto, s.block = defaultBlock(s.proto)
		return reply{param: s.proto, data: s.block}
	case 0x6F:
		return s.transfer(ctx, binary.LittleEndian.Uint16(m[8:]), data)
	case 0x69:
		return s.secure(ctx, data)
	case 0x73:
		if len(data) != 8 {
			return failure(1)
		}
		s.rate = binary.LittleEndian.Uint32(data[4:])
		return reply{data: data}
	}
	return reply{} // IccClock, T0APDU
}

func (s *slot) powerOn(ctx context.Context, power byte) reply {
	e := s.e
	c := &e.cfg
	e.mu.Lock()
	emv := e.emv
	e.mu.Unlock()
	if !s.contact.Present() {
		return failure(0xFE)
	}
	switch {
	case power == 0 && c.Features&(AutoVoltage|AutoActivate) == 0, power > 3:
		return failure(7)
	case power > 0 && c.Voltages&(1<<(power-1)) == 0:
		return failure(7)
	case emv:
		return failure(0xBB)
	case power > 0 && c.CardVoltages&(1<<(power-1)) == 0:
		s.contact.Deactivate()
		return failure(0xFE)
	}
	s.memory.kind = 0
	atr, err := s.contact.Activate(ctx, s.contact.Powered())
	if errors.Is(err, icc.ErrMute) && c.MemoryATR {
		atr, err = s.synthetic(ctx)
	}
	if errors.Is(err, icc.ErrNoCard) {
		return failure(0xFE)
	}
	if err != nil {
		s.contact.Deactivate()
		return failure(0xFE)
	}
	a := readATR(atr)
	s.fresh, s.pps, s.chain, s.rest = true, nil, nil, nil
	s.agreed, s.rate = 0x11, 0
	if a.specific {
		s.agreed = a.ta1
	}
	s.proto, s.block = defaultBlock(0)
	if c.Features&(AutoParamsATR|AutoNegotiate|AutoPPS) != 0 || c.Level >= reader.ShortAPDU {
		s.proto, s.block = a.block(a.first, s.agreed)
	}
	if c.Features&AutoNegotiate != 0 && !a.specific {
		t := a.first
		if c.PrefersT1 && a.t1 {
			t = 1
		}
		if t != a.first || a.ta1 != 0x11 {
			s.negotiate(t, a.ta1)
			s.proto, s.block = a.block(t, s.agreed)
		}
	}
	return reply{data: atr}
}

// negotiate does a PPS with the card, as a reader does without the host.
func (s *slot) negotiate(t, ta1 byte) bool {
	req := []byte{0xFF, 0x10 | t, ta1}
	req = append(req, req[0]^req[1]^req[2])
	rx := s.contact.PPS(req)
	if rx == nil {
		return false
	}
	s.agreed = 0x11
	if rx[1]&0x10 != 0 {
		s.agreed = rx[2]
	}
	return true
}

func (s *slot) setParameters(proto byte, block []byte) reply {
	switch {
	case proto > 1:
		return failure(7)
	case len(block) != 5+2*int(proto):
		return failure(1)
	case fi[block[0]>>4] == 0 || di[block[0]&15] == 0:
		return failure(0x0A)
	}
	if f := s.e.cfg.Features; f&AutoPPS != 0 && f&AutoNegotiate == 0 && s.fresh {
		if int(proto) != s.contact.Protocol() || block[0] != s.agreed {
			if !s.negotiate(proto, block[0]) {
				return failure(0xF6)
			}
			block[0] = s.agreed
		}
	}
	s.proto, s.block = proto, append([]byte(nil), block...)
	return reply{param: proto, data: s.block}
}

// silence waits for the card's waiting time to pass, then fails with FE.
func (s *slot) silence(ctx context.Context) reply {
	t := time.NewTimer(s.contact.BlockWait())
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return failure(0xFE)
}

// transfer executes XfrBlock.
func (s *slot) transfer(ctx context.Context, level uint16, data []byte) reply {
	c := &s.e.cfg
	if len(data) > c.MaxMessage-10 {
		return failure(1)
	}
	switch c.Level {
	case reader.Character:
		if len(data) > 0 && s.fresh && data[0] == 0xFF {
			s.pps = append(s.pps[:0], 0) // marks that its response is awaited
		} else if len(data) > 0 {
			if bad := s.mistuned(ctx); bad.fail {
				return bad
			}
		}
		rx := s.contact.Chars(ctx, data, int(level))
		if len(rx) == 0 && level > 0 {
			return s.silence(ctx)
		}
		s.watchPPS(rx)
		return reply{data: rx}
	case reader.TPDU:
		if level != 0 {
			return failure(8)
		}
		pps := len(data) > 0 && s.fresh && data[0] == 0xFF
		if !pps {
			if bad := s.mistuned(ctx); bad.fail {
				return bad
			}
		}
		rx := s.contact.TPDU(ctx, data)
		if rx == nil {
			return s.silence(ctx)
		}
		if pps {
			s.pps = append(s.pps[:0], 0)
			s.watchPPS(rx)
		}
		return reply{data: rx}
	case reader.ShortAPDU:
		if len(data) < 4 || len(data) > 261 || len(data) > 5 && data[4] == 0 {
			return failure(1)
		}
		return s.apdu(ctx, data)
	}
	return s.part(ctx, level, data)
}

// mistuned returns the failure of an exchange for which the host has not set the protocol
// and rate that the card now uses. A card ignores another protocol's bytes; at another
// rate the reader sees only noise.
func (s *slot) mistuned(ctx context.Context) reply {
	first := s.fresh
	s.fresh, s.pps = false, nil
	if int(s.proto) != s.contact.Protocol() {
		return s.silence(ctx)
	}
	if s.block[0] != s.agreed {
		return failure(0xFD)
	}
	if c := &s.e.cfg; c.Features&AutoBaud == 0 && s.agreed != 0x11 {
		want := uint32(c.Clock) * 1000 / fi[s.agreed>>4] * di[s.agreed&15]
		if s.rate < want-want/50 || s.rate > want+want/50 {
			return failure(0xFD)
		}
	}
	if first && s.e.cfg.Features&AutoIFSD != 0 && s.e.cfg.Level == reader.TPDU && s.proto == 1 {
		ifs := []byte{0, 0xC1, 1, byte(s.e.cfg.MaxIFSD)}
		edc := []byte{0xC0 ^ ifs[3]}
		if s.block[1]&1 != 0 {
			crc := uint16(0xFFFF)
			for _, b := range ifs {
				crc ^= uint16(b)
				for range 8 {
					low := crc & 1
					if crc >>= 1; low != 0 {
						crc ^= 0x8408
					}
				}
			}
			edc = []byte{byte(crc >> 8), byte(crc)}
		}
		if s.contact.TPDU(ctx, append(ifs, edc...)) == nil {
			return s.silence(ctx)
		}
	}
	return reply{}
}

// watchPPS reads a PPS response on its way to the host, to know the rate that the card
// uses afterwards.
func (s *slot) watchPPS(rx []byte) {
	if len(s.pps) == 0 {
		return
	}
	s.pps = append(s.pps, rx...)
	r := s.pps[1:]
	if len(r) < 2 || r[1]&0x10 != 0 && len(r) < 3 {
		return
	}
	s.agreed = 0x11
	if r[1]&0x10 != 0 {
		s.agreed = r[2]
	}
}

func (s *slot) apdu(ctx context.Context, c []byte) reply {
	s.fresh = false
	rx := s.contact.APDU(ctx, c)
	if rx == nil {
		return s.silence(ctx)
	}
	return reply{data: append([]byte(nil), rx...)}
}

// part executes XfrBlock at extended APDU level (CCID 1.1 §6.1.4).
func (s *slot) part(ctx context.Context, level uint16, data []byte) reply {
	switch level {
	case 0x00:
		s.chain = nil
		return s.respond(s.apdu(ctx, data))
	case 0x01:
		s.chain = append([]byte(nil), data...)
		return reply{param: 0x10}
	case 0x02, 0x03:
		if s.chain == nil {
			return failure(8)
		}
		s.chain = append(s.chain, data...)
		if level == 3 {
			return reply{param: 0x10}
		}
		c := s.chain
		s.chain = nil
		return s.respond(s.apdu(ctx, c))
	case 0x10:
		if s.rest == nil || len(data) > 0 {
			return failure(8)
		}
		return s.next(0x03, 0x02)
	}
	return failure(8)
}

// respond returns the first part of a response.
func (s *slot) respond(r reply) reply {
	if r.fail {
		return r
	}
	s.rest = r.data
	return s.next(0x01, 0x00)
}

func (s *slot) next(more, last byte) reply {
	room := s.e.cfg.MaxMessage - 10
	if len(s.rest) > room {
		r := reply{param: more, data: s.rest[:room]}
		s.rest = s.rest[room:]
		return r
	}
	r := reply{param: last, data: s.rest}
	s.rest = nil
	return r
}

// fi and di are Fi and Di (ISO/IEC 7816-3:2006 tables 7 and 8).
var (
	fi = [16]uint32{372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048, 0, 0}
	di = [16]uint32{0, 1, 2, 4, 8, 16, 32, 64, 12, 20, 0, 0, 0, 0, 0, 0}
)

// atrFacts is the part of an ATR that a reader needs.
type atrFacts struct {
	inverse, specific   bool
	t1                  bool // offers T=1
	first               byte
	ta1, tc1, tc2       byte
	ifsc, waiting, edcs byte
}

func readATR(atr []byte) atrFacts {
	a := atrFacts{inverse: atr[0] == 0x3F, ta1: 0x11, tc2: 10, ifsc: 32, waiting: 0x4D}
	y, at, t := atr[1]>>4, 2, byte(0)
	var v [3]byte
	for i := 1; ; i++ {
		has := y
		for j := range v {
			if v[j] = 0; has&(1<<j) != 0 && at < len(atr) {
				v[j] = atr[at]
				at++
			}
		}
		switch {
		case i == 1:
			if a.tc1 = v[2]; has&1 != 0 {
				a.ta1 = v[0]
			}
		case i == 2:
			if has&1 != 0 {
				a.specific, a.first = true, v[0]&15
			}
			if has&4 != 0 {
				a.tc2 = v[2]
			}
		case t == 1:
			if has&1 != 0 {
				a.ifsc = v[0]
			}
			if has&2 != 0 {
				a.waiting = v[1]
			}
			if has&4 != 0 {
				a.edcs = v[2] & 1
			}
		}
		if has&8 == 0 || at >= len(atr) {
			return a
		}
		t, y = atr[at]&15, atr[at]>>4
		at++
		a.t1 = a.t1 || t == 1
		if i == 1 {
			a.first = t
		}
	}
}

func (a atrFacts) block(t, fd byte) (byte, []byte) {
	var inverse byte
	if a.inverse {
		inverse = 2
	}
	if t == 0 {
		return 0, []byte{fd, inverse, a.tc1, a.tc2, 0}
	}
	return 1, []byte{fd, 0x10 | inverse | a.edcs, a.tc1, a.waiting, 0, a.ifsc, 0}
}

func defaultBlock(t byte) (byte, []byte) {
	return atrFacts{tc2: 10, waiting: 0x4D, ifsc: 32}.block(t, 0x11)
}
