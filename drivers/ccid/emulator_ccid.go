package ccid

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// classDescriptor is CCID 1.1 table 5.1-1 filled in.
func (c *Config) classDescriptor() []byte {
	d := make([]byte, 54)
	le := binary.LittleEndian
	d[0], d[1] = 54, 0x21
	le.PutUint16(d[2:], 0x0110)
	d[4] = byte(c.Slots - 1)
	d[5] = c.Voltages
	le.PutUint32(d[6:], 3)
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

// emuSlot is one slot of an emulated CCID.
type emuSlot struct {
	e       *Emulator
	n       int
	contact icc.Contact
	keys    chan byte

	// Under e.mu.
	op      int // counts commands; an answer of an older one is dropped
	busy    bool
	cancel  context.CancelFunc
	ctlSeq  int // bSeq of an ABORT request that waits for its bulk message; -1 none
	bulkSeq int // the other way round

	// Owned by the command under way, which holds run: one that was aborted may
	// still be on its way out when the next begins.
	run    sync.Mutex
	proto  byte   // bProtocolNum
	block  []byte // abProtocolDataStructure
	rate   uint32 // bit/s that the reader uses; where it does not follow the parameters
	agreed byte   // F and D that the card uses
	fresh  bool   // nothing was sent since the ATR: a PPS may come
	pps    []byte // characters of a PPS response, at character level
	chain  []byte // command that comes in parts
	rest   []byte // response that goes out in parts
}

// emuReply is what a command comes to.
type emuReply struct {
	kind  byte
	code  byte // bError; failed says that it counts
	fail  bool
	param byte
	data  []byte
}

func replyFail(code byte) emuReply { return emuReply{fail: true, code: code} }

// icc is the lower half of bStatus.
func (s *emuSlot) icc() byte {
	switch {
	case !s.contact.Present():
		return 2
	case !s.contact.Powered():
		return 1
	}
	return 0
}

// presentParams forgets what belongs to a card that left.
func (s *emuSlot) presentParams() {
	if !s.contact.Present() && s.cancel != nil {
		s.cancel()
	}
}

// message takes one bulk-OUT message.
func (e *Emulator) message(m []byte) {
	if len(m) < 10 {
		return // no header, no answer
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return
	}
	if int(m[5]) >= len(e.slots) {
		e.in = append(e.in, transfer{data: e.build(m, 2, replyFail(5))})
		e.stir()
		return
	}
	s := e.slots[m[5]]
	if m[0] == 0x72 {
		s.bulkSeq = int(m[6])
		s.tryAbort(m)
		return
	}
	busy := 0
	for _, other := range e.slots {
		if other.busy {
			busy++
		}
	}
	var refused byte
	switch {
	case s.ctlSeq >= 0:
		refused = 0xFF
	case s.busy || busy >= e.cfg.BusySlots:
		refused = 0xE0
	case binary.LittleEndian.Uint32(m[1:]) != uint32(len(m)-10):
		refused = 0x01
	}
	if refused != 0 {
		e.in = append(e.in, transfer{data: e.build(m, s.icc(), replyFail(refused))})
		e.stir()
		return
	}
	s.op++
	op := s.op
	s.busy = true
	ctx, cancel := context.WithCancel(e.ctx)
	s.cancel = cancel
	e.work.Go(func() {
		defer cancel()
		s.serve(ctx, op, m)
	})
}

// serve runs a command, asking for more time while it takes long, and answers it.
func (s *emuSlot) serve(ctx context.Context, op int, m []byte) {
	e := s.e
	e.mu.Lock()
	f := e.fault(0, m)
	e.mu.Unlock()
	more := s.extendWhileBusy(op, m)
	defer more.Stop()
	var r emuReply
	switch {
	case f != nil && f.Kind == Endless:
		<-ctx.Done()
	case f != nil && (f.Kind == Hang || f.Kind == Stone):
		e.spoil(f, nil)
		return
	case f != nil && f.Kind == Fail:
		r = replyFail(f.Code)
		f = nil
	default:
		s.run.Lock()
		r = s.execute(ctx, m)
		r.data = append([]byte(nil), r.data...)
		s.run.Unlock()
	}
	e.mu.Lock()
	if s.op != op || ctx.Err() != nil && e.ctx.Err() != nil {
		e.mu.Unlock()
		return
	}
	s.busy, s.cancel = false, nil
	answer := e.build(m, s.icc(), r)
	if f == nil {
		e.in = append(e.in, transfer{data: answer})
		e.stir()
	}
	e.mu.Unlock()
	if f != nil {
		e.spoil(f, answer)
	}
}

// extendWhileBusy sends time extensions (CCID 1.1 §6.2, bmCommandStatus 2).
func (s *emuSlot) extendWhileBusy(op int, m []byte) *time.Timer {
	e := s.e
	var t *time.Timer
	started := make(chan struct{})
	t = time.AfterFunc(e.cfg.ExtensionEvery, func() {
		<-started
		e.mu.Lock()
		defer e.mu.Unlock()
		if s.op != op || !s.busy {
			return
		}
		a := e.build(m, s.icc(), emuReply{})
		a[7] |= 0x80
		a[8] = 1
		e.in = append(e.in, transfer{data: a})
		e.stir()
		t.Reset(e.cfg.ExtensionEvery)
	})
	close(started)
	return t
}

// build is the bulk-IN message that answers m.
func (e *Emulator) build(m []byte, icc byte, r emuReply) []byte {
	kind := r.kind
	if kind == 0 {
		switch m[0] {
		case 0x62, 0x6F, 0x69:
			kind = 0x80
		case 0x61, 0x6C, 0x6D:
			kind = 0x82
		case 0x6B:
			kind = 0x83
		case 0x73:
			kind = 0x84
		default:
			kind = 0x81
		}
	}
	a := make([]byte, 10, 10+len(r.data))
	a[0] = kind
	binary.LittleEndian.PutUint32(a[1:], uint32(len(r.data)))
	a[5], a[6], a[7] = m[5], m[6], icc
	if r.fail {
		a[7] |= 0x40
		a[8] = r.code
	}
	a[9] = r.param
	return append(a, r.data...)
}

// class answers the class's control requests.
func (e *Emulator) class(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if s.Index != 0 {
		return 0, usb.ErrStall
	}
	if e.cfg.Protocol != ProtocolCCID {
		return e.classICCD(ctx, s, data)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case s.RequestType == 0x21 && s.Request == 1: // ABORT
		n := int(s.Value & 0xFF)
		if n >= len(e.slots) {
			return 0, usb.ErrStall
		}
		slot := e.slots[n]
		slot.ctlSeq = int(s.Value >> 8)
		slot.tryAbort(nil)
		return 0, nil
	case s.RequestType == 0xA1 && s.Request == 3 && len(e.cfg.Rates) > 0: // GET_DATA_RATES
		var b []byte
		for _, r := range e.cfg.Rates {
			b = binary.LittleEndian.AppendUint32(b, r)
		}
		return copy(data, b), nil
	case s.RequestType == 0xA1 && s.Request == 2: // GET_CLOCK_FREQUENCIES
		return copy(data, binary.LittleEndian.AppendUint32(nil, uint32(e.cfg.Clock))), nil
	}
	return 0, usb.ErrStall
}

// tryAbort ends what the slot is doing once both halves of an abort with one
// bSeq are there (CCID 1.1 §5.3.1). e.mu is held.
func (s *emuSlot) tryAbort(m []byte) {
	if s.ctlSeq < 0 || s.ctlSeq != s.bulkSeq {
		return
	}
	seq := byte(s.ctlSeq)
	s.ctlSeq, s.bulkSeq = -1, -1
	s.stopNow()
	if m == nil {
		m = []byte{0x72, 0, 0, 0, 0, byte(s.n), seq, 0, 0, 0}
	}
	answer := s.e.build(m, s.icc(), emuReply{})
	if f := s.e.fault(0, m); f != nil {
		s.e.work.Go(func() { s.e.spoil(f, answer) })
		return
	}
	s.e.in = append(s.e.in, transfer{data: answer})
	s.e.stir()
}

// stopNow drops the command under way. e.mu is held.
func (s *emuSlot) stopNow() {
	s.op++
	s.busy = false
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
}

// abort is stopNow for a reset of the port.
func (s *emuSlot) abort() {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	s.stopNow()
	s.ctlSeq, s.bulkSeq = -1, -1
}

// execute runs a command to its end, or until ctx ends.
func (s *emuSlot) execute(ctx context.Context, m []byte) emuReply {
	e, data := s.e, m[10:]
	switch m[0] {
	case 0x62:
		return s.powerOn(ctx, m[7])
	case 0x63:
		s.contact.Deactivate()
		return emuReply{}
	case 0x65:
		return emuReply{}
	case 0x6B:
		if e.cfg.EMV && len(data) == 2 && data[0] == 0x1F {
			e.mu.Lock()
			e.emv = data[1] == 2
			e.mu.Unlock()
			return emuReply{}
		}
		return emuReply{data: data} // an echo
	case 0x71:
		if e.cfg.Mechanical&(1<<(m[7]-1)) == 0 || m[7] == 0 || m[7] > 5 {
			return replyFail(7)
		}
		if m[7] == 2 {
			s.contact.Remove()
		}
		return emuReply{}
	case 0x61, 0x6C, 0x6D, 0x6F, 0x69, 0x6E, 0x73, 0x6A:
	default:
		return emuReply{kind: 0x81, fail: true, code: 0}
	}
	if s.icc() != 0 {
		return replyFail(0xFE)
	}
	switch m[0] {
	case 0x61:
		return s.setParameters(m[7], data)
	case 0x6C:
		return emuReply{param: s.proto, data: s.block}
	case 0x6D:
		s.proto, s.block = defaultBlock(s.proto)
		return emuReply{param: s.proto, data: s.block}
	case 0x6F:
		return s.transfer(ctx, binary.LittleEndian.Uint16(m[8:]), data)
	case 0x69:
		return s.secure(ctx, data)
	case 0x73:
		if len(data) != 8 {
			return replyFail(1)
		}
		s.rate = binary.LittleEndian.Uint32(data[4:])
		return emuReply{data: data}
	}
	return emuReply{} // IccClock, T0APDU
}

func (s *emuSlot) powerOn(ctx context.Context, power byte) emuReply {
	e := s.e
	c := &e.cfg
	e.mu.Lock()
	emv := e.emv
	e.mu.Unlock()
	if !s.contact.Present() {
		return replyFail(0xFE)
	}
	switch {
	case power == 0 && c.Features&(AutoVoltage|AutoActivate) == 0, power > 3:
		return replyFail(7)
	case power > 0 && c.Voltages&(1<<(power-1)) == 0:
		return replyFail(7)
	case emv:
		return replyFail(0xBB)
	case power > 0 && c.CardVoltages&(1<<(power-1)) == 0:
		s.contact.Deactivate()
		return replyFail(0xFE)
	}
	atr, err := s.contact.Activate(ctx, s.contact.Powered())
	if errors.Is(err, icc.ErrNoCard) {
		return replyFail(0xFE)
	}
	if err != nil {
		s.contact.Deactivate()
		return replyFail(0xFE)
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
	if c.Features&AutoNegotiate != 0 && !a.specific && a.ta1 != 0x11 {
		s.negotiate(a.first, a.ta1)
		s.proto, s.block = a.block(a.first, s.agreed)
	}
	return emuReply{data: atr}
}

// negotiate does a PPS by itself.
func (s *emuSlot) negotiate(t, ta1 byte) bool {
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

func (s *emuSlot) setParameters(proto byte, block []byte) emuReply {
	switch {
	case proto > 1:
		return replyFail(7)
	case len(block) != 5+2*int(proto):
		return replyFail(1)
	case emuF[block[0]>>4] == 0 || emuD[block[0]&15] == 0:
		return replyFail(0x0A)
	}
	if f := s.e.cfg.Features; f&AutoPPS != 0 && f&AutoNegotiate == 0 && s.fresh {
		if int(proto) != s.contact.Protocol() || block[0] != s.agreed {
			if !s.negotiate(proto, block[0]) {
				return replyFail(0xF6)
			}
			block[0] = s.agreed
		}
	}
	s.proto, s.block = proto, append([]byte(nil), block...)
	return emuReply{param: proto, data: s.block}
}

// silence lets the card's waiting time pass: error FE.
func (s *emuSlot) silence(ctx context.Context) emuReply {
	t := time.NewTimer(s.contact.BlockWait())
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return replyFail(0xFE)
}

// transfer is XfrBlock.
func (s *emuSlot) transfer(ctx context.Context, level uint16, data []byte) emuReply {
	c := &s.e.cfg
	if len(data) > c.MaxMessage-10 {
		return replyFail(1)
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
		return emuReply{data: rx}
	case reader.TPDU:
		if level != 0 {
			return replyFail(8)
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
		return emuReply{data: rx}
	case reader.ShortAPDU:
		if len(data) < 4 || len(data) > 261 || len(data) > 5 && data[4] == 0 {
			return replyFail(1)
		}
		return s.apdu(ctx, data)
	}
	return s.part(ctx, level, data)
}

// mistuned is what an exchange comes to when the reader was not told what the
// card uses now: another protocol's bytes mean nothing to it, another rate's
// are noise.
func (s *emuSlot) mistuned(ctx context.Context) emuReply {
	first := s.fresh
	s.fresh, s.pps = false, nil
	if int(s.proto) != s.contact.Protocol() {
		return s.silence(ctx)
	}
	if s.block[0] != s.agreed {
		return replyFail(0xFD)
	}
	if c := &s.e.cfg; c.Features&AutoBaud == 0 && s.agreed != 0x11 {
		want := uint32(c.Clock) * 1000 / emuF[s.agreed>>4] * emuD[s.agreed&15]
		if s.rate < want-want/50 || s.rate > want+want/50 {
			return replyFail(0xFD)
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
	return emuReply{}
}

// watchPPS follows a PPS response that passes, to know what the card uses then.
func (s *emuSlot) watchPPS(rx []byte) {
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

func (s *emuSlot) apdu(ctx context.Context, c []byte) emuReply {
	s.fresh = false
	rx := s.contact.APDU(ctx, c)
	if rx == nil {
		return s.silence(ctx)
	}
	return emuReply{data: append([]byte(nil), rx...)}
}

// part is XfrBlock at extended APDU level (CCID 1.1 §6.1.4).
func (s *emuSlot) part(ctx context.Context, level uint16, data []byte) emuReply {
	switch level {
	case 0x00:
		s.chain = nil
		return s.respond(s.apdu(ctx, data))
	case 0x01:
		s.chain = append([]byte(nil), data...)
		return emuReply{param: 0x10}
	case 0x02, 0x03:
		if s.chain == nil {
			return replyFail(8)
		}
		s.chain = append(s.chain, data...)
		if level == 3 {
			return emuReply{param: 0x10}
		}
		c := s.chain
		s.chain = nil
		return s.respond(s.apdu(ctx, c))
	case 0x10:
		if s.rest == nil || len(data) > 0 {
			return replyFail(8)
		}
		return s.next(0x03, 0x02)
	}
	return replyFail(8)
}

// respond begins a response.
func (s *emuSlot) respond(r emuReply) emuReply {
	if r.fail {
		return r
	}
	s.rest = r.data
	return s.next(0x01, 0x00)
}

func (s *emuSlot) next(more, last byte) emuReply {
	room := s.e.cfg.MaxMessage - 10
	if len(s.rest) > room {
		r := emuReply{param: more, data: s.rest[:room]}
		s.rest = s.rest[room:]
		return r
	}
	r := emuReply{param: last, data: s.rest}
	s.rest = nil
	return r
}

// emuF and emuD are Fi and Di (ISO/IEC 7816-3:2006 tables 7 and 8).
var (
	emuF = [16]uint32{372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048, 0, 0}
	emuD = [16]uint32{0, 1, 2, 4, 8, 16, 32, 64, 12, 20, 0, 0, 0, 0, 0, 0}
)

// emuATR is what a reader needs of an ATR.
type emuATR struct {
	inverse, specific   bool
	first               byte
	ta1, tc1, tc2       byte
	ifsc, waiting, edcs byte
}

func readATR(atr []byte) emuATR {
	a := emuATR{inverse: atr[0] == 0x3F, ta1: 0x11, tc2: 10, ifsc: 32, waiting: 0x4D}
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
		if i == 1 {
			a.first = t
		}
	}
}

func (a emuATR) block(t, fd byte) (byte, []byte) {
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
	return emuATR{tc2: 10, waiting: 0x4D, ifsc: 32}.block(t, 0x11)
}
