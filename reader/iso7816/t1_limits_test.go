package iso7816

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// What the recovery rules and the machine's own limits lead to, as traces.
func TestT1Limits(t *testing.T) {
	const gc, gcAnswer = "0084000008", "11223344556677889000"
	for _, sc := range []scenario{
		{
			name:  "after a chain of the card the numbers go on by blocks, not by exchanges",
			rule:  "4.3: N(S) advances per I-block acknowledged",
			ops:   []op{exchange("00B0000017", "A0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B69000"), exchange(gc, gcAnswer)},
			trace: "> 00 00 05 00 B0 00 00 17 A2\n< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30\n> 00 90 00 90\n< 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6E\n> 00 40 05 00 84 00 00 08 C9\n< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12",
		},
		{
			name:  "an answer without SW1 SW2",
			rule:  "an R-APDU has at least two bytes; the block itself is fine, so the connection lives",
			ops:   []op{failure(gc, ErrProtocol, ErrInDoubt), exchange(gc, gcAnswer)},
			trace: "> 00 00 05 00 84 00 00 08 89\n< 00 00 01 90 91\n> 00 40 05 00 84 00 00 08 C9\n< 00 40 0A 11 22 33 44 55 66 77 88 90 00 52",
		},
		{
			name:        "a single block beyond the limit",
			rule:        "nothing is left to abort",
			maxResponse: 9,
			ops:         []op{failure(gc, ErrProtocol, ErrInDoubt), exchange("00A40000", "9000")},
			trace:       "> 00 00 05 00 84 00 00 08 89\n< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12\n> 00 40 04 00 A4 00 00 E0\n< 00 40 02 90 00 D2",
		},
		{
			name:    "the card asks for the same I-block for ever",
			rule:    "rule 7.4.2: two retransmissions, then RESYNCH; the command is not sent again",
			prelude: []op{exchange("00A40000", "9000")},
			ops:     []op{failure(gc, ErrProtocol, ErrInDoubt), exchange(gc, gcAnswer)},
			trace: `> 00 40 05 00 84 00 00 08 C9
				< 00 91 00 91
				> 00 40 05 00 84 00 00 08 C9
				< 00 91 00 91
				> 00 40 05 00 84 00 00 08 C9
				< 00 91 00 91
				> 00 C0 00 C0
				< 00 E0 00 E0
				> 00 00 05 00 84 00 00 08 89
				< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`,
		},
		{
			name: "a chain that never became whole is sent again after RESYNCH",
			rule: "no card can have executed it: its last I-block was not sent",
			ifsc: 16,
			ops:  []op{exchange("00D60000140102030405060708090A0B0C0D0E0F1011121314", "9000")},
			trace: `> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
				< 00 80 00 80
				> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
				< --
				> 00 82 00 82
				< --
				> 00 82 00 82
				< --
				> 00 C0 00 C0
				< 00 E0 00 E0
				> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
				< 00 90 00 90
				> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
				< 00 00 02 90 00 92`,
		},
		{
			name: "the card aborts its own chain",
			rule: "rule 9: the right to send returns by an R-block; no new command is known to have failed",
			ops:  []op{failure("00B0000017", ErrProtocol, ErrInDoubt), exchange(gc, gcAnswer)},
			trace: `> 00 00 05 00 B0 00 00 17 A2
				< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
				> 00 90 00 90
				< 00 C2 00 C2
				> 00 E2 00 E2
				< 00 90 00 90
				> 00 40 05 00 84 00 00 08 C9
				< 00 40 0A 11 22 33 44 55 66 77 88 90 00 52`,
		},
		{
			name: "the R-block after an ABORT gets lost",
			rule: "rule 7.3: after an S-response an R-block",
			ifsc: 16,
			ops:  []op{failure("00D60000140102030405060708090A0B0C0D0E0F1011121314", ErrProtocol), exchange(gc, gcAnswer)},
			trace: `> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
				< 00 C2 00 C2
				> 00 E2 00 E2
				< --
				> 00 82 00 82
				< 00 90 00 90
				> 00 40 05 00 84 00 00 08 C9
				< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`,
		},
		{
			name: "our ABORT is confirmed at the second attempt",
			rule: "rule 7.3: repeat the request",
			ifsc: 16,
			ops:  []op{aborted("00D60000140102030405060708090A0B0C0D0E0F1011121314", errAbort), exchange(gc, gcAnswer)},
			trace: `> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
				< 00 90 00 90
				> 00 C2 00 C2
				<! 00 E2 00 E3
				> 00 C2 00 C2
				< 00 E2 00 E2
				> 00 40 05 00 84 00 00 08 C9
				< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`,
		},
		{
			name:    "a Start in the middle of an abandoned exchange",
			rule:    "the late answer, here that of the first command, is not taken for the second's",
			prelude: []op{exchange("00A40000", "9000"), exchange("00A40000", "9000"), abandon("00A40000")},
			ops:     []op{exchange(gc, gcAnswer)},
			trace: `> 00 C0 00 C0
				< 00 00 02 90 00 92
				> 00 C0 00 C0
				< 00 E0 00 E0
				> 00 00 05 00 84 00 00 08 89
				< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`,
		},
		{
			name: "the card changes IFSC twice in the middle of our chain",
			rule: "rule 4: the next block already keeps to the new size",
			ifsc: 16,
			ops:  []op{exchange("00D600003C0102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F202122232425262728292A2B2C2D2E2F303132333435363738393A3B3C", "9000")},
			trace: `> 00 20 10 00 D6 00 00 3C 01 02 03 04 05 06 07 08 09 0A 0B DA
				< 00 C1 01 20 E0
				> 00 E1 01 20 C0
				< 00 90 00 90
				> 00 60 20 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27 28 29 2A 2B 40
				< 00 C1 01 0A CA
				> 00 E1 01 0A EA
				< 00 80 00 80
				> 00 20 0A 2C 2D 2E 2F 30 31 32 33 34 35 2B
				< 00 90 00 90
				> 00 40 07 36 37 38 39 3A 3B 3C 7A
				< 00 00 02 90 00 92`,
		},
		{
			name: "an I-block in the middle of our chain",
			rule: "rule 5: the receiver of a chain sends R-blocks only",
			ifsc: 16,
			ops:  []op{exchange("00D60000140102030405060708090A0B0C0D0E0F1011121314", "9000")},
			trace: `> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
				<! 00 00 02 90 00 92
				> 00 82 00 82
				< 00 90 00 90
				> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
				< 00 00 02 90 00 92`,
		},
		{
			name: "an R-block with an error code is asked for again",
			rule: "rule 7.2: the same R-block, its error code included",
			ops:  []op{exchange("00B0000017", "A0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B69000")},
			trace: `> 00 00 05 00 B0 00 00 17 A2
				< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
				> 00 90 00 90
				<! 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6F
				> 00 91 00 91
				< 00 91 00 91
				> 00 91 00 91
				< 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6E`,
		},
		{
			name: "an I-block longer than IFSD",
			rule: "IFSD is 32 until the card confirmed more",
			ops:  []op{exchange(gc, gcAnswer)},
			trace: `> 00 00 05 00 84 00 00 08 89
				<! 00 00 21 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 90 00 B1
				> 00 82 00 82
				< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`,
		},
	} {
		t.Run(sc.name, func(t *testing.T) {
			t.Log(sc.rule)
			for _, v := range variants {
				t.Run(v.String(), func(t *testing.T) { runScenario(t, sc, v) })
			}
		})
	}
}

// endless answers every block by the same function until the machine ends.
func endless(t *testing.T, m *T1, s Step, card func(out []byte) ([]byte, error)) (Step, int) {
	t.Helper()
	for n := 1; ; n++ {
		if s.Done {
			return s, n
		}
		if n > 100_000 {
			t.Fatal("no end")
		}
		s = m.Next(card(s.Send))
	}
}

func block(pcb byte, inf ...byte) []byte {
	return appendEDC(append([]byte{0, pcb, byte(len(inf))}, inf...), 0, false)
}

// "As long as the card asks for time, it has it": each S(WTX request) is granted
// with its multiplier of BWT, however many there are. The owner of the clock ends it:
// the card is resynchronised, and the command not sent again even if it may be.
func TestT1WTXWithoutEnd(t *testing.T) {
	p := DefaultParams(1)
	bwt := p.BWT(0)
	m := NewT1(T1Config{Params: p, Repeatable: func([]byte) bool { return true }})
	if s := m.Expire(); !s.Done || !errors.Is(s.Err, ErrInvalid) {
		t.Errorf("Expire before anything: %+v", s)
	}
	s := m.Start([]byte{0, 0x46, 0, 0}, nil)
	if s.Extended || s.Wait != bwt {
		t.Errorf("%+v", s)
	}
	for i := range 10_000 {
		n := byte(i)
		s = m.Next(block(0xC3, n), nil)
		if s.Done || !s.Extended || s.Wait != time.Duration(max(n, 1))*bwt || s.WTX != int(n) || !bytes.Equal(s.Send, block(0xE3, n)) {
			t.Fatalf("request %d: %+v", i, s)
		}
	}
	s = m.Expire()
	if s.Done || s.Extended || s.Wait != bwt || !bytes.Equal(s.Send, block(0xC0)) {
		t.Fatalf("Expire: %+v", s)
	}
	s = m.Next(block(0xE0), nil)
	if !s.Done || !errors.Is(s.Err, ErrTimeout) || !errors.Is(s.Err, ErrInDoubt) || m.Dead() {
		t.Errorf("%+v, dead %v", s, m.Dead())
	}
	if s = m.Start([]byte{0, 0x84, 0, 0}, nil); !bytes.Equal(s.Send, block(0x00, 0, 0x84, 0, 0)) {
		t.Errorf("the next command: % X", s.Send)
	}
	// A card that does not answer S(RESYNCH request) either must be reset.
	m.Next(block(0xC3, 1), nil)
	for s = m.Expire(); !s.Done; s = m.Next(nil, ErrTimeout) {
	}
	if !errors.Is(s.Err, ErrTimeout) || !m.Dead() {
		t.Errorf("%+v, dead %v", s, m.Dead())
	}
}

// Blocks that are legal and bring nothing forward do not go on for ever.
func TestT1Endless(t *testing.T) {
	for _, c := range []struct {
		name string
		card func(out []byte) ([]byte, error)
	}{
		{"S(IFS request)", func([]byte) ([]byte, error) { return block(0xC1, 32), nil }},
		{"S(ABORT request)", func([]byte) ([]byte, error) { return block(0xC2), nil }},
		{"R-blocks", func(out []byte) ([]byte, error) { return block(0x80 | out[1]>>2&0x10), nil }},
		{"empty I-blocks", func() func([]byte) ([]byte, error) {
			pcb := byte(0x60)
			return func(out []byte) ([]byte, error) { pcb ^= 0x40; return block(pcb), nil }
		}()},
		{"full I-blocks", func() func([]byte) ([]byte, error) {
			pcb := byte(0x60)
			return func(out []byte) ([]byte, error) { pcb ^= 0x40; return block(pcb, make([]byte, 32)...), nil }
		}()},
		{"silence after a first answer", func() func([]byte) ([]byte, error) {
			first := true
			return func([]byte) ([]byte, error) {
				if first {
					first = false
					return block(0xC1, 32), nil
				}
				return nil, ErrTimeout
			}
		}()},
		{"damage", func([]byte) ([]byte, error) { return nil, errors.New("parity") }},
		{"nothing without an error", func([]byte) ([]byte, error) { return nil, nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := NewT1(T1Config{Params: DefaultParams(1)})
			s, n := endless(t, m, m.Start([]byte{0, 0x46, 0, 0}, nil), c.card)
			if s.Err == nil || cap(m.Response()) > 4*MaxResponse {
				t.Errorf("error %v, %d bytes", s.Err, len(m.Response()))
			}
			t.Logf("%d steps: %v", n, s.Err)
			if m.Dead() {
				if s := m.Start([]byte{0, 0x46, 0, 0}, nil); !s.Done || !errors.Is(s.Err, ErrProtocol) {
					t.Errorf("Start when dead: %+v", s)
				}
				if s := m.Setup(); !s.Done || s.Err == nil {
					t.Errorf("Setup when dead: %+v", s)
				}
			}
		})
	}
}

// Rule 7.1 with a block that has not even its LEN, or no EDC: it is answered as one
// whose LEN is wrong, whatever the redundancy code.
func TestT1ShortBlocks(t *testing.T) {
	for _, crc := range []bool{false, true} {
		p := DefaultParams(1)
		p.CRC = crc
		block := []byte{0x00, 0x00, 0x00, 0x00, 0x00}
		for n := 1; n < 3+edcLen(crc); n++ {
			m := NewT1(T1Config{Params: p})
			m.Start([]byte{0x00, 0xA4, 0x00, 0x00}, nil)
			step := m.Next(block[:n], nil)
			if step.Done || len(step.Send) < 2 || step.Send[1] != 0x82 {
				t.Errorf("CRC %v, %d bytes: % X, %v; want R(0), other error", crc, n, step.Send, step.Err)
			}
		}
	}
}

// MaxResponse is a length that a response may have, in one block or in two.
func TestT1MaxResponse(t *testing.T) {
	for n := 3; n <= 7; n++ {
		for first := 0; first < n; first++ {
			m := NewT1(T1Config{Params: DefaultParams(1), MaxResponse: 5})
			step := m.Start([]byte{0x00, 0xB0, 0x00, 0x00}, []byte("before"))
			ns := byte(0)
			if first > 0 {
				step = m.Next(appendEDC(append([]byte{0x00, 0x20, byte(first)}, make([]byte, first)...), 0, false), nil)
				ns = 0x40
			}
			if !step.Done && step.Send[1] != 0xC2 { // S(ABORT request)
				step = m.Next(appendEDC(append([]byte{0x00, ns, byte(n - first)}, make([]byte, n-first)...), 0, false), nil)
			}
			whole := step.Done && step.Err == nil && len(m.Response()) == len("before")+n
			if whole != (n <= 5) || !whole && step.Done && !errors.Is(step.Err, ErrProtocol) {
				t.Errorf("%d bytes, %d of them before: %+v", n, first, step)
			}
		}
	}
}

// Rule 7.4.1 is for a card of which no valid block was received since the reset; 7.4.2,
// S(RESYNCH request), for one of which there was, whichever it was.
func TestT1FirstValidBlock(t *testing.T) {
	for _, c := range []struct {
		name  string
		first []byte // nil: there is none
		dead  bool
	}{
		{"none", nil, true},
		{"damaged", []byte{0, 0, 2, 0x90, 0, 0x93}, true},
		{"I-block", block(0x20, 0x11), false},
		{"R-block that asks again", block(0x80), false},
		{"S(IFS request)", block(0xC1, 20), false},
		{"S(WTX request)", block(0xC3, 1), false},
		{"S(ABORT request)", block(0xC2), false},
	} {
		m := NewT1(T1Config{Params: DefaultParams(1)})
		s := m.Start([]byte{0, 0x84, 0, 0, 2}, nil)
		if c.first != nil {
			s = m.Next(c.first, nil)
		}
		if m.Heard() == c.dead {
			t.Errorf("%s: heard %v", c.name, m.Heard())
		}
		for n := 0; !s.Done && s.Send[1] != 0xC0; n++ {
			if s = m.Next(nil, ErrTimeout); n > 3 {
				t.Fatalf("%s: %+v", c.name, s)
			}
		}
		if s.Done != c.dead || m.Dead() != c.dead {
			t.Errorf("%s: %+v, dead %v", c.name, s, m.Dead())
		}
	}
}
