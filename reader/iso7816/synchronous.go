package iso7816

import (
	"fmt"
	"slices"
)

// A synchronous card (a memory card, ISO/IEC 7816-10:1999) is clocked bit by bit and
// has no transmission protocol. Its answer to reset is four bytes, H1 to H4, and no TS.
const synchronousATR = 4

// NoProtocol is Params.T of a synchronous card.
const NoProtocol = -1

// ParseSynchronousATR takes the answer to reset of a synchronous card, which its reader
// says it is: the bytes alone do not tell, for a first byte of 3B may be any card's. The
// error is an *ATRError.
func ParseSynchronousATR(b []byte) (*ATR, error) {
	switch {
	case len(b) == 0:
		return nil, atrError(ATREmpty, "it has no bytes")
	case len(b) > synchronousATR:
		return nil, atrError(ATRTooLong, "%d bytes; a synchronous card has %d", len(b), synchronousATR)
	case len(b) < synchronousATR:
		return nil, atrError(ATRMissing, "%d bytes; a synchronous card has %d", len(b), synchronousATR)
	}
	return &ATR{raw: slices.Clone(b), groups: make([]Group, 1), rest: len(b), synchronous: true}, nil
}

// Synchronous reports whether it is the answer of a synchronous card.
func (a *ATR) Synchronous() bool { return a.synchronous }

// MemorySize is the size that H2 of a synchronous card states, in bytes: 64·2^n units of
// 2^k bits; 0 where it states none (ISO/IEC 7816-10:1999 §5.3).
func (a *ATR) MemorySize() int {
	n, k := a.raw[1]>>3&0x0F, a.raw[1]&0x07
	if !a.synchronous || n == 0 {
		return 0
	}
	return 64 << n << k / 8
}

// describeSynchronous writes H1 to H4 in words.
func (a *ATR) describeSynchronous(d *describer) {
	bus := map[byte]string{8: "I2C", 9: "3-wire", 0xA: "2-wire"}[a.raw[0]>>4]
	if bus == "" {
		bus = fmt.Sprintf("protocol type %X", a.raw[0]>>4)
	}
	d.line(a.raw[:1], "H1", "synchronous card, %s", bus)
	if size := a.MemorySize(); size > 0 {
		d.line(a.raw[1:2], "H2", "%d bytes", size)
	} else {
		d.line(a.raw[1:2], "H2", "states no size")
	}
	if a.raw[2] == 0x10 && a.raw[3]&0x80 != 0 {
		d.line(a.raw[2:3], "H3", "category indicator: H4 is a DIR data reference")
		d.line(a.raw[3:4], "H4", "DIR data at byte %d", a.raw[3]&0x7F)
		return
	}
	d.line(a.raw[2:3], "H3", "the maker's")
	d.line(a.raw[3:4], "H4", "the maker's")
}
