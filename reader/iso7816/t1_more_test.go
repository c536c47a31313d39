package iso7816

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// More traces: what the recovery rules and the machine's own limits lead to.
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

func TestT1Setup(t *testing.T) {
	// "S(IFS request) not understood": IFSD stays 32, and that is no error.
	m := NewT1(T1Config{Params: DefaultParams(1)})
	s, n := endless(t, m, m.Setup(), func([]byte) ([]byte, error) { return block(0x82), nil })
	if s.Err != nil || m.IFSD() != 32 || n != 4 {
		t.Errorf("error %v, IFSD %d, %d steps", s.Err, m.IFSD(), n)
	}
	// Rule 7.4.1: no valid block at all in three attempts.
	m = NewT1(T1Config{Params: DefaultParams(1)})
	s, n = endless(t, m, m.Setup(), func([]byte) ([]byte, error) { return nil, ErrTimeout })
	if !errors.Is(s.Err, ErrTimeout) || !m.Dead() || n != 4 {
		t.Errorf("error %v, dead %v, %d steps", s.Err, m.Dead(), n)
	}
	// Nothing to announce.
	for _, cfg := range []T1Config{{AutoIFSD: true}, {IFSD: 32}} {
		m = NewT1(cfg)
		if s := m.Setup(); !s.Done || s.Err != nil {
			t.Errorf("%+v: %+v", cfg, s)
		}
	}
	if m = NewT1(T1Config{AutoIFSD: true, IFSD: 100}); m.IFSD() != 100 {
		t.Errorf("the reader announced 100, IFSD is %d", m.IFSD())
	}
}

// A reader that can send less than the card accepts caps IFSC, also when the
// card raises it.
func TestT1IFSCMax(t *testing.T) {
	m := NewT1(T1Config{Params: DefaultParams(1), IFSCMax: 20})
	longest := 0
	first := true
	s, _ := endless(t, m, m.Start(make([]byte, 200), nil), func(out []byte) ([]byte, error) {
		longest = max(longest, int(out[2]))
		switch {
		case first:
			first = false
			return block(0xC1, 200), nil
		case out[1] == 0xE1:
			return block(0x90), nil
		case out[1]&0x20 != 0:
			return block(0x80 | (^out[1]>>2)&0x10), nil
		}
		return block(0, 0x90, 0), nil
	})
	if s.Err != nil || longest != 20 || m.IFSC() != 20 {
		t.Errorf("error %v, longest block %d, IFSC %d", s.Err, longest, m.IFSC())
	}
}

func TestT1Refused(t *testing.T) {
	m := NewT1(T1Config{})
	for _, n := range []int{0, 3, MaxCommand + 1} {
		if s := m.Start(make([]byte, n), nil); !s.Done || !errors.Is(s.Err, ErrInvalid) || len(s.Send) != 0 {
			t.Errorf("%d bytes: %+v", n, s)
		}
	}
	if s := m.Next(nil, nil); !s.Done || s.Err == nil {
		t.Errorf("Next without an exchange: %+v", s)
	}
}

// A command withdrawn before its block was sent leaves no trace, not even of
// the S(RESYNCH request) that an exchange abandoned before it calls for.
func TestT1Withdraw(t *testing.T) {
	capdu := []byte{0, 0x20, 0, 1}
	m := NewT1(T1Config{Params: DefaultParams(1)})
	m.Start(capdu, nil)
	m.Withdraw()
	if s := m.Start(capdu, nil); s.Done || s.Send[1] != 0x00 {
		t.Errorf("after Withdraw: %+v", s)
	}
	if s := m.Start(capdu, nil); s.Done || s.Send[1] != 0xC0 {
		t.Errorf("after an abandoned exchange: %+v", s)
	}
	m.Withdraw()
	if s := m.Start(capdu, nil); s.Done || s.Send[1] != 0xC0 {
		t.Errorf("after an abandoned exchange and Withdraw: %+v", s)
	}
}

// Character mode: characters may come in any pieces; too many are an error.
func TestT1CharacterPieces(t *testing.T) {
	p := DefaultParams(1)
	m := NewT1(T1Config{Params: p, Character: true})
	s := m.Start([]byte{0, 0xA4, 0, 0}, nil)
	for i, c := range block(0, 0x61, 0x90, 0x00) {
		if s.Done || s.Want == 0 {
			t.Fatalf("character %d: %+v", i, s)
		}
		if i == 3 && (s.Want != 4 || s.Wait != 4*p.CWT(0)) {
			t.Errorf("after the prologue: %+v", s)
		}
		s = m.Next([]byte{c}, nil)
	}
	if !s.Done || s.Err != nil || !bytes.Equal(m.Response(), []byte{0x61, 0x90, 0x00}) {
		t.Errorf("%+v, % X", s, m.Response())
	}

	s = m.Start([]byte{0, 0xA4, 0, 0}, nil)
	s = m.Next(make([]byte, 4), nil)
	if s.Want < 255 || len(s.Send) != 0 || s.Wait != p.CWT(0) {
		t.Fatalf("more characters than wanted should be waited out: %+v", s)
	}
	if s = m.Next(nil, ErrTimeout); len(s.Send) == 0 || s.Send[1] != 0x92 {
		t.Errorf("then R with error code 2: %+v", s)
	}
	// CWT exceeded in the middle of a block.
	s = m.Next([]byte{0, 0x40}, nil)
	if s = m.Next(nil, ErrTimeout); len(s.Send) == 0 || s.Send[1] != 0x92 {
		t.Errorf("a block that breaks off: %+v", s)
	}
}

func TestT1ErrorWords(t *testing.T) {
	m := NewT1(T1Config{Params: DefaultParams(1)})
	s, _ := endless(t, m, m.Start([]byte{0, 0x20, 0, 1}, nil), func([]byte) ([]byte, error) { return nil, ErrTimeout })
	for _, w := range []string{"T=1", "waiting time", "may have executed", "must be reset"} {
		if !strings.Contains(s.Err.Error(), w) {
			t.Errorf("error %q lacks %q", s.Err, w)
		}
	}
}

// echo1 answers each I-block with the same response, without allocating.
type echo1 struct {
	tx [300]byte
	r  []byte
}

func (e *echo1) answer(out []byte) []byte {
	b := append(e.tx[:0], 0, out[1]&0x40, 34)
	b = append(b, e.r...)
	return appendEDC(b, 0, false)
}

func TestT1Allocations(t *testing.T) {
	m := NewT1(T1Config{Params: DefaultParams(1), AutoIFSD: true})
	e := &echo1{r: make([]byte, 34)}
	capdu := []byte{0, 0xB0, 0, 0, 32}
	dst := make([]byte, 0, 300)
	if n := testing.AllocsPerRun(100, func() {
		s := m.Start(capdu, dst)
		for !s.Done {
			s = m.Next(e.answer(s.Send), nil)
		}
		if s.Err != nil || len(m.Response()) != 34 {
			t.Fatal(s.Err)
		}
	}); n != 0 {
		t.Errorf("%v allocations in an exchange", n)
	}
}

func BenchmarkT1(b *testing.B) {
	for _, char := range []bool{false, true} {
		b.Run(map[bool]string{false: "blocks", true: "characters"}[char], func(b *testing.B) {
			m := NewT1(T1Config{Params: DefaultParams(1), AutoIFSD: true, Character: char})
			e := &echo1{r: make([]byte, 34)}
			capdu := []byte{0, 0xB0, 0, 0, 32}
			dst := make([]byte, 0, 300)
			b.ReportAllocs()
			for b.Loop() {
				s := m.Start(capdu, dst)
				var in []byte
				for !s.Done {
					if len(s.Send) > 0 {
						in = e.answer(s.Send)
					}
					n := len(in)
					if char {
						n = s.Want
					}
					s = m.Next(in[:n], nil)
					in = in[n:]
				}
			}
		})
	}
}

// FuzzT1 plays a card that sends whatever the fuzzer wants, over and over.
// Run with: go test -fuzz FuzzT1 ./reader/iso7816
func FuzzT1(f *testing.F) {
	// A mode byte, then messages: a length byte and as many bytes; length FF is
	// silence, FE damage. Bit 2 of the mode: the messages have no EDC, the
	// test adds a right one.
	f.Add([]byte{0x04, 5, 0x00, 0x00, 2, 0x90, 0x00})
	f.Add([]byte{0x04, 0xFF, 3, 0x00, 0x90, 0x00, 0xFE, 4, 0x00, 0xC3, 1, 9, 4, 0x00, 0xC1, 1, 254})
	f.Add([]byte{0x05, 3, 0x00, 0xC2, 0x00, 3, 0x00, 0xE2, 0x00, 3, 0x00, 0xE0, 0x00})
	f.Add([]byte{0x06, 5, 0x00, 0x20, 2, 0x90, 0x00, 5, 0x00, 0x60, 2, 0x90, 0x00})
	f.Add([]byte{0x02, 3, 0x00, 0x00, 0xFF})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 2 {
			return
		}
		mode, in := in[0], in[1:]
		cfg := T1Config{Params: DefaultParams(1), MaxResponse: 1000,
			Character: mode&2 != 0}
		cfg.Params.CRC = mode&1 != 0
		if mode&8 != 0 {
			cfg.Repeatable = func([]byte) bool { return true }
		}
		var pending []byte
		pos := 0
		message := func() ([]byte, error) {
			n := int(in[pos%len(in)])
			pos++
			switch n {
			case 0xFF:
				return nil, ErrTimeout
			case 0xFE:
				return nil, errors.New("damage")
			}
			b := make([]byte, n%40)
			for i := range b {
				b[i] = in[pos%len(in)]
				pos++
			}
			if mode&4 != 0 {
				b = appendEDC(b, 0, cfg.Params.CRC)
			}
			return b, nil
		}
		m := NewT1(cfg)
		run := func(s Step) {
			// The longest: 1000 response blocks of a byte, each with all its
			// failures, and the waiting time; characters one by one.
			for n := 0; !s.Done; n++ {
				if n > 200_000 {
					t.Fatal("no end")
				}
				if s.Extended && n > 1000 {
					s = m.Expire()
					continue
				}
				if len(s.Send) > 3+254+2 {
					t.Fatalf("a block of %d bytes", len(s.Send))
				}
				if len(s.Send) == 0 && !cfg.Character {
					t.Fatalf("nothing to send: %+v", s)
				}
				if (s.Want > 0) != cfg.Character || s.Wait <= 0 {
					t.Fatalf("%+v", s)
				}
				var b []byte
				var err error
				switch {
				case !cfg.Character:
					b, err = message()
				case len(s.Send) > 0:
					pending, err = message()
					fallthrough
				default:
					k := min(s.Want, len(pending))
					b, pending = pending[:k], pending[k:]
					if k == 0 && err == nil {
						err = ErrTimeout
					}
				}
				s = m.Next(b, err)
			}
			if s.Err == nil && len(m.Response()) > cfg.MaxResponse {
				t.Fatalf("a response of %d bytes", len(m.Response()))
			}
		}
		run(m.Setup())
		run(m.Start(make([]byte, 300), nil))
		run(m.Start([]byte{0, 0x84, 0, 0, 8}, nil))
	})
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
