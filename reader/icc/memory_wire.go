package icc

import (
	"math/bits"
	"time"
)

// guard is the security logic that an SLE 4442 and an SLE 4428 share: a counter whose bits are
// tries, and a PSC that is compared byte by byte. What comes in another order counts for nothing.
//
//	locked --a bit of the counter is cleared--> armed --all bytes compared, in order--> open
//	  ^------- any other command about the PSC, a wrong byte, power ------'
type guard struct {
	psc     []byte
	counter byte
	full    byte // all tries
	armed   bool
	next    int // byte of the PSC that must be compared next
	open    bool
}

// burn writes the counter. It can only lose bits as long as the PSC was not presented.
func (g *guard) burn(to byte) (busy time.Duration) {
	was := g.counter
	if g.open {
		busy = change(&g.counter, to&g.full)
	} else if g.counter &= to; g.counter != was {
		busy = cycle
	}
	g.armed, g.next = g.counter&^was == 0 && bits.OnesCount8(was&^g.counter) == 1, 0
	return busy
}

// compare takes one byte of the PSC.
func (g *guard) compare(i int, b byte) {
	if !g.armed || i != g.next || g.psc[i] != b {
		g.armed, g.open = false, false
		return
	}
	if g.next++; g.next == len(g.psc) {
		g.armed, g.open = false, true
	}
}

func (g *guard) lose() { g.armed, g.open = false, false }

// show is a byte of the PSC as it is read.
func (g *guard) show(i int) byte {
	if g.open {
		return g.psc[i]
	}
	return 0
}

// twoWire is an SLE 4432 or, with a guard, an SLE 4442 (Infineon's data sheet).
type twoWire struct {
	cells  [256]byte
	locked [32]bool
	guard  *guard
}

func newTwoWire(psc bool) *twoWire {
	t := new(twoWire)
	for i := range t.cells {
		t.cells[i] = 0xFF
	}
	copy(t.cells[:], []byte{0xA2, 0x13, 0x10, 0x91})
	for i := range 4 {
		t.locked[i] = true // as delivered
	}
	if psc {
		t.guard = &guard{psc: []byte{0xFF, 0xFF, 0xFF}, counter: 0x07, full: 0x07}
	}
	return t
}

func (t *twoWire) contents() []byte { return t.cells[:] }

func (t *twoWire) bits() MemoryBits {
	b := MemoryBits{Locked: append([]bool(nil), t.locked[:]...)}
	if g := t.guard; g != nil {
		b.Counter, b.PSC, b.Verified = g.counter, append([]byte(nil), g.psc...), g.open
	}
	return b
}

func (t *twoWire) reset(cold bool) []byte {
	if cold && t.guard != nil {
		t.guard.lose()
	}
	return append([]byte(nil), t.cells[:4]...)
}

func (t *twoWire) writable() bool { return t.guard == nil || t.guard.open }

func (t *twoWire) command(out []byte, n int, _ time.Time) (in []byte, busy time.Duration, ok bool) {
	in = high(n)
	if len(out) != 3 {
		return in, 0, true // not heard as a command
	}
	at, data := int(out[1]), out[2]
	switch out[0] {
	case 0x30: // READ MAIN MEMORY
		copy(in, t.cells[at:])
	case 0x34: // READ PROTECTION MEMORY
		for i := range min(n, 4) {
			in[i] = 0
			for k := range 8 {
				if !t.locked[8*i+k] {
					in[i] |= 1 << k
				}
			}
		}
	case 0x38: // UPDATE MAIN MEMORY
		if t.writable() && (at >= 32 || !t.locked[at]) {
			busy = change(&t.cells[at], data)
		}
	case 0x3C: // WRITE PROTECTION MEMORY
		if t.writable() && at < 32 && t.cells[at] == data && !t.locked[at] {
			t.locked[at], busy = true, cycle
		}
	}
	g := t.guard
	if g == nil {
		return in, busy, true
	}
	switch out[0] {
	case 0x31: // READ SECURITY MEMORY
		for i := range min(n, 4) {
			if in[i] = g.counter; i > 0 {
				in[i] = g.show(i - 1)
			}
		}
	case 0x39: // UPDATE SECURITY MEMORY
		switch {
		case at == 0:
			busy = g.burn(data)
		case at <= 3 && g.open:
			busy = change(&g.psc[at-1], data)
		}
	case 0x33: // COMPARE VERIFICATION DATA
		if at >= 1 && at <= 3 {
			g.compare(at-1, data)
		}
	}
	return in, busy, true
}

// threeWire is an SLE 4418 or, with a guard, an SLE 4428 (Infineon's data sheet).
type threeWire struct {
	cells  [1024]byte
	locked [1024]bool
	guard  *guard
}

func newThreeWire(psc bool) *threeWire {
	t := new(threeWire)
	for i := range t.cells {
		t.cells[i] = 0xFF
	}
	copy(t.cells[:], []byte{0x92, 0x23, 0x10, 0x91})
	for i := range 4 {
		t.locked[i] = true
	}
	if psc {
		t.guard = &guard{psc: []byte{0xFF, 0xFF}, counter: 0xFF, full: 0xFF}
	}
	return t
}

func (t *threeWire) contents() []byte { return t.cells[:] }

func (t *threeWire) bits() MemoryBits {
	b := MemoryBits{Locked: append([]bool(nil), t.locked[:]...)}
	if g := t.guard; g != nil {
		b.Counter, b.PSC, b.Verified = g.counter, append([]byte(nil), g.psc...), g.open
	}
	return b
}

func (t *threeWire) reset(cold bool) []byte {
	if cold && t.guard != nil {
		t.guard.lose()
	}
	return append([]byte(nil), t.cells[:4]...)
}

// guarded is the place of an address among counter (0) and PSC (1, 2); -1: it is an ordinary one.
func (t *threeWire) guarded(at int) int {
	if t.guard == nil || at < 1021 {
		return -1
	}
	return at - 1021
}

func (t *threeWire) command(out []byte, n int, _ time.Time) (in []byte, busy time.Duration, ok bool) {
	in = high(n)
	if len(out) != 3 {
		return in, 0, true
	}
	control, at, data := out[0]&0x3F, int(out[0]>>6)<<8|int(out[1]), out[2]
	g, place := t.guard, t.guarded(at)
	writable := g == nil || g.open
	switch control {
	case 0x0E: // READ without protect bits
		for i := range in {
			switch k := t.guarded(at + i); {
			case at+i >= len(t.cells):
				in[i] = 0xFF
			case k == 0:
				in[i] = g.counter
			case k > 0:
				in[i] = g.show(k - 1)
			default:
				in[i] = t.cells[at+i]
			}
		}
	case 0x0C: // READ with protect bits: what a reader makes of the ninth bits
		for i := range in {
			in[i] = 0
			for k := range 8 {
				if a := at + 8*i + k; a >= len(t.locked) || !t.locked[a] {
					in[i] |= 1 << k
				}
			}
		}
	case 0x33, 0x31: // WRITE AND ERASE without, with the protect bit
		switch {
		case t.locked[at] || !writable:
		case place == 0:
			busy = g.burn(data)
		case place > 0:
			busy = change(&g.psc[place-1], data)
		default:
			busy = change(&t.cells[at], data)
		}
		if control == 0x31 && writable && place < 0 {
			t.locked[at] = true
		}
	case 0x30: // WRITE PROTECT BIT with data comparison
		if writable && place < 0 && !t.locked[at] && t.cells[at] == data {
			t.locked[at], busy = true, cycle
		}
	case 0x32: // WRITE ERROR COUNTER
		if place == 0 {
			busy = g.burn(data)
		}
	case 0x0D: // COMPARE one byte of the PSC
		if place > 0 {
			g.compare(place-1, data)
		}
	}
	return in, busy, true
}
