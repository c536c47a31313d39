package emu

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader/icc"
)

// slot is one slot of an emulated CCID.
type slot struct {
	e       *Reader
	n       int
	contact icc.Contact
	keys    chan byte

	// Under e.mu.
	op      int // counts commands; answers of older ones are dropped
	busy    bool
	cancel  context.CancelFunc
	ctlSeq  int // bSeq of an ABORT request that waits for its bulk message; -1: none
	bulkSeq int // bSeq of an Abort message that waits for its request; -1: none

	// Owned by the command under way, which holds run: an aborted command may still be
	// running when the next one begins.
	run    sync.Mutex
	proto  byte   // bProtocolNum
	block  []byte // abProtocolDataStructure
	rate   uint32 // bit/s that the reader uses, if it does not follow the parameters
	agreed byte   // F and D that the card uses
	fresh  bool   // nothing was sent since the ATR: a PPS may come
	pps    []byte // characters of a PPS response, at character level
	memory memoryCard
	chain  []byte // the command received in parts
	rest   []byte // the part of the response not yet sent
}

// reply is the result of a command.
type reply struct {
	kind  byte
	code  byte // bError, if fail is set
	fail  bool
	param byte
	data  []byte
}

func failure(code byte) reply { return reply{fail: true, code: code} }

// icc returns bmICCStatus, the low bits of bStatus.
func (s *slot) icc() byte {
	switch {
	case !s.contact.Present():
		return 2
	case !s.contact.Powered():
		return 1
	}
	return 0
}

// message handles one bulk-OUT message.
func (e *Reader) message(m []byte) {
	if len(m) < 10 {
		return // no header, no answer
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if int(m[5]) >= len(e.slots) {
		e.Send(bulkIn, e.build(m, 2, failure(5)))
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
		e.Send(bulkIn, e.build(m, s.icc(), failure(refused)))
		return
	}
	s.op++
	op := s.op
	s.busy = true
	ctx, cancel := context.WithCancel(e.Context())
	s.cancel = cancel
	e.Go(func() {
		defer cancel()
		s.serve(ctx, op, m)
	})
}

// serve runs a command and answers it. Meanwhile it asks for more time at intervals.
func (s *slot) serve(ctx context.Context, op int, m []byte) {
	e := s.e
	e.mu.Lock()
	f := e.fault(0, m)
	e.mu.Unlock()
	more := s.extendWhileBusy(op, m)
	defer more.Stop()
	var r reply
	switch {
	case f != nil && f.Kind == Endless:
		<-ctx.Done()
	case f != nil && (f.Kind == Hang || f.Kind == Stone):
		e.spoil(f, nil)
		return
	case f != nil && f.Kind == Fail:
		r = failure(f.Code)
		f = nil
	default:
		s.run.Lock()
		r = s.execute(ctx, m)
		r.data = append([]byte(nil), r.data...)
		s.run.Unlock()
	}
	e.mu.Lock()
	if s.op != op || ctx.Err() != nil && e.Context().Err() != nil {
		e.mu.Unlock()
		return
	}
	s.busy, s.cancel = false, nil
	answer := e.build(m, s.icc(), r)
	if f == nil {
		e.Send(bulkIn, answer)
	}
	e.mu.Unlock()
	if f != nil {
		e.spoil(f, answer)
	}
}

// extendWhileBusy sends time extensions (CCID 1.1 §6.2, bmCommandStatus 2).
func (s *slot) extendWhileBusy(op int, m []byte) *time.Timer {
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
		a := e.build(m, s.icc(), reply{})
		a[7] |= 0x80
		a[8] = 1
		e.Send(bulkIn, a)
		t.Reset(e.cfg.ExtensionEvery)
	})
	close(started)
	return t
}

// build makes the bulk-IN message that answers m.
func (e *Reader) build(m []byte, icc byte, r reply) []byte {
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

// controlCCID answers the class's control requests (CCID 1.1 §5.3).
func (e *Reader) controlCCID(s usb.Setup, data []byte) (int, error) {
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

// tryAbort ends the slot's command once both halves of an abort have arrived with the
// same bSeq (CCID 1.1 §5.3.1). e.mu is held.
func (s *slot) tryAbort(m []byte) {
	if s.ctlSeq < 0 || s.ctlSeq != s.bulkSeq {
		return
	}
	seq := byte(s.ctlSeq)
	s.ctlSeq, s.bulkSeq = -1, -1
	s.stop()
	if m == nil {
		m = []byte{0x72, 0, 0, 0, 0, byte(s.n), seq, 0, 0, 0}
	}
	answer := s.e.build(m, s.icc(), reply{})
	if f := s.e.fault(0, m); f != nil {
		s.e.Go(func() { s.e.spoil(f, answer) })
		return
	}
	s.e.Send(bulkIn, answer)
}

// stop drops the command under way. e.mu is held.
func (s *slot) stop() {
	s.op++
	s.busy = false
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
}
