package icc

import (
	"context"
	"time"
)

// t0 is the card's end of T=0 (ISO/IEC 7816-3:2006 §10 and §12): it turns
// TPDUs into the application's C-APDUs, and answers that do not fit a TPDU into
// 61xx and 6Cxx.
type t0 struct {
	held   []byte  // answer data that GET RESPONSE may fetch
	heldSW [2]byte // their SW1 SW2
	again  [4]byte // command that 6Cxx was said to; its answer is held
	isWait bool    // again counts

	env     []byte // C-APDU that came by ENVELOPE so far
	cmd, rx []byte
}

func (t *t0) reset() {
	*t = t0{held: t.held[:0], env: t.env[:0], cmd: t.cmd[:0], rx: t.rx[:0]}
}

const (
	insGetResponse = 0xC0
	insEnvelope    = 0xC2
)

// incoming reports whether a command brings data along.
func incoming(card Card, cla, ins byte) bool {
	switch ins {
	case insGetResponse:
		return false
	case insEnvelope:
		return true
	}
	if d, ok := card.(T0Card); ok {
		return d.Incoming(cla, ins)
	}
	switch ins {
	case 0x0E, 0x0F, // ERASE BINARY
		0x10, 0x12, 0x14, // PERFORM … OPERATION
		0x20, 0x21, 0x24, 0x2C, // VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER
		0x22, 0x2A, 0x2B, // MANAGE SECURITY ENVIRONMENT, PERFORM SECURITY OPERATION
		0x82, 0x86, 0x87, 0x88, 0x89, // authentication
		0xA0, 0xA1, 0xA2, 0xA4, // SEARCH, SELECT
		0xD0, 0xD1, 0xD2, 0xD6, 0xD7, 0xDA, 0xDB, 0xDC, 0xDD, 0xE0, 0xE2:
		return true
	}
	return false
}

// tpdu answers a TPDU: header, and data where the command brings some.
func (t *t0) tpdu(ctx context.Context, c *Contact, tx []byte) []byte {
	if len(tx) < 4 {
		return nil // the card waits for the rest of the header
	}
	var h [5]byte
	copy(h[:], tx)
	data := tx[min(5, len(tx)):]
	if incoming(c.card, h[0], h[1]) || len(data) > 0 {
		if len(data) < int(h[4]) {
			return nil // the card waits for the rest of the data
		}
		data = data[:h[4]]
	}
	rx, busy := t.run(c, h, data)
	if !c.pass(ctx, busy, 0) {
		return nil
	}
	return rx
}

// run executes a command and returns what the card sends for it: data and SW1
// SW2, and how long the card takes.
func (t *t0) run(c *Contact, h [5]byte, data []byte) ([]byte, time.Duration) {
	switch h[1] {
	case insGetResponse:
		return t.getResponse(h), 0
	case insEnvelope:
		return t.envelope(c, h, data)
	}
	t.env = t.env[:0]
	if incoming(c.card, h[0], h[1]) || len(data) > 0 {
		return t.runIncoming(c, h, data)
	}
	return t.runOutgoing(c, h)
}

// runIncoming is cases 1, 3 and 4 (§12.2.2, .4, .5). The header does not show
// whether an answer is wanted, so the application is asked for one.
func (t *t0) runIncoming(c *Contact, h [5]byte, data []byte) ([]byte, time.Duration) {
	if len(data) == 0 {
		t.cmd = append(t.cmd[:0], h[:4]...)
	} else {
		t.cmd = append(append(t.cmd[:0], h[:]...), data...)
		t.cmd = append(t.cmd, 0)
	}
	r, busy := c.processWhole(t.cmd)
	return t.hold(r), busy
}

// hold keeps an answer's data for GET RESPONSE and says 61xx, or passes the
// status on.
func (t *t0) hold(r []byte) []byte {
	t.isWait = false
	t.held = t.held[:0]
	n := len(r) - 2
	if n <= 0 {
		return t.status(r)
	}
	t.held = append(t.held, r[:n]...)
	t.heldSW = [2]byte(r[n:])
	return t.reply(nil, 0x61, lengthByte(n))
}

// runOutgoing is cases 1 and 2 (§12.2.2, .3). A command of case 1 has P3 = 00
// and looks like Le = 256; an application that has no data for it answers with
// its status alone.
func (t *t0) runOutgoing(c *Contact, h [5]byte) ([]byte, time.Duration) {
	le := int(h[4])
	if le == 0 {
		le = 256
	}
	if t.isWait && t.again == [4]byte(h[:4]) && le == len(t.held) {
		t.isWait = false
		rx := t.reply(t.held, t.heldSW[0], t.heldSW[1])
		t.held = t.held[:0]
		return rx, 0
	}
	t.isWait = false
	t.held = t.held[:0]
	t.cmd = append(t.cmd[:0], h[:]...)
	r, busy := c.processWhole(t.cmd)
	n := len(r) - 2
	switch {
	case n <= 0:
		return t.status(r), busy
	case n == le:
		return t.reply(r[:n], r[n], r[n+1]), busy
	case n > le:
		t.held = append(t.held, r[le:n]...)
		t.heldSW = [2]byte(r[n:])
		return t.reply(r[:le], 0x61, lengthByte(n-le)), busy
	}
	// The command comes again with the right Le; it must not run again. With
	// that Le the answer does not end early any more (6282).
	t.held = append(t.held, r[:n]...)
	t.heldSW = [2]byte(r[n:])
	if t.heldSW == [2]byte{0x62, 0x82} {
		t.heldSW = [2]byte{0x90, 0x00}
	}
	t.again, t.isWait = [4]byte(h[:4]), true
	return t.reply(nil, 0x6C, lengthByte(n)), busy
}

func (t *t0) getResponse(h [5]byte) []byte {
	le := int(h[4])
	if le == 0 {
		le = 256
	}
	n := len(t.held)
	switch {
	case h[2] != 0 || h[3] != 0:
		return t.reply(nil, 0x6A, 0x86)
	case n == 0 || t.isWait:
		return t.reply(nil, 0x69, 0x85)
	case le > n:
		return t.reply(nil, 0x6C, lengthByte(n))
	case le == n:
		rx := t.reply(t.held, t.heldSW[0], t.heldSW[1])
		t.held = t.held[:0]
		return rx
	}
	rx := t.reply(t.held[:le], 0x61, lengthByte(n-le))
	t.held = t.held[le:]
	return rx
}

// envelope collects an extended C-APDU in pieces (§12.2.4, .5): each is
// answered 9000 until the command is complete.
func (t *t0) envelope(c *Contact, h [5]byte, data []byte) ([]byte, time.Duration) {
	if h[2] != 0 || h[3] != 0 {
		return t.reply(nil, 0x6A, 0x86), 0
	}
	t.env = append(t.env, data...)
	e := t.env
	if len(e) < 7 && len(data) == 255 {
		return t.reply(nil, 0x90, 0), 0
	}
	complete := len(data) < 255
	if len(e) >= 7 && e[4] == 0 {
		lc := int(e[5])<<8 | int(e[6])
		complete = complete || len(e) >= 7+lc
		if complete && len(e) != 7+lc && len(e) != 9+lc && len(e) != 7 {
			t.env = e[:0]
			return t.reply(nil, 0x67, 0), 0
		}
	}
	if len(e) > maxCommand {
		t.env = e[:0]
		return t.reply(nil, 0x67, 0), 0
	}
	if !complete {
		return t.reply(nil, 0x90, 0), 0
	}
	t.env = e[:0]
	r, busy := c.processWhole(e)
	return t.hold(r), busy
}

// status answers SW1 SW2 alone.
func (t *t0) status(r []byte) []byte {
	if len(r) < 2 {
		return t.reply(nil, 0x6F, 0)
	}
	return t.reply(nil, r[len(r)-2], r[len(r)-1])
}

func (t *t0) reply(data []byte, sw1, sw2 byte) []byte {
	t.rx = append(append(t.rx[:0], data...), sw1, sw2)
	return t.rx
}

// lengthByte is how 61xx and 6Cxx say a length: 00 for 256 and more.
func lengthByte(n int) byte {
	if n >= 256 {
		return 0
	}
	return byte(n)
}
