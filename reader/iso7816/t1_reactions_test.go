package iso7816

import (
	"errors"
	"fmt"
	"testing"
)

// t1Place is a state of an exchange in which the card is to say something.
type t1Place struct {
	name string
	// reach brings a fresh machine there.
	reach func(m *T1, card func(pcb byte, inf ...byte) []byte)
	// sent is the PCB of the block that is outstanding there, and invalid what follows a
	// block that is invalid with error code 2: an R-block with N(R) still expected (rule
	// 7.1), or the same request again (rule 7.3).
	sent, invalid byte
	nr            byte // N(R) of ours there
}

var (
	shortCommand = []byte{0x00, 0x84, 0x00, 0x00, 0x02}
	longCommand  = make([]byte, 40) // two blocks of at most 32
)

var t1Places = []t1Place{
	{"a command is whole at the card", func(m *T1, card func(byte, ...byte) []byte) {
		m.Start(shortCommand, nil)
	}, 0x00, 0x82, 0},
	{"a chain of ours has begun", func(m *T1, card func(byte, ...byte) []byte) {
		m.Start(longCommand, nil)
	}, 0x20, 0x82, 0},
	{"a chain of the card's has begun", func(m *T1, card func(byte, ...byte) []byte) {
		m.Start(shortCommand, nil)
		m.Next(card(0x20, 0x11, 0x22), nil)
	}, 0x90, 0x92, 1},
	{"S(IFS request)", func(m *T1, card func(byte, ...byte) []byte) {
		m.Setup()
	}, 0xC1, 0xC1, 0},
	{"S(RESYNCH request)", func(m *T1, card func(byte, ...byte) []byte) {
		m.Start(shortCommand, nil)
		m.Expire()
	}, 0xC0, 0xC0, 0},
	{"S(ABORT request)", func(m *T1, card func(byte, ...byte) []byte) {
		m.Start(longCommand, nil)
		m.Abort()
		m.Next(card(0x90), nil)
	}, 0xC2, 0xC2, 0},
	{"S(ABORT response)", func(m *T1, card func(byte, ...byte) []byte) {
		m.Start(longCommand, nil)
		m.Next(card(0xC2), nil)
	}, 0xE2, 0x82, 0},
}

// reaction is what ISO/IEC 7816-3:2006 §11.6 has the interface device do at place p with a
// whole block of the card's: the PCB of the block that it sends, or "done" or "failed"
// where the exchange ends. Anything that no rule allows is invalid there.
//
// An R-block's error codes 3 to F are reserved; what N(R) says counts.
func reaction(p t1Place, pcb byte, inf []byte) string {
	n := len(inf)
	send := func(pcb byte) string { return fmt.Sprintf("%02X", pcb) }
	exchanging := p.sent&0xC0 != 0xC0
	switch {
	// Rule 3: an S-request of the card's is answered by the same S-response; it comes
	// while there is an exchange. RESYNCH is not the card's to ask for.
	case exchanging && pcb == 0xC1 && n == 1 && inf[0] != 0x00 && inf[0] != 0xFF:
		return send(0xE1)
	case (exchanging || p.sent == 0xE2) && pcb == 0xC2 && n == 0:
		return send(0xE2)
	case exchanging && pcb == 0xC3 && n == 1:
		return send(0xE3)
	}
	r := pcb&0xE0 == 0x80 && n == 0 // an R-block
	again := pcb&0x10 == 0
	switch p.sent {
	case 0x00:
		switch {
		case pcb == 0x00 && n >= 2:
			return "done"
		case pcb == 0x00: // a block in order, with an R-APDU that is none
			return "failed"
		case pcb == 0x20: // rule 2.2
			return send(0x90)
		case r && again: // rule 7.5
			return send(0x00)
		}
	case 0x20:
		switch {
		case r && again:
			return send(0x20)
		case r: // rule 2.2: the next part
			return send(0x40)
		}
	case 0x90:
		switch {
		case pcb == 0x40:
			return "done"
		case pcb == 0x60:
			return send(0x80)
		case r && !again: // rule 7.2: our R-block did not arrive
			return send(0x90)
		}
	case 0xC1:
		if pcb == 0xE1 && n == 1 && inf[0] == 0xFE {
			return "done"
		}
	case 0xC0:
		if pcb == 0xE0 && n == 0 {
			return "failed" // of what the exchange had before
		}
	case 0xC2:
		if pcb == 0xE2 && n == 0 {
			return "failed"
		}
	case 0xE2: // rule 9: the right to send is ours again
		if r {
			return "failed"
		}
	}
	return send(p.invalid)
}

// Every PCB with every kind of information field, in every state of an exchange.
func TestT1Reactions(t *testing.T) {
	for _, crc := range []bool{false, true} {
		params := DefaultParams(1)
		params.CRC = crc
		const nad = 0x21
		card := func(pcb byte, inf ...byte) []byte {
			return appendEDC(append([]byte{0x12, pcb, byte(len(inf))}, inf...), 0, crc)
		}
		for _, p := range t1Places {
			for pcb := range 256 {
				for _, inf := range [][]byte{{}, {0x00}, {0x01}, {0xFE}, {0xFF}, {0x90, 0x00}, make([]byte, 32)} {
					m := NewT1(T1Config{Params: params, NAD: nad})
					p.reach(m, card)
					got := reacts(t, m.Next(card(byte(pcb), inf...), nil), nad)
					if want := reaction(p, byte(pcb), inf); got != want {
						t.Errorf("%s, CRC %v: PCB %02X with % X: %s, want %s", p.name, crc, pcb, inf, got, want)
					}
				}
			}
		}
	}
}

// reacts says what a step is in the words of reaction.
func reacts(t *testing.T, s Step, nad byte) string {
	t.Helper()
	switch {
	case s.Done && s.Err == nil:
		return "done"
	case s.Done:
		return "failed"
	case s.Send[0] != nad:
		t.Errorf("NAD %02X sent", s.Send[0])
	}
	return fmt.Sprintf("%02X", s.Send[1])
}

// Rule 7.1: the error code is 1 where the EDC or the parity is wrong, and 2 otherwise.
// What is an invalid block, by §11.6.2: each in every state of an exchange.
func TestT1InvalidBlocks(t *testing.T) {
	for _, crc := range []bool{false, true} {
		params := DefaultParams(1)
		params.CRC = crc
		card := func(pcb byte, inf ...byte) []byte {
			return appendEDC(append([]byte{0x00, pcb, byte(len(inf))}, inf...), 0, crc)
		}
		good := card(0x00, 0x90, 0x00)
		edit := func(f func(b []byte) []byte) func() ([]byte, error) {
			return func() ([]byte, error) { return f(append([]byte(nil), good...)), nil }
		}
		for _, c := range []struct {
			name string
			edc  bool
			says func() ([]byte, error)
		}{
			{"the EDC's last bit", true, edit(func(b []byte) []byte { b[len(b)-1] ^= 1; return b })},
			{"the EDC's first bit", true, edit(func(b []byte) []byte { b[5] ^= 0x80; return b })},
			{"a bit of INF", true, edit(func(b []byte) []byte { b[4] ^= 4; return b })},
			{"the parity of a character", true, func() ([]byte, error) { return good[:4], errors.New("parity") }},
			{"LEN, one more than there is", false, edit(func(b []byte) []byte { b[2]++; return b })},
			{"LEN, one less", false, edit(func(b []byte) []byte { b[2]--; return b })},
			{"LEN FF", false, edit(func(b []byte) []byte { b[2] = 0xFF; return b })},
			{"LEN FF with as many", false, edit(func(b []byte) []byte {
				return appendEDC(append([]byte{0x00, 0x00, 0xFF}, make([]byte, 255)...), 0, crc)
			})},
			{"a character too many", false, edit(func(b []byte) []byte { return append(b, 0x00) })},
			{"no EDC", false, edit(func(b []byte) []byte { return b[:5] })},
			{"the prologue alone", false, edit(func(b []byte) []byte { return b[:3] })},
			{"one character", false, edit(func(b []byte) []byte { return b[:1] })},
			{"NAD with the SAD of another", false, edit(func(b []byte) []byte { return appendEDC([]byte{0x01, 0x00, 0x02, 0x90, 0x00}, 0, crc) })},
			{"NAD with VPP bits", false, edit(func(b []byte) []byte { return appendEDC([]byte{0x88, 0x00, 0x02, 0x90, 0x00}, 0, crc) })},
			{"the EDC of the other kind", crc, edit(func(b []byte) []byte {
				other := appendEDC(append([]byte(nil), b[:5]...), 0, !crc)
				if crc { // as many characters, so that it is the EDC that is wrong
					return append(other, 0x00)
				}
				return other
			})},
			{"silence", false, func() ([]byte, error) { return nil, ErrTimeout }},
			{"nothing", false, func() ([]byte, error) { return nil, nil }},
		} {
			for _, p := range t1Places {
				m := NewT1(T1Config{Params: params})
				p.reach(m, card)
				want := p.invalid
				if c.edc && want&0xC0 == 0x80 {
					want = 0x81 | p.nr<<4
				}
				if got := reacts(t, m.Next(c.says()), 0x00); got != fmt.Sprintf("%02X", want) {
					t.Errorf("%s, CRC %v: %s: %s, want %02X", p.name, crc, c.name, got, want)
				}
			}
		}
	}
}
