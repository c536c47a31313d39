package emu

import (
	"cmp"
	"context"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"github.com/cardfs/cardfs/reader/icc"
)

// core30 is an ACR30 behind its framing. Calls of command do not overlap.
type core30 struct {
	Contact icc.Contact
	// Patience is how long a silent card is waited for; 0: as long as its protocol says.
	Patience time.Duration
	// Lax: a card may be reset before its type is selected, as OpenCT's driver for the ACR30U
	// does.
	Lax bool

	mu     sync.Mutex
	kind   byte // the type that was selected; 0xFF: none yet
	silent bool // cards that come and go are not told of
	option byte
}

// restart is what a loss of power does.
func (c *core30) restart() {
	c.Contact.Deactivate()
	c.mu.Lock()
	c.kind, c.silent, c.option = 0xFF, false, 0
	c.mu.Unlock()
}

// news is the message after a card came or went; "" if the host wants none.
func (c *core30) news() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.silent:
		return ""
	case c.Contact.Present():
		return frame30(0xFF01, nil)
	}
	return frame30(0xFF02, nil)
}

// frame30 is the frame of SW1 SW2 and data.
func frame30(sw int, data []byte) string {
	b := []byte{1, byte(sw >> 8), byte(sw)}
	if len(data) >= 0xFF {
		b = append(b, 0xFF, byte(len(data)>>8))
	}
	b = append(append(b, byte(len(data))), data...)
	sum := byte(0)
	for _, x := range b {
		sum ^= x
	}
	return "\x02" + strings.ToUpper(hex.EncodeToString(append(b, sum))) + "\x03"
}

// unframe30 takes a command apart that is between STX and ETX; ok is false where it is damaged.
func unframe30(text string) (ins byte, data []byte, ok bool) {
	if text != strings.ToUpper(text) { // OpenCT sends capital letters alone
		return 0, nil, false
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) < 4 || b[0] != 1 {
		return 0, nil, false
	}
	sum := byte(0)
	for _, x := range b {
		sum ^= x
	}
	n, data := int(b[2]), b[3:len(b)-1]
	if n == 0xFF {
		if len(data) < 2 {
			return 0, nil, false
		}
		n, data = int(data[0])<<8|int(data[1]), data[2:]
		if n < 0xFF {
			return 0, nil, false
		}
	}
	return b[1], data, sum == 0 && n == len(data)
}

// answer30 carries out the frame text and returns the answer's; "": none, as to damaged ones.
func (c *core30) answer30(ctx context.Context, text string) string {
	ins, data, ok := unframe30(text)
	if !ok {
		return ""
	}
	return frame30(c.command(ctx, ins, data))
}

func (c *core30) command(ctx context.Context, ins byte, data []byte) (sw int, answer []byte) {
	want := map[byte]int{0x01: 0, 0x02: 1, 0x06: 1, 0x07: 1, 0x80: 0, 0x81: 0}
	if n, fixed := want[ins]; fixed && n != len(data) {
		return 0x6703, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	card := &c.Contact
	switch ins {
	case 0x01:
		s := []byte("READER1030\xFE\xFE\x30\x00\x00\x00")
		if c.kind != 0xFF {
			s[14] = c.kind
		}
		switch {
		case card.Powered():
			s[15] = 3
		case card.Present():
			s[15] = 1
		}
		return 0x9000, s
	case 0x02:
		if data[0] != 0x00 && data[0] != 0x0C && data[0] != 0x0D {
			return 0x6003, nil // memory cards
		}
		c.kind = data[0]
		return 0x9000, nil
	case 0x06:
		if data[0] != 1 && data[0] != 2 {
			return 0x6702, nil
		}
		c.silent = data[0] == 2
		return 0x9000, nil
	case 0x07:
		c.option = data[0]
		return 0x9000, nil
	case 0x81:
		if !card.Present() {
			return 0x6002, nil
		}
		card.Deactivate()
		return 0x9000, nil
	case 0x80, 0xA0, 0xA1:
		kind, option := c.kind, c.option
		c.mu.Unlock()
		defer c.mu.Lock()
		switch {
		case ins == 0x80 && kind == 0xFF && !c.Lax:
			return 0x6001, nil
		case !card.Present():
			return 0x6002, nil
		case ins == 0x80:
			return c.reset(ctx, kind, option)
		case !card.Powered():
			return 0x6004, nil
		}
		return c.exchange(ctx, ins, data)
	}
	return 0x6005, nil
}

// reset resets the card, and does the PPS.
func (c *core30) reset(ctx context.Context, kind, option byte) (int, []byte) {
	card := &c.Contact
	atr, err := card.Activate(ctx, card.Powered())
	switch {
	case err != nil && !card.Present():
		return 0x6002, nil
	case err != nil:
		card.Deactivate()
		return 0x6020, nil
	}
	t := card.Protocol()
	if kind != 0 && kind != 0xFF {
		t = int(kind & 1)
	}
	ta1, negotiable := rate(atr)
	if !negotiable || option&1 != 0 {
		ta1 = 0x11
	}
	if t != card.Protocol() || ta1 != 0x11 {
		req := []byte{0xFF, 0x10 | byte(t), ta1, 0xFF ^ 0x10 ^ byte(t) ^ ta1}
		if card.PPS(req) == nil {
			card.Deactivate()
			return 0x6020, nil
		}
	}
	return 0x9000 + t, atr
}

// rate is TA1 of an ATR, and whether there is no TA2 (ISO/IEC 7816-3:2006 §8.3).
func rate(atr []byte) (ta1 byte, negotiable bool) {
	ta1, at := 0x11, 2
	for b := byte(0x10); b != 0; b <<= 1 {
		if atr[1]&b != 0 && at < len(atr) {
			if b == 0x10 {
				ta1 = atr[at]
			}
			at++
		}
	}
	return ta1, atr[1]&0x80 == 0 || atr[at-1]&0x10 == 0
}

func (c *core30) exchange(ctx context.Context, ins byte, tx []byte) (int, []byte) {
	card := &c.Contact
	switch {
	case int(ins&1) != card.Protocol():
		return 0x6701, nil
	case ins == 0xA1 && len(tx) < 4:
		return 0x6703, nil
	case ins == 0xA0: // CLA INS P1 P2 Lc, data, Le
		if len(tx) < 6 || len(tx) != 6+int(tx[4]) {
			return 0x6703, nil
		}
		if tx[4] == 0 {
			tx = append(tx[:4:4], tx[5])
		} else {
			tx = tx[:len(tx)-1]
		}
	}
	rx := card.TPDU(ctx, tx)
	if rx == nil {
		card.Hold(ctx, cmp.Or(c.Patience, card.BlockWait()))
		if !card.Present() {
			return 0x6004, nil
		}
		return 0x6020, nil
	}
	return 0x9000, rx
}
