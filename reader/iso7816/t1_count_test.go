package iso7816

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// withLRC completes a trace whose blocks have no EDC; "<!" gets a wrong one.
func withLRC(t *testing.T, trace string) string {
	var sb strings.Builder
	for l := range strings.Lines(trace) {
		dir, body, _ := strings.Cut(strings.TrimSpace(l), " ")
		switch {
		case dir == "" || strings.HasPrefix(body, "--"):
			sb.WriteString(l)
			continue
		}
		b := unhex(t, body)
		edc := LRC(b)
		if dir == "<!" {
			edc ^= 1
		}
		fmt.Fprintf(&sb, "%s % X\n", dir, append(b, edc))
	}
	return sb.String()
}

// How failures are counted, ISO/IEC 7816-3:2006 §11.6.3.
func TestT1Counts(t *testing.T) {
	const gc, gcAnswer = "0084000008", "11223344556677889000"
	const ask, answer = "00 00 05 00 84 00 00 08", "00 00 0A 11 22 33 44 55 66 77 88 90 00"
	for _, sc := range []scenario{
		{
			name: "two failures for each block of a chain",
			rule: "7.4.2: retransmissions are counted anew after a valid block",
			ops:  []op{exchange("00B0000017", "A0A1B0B19000")},
			trace: `> 00 00 05 00 B0 00 00 17
				<! 00 20 02 A0 A1
				> 00 81 00
				<! 00 20 02 A0 A1
				> 00 81 00
				< 00 20 02 A0 A1
				> 00 90 00
				<! 00 40 04 B0 B1 90 00
				> 00 91 00
				<! 00 40 04 B0 B1 90 00
				> 00 91 00
				< 00 40 04 B0 B1 90 00`,
		},
		{
			name: "the same R-block, though the second failure is another",
			rule: "7.2",
			ops:  []op{exchange(gc, gcAnswer)},
			trace: "> " + ask + "\n<! " + answer + `
				> 00 81 00
				< --
				> 00 81 00
				< ` + answer,
		},
		{
			name: "the same R-block, EDC after silence",
			rule: "7.2",
			ops:  []op{exchange(gc, gcAnswer)},
			trace: "> " + ask + `
				< --
				> 00 82 00
				<! ` + answer + `
				> 00 82 00
				< ` + answer,
		},
		{
			name: "the card asks twice for each of two I-blocks",
			rule: "7.4.2: repetitions are counted anew after a new block was acknowledged",
			ifsc: 4,
			ops:  []op{exchange("00D6000001AA", "9000")},
			trace: `> 00 20 04 00 D6 00 00
				< 00 80 00
				> 00 20 04 00 D6 00 00
				< 00 80 00
				> 00 20 04 00 D6 00 00
				< 00 90 00
				> 00 40 02 01 AA
				< 00 91 00
				> 00 40 02 01 AA
				< 00 91 00
				> 00 40 02 01 AA
				< 00 00 02 90 00`,
		},
		{
			name: "after an S(WTX) the failures are counted anew",
			rule: "7.4.2: it is a valid block",
			ops:  []op{exchange(gc, gcAnswer)},
			trace: "> " + ask + `
				< --
				> 00 82 00
				< --
				> 00 82 00
				< 00 C3 01 05
				> 00 E3 01 05
				< --
				> 00 82 00
				< --
				> 00 82 00
				< ` + answer,
		},
		{
			name: "after an S(IFS) of the card, too",
			rule: "7.4.2: it is a valid block",
			ops:  []op{exchange(gc, gcAnswer)},
			trace: "> " + ask + `
				< --
				> 00 82 00
				< --
				> 00 82 00
				< 00 C1 01 40
				> 00 E1 01 40
				< --
				> 00 82 00
				< --
				> 00 82 00
				< ` + answer,
		},
		{
			name:    "RESYNCH, S(IFS) not understood, and one more failure",
			rule:    "6.3: the transmission restarts, and so do the counts",
			prelude: []op{setup(254)},
			// The command never became whole, so that it is sent again.
			ifsc: 4,
			ops:  []op{exchange("00D6000001AA", "9000")},
			trace: `> 00 20 04 00 D6 00 00
				< --
				> 00 82 00
				< --
				> 00 82 00
				< --
				> 00 C0 00
				< 00 E0 00
				> 00 C1 01 FE
				< --
				> 00 C1 01 FE
				< --
				> 00 C1 01 FE
				< --
				> 00 20 04 00 D6 00 00
				< --
				> 00 82 00
				< 00 90 00
				> 00 40 02 01 AA
				< 00 00 02 90 00`,
		},
		{
			name: "the first valid block is the answer to RESYNCH",
			rule: "7.4.1 holds before the first valid block only",
			ops:  []op{abandon(gc), failure(gc, ErrTimeout, ErrInDoubt), exchange(gc, gcAnswer)},
			trace: "> " + ask + `
				> 00 C0 00
				< 00 E0 00
				> ` + ask + `
				< --
				> 00 82 00
				< --
				> 00 82 00
				< --
				> 00 C0 00
				< 00 E0 00
				> ` + ask + "\n< " + answer,
		},
		{
			name:       "a command that may be repeated begins again three times",
			rule:       "policy: maxRestarts",
			prelude:    []op{exchange(gc, gcAnswer)},
			repeatable: true,
			ops:        []op{failure(gc, ErrTimeout, ErrInDoubt), exchange(gc, gcAnswer)},
			trace: "> 00 40 05 00 84 00 00 08" + strings.Repeat(`
				< --
				> 00 82 00
				< --
				> 00 82 00
				< --
				> 00 C0 00
				< 00 E0 00
				> `+ask, 4) + "\n< " + answer,
		},
	} {
		t.Run(sc.name, func(t *testing.T) {
			t.Logf("ISO/IEC 7816-3:2006 §11.6: %s", sc.rule)
			sc.trace = withLRC(t, sc.trace)
			if sc.repeatable {
				// The first R-block after the prelude has N(R) 1.
				sc.trace = strings.Replace(sc.trace, "> 00 82 00 82", "> 00 92 00 92", 2)
			}
			for _, v := range variants {
				t.Run(v.String(), func(t *testing.T) { runScenario(t, sc, v) })
			}
		})
	}
}

// What bounds legal blocks that bring nothing forward: sixteen pass, one more does not.
func TestT1Idle(t *testing.T) {
	for _, n := range []int{maxIdle, maxIdle + 1} {
		m := NewT1(T1Config{Params: DefaultParams(1)})
		s := m.Start([]byte{0, 0x84, 0, 0}, nil)
		for range n {
			s = m.Next(block(0xC1, 40), nil)
		}
		if answered := s.Send[1] == 0xE1; answered != (n == maxIdle) {
			t.Errorf("%d S(IFS request): % X", n, s.Send)
		}
		m = NewT1(T1Config{Params: DefaultParams(1)})
		s = m.Start([]byte{0, 0x84, 0, 0}, nil)
		for i := range n {
			s = m.Next(block(0x20|byte(i&1)<<6), nil)
		}
		if acknowledged := s.Send[1]&0xEF == 0x80; acknowledged != (n == maxIdle) {
			t.Errorf("%d empty I-blocks: % X", n, s.Send)
		}
	}
}

// IFSC, IFSD: 1 to 254 (§11.4.2); FF is reserved, and 0.
func TestT1Sizes(t *testing.T) {
	for _, c := range []struct{ given, want int }{{0, 32}, {1, 1}, {32, 32}, {253, 253}, {254, 254}, {255, 32}, {-1, 32}} {
		p := DefaultParams(1)
		p.IFSC = c.given
		if m := NewT1(T1Config{Params: p}); m.IFSC() != c.want {
			t.Errorf("IFSC %d: %d", c.given, m.IFSC())
		}
	}
	for _, c := range []struct{ given, want int }{{0, 254}, {1, 1}, {253, 253}, {254, 254}, {255, 254}} {
		p := DefaultParams(1)
		p.IFSC = 254
		if m := NewT1(T1Config{Params: p, IFSCMax: c.given}); m.IFSC() != c.want {
			t.Errorf("IFSCMax %d: IFSC %d", c.given, m.IFSC())
		}
		m := NewT1(T1Config{Params: p, IFSD: c.given})
		s := m.Setup()
		if got := int(s.Send[3]); got != c.want {
			t.Errorf("IFSD %d: announced %d", c.given, got)
		}
	}
	for _, c := range []struct {
		ifsc byte
		ok   bool
	}{{0, false}, {1, true}, {0xFE, true}, {0xFF, false}} {
		m := NewT1(T1Config{Params: DefaultParams(1)})
		m.Start([]byte{0, 0x84, 0, 0}, nil)
		if s := m.Next(block(0xC1, c.ifsc), nil); (s.Send[1] == 0xE1) != c.ok || c.ok && m.IFSC() != int(c.ifsc) || !c.ok && m.IFSC() != 32 {
			t.Errorf("S(IFS request) of %d: % X, IFSC %d", c.ifsc, s.Send, m.IFSC())
		}
	}
}

// Every form of a block that is none: what is said about it, and the error code of
// the R-block (rule 7.1): 1 for EDC and parity, 2 for the rest.
func TestT1Invalid(t *testing.T) {
	long := block(0x00, make([]byte, 33)...)
	for _, c := range []struct {
		words string
		b     []byte
		err   error
		code  byte
	}{
		{"LEN does not agree", []byte{0}, nil, 2},
		{"LEN does not agree", []byte{0, 0, 0}, nil, 2},
		{"LEN does not agree", append(block(0x00, 0x90, 0x00), 0), nil, 2},
		{"LEN does not agree", block(0x00, 0x90, 0x00)[:5], nil, 2},
		{"LEN does not agree", append([]byte{0, 0, 0xFF}, make([]byte, 256)...), nil, 2},
		{"wrong EDC", []byte{0, 0, 2, 0x90, 0, 0x93}, nil, 1},
		{"wrong NAD", []byte{1, 0, 2, 0x90, 0, 0x93}, nil, 2},
		{"undefined PCB", block(0x01, 0x90, 0x00), nil, 2},
		{"unexpected N(S)", block(0x40, 0x90, 0x00), nil, 2},
		{"longer than IFSD", long, nil, 2},
		{"R-block with LEN", block(0x90, 1), nil, 2},
		{"undefined PCB", block(0xB0), nil, 2},
		{"unexpected N(R)", block(0x90), nil, 2},
		{"undefined PCB", block(0xC4), nil, 2},
		{"wrong LEN", block(0xC3), nil, 2},
		{"wrong LEN", block(0xC1, 1, 2), nil, 2},
		{"wrong LEN", block(0xC0, 1), nil, 2},
		{"S(RESYNCH request) from the card", block(0xC0), nil, 2},
		{"reserved value", block(0xC1, 0), nil, 2},
		{"not asked for", block(0xE0), nil, 2},
		{"not asked for", block(0xE1, 254), nil, 2},
		{"not asked for", block(0xE2), nil, 2},
		{"not asked for", block(0xE3, 1), nil, 2},
		{"no answer", nil, nil, 2},
		{"no answer", nil, ErrTimeout, 2},
		{"damaged", nil, errors.New("parity"), 1},
	} {
		m := NewT1(T1Config{Params: DefaultParams(1)})
		m.Start([]byte{0, 0x84, 0, 0}, nil)
		var s Step
		for i := range maxFails {
			if m.Heard() {
				t.Errorf("%s, % X: heard", c.words, c.b)
			}
			s = m.Next(c.b, c.err)
			if i == maxFails-1 {
				break
			}
			if s.Done || len(s.Send) != 4 || s.Send[1] != 0x80|c.code || s.Wait != DefaultParams(1).BWT(0) {
				t.Fatalf("%s, % X: %+v", c.words, c.b, s)
			}
		}
		want := ErrProtocol
		if strings.HasPrefix(c.words, "no answer") {
			want = ErrTimeout
		}
		if !s.Done || !errors.Is(s.Err, want) || !strings.Contains(s.Err.Error(), c.words) || !m.Dead() {
			t.Errorf("%s, % X: %v", c.words, c.b, s.Err)
		}
	}
	// Just as long as IFSD is well.
	m := NewT1(T1Config{Params: DefaultParams(1)})
	m.Start([]byte{0, 0x84, 0, 0}, nil)
	if s := m.Next(block(0x00, make([]byte, 32)...), nil); !s.Done || s.Err != nil || !m.Heard() {
		t.Errorf("%+v", s)
	}
}

// In characters: BWT for the prologue, then CWT for each character that is missing,
// and the line quiet for CWT after what is no block.
func TestT1CharacterWaits(t *testing.T) {
	p := DefaultParams(1)
	bwt, cwt := p.BWT(0), p.CWT(0)
	for _, crc := range []bool{false, true} {
		p.CRC = crc
		edc := 1
		if crc {
			edc = 2
		}
		m := NewT1(T1Config{Params: p, Character: true})
		check := func(what string, s Step, want int, wait time.Duration) {
			t.Helper()
			if s.Done || s.Want != want || s.Wait != wait {
				t.Fatalf("CRC %v: %s: %+v, want %d in %v", crc, what, s, want, wait)
			}
		}
		s := m.Start([]byte{0, 0x84, 0, 0}, nil)
		check("command", s, 3, bwt)
		check("one character", m.Next([]byte{0}, nil), 2, 2*cwt)
		check("prologue", m.Next([]byte{0, 2}, nil), 2+edc, time.Duration(2+edc)*cwt)
		check("one more", m.Next([]byte{0x90}, nil), 1+edc, time.Duration(1+edc)*cwt)
		check("too many", m.Next(make([]byte, 2+edc), nil), 3+254+2, cwt)
		check("quiet", m.Next(nil, ErrTimeout), 3, bwt)
		check("LEN FF", m.Next([]byte{0, 0, 0xFF}, nil), 3+254+2, cwt)
		s = m.Next([]byte{1, 2, 3}, nil)
		check("whatever came then", s, 3, bwt)
		if s.Send[1] != 0x82 {
			t.Errorf("% X", s.Send)
		}
		b := appendEDC([]byte{0, 0, 2, 0x90, 0}, 0, crc)
		check("prologue", m.Next(b[:3], nil), 2+edc, time.Duration(2+edc)*cwt)
		if s = m.Next(b[3:], nil); !s.Done || s.Err != nil {
			t.Errorf("CRC %v: %+v", crc, s)
		}
		// The longest: LEN 254.
		s = m.Start([]byte{0, 0x84, 0, 0}, nil)
		check("command", s, 3, bwt)
		check("LEN FE", m.Next([]byte{0, 0x40, 0xFE}, nil), 254+edc, time.Duration(254+edc)*cwt)
	}
}
