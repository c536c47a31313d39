package iso7816

import (
	"errors"
	"fmt"
	"time"
)

// PCB values, ISO/IEC 7816-3:2006 §11.3.2.2.
const (
	pcbIseq  = 0x40 // I-block: N(S)
	pcbMore  = 0x20 // I-block: M, more blocks follow
	pcbR     = 0x80
	pcbRseq  = 0x10 // R-block: N(R)
	pcbS     = 0xC0
	pcbReply = 0x20 // S-block: response

	sResync = 0
	sIFS    = 1
	sAbort  = 2
	sWTX    = 3
)

// block handles one whole block from the card.
func (t *T1) block(b []byte) Step {
	// The order determines the error code: with a wrong length, the position of the
	// EDC is unknown.
	switch n := len(b); {
	case n == 0:
		return t.silence()
	case n < 3+t.edc || b[2] == 0xFF && !t.cfg.Long || n != 3+int(b[2])+t.edc:
		return t.failed(2, "LEN does not agree with the bytes received")
	case !checkEDC(b, t.cfg.Params.CRC):
		return t.failed(1, "wrong EDC")
	case b[0] != t.cfg.NAD<<4|t.cfg.NAD>>4:
		return t.failed(2, "wrong NAD")
	}
	pcb, inf := b[1], b[3:len(b)-t.edc]
	switch {
	case pcb&0x80 == 0:
		return t.iBlock(pcb, inf)
	case pcb&0xC0 == pcbR:
		return t.rBlock(pcb, inf)
	}
	return t.sBlock(pcb, inf)
}

func (t *T1) iBlock(pcb byte, inf []byte) Step {
	switch {
	case pcb&0x1F != 0:
		return t.failed(2, "undefined PCB")
	case t.state != t1Command && t.state != t1Response:
		return t.failed(2, "I-block in place of another answer")
	case t.state == t1Command && t.off+t.n < len(t.capdu):
		// Rule 5: the receiver of a chain sends R-blocks only.
		return t.failed(2, "I-block in the middle of our chain")
	case (pcb&pcbIseq != 0) != (t.nr == 1):
		return t.failed(2, "unexpected N(S)")
	case len(inf) > t.ifsd:
		return t.failed(2, "I-block longer than IFSD")
	}
	t.valid = true
	if t.state == t1Command {
		t.off += t.n // rule 2.1: an I-block acknowledges ours
		t.ns ^= 1
		t.state = t1Response
	}
	t.nr ^= 1
	idle := t.idle
	t.progress()
	more := pcb&pcbMore != 0
	if len(inf) == 0 && more {
		if t.idle = idle + 1; t.idle > maxIdle {
			return t.sendAbort(t.fatal("T=1: the card sends a chain of empty blocks: %w", ErrProtocol))
		}
	}
	if len(t.dst)-t.base+len(inf) > t.cfg.MaxResponse {
		err := t.fatal("T=1: the response is longer than %d bytes: %w", t.cfg.MaxResponse, ErrProtocol)
		if more {
			return t.sendAbort(err)
		}
		return t.done(err)
	}
	t.dst = AppendResponse(t.dst, t.base, inf...)
	switch {
	case !more && len(t.dst)-t.base < 2:
		return t.done(t.fatal("T=1: the response has %d bytes; SW1 SW2 are the least: %w", len(t.dst)-t.base, ErrProtocol))
	case !more:
		return t.done(nil)
	case t.abort:
		return t.sendAbort(t.fatal("%w", errAbort))
	}
	return t.sendR(0)
}

func (t *T1) rBlock(pcb byte, inf []byte) Step {
	switch {
	case len(inf) != 0:
		return t.failed(2, "R-block with LEN other than 0")
	case pcb&0x20 != 0:
		return t.failed(2, "undefined PCB")
	}
	nr := pcb >> 4 & 1
	switch t.state {
	case t1Aborted: // rule 9: the right to send is ours again
		t.valid = true
		t.ns = nr
		return t.done(t.end)
	case t1Command:
		if nr == t.ns { // rule 7.5: that I-block did not arrive
			return t.again("the card keeps asking for the same I-block")
		}
		if t.off+t.n == len(t.capdu) {
			return t.failed(2, "unexpected N(R)")
		}
		t.valid = true // rule 2.2
		t.off += t.n
		t.ns ^= 1
		t.progress()
		if t.abort {
			return t.sendAbort(t.fatal("%w", errAbort))
		}
		return t.sendI()
	case t1Response:
		if nr == t.ns { // the card did not get our R-block
			return t.again("the card keeps asking for the same R-block")
		}
		return t.failed(2, "unexpected N(R)")
	}
	t.valid = true
	return t.failed(2, "R-block in place of the S-response") // rule 7.3
}

// again sends the block that the card asks for once more.
func (t *T1) again(why string) Step {
	t.valid = true
	t.fails = 0
	if t.repeats++; t.repeats >= maxFails {
		t.why = why
		return t.recover()
	}
	if t.state == t1Command {
		return t.repeatI()
	}
	if t.last == sentAck || t.last == sentError { // rule 7.2
		return t.repeatS()
	}
	return t.sendR(0)
}

func (t *T1) sBlock(pcb byte, inf []byte) Step {
	kind, reply := pcb&0x1F, pcb&pcbReply != 0
	size := 0
	switch {
	case kind > sWTX:
		return t.failed(2, "undefined PCB")
	case kind == sIFS || kind == sWTX:
		size = 1
	}
	if len(inf) != size {
		return t.failed(2, "S-block with a wrong LEN")
	}
	if reply {
		return t.sResponse(kind, inf)
	}
	exchanging := t.state == t1Command || t.state == t1Response
	switch {
	case kind == sResync: // rule 6: only the interface device may
		return t.failed(2, "S(RESYNCH request) from the card")
	case kind == sAbort && (exchanging || t.state == t1Aborted):
		if t.idle++; t.idle > maxIdle {
			return t.failed(2, "S(ABORT request) without end")
		}
		t.valid = true
		t.fails = 0
		if exchanging {
			t.end = t.fatal("T=1: the card aborted the exchange: %w", ErrProtocol)
			t.state = t1Aborted
		}
		return t.sendS(pcbS|pcbReply|sAbort, nil, sentResponse)
	case !exchanging:
		return t.failed(2, "S-request in place of another answer")
	case kind == sIFS:
		v := inf[0]
		if v == 0 || v == 0xFF {
			return t.failed(2, "S(IFS request) with a reserved value")
		}
		if t.idle++; t.idle > maxIdle {
			return t.failed(2, "S(IFS request) without end")
		}
		t.valid = true
		t.fails = 0
		t.ifsc = min(int(v), t.cfg.IFSCMax)
		return t.sendS(pcbS|pcbReply|sIFS, inf, sentResponse)
	}
	return t.grant(inf) // WTX
}

// grant answers S(WTX request) (rule 3). The longer waiting time holds for the
// card's next block only.
func (t *T1) grant(inf []byte) Step {
	t.valid = true
	t.fails = 0
	n := int(inf[0])
	s := t.sendS(pcbS|pcbReply|sWTX, inf, sentResponse)
	s.Wait, s.WTX, s.Extended = time.Duration(max(n, 1))*t.bwt, n, true
	return s
}

// Expire resynchronises instead of waiting on. The command is not sent again,
// even if it may be: it would take as long.
func (t *T1) Expire() Step {
	if t.state == t1Idle {
		return Step{Done: true, Err: errIdleT1}
	}
	t.silent = true // to the caller this is a card that takes too long
	t.end = t.fatal("T=1: the card did not answer before the exchange limit: %w", ErrTimeout)
	return t.sendResync()
}

func (t *T1) sResponse(kind byte, inf []byte) Step {
	switch {
	case t.state == t1IFS && kind == sIFS && int(inf[0]) == t.cfg.IFSD:
		t.valid = true
		t.ifsd = t.cfg.IFSD
		return t.settled()
	case t.state == t1Resync && kind == sResync:
		t.valid = true
		t.defaults()
		if t.announced { // rule 6.3: IFSD is back at its default
			return t.sendIFS()
		}
		return t.settled()
	case t.state == t1Abort && kind == sAbort:
		t.valid = true
		return t.done(t.end)
	}
	return t.failed(2, "S-response that was not asked for")
}

// settled goes on once RESYNCH and the announcement of IFSD are over.
func (t *T1) settled() Step {
	if t.setup || t.end != nil {
		return t.done(t.end)
	}
	t.dst = t.dst[:t.base]
	t.off = 0
	t.progress()
	return t.sendI()
}

func (t *T1) silence() Step {
	t.silent = true
	if t.rlen > 0 {
		return t.failed(2, "the block broke off")
	}
	return t.failed(2, "no answer within the waiting time")
}

// failed handles whatever counts as an invalid block: rules 7.1 to 7.4.
func (t *T1) failed(code byte, why string) Step {
	t.why = why
	if t.fails++; t.fails >= maxFails {
		return t.recover()
	}
	switch t.last {
	case sentRequest, sentError: // rules 7.3, 7.2
		return t.repeatS()
	}
	return t.sendR(code) // rule 7.1; after an S-response 7.3
}

// recover is what follows when retransmissions did not help.
func (t *T1) recover() Step {
	switch {
	case t.state == t1IFS && t.valid:
		return t.settled() // IFSD stays at its default
	case t.state == t1Resync, !t.valid: // rules 6.4, 7.4.1
		t.dead = true
		err := t.end
		if err == nil {
			err = t.fatal("T=1: %s; three attempts failed: %w", t.why, t.cause())
		}
		return t.done(fmt.Errorf("%w; the card must be reset", err))
	case t.end == nil && !t.mayRestart():
		t.end = t.fatal("T=1: %s; three attempts failed and RESYNCH was needed: %w", t.why, t.cause())
	}
	return t.sendResync() // rule 7.4.2
}

// mayRestart decides whether the command may be sent again from its beginning
// after RESYNCH, which makes the card forget the sequence number that it would
// know a repetition by. While the last I-block of the command was not sent, no
// card can have executed it. Once it was, nothing the card says proves that it
// did not arrive: an R-block asking for it may be the late answer to something
// earlier.
func (t *T1) mayRestart() bool {
	if t.setup {
		return true
	}
	if t.restarts >= maxRestarts {
		return false
	}
	if t.exposed && (t.cfg.Repeatable == nil || !t.cfg.Repeatable(t.capdu)) {
		return false
	}
	t.restarts++
	return true
}

// cause is the error by which callers distinguish the last failure.
func (t *T1) cause() error {
	if t.silent {
		return ErrTimeout
	}
	return ErrProtocol
}

// fatal is the error of an exchange that ends without its answer; it adds what
// is known about the command.
func (t *T1) fatal(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	switch {
	case t.setup:
		return err
	case t.exposed:
		return fmt.Errorf("%w; %w", err, ErrInDoubt)
	}
	return fmt.Errorf("%w; the command was not executed", err)
}

var (
	errAbort  = errors.New("T=1: aborted on request")
	errIdleT1 = fmt.Errorf("T=1: no exchange is under way: %w", ErrInvalid)
)

func (t *T1) done(err error) Step {
	t.state = t1Idle
	t.Wipe()
	if err != nil {
		clear(t.dst[t.base:]) // nobody asks for a part of an answer
	}
	return Step{Done: true, Err: err}
}

// sendI sends the next part of the command.
func (t *T1) sendI() Step {
	t.state = t1Command
	t.n = min(t.ifsc, len(t.capdu)-t.off)
	pcb := t.ns << 6
	if t.off+t.n < len(t.capdu) {
		pcb |= pcbMore
	} else {
		t.exposed = true
	}
	clear(t.iblk) // the next may be shorter
	b := append(t.ibuf[:0], t.cfg.NAD, pcb, byte(t.n))
	b = append(b, t.capdu[t.off:t.off+t.n]...)
	t.iblk = appendEDC(b, 0, t.cfg.Params.CRC)
	return t.repeatI()
}

func (t *T1) repeatI() Step {
	t.last = sentI
	return t.send(t.iblk)
}

// sendR acknowledges the card's chain (code 0) or reports an error.
func (t *T1) sendR(code byte) Step {
	kind := sentAck
	if code != 0 {
		kind = sentError
	}
	return t.sendS(pcbR|t.nr<<4|code, nil, kind)
}

func (t *T1) sendIFS() Step {
	t.state = t1IFS
	t.progress()
	return t.sendS(pcbS|sIFS, []byte{byte(t.cfg.IFSD)}, sentRequest)
}

func (t *T1) sendResync() Step {
	t.state = t1Resync
	t.progress()
	return t.sendS(pcbS|sResync, nil, sentRequest)
}

// sendAbort ends a chain; the exchange ends with err once the card confirmed.
func (t *T1) sendAbort(err error) Step {
	t.state = t1Abort
	t.end = err
	t.progress()
	return t.sendS(pcbS|sAbort, nil, sentRequest)
}

func (t *T1) sendS(pcb byte, inf []byte, kind t1Kind) Step {
	b := append(t.sbuf[:0], t.cfg.NAD, pcb, byte(len(inf)))
	b = append(b, inf...)
	t.sblk = appendEDC(b, 0, t.cfg.Params.CRC)
	t.last = kind
	return t.send(t.sblk)
}

func (t *T1) repeatS() Step { return t.send(t.sblk) }

func (t *T1) send(b []byte) Step {
	t.rlen, t.drain = 0, 0
	s := Step{Send: b, Wait: t.bwt}
	if t.cfg.Character {
		s.Want = 3
	}
	return s
}
