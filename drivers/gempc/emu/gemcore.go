// Package emu emulates Gemplus readers with a GemCore. It was written from what Debian's
// libgempc430, libgempc410 and libgcr410 send and accept, and shares nothing with the driver of this
// project.
//
// Lock order: Commands.mu, then core.mu, then those of the card in Contact.
package emu

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/cardfs/cardfs/reader/icc"
)

// core answers commands. Calls do not overlap.
type core struct {
	Contact icc.Contact
	// Patience is how long a silent card is waited for; 0: as long as its protocol says.
	Patience time.Duration

	text string // its version

	mu    sync.Mutex
	tail  []byte // of a long command, which comes first
	more  []byte // of a long answer
	other bool   // its SW is not 9000
}

// Limits of one command or answer.
const (
	inData    = 248
	apduBytes = 254
	partBytes = 254
)

// command answers one command: status and data.
func (c *core) command(ctx context.Context, cmd []byte) []byte {
	if len(cmd) == 0 {
		return []byte{0x03}
	}
	op, p := cmd[0], cmd[1:]
	switch op {
	case 0x01:
		if len(p) != 2 {
			return []byte{0x03}
		}
		return []byte{0}
	case 0x11:
		c.Contact.Deactivate()
		c.forget()
		return []byte{0}
	case 0x12:
		return c.powerUp(ctx, p)
	case 0x13, 0x14, 0x15:
		return c.exchange(ctx, op, p)
	case 0x17:
		if len(p) > 0 { // asks for the mode, or sets it
			return []byte{0, 0x47} // that for ISO cards
		}
		return append([]byte{0}, c.status()...)
	case 0x22: // of the version, libgcr410 asks for 13 bytes and for 10
		if len(p) != 4 || string(p[:3]) != "\x05\x3F\xE0" {
			return []byte{0x03}
		}
		return append([]byte{0}, c.text[:min(len(c.text), int(p[3]))]...)
	}
	return []byte{0x01}
}

func (c *core) forget() {
	c.mu.Lock()
	c.tail, c.more = nil, nil
	c.mu.Unlock()
}

func (c *core) status() []byte {
	s := []byte{0, 0x02, 0x11, 0, 0, 0}
	if c.Contact.Present() {
		s[0] |= 0x04
	}
	if c.Contact.Powered() {
		s[0] |= 0x02
		if c.Contact.Protocol() == 1 {
			s[0] |= 0x08
		}
	}
	return s
}

// powerUp resets the card: cold if it has no power.
func (c *core) powerUp(ctx context.Context, p []byte) []byte {
	c.forget()
	pps := len(p) == 1 && p[0]>>4 == 2
	host := len(p) > 2 && p[0]>>4 == 0xF // the host gives the PPS, without its PPSS
	if len(p) == 0 || len(p) == 1 && !pps && p[0]>>4 != 1 || len(p) > 1 && !host {
		return []byte{0x03}
	}
	switch class := p[0] & 0x0F; class {
	case 1, 2, 3:
	default:
		return []byte{0x03}
	}
	if !c.Contact.Present() {
		return []byte{0xFB}
	}
	atr, err := c.Contact.Activate(ctx, c.Contact.Powered())
	if err != nil {
		if !c.Contact.Present() {
			return []byte{0xF7}
		}
		return []byte{0xA2}
	}
	// libgcr410 offers T=1 to a card with T=0 as well, and goes on with what the status says:
	// so the reader is taken to leave it at that.
	if host && int(p[1]&0x0F) == c.Contact.Protocol() && c.Contact.PPS(append([]byte{0xFF}, p[1:]...)) == nil {
		return []byte{0xA7}
	}
	if pps && len(atr) > 2 && atr[1]&0x10 != 0 {
		// TA1, and a card in negotiable mode.
		ta1, t := atr[2], c.Contact.Protocol()
		req := []byte{0xFF, 0x10 | byte(t), ta1, 0xFF ^ 0x10 ^ byte(t) ^ ta1}
		if !specific(atr) && c.Contact.PPS(req) == nil {
			return []byte{0xA7}
		}
	}
	return append([]byte{0}, atr...)
}

// specific reports whether the ATR has a TA2 (ISO/IEC 7816-3:2006 §8.3).
func specific(atr []byte) bool {
	y, at := atr[1]>>4, 2
	for b := byte(1); b < 8; b <<= 1 {
		if y&b != 0 {
			at++
		}
	}
	return y&8 != 0 && at < len(atr) && atr[at]>>4&1 != 0
}

func (c *core) exchange(ctx context.Context, op byte, p []byte) []byte {
	if !c.Contact.Present() {
		return []byte{0xFB}
	}
	if !c.Contact.Powered() {
		return []byte{0xA2}
	}
	if op != 0x15 && c.Contact.Protocol() == 1 {
		return []byte{0x02}
	}
	if len(p) >= 5 && p[0] == 0xFF && p[1] == 0xFF && p[2] == 0xFF && p[3] == 0xFF {
		if len(p) > 5 || op == 0x14 {
			if int(p[4]) != len(p)-5 {
				return []byte{0x03}
			}
			c.mu.Lock()
			c.tail = append([]byte(nil), p[5:]...)
			c.mu.Unlock()
			return []byte{0}
		}
		return c.next(op, int(p[4]))
	}
	c.mu.Lock()
	tx := append(append([]byte(nil), p...), c.tail...)
	c.tail, c.more = nil, nil
	c.mu.Unlock()
	var rx []byte
	switch op {
	case 0x13:
		if len(tx) != 5 {
			return []byte{0x03}
		}
		rx = c.Contact.TPDU(ctx, tx)
	case 0x14:
		if len(p) < 5 || len(p) > 5+inData || len(tx) != 5+int(tx[4]) {
			return []byte{0x03}
		}
		rx = c.Contact.TPDU(ctx, tx)
	case 0x15:
		if len(p) < 4 || len(p) > apduBytes {
			return []byte{0x03}
		}
		if c.Contact.Protocol() == 1 {
			rx = c.Contact.APDU(ctx, tx)
			break
		}
		// libgcr410 sends case 1 to 3 so in T=0 as well: the reader has to make a TPDU of it.
		if len(tx) == 4 {
			tx = append(tx, 0)
		}
		if len(tx) > 5 {
			tx = tx[:min(len(tx), 5+int(tx[4]))]
		}
		rx = c.Contact.TPDU(ctx, tx)
	}
	if len(rx) < 2 {
		c.Contact.Hold(ctx, cmp.Or(c.Patience, c.Contact.BlockWait()))
		switch {
		case !c.Contact.Present():
			return []byte{0xF7}
		case len(rx) == 1:
			return []byte{0xA1}
		}
		return []byte{0xA2}
	}
	c.mu.Lock()
	c.more = append([]byte(nil), rx...)
	c.other = string(rx[len(rx)-2:]) != "\x90\x00"
	c.mu.Unlock()
	return c.next(op, 0xFF)
}

// next is the next part of the answer.
func (c *core) next(op byte, n int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.more) == 0 {
		return []byte{0x02}
	}
	var status byte
	if c.other {
		status = 0xE7
	}
	part := c.more[:min(len(c.more), n, partBytes)]
	if c.more = c.more[len(part):]; len(c.more) > 0 {
		if status = 0; op == 0x15 {
			status = 0x1B
		}
	}
	return append([]byte{status}, part...)
}
