package iso7816

import (
	"errors"
	"fmt"
	"time"
)

// T0Mode is the unit in which T=0 travels to the card.
type T0Mode int

const (
	// T0TPDU: header and data out in one message; data and SW1 SW2 back.
	// Whoever carries it handles the procedure bytes.
	T0TPDU T0Mode = iota
	// T0Character: single characters; the machine handles procedure bytes.
	T0Character
	// T0APDU: the carrier takes a whole C-APDU of a short case (4 bytes for case 1, Le
	// included in case 4), but leaves 61xx and 6Cxx to us. Other bytes are passed to it
	// unchanged.
	T0APDU
)

// T0Config describes the card and the reader to a T0.
type T0Config struct {
	Params  Params // as agreed with the card
	ClockHz int    // the card's clock; 0 means DefaultClockHz
	Mode    T0Mode
	// Extended: in mode T0APDU, the carrier takes extended C-APDUs, too.
	Extended bool
	// Plain: every status word is passed up, and only the command is sent: no GET RESPONSE
	// and no corrected Le.
	Plain bool
}

const (
	insGetResponse = 0xC0 // ISO/IEC 7816-4:2013 §11.7.1
	insEnvelope    = 0xC2 // §11.7.2
)

// T0 is the interface device's side of the character protocol T=0, ISO/IEC
// 7816-3:2006 §10, with the mapping of C-APDUs to TPDUs of §12.2.
//
//	case 1   header with P3 = 00
//	case 2   P3 = Le; 6Cxx: once more with P3 = xx; 61xx: GET RESPONSE until
//	         Ne bytes are there
//	case 3   header and data; the status word is passed up, 61xx, too, as
//	         programs written for T=0 expect
//	case 4   as case 3, then 61xx: GET RESPONSE until Ne bytes are there
//	2E       as case 2; P3 = 00 where Ne is above 256
//	3E, 4E   as case 3, 4 while the data fit; else the C-APDU travels in the
//	         data of ENVELOPE commands
//
// After 90 00 in case 4 there is no GET RESPONSE, though §12.2.5 would allow
// one: a card with data says 61xx, and to one without it would be a command
// that nobody wrote, answered with an error that hides the 90 00. After a
// warning there is one (see warns), which cannot hide it.
//
// T=0 cannot resynchronise: after silence or an invalid procedure byte the machine is Dead
// and the card must be reset. So a late answer cannot be taken for the answer to the next
// command.
//
//	        header sent         ACK, data in
//	idle ----------> procedure --------------> data
//	 ^                 | ^  ^ |  ACK, data out   |
//	 |            NULL +-+  | +---- send --+     |
//	 |                 |    +--------------+-----+
//	 +------ SW2 <-----+ SW1
//	        (or the next TPDU: 61xx, 6Cxx, ENVELOPE)
type T0 struct {
	cfg  T0Config
	wwt  time.Duration
	dead bool
	// heard: the card sent something that the protocol allows.
	heard bool

	state t0State
	capdu []byte
	cmd   Command
	dst   []byte
	base  int

	// The TPDU under way.
	kind      t0Kind
	hdr       [5]byte
	out       []byte // data to send
	sent      int    // out[:sent] was sent
	in        int    // data expected
	got       int    // data received
	want      int    // data characters wanted by the last step
	sw1       byte
	acked     bool // the card acknowledged a header without data
	corrected bool // it is the repetition that 6Cxx asked for
	env       int  // capdu[:env] went out by ENVELOPE

	class, otherClass byte    // for GET RESPONSE; equal if there is no choice
	warning           [2]byte // the command's SW1 SW2, if GET RESPONSE follows it; else 0

	buf [5 + 255]byte
}

type t0State uint8

const (
	t0Idle t0State = iota
	t0Message
	t0Procedure
	t0Data
	t0SW2
)

// t0Kind is what a TPDU is for.
type t0Kind uint8

const (
	t0Command t0Kind = iota
	t0Envelope
	t0GetResponse
)

var _ Machine = (*T0)(nil)

// NewT0 makes the machine for a card just reset (and a PPS done).
func NewT0(cfg T0Config) *T0 {
	return &T0{cfg: cfg, wwt: cfg.Params.WWT(cfg.ClockHz)}
}

// Dead reports whether card and machine are out of step: the card must be reset, and
// a new T0 made.
func (t *T0) Dead() bool { return t.dead }

// Heard reports whether a procedure byte or an answer was received since the reset.
func (t *T0) Heard() bool { return t.heard }

// Response is dst of Start with the R-APDU appended.
func (t *T0) Response() []byte { return t.dst }

// Start begins an exchange. The error of a refused command is ErrInvalid. An
// exchange that was begun and abandoned before leaves the machine Dead.
func (t *T0) Start(capdu, dst []byte) Step {
	if t.state != t0Idle {
		t.state, t.dead = t0Idle, true
	}
	if t.dead {
		return Step{Done: true, Err: fmt.Errorf("T=0: card and reader are out of step; reset the card: %w", ErrProtocol)}
	}
	cmd, err := ParseCommand(capdu)
	switch {
	case t.cfg.Mode == T0APDU: // the carrier knows what to do with them
		if err := Carries(capdu, t.cfg.Extended); err != nil {
			return Step{Done: true, Err: err}
		}
	case err != nil:
		return Step{Done: true, Err: err}
	case cmd.INS&0xF0 == 0x60 || cmd.INS&0xF0 == 0x90:
		// Its acknowledgement would look like SW1 (ISO/IEC 7816-3:2006 §10.3.2).
		return Step{Done: true, Err: invalid("an INS of 6x or 9x cannot be sent over T=0: it is reserved")}
	case t.cfg.Mode == T0Character && cmd.CLA == 0xFF:
		return Step{Done: true, Err: invalid("CLA FF cannot be sent over T=0: it begins a PPS")}
	}
	t.capdu, t.cmd = capdu, cmd
	t.dst, t.base = dst, len(dst)
	t.corrected, t.env, t.warning = false, 0, [2]byte{}
	t.class, t.otherClass = responseClass(cmd.CLA)

	if t.cfg.Mode == T0APDU {
		t.kind = t0Command
		t.hdr = [5]byte{cmd.CLA, cmd.INS, cmd.P1, cmd.P2, 0}
		t.out, t.sent, t.got = cmd.Data, len(cmd.Data), 0
		t.in = MaxNe
		t.state = t0Message
		return t.message(capdu)
	}
	if len(cmd.Data) > 255 {
		return t.envelope()
	}
	if len(cmd.Data) > 0 {
		return t.tpdu(t0Command, cmd.CLA, cmd.INS, cmd.P1, cmd.P2, cmd.Data, 0)
	}
	return t.tpdu(t0Command, cmd.CLA, cmd.INS, cmd.P1, cmd.P2, nil, min(cmd.Ne, 256))
}

// envelope sends the next piece of the C-APDU.
func (t *T0) envelope() Step {
	n := min(255, len(t.capdu)-t.env)
	piece := t.capdu[t.env : t.env+n]
	t.env += n
	return t.tpdu(t0Envelope, chainClass(t.cmd.CLA), insEnvelope, 0, 0, piece, 0)
}

func (t *T0) getResponse(n int) Step {
	t.corrected = false
	return t.tpdu(t0GetResponse, t.class, insGetResponse, 0, 0, nil, n)
}

// responseClass returns CLA for GET RESPONSE after a command of class cla, and the class to
// try if the card refuses it. Both are the same if there is no other choice.
//
//	00-7F  the command's, without chaining and secure messaging (ISO/IEC
//	       7816-4:2013 §5.4.1): GET RESPONSE continues the transfer, not the chain
//	80-9F  00 with the command's channel (EMV Book 1 §9.2.2.1, ETSI TS 102 221
//	       §7.3.1, GlobalPlatform 2.3.1 §11.1.5)
//	other  the command's; A0 of GSM 11.11 among them
//
// The other choice is the command's own class, or 00 if that is the first choice.
func responseClass(cla byte) (first, other byte) {
	switch {
	case cla < 0x40:
		first, other = cla&^0x1C, cla
	case cla < 0x80:
		first, other = cla&^0x30, cla
	case cla < 0xA0:
		first, other = cla&0x03, cla
	default:
		first, other = cla, 0x00
	}
	return first, other
}

// warns reports whether a case 4 command that the card answered with sw1 sw2 alone
// gets a GET RESPONSE: such a card may have data that it does not announce
// (EMV Book 1 §9.3.1.1, ETSI TS 102 221 §7.3.1.1.4). Not so where ISO/IEC
// 7816-4:2013 gives the status word another meaning: 6202 to 6280 (§8.6.1, a query
// by the card), 63Cx (§5.6, a counter), 6300 to a verification.
func warns(ins, sw1, sw2 byte) bool {
	switch {
	case sw1 == 0x62:
		return sw2 < 0x02 || sw2 > 0x80
	case sw1 == 0x63 && sw2 == 0x00:
		switch ins {
		case 0x20, 0x21, // VERIFY
			0x24, 0x25, // CHANGE REFERENCE DATA
			0x82: // EXTERNAL and MUTUAL AUTHENTICATE
			return false
		}
		return true
	}
	return sw1 == 0x63 && sw2&0xF0 != 0xC0
}

// tpdu sends a TPDU: out are the data to the card or, if there are none, in is
// the number expected from it (256 is coded as 00).
func (t *T0) tpdu(kind t0Kind, cla, ins, p1, p2 byte, out []byte, in int) Step {
	t.kind, t.acked = kind, false
	t.out, t.sent = out, 0
	t.in, t.got = in, 0
	p3 := byte(in)
	if len(out) > 0 {
		p3 = byte(len(out))
	}
	t.hdr = [5]byte{cla, ins, p1, p2, p3}
	if t.cfg.Mode == T0Character {
		t.state = t0Procedure
		return Step{Send: t.hdr[:], Want: 1, Wait: t.wwt}
	}
	t.sent = len(out)
	t.state = t0Message
	if t.cfg.Mode == T0APDU && len(out) == 0 && in == 0 {
		return t.message(t.hdr[:4]) // case 1
	}
	b := append(t.buf[:0], t.hdr[:]...)
	return t.message(append(b, out...))
}

// message sends a whole message. Its answer may take as long as a card that
// uses up the waiting time before each of the up to 260 characters.
func (t *T0) message(b []byte) Step {
	return Step{Send: b, Wait: 260 * t.wwt}
}

// Next takes the message or the characters that came, or an error. T=0 knows
// no repetition above the single character, so any error ends the exchange. An
// ErrInvalid says that the carrier refused the message and sent nothing.
func (t *T0) Next(rx []byte, err error) Step {
	switch {
	case t.state == t0Idle:
		return t.idle()
	case errors.Is(err, ErrTimeout):
		return t.broken(ErrTimeout, "no answer within the work waiting time")
	case errors.Is(err, ErrInvalid): // refused before anything was sent
		return t.done(err)
	case errors.Is(err, ErrProtocol):
		return t.broken(err, "damaged answer")
	case err != nil:
		return t.broken(fmt.Errorf("%w: %w", err, ErrProtocol), "damaged answer")
	case t.state == t0Message:
		return t.answer(rx)
	case len(rx) == 0:
		return t.broken(ErrTimeout, "no answer within the work waiting time")
	}
	switch t.state {
	case t0Data:
		return t.dataIn(rx)
	case t0SW2:
		if len(rx) == 1 {
			return t.status(t.sw1, rx[0])
		}
	case t0Procedure:
		if len(rx) == 1 {
			return t.procedure(rx[0])
		}
	}
	return t.broken(ErrProtocol, fmt.Sprintf("one character was asked for, %d came", len(rx)))
}

// procedure handles a procedure byte, ISO/IEC 7816-3:2006 §10.3.3.
func (t *T0) procedure(b byte) Step {
	ins := t.hdr[1]
	one := false
	switch {
	case b == 0x60: // NULL
		t.heard = true
		return t.wait()
	case b&0xF0 == 0x60 || b&0xF0 == 0x90:
		t.heard = true
		t.sw1 = b
		t.state = t0SW2
		return Step{Want: 1, Wait: t.wwt}
	case b == ins, b == ins^0x01:
		// INS^01 and INS^FE are the forms of the 1989 edition, with
		// programming voltage.
	case b == ins^0xFF, b == ins^0xFE:
		one = true
	default:
		return t.broken(ErrProtocol, "the procedure byte is neither NULL, nor INS, nor SW1")
	}
	t.heard = true
	if out := t.out[t.sent:]; len(out) > 0 {
		if one {
			out = out[:1]
		}
		t.sent += len(out)
		return Step{Send: out, Want: 1, Wait: t.wwt}
	}
	switch left := t.in - t.got; {
	case left > 0:
		t.state = t0Data
		if one {
			left = 1
		}
		t.want = left
		return Step{Want: left, Wait: t.wwt}
	case t.in == 0 && len(t.out) == 0 && !t.acked:
		t.acked = true // case 1: some cards acknowledge that there is nothing
		return Step{Want: 1, Wait: t.wwt}
	}
	return t.broken(ErrProtocol, "the procedure byte asks for more data than there are")
}

// wait grants another work waiting time.
func (t *T0) wait() Step {
	t.state = t0Procedure
	return Step{Want: 1, Wait: t.wwt, Extended: true}
}

// Expire ends the exchange because the card did not answer before the exchange limit.
func (t *T0) Expire() Step {
	if t.state == t0Idle {
		return t.idle()
	}
	return t.broken(ErrTimeout, "the card did not answer before the exchange limit")
}

func (t *T0) idle() Step {
	return Step{Done: true, Err: fmt.Errorf("T=0: no exchange is under way: %w", ErrInvalid)}
}

// dataIn takes characters of the data field.
func (t *T0) dataIn(rx []byte) Step {
	if len(rx) > t.want {
		return t.broken(ErrProtocol, fmt.Sprintf("%d characters were asked for, %d came", t.want, len(rx)))
	}
	t.take(rx)
	if t.want -= len(rx); t.want > 0 {
		return Step{Want: t.want, Wait: t.wwt}
	}
	t.state = t0Procedure
	return Step{Want: 1, Wait: t.wwt}
}

// take appends response data, but not beyond Ne: what 6Cxx made the card send
// on top is not part of the response (ISO/IEC 7816-3:2006 §12.2.3). What a
// carrier of whole APDUs answers to the command itself is left as it is.
func (t *T0) take(data []byte) {
	t.got += len(data)
	if t.cfg.Mode != T0APDU || t.kind != t0Command || t.corrected {
		data = data[:min(len(data), max(0, t.left()))]
	}
	t.dst = AppendResponse(t.dst, t.base, data...)
}

// left returns the number of bytes of Ne that are missing.
func (t *T0) left() int { return t.cmd.Ne - (len(t.dst) - t.base) }

// answer takes the whole answer to a TPDU, or to a short APDU.
func (t *T0) answer(rx []byte) Step {
	n := len(rx) - 2
	switch {
	case n < 0:
		return t.done(t.fatal(ErrProtocol, fmt.Sprintf("the answer has %d bytes; SW1 SW2 are the least", len(rx))))
	case n > t.in && !t.answersData(n):
		return t.done(t.fatal(ErrProtocol, fmt.Sprintf("the answer has %d data bytes, at most %d were asked for", n, t.in)))
	}
	t.heard = true
	t.take(rx[:n])
	return t.status(rx[n], rx[n+1])
}

// answersData reports whether n bytes may be the answer's data, although T=0 knows none after
// a TPDU with data. Some readers and tokens fetch what 61xx announces by themselves, without
// knowing Ne; take keeps no more than that.
func (t *T0) answersData(n int) bool {
	whole := t.kind == t0Command || t.kind == t0Envelope && t.env == len(t.capdu)
	return whole && len(t.out) > 0 && n <= 256
}

// status decides what follows the end of a TPDU.
func (t *T0) status(sw1, sw2 byte) Step {
	if t.kind == t0Envelope && t.env < len(t.capdu) {
		if sw1 == 0x90 {
			return t.envelope()
		}
		return t.finish(sw1, sw2)
	}
	left := t.left()
	receiving := len(t.out) == 0
	switch {
	case t.cfg.Plain:
	case left <= 0: // nothing expected (cases 1 and 3), or all there
	case sw1 == 0x6C && receiving && t.got == 0 && !t.corrected:
		// The card only reported the right length. A second 6Cxx in a row is passed up:
		// such a card would never stop.
		n := le(int(sw2), 256)
		t.corrected = true
		return t.tpdu(t.kind, t.hdr[0], t.hdr[1], t.hdr[2], t.hdr[3], nil, n)
	case sw1 == 0x61 && (t.kind != t0GetResponse || t.got > 0):
		// A GET RESPONSE that brought nothing is not repeated, for the same reason.
		return t.getResponse(min(left, le(int(sw2), 256)))
	case t.kind == t0GetResponse && t.got == 0 && sw2 == 0 && (sw1 == 0x6E || sw1 == 0x6D) && t.class != t.otherClass:
		t.class = t.otherClass
		return t.getResponse(t.in)
	case t.kind != t0GetResponse && len(t.cmd.Data) > 0 && t.left() == t.cmd.Ne && warns(t.cmd.INS, sw1, sw2):
		t.warning = [2]byte{sw1, sw2}
		return t.getResponse(min(left, 256))
	}
	return t.finish(sw1, sw2)
}

// finish ends the exchange with a status word: with the command's warning, if data
// were asked for because of it, unless they broke off.
func (t *T0) finish(sw1, sw2 byte) Step {
	whole := sw1 == 0x90 || sw1 >= 0x61 && sw1 <= 0x63
	if t.warning[0] != 0 && (whole || len(t.dst) == t.base) {
		sw1, sw2 = t.warning[0], t.warning[1]
	}
	t.dst = AppendResponse(t.dst, t.base, sw1, sw2)
	return t.done(nil)
}

func (t *T0) done(err error) Step {
	t.state = t0Idle
	t.Wipe()
	if err != nil {
		clear(t.dst[t.base:]) // nobody asks for a part of an answer
	}
	return Step{Done: true, Err: err}
}

// Wipe forgets the command, which may be a PIN.
func (t *T0) Wipe() {
	clear(t.buf[:])
	t.capdu, t.out, t.cmd.Data = nil, nil, nil
}

// broken ends the exchange and the connection.
func (t *T0) broken(cause error, why string) Step {
	t.dead = true
	return t.done(fmt.Errorf("%w; the card must be reset", t.fatal(cause, why)))
}

func (t *T0) fatal(cause error, why string) error {
	err := fmt.Errorf("T=0: %s: %w", why, cause)
	switch {
	case t.sent < len(t.out), t.kind == t0Envelope && t.env < len(t.capdu):
		return fmt.Errorf("%w; the command was not executed", err)
	}
	return fmt.Errorf("%w; %w", err, ErrInDoubt)
}
