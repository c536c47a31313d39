package icc

import (
	"context"
	"time"
)

// PCB values (ISO/IEC 7816-3:2006 §11.3.2.2).
const (
	pcbNS  = 0x40 // I-block: N(S)
	pcbM   = 0x20 // I-block: more
	pcbR   = 0x80
	pcbNR  = 0x10 // R-block: N(R)
	pcbS   = 0xC0
	pcbRsp = 0x20 // S-block: response

	sResynch = 0
	sIFS     = 1
	sAbort   = 2
	sWTX     = 3

	errEDC   = 1 // R-block: redundancy code or parity error
	errOther = 2 // R-block: any other error
)

// tries is how many invalid blocks in a row the card reports before it only
// listens (rule 7.4.3).
const tries = 3

// t1 is the card's end of T=1 (ISO/IEC 7816-3:2006 §11). The card never begins:
// each block received is answered by one block, or by silence.
//
//	       I, M=0                      all sent, answer acknowledged
//	idle ---------> computing ------> answering ---> idle
//	 | I, M=1         | S(WTX) and back   | M=1: R(N(S)+1) asks for the next part
//	 v                                    v
//	collecting (R after each part)     answering
type t1 struct {
	p    params
	ifsc int
	ifsd int

	nr byte // N(S) expected of the next I-block
	ns byte // N(S) of the I-block that was sent last, or comes next if unsent

	in  []byte // the command so far
	out []byte // what of the answer is not acknowledged yet
	// part is how much of out the last I-block carried; -1: no I-block waits
	// for its acknowledgement.
	part int

	collecting bool
	ask        byte // S request that waits for its response: PCB; 0 none
	nad        byte // of the answer
	bad        int  // invalid blocks in a row

	// computing: the command is with the application and its time not over.
	computing bool
	answer    []byte
	busy      time.Duration
	passed    time.Duration

	askedIFS bool
	chains   int

	last []byte // the last block sent; nil: none since reset
	rx   []byte // scratch for damaged blocks
}

func (t *t1) reset(p params) {
	*t = t1{p: p, in: t.in[:0], last: t.last[:0], rx: t.rx[:0], part: -1, ifsc: p.ifsc, ifsd: 32}
}

// resynch is the state after S(RESYNCH response): that after the ATR or PPS (rule 6.3).
func (t *t1) resynch() {
	asked, chains := t.askedIFS, t.chains
	t.reset(t.p)
	t.askedIFS, t.chains = asked, chains
}

// block passes one block through the noise to the engine and back.
func (c *Contact) block(ctx context.Context, tx []byte) []byte {
	t := c.t1
	if c.noise.hit() {
		t.rx = append(t.rx[:0], tx...)
		tx = c.noise.damage(t.rx)
	}
	ans := t.receive(ctx, c, tx)
	if len(ans) > 0 && c.noise.hit() {
		t.rx = append(t.rx[:0], ans...)
		ans = c.noise.damage(t.rx)
	}
	return ans
}

// receive answers one block.
func (t *t1) receive(ctx context.Context, c *Contact, b []byte) []byte {
	if code := t.check(b); code != 0 {
		return t.invalid(code)
	}
	nad, pcb, inf := b[0]<<4|b[0]>>4, b[1], b[3:3+int(b[2])]
	if pcb != pcbS|sResynch && t.busyWith() && nad != t.nad {
		return t.invalid(errOther) // a chain stays between the same nodes
	}
	t.nad = nad
	switch {
	case pcb&0x80 == 0:
		return t.iBlock(ctx, c, pcb, inf)
	case pcb&0xC0 == pcbR:
		return t.rBlock(ctx, c, pcb)
	default:
		return t.sBlock(ctx, c, pcb, inf)
	}
}

// busyWith reports whether a command is between its first and its last block.
func (t *t1) busyWith() bool {
	return t.collecting || t.computing || t.ask != 0 || t.chaining()
}

// chaining reports whether parts of the answer still have to follow the last I-block.
func (t *t1) chaining() bool { return t.part >= 0 && t.part < len(t.out) }

// check finds what is wrong with a block as such: its error code, or 0.
func (t *t1) check(b []byte) byte {
	edc := 1
	if t.p.crc {
		edc = 2
	}
	if len(b) < 3+edc || len(b) != 3+int(b[2])+edc {
		return errOther
	}
	if t.p.crc {
		crc := crc16(b[:len(b)-2])
		if b[len(b)-2] != byte(crc>>8) || b[len(b)-1] != byte(crc) {
			return errEDC
		}
	} else {
		var lrc byte
		for _, v := range b {
			lrc ^= v
		}
		if lrc != 0 {
			return errEDC
		}
	}
	nad, pcb, n := b[0], b[1], b[2]
	if n == 0xFF || nad&0x88 != 0 || nad != 0 && nad>>4 == nad&0x0F {
		return errOther
	}
	switch {
	case pcb&0x80 == 0:
		if pcb&0x1F != 0 || int(n) > t.ifsc {
			return errOther
		}
	case pcb&0xC0 == pcbR:
		if pcb&0x2C != 0 || pcb&0x03 == 3 || n != 0 {
			return errOther
		}
	default:
		switch pcb &^ pcbRsp {
		case pcbS | sResynch, pcbS | sAbort:
			if n != 0 {
				return errOther
			}
		case pcbS | sIFS:
			if n != 1 || b[3] == 0 || b[3] == 0xFF {
				return errOther
			}
		case pcbS | sWTX:
			if n != 1 {
				return errOther
			}
		default:
			return errOther
		}
	}
	return 0
}

// invalid reacts to a block that cannot be accepted (rules 7.1 to 7.4.3).
func (t *t1) invalid(code byte) []byte {
	t.bad++
	if t.bad > tries {
		return nil
	}
	if t.ask != 0 {
		return t.last // rule 7.3: the request again
	}
	return t.send(pcbR|t.nr*pcbNR|code, nil)
}

func (t *t1) iBlock(ctx context.Context, c *Contact, pcb byte, inf []byte) []byte {
	if t.ask != 0 || t.computing || pcb&pcbNS/pcbNS != t.nr || t.chaining() {
		// Not the card's turn to listen to commands, not the number expected,
		// or rule 5: while the card chains only R-blocks may come.
		return t.invalid(errOther)
	}
	t.bad = 0
	t.acknowledge()
	if !t.collecting {
		t.in = t.in[:0]
	}
	t.nr ^= 1
	t.in = append(t.in, inf...)
	if len(t.in) > maxCommand {
		// No C-APDU is that long: the card ends the chain.
		t.collecting = false
		return t.request(sAbort, 0)
	}
	if pcb&pcbM != 0 {
		if !t.collecting {
			t.collecting = true
			t.chains++
			if n := c.faults.AbortChain; n > 0 && t.chains%n == 0 {
				return t.request(sAbort, 0)
			}
		}
		if f := c.faults.RequestIFS; f > 0 && !t.askedIFS {
			t.askedIFS = true
			return t.request(sIFS, byte(f))
		}
		return t.send(pcbR|t.nr*pcbNR, nil)
	}
	t.collecting = false
	t.answer, t.busy = c.process(t.in)
	t.computing, t.passed = true, 0
	if f := c.faults.RequestIFS; f > 0 && !t.askedIFS {
		t.askedIFS = true
		return t.request(sIFS, byte(f))
	}
	return t.compute(ctx, c)
}

// maxCommand: 4 + 3 + 65,535 + 2 bytes, the longest C-APDU.
const maxCommand = 65544

// compute lets the command's time pass. What does not fit the block waiting
// time is asked for in pieces of it; half of it is kept as reserve, for a block
// takes time on its way.
func (t *t1) compute(ctx context.Context, c *Contact) []byte {
	if t.busy > 0 || c.faults.Slow > 0 {
		piece := t.p.wait() / 2
		gen, start := c.gen, time.Now()
		left, ok := c.passUpTo(ctx, t.busy, t.passed, piece)
		if c.gen != gen {
			return nil // all of t belongs to another life of the card
		}
		t.passed += time.Since(start)
		if !ok {
			return nil // an R-block can still ask for the answer
		}
		if left > 0 {
			return t.request(sWTX, 1)
		}
	}
	return t.deliver()
}

// deliver sends the first part of the answer.
func (t *t1) deliver() []byte {
	t.computing = false
	t.out, t.answer = t.answer, nil
	return t.nextPart()
}

// nextPart sends the part of the answer that is due.
func (t *t1) nextPart() []byte {
	t.part = min(len(t.out), t.ifsd)
	return t.samePart()
}

// samePart sends the last I-block, as it was.
func (t *t1) samePart() []byte {
	pcb := t.ns * pcbNS
	if t.part < len(t.out) {
		pcb |= pcbM
	}
	return t.send(pcb, t.out[:t.part])
}

// acknowledge takes note that the last I-block arrived.
func (t *t1) acknowledge() {
	if t.part < 0 {
		return
	}
	t.out = t.out[t.part:]
	t.part = -1
	t.ns ^= 1
}

func (t *t1) rBlock(ctx context.Context, c *Contact, pcb byte) []byte {
	t.bad = 0
	nr := pcb & pcbNR / pcbNR
	switch {
	case t.ask != 0:
		return t.last // rule 7.3: the request, not an answer, was lost
	case t.computing:
		// The answer was not sent yet: a request of ours had its response.
		return t.compute(ctx, c)
	case t.part >= 0 && nr == t.ns:
		return t.samePart() // rule 7.5
	case t.chaining():
		t.acknowledge()
		return t.nextPart() // rule 2.2
	case t.part >= 0:
		// Our last part arrived and the other side waits: its I-block did not.
		t.acknowledge()
	}
	return t.send(pcbR|t.nr*pcbNR, nil)
}

func (t *t1) sBlock(ctx context.Context, c *Contact, pcb byte, inf []byte) []byte {
	if pcb == pcbS|sResynch {
		nad := t.nad
		t.resynch()
		t.nad = nad
		return t.send(pcbS|pcbRsp|sResynch, nil)
	}
	if pcb&pcbRsp != 0 {
		return t.response(ctx, c, pcb, inf)
	}
	if t.ask != 0 {
		return t.invalid(errOther)
	}
	switch pcb {
	case pcbS | sIFS:
		t.bad = 0
		t.ifsd = int(inf[0])
		return t.send(pcb|pcbRsp, inf)
	case pcbS | sAbort:
		// Rule 9: whichever chain is under way ends here.
		t.bad = 0
		t.acknowledge()
		t.drop()
		return t.send(pcb|pcbRsp, nil)
	}
	return t.invalid(errOther) // S(WTX request) is the card's alone
}

// response takes the response to a request of the card.
func (t *t1) response(ctx context.Context, c *Contact, pcb byte, inf []byte) []byte {
	edc := 1
	if t.p.crc {
		edc = 2
	}
	if t.ask == 0 || pcb != t.ask|pcbRsp || string(inf) != string(t.last[3:len(t.last)-edc]) {
		return t.invalid(errOther)
	}
	t.bad = 0
	ask := t.ask
	t.ask = 0
	switch ask {
	case pcbS | sIFS:
		t.ifsc = int(inf[0])
		if t.computing {
			return t.compute(ctx, c)
		}
	case pcbS | sWTX:
		return t.compute(ctx, c)
	case pcbS | sAbort:
		t.drop()
	}
	// The chain goes on, or the right to send goes back (rule 9).
	return t.send(pcbR|t.nr*pcbNR, nil)
}

// drop forgets the chain in either direction.
func (t *t1) drop() {
	t.collecting, t.computing = false, false
	t.in = t.in[:0]
	t.out, t.answer = nil, nil
	t.part = -1
}

// request sends an S request and remembers that its response is due.
func (t *t1) request(kind, value byte) []byte {
	t.ask = pcbS | kind
	if kind == sAbort {
		return t.send(t.ask, nil)
	}
	return t.send(t.ask, []byte{value})
}

// send builds a block in last.
func (t *t1) send(pcb byte, inf []byte) []byte {
	b := append(t.last[:0], t.nad, pcb, byte(len(inf)))
	b = append(b, inf...)
	if t.p.crc {
		crc := crc16(b)
		b = append(b, byte(crc>>8), byte(crc))
	} else {
		var lrc byte
		for _, v := range b {
			lrc ^= v
		}
		b = append(b, lrc)
	}
	t.last = b
	return b
}

// crc16 is the CRC of ISO/IEC 13239 as readers in the field compute it for T=1:
// x16+x12+x5+1, register preset to FFFF, least significant bit first, sent
// without the final inversion, high byte first.
func crc16(p []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, v := range p {
		crc ^= uint16(v)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0x8408
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}
