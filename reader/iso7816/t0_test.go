package iso7816

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// t0Trace is an exchange and what crosses the line meanwhile: > to the card,
// < from the card, -- silence. In Character mode < holds all that the card
// sends until it waits again, or falls silent: < 84 01 --.
type t0Trace struct {
	name, rule string
	mode       T0Mode
	extended   bool
	plain      bool
	apdu, want string
	errs       []error
	alive      bool // after an error
	asks       int  // how often the card may ask for time before Expire; 0: for ever
	trace      string
}

func (c t0Trace) run(t *testing.T) {
	t.Log(c.rule)
	p := DefaultParams(0)
	m := NewT0(T0Config{Params: p, Mode: c.mode, Extended: c.extended, Plain: c.plain})
	var lines []line
	for s := range strings.Lines(c.trace) {
		s = strings.TrimSpace(s)
		body, _, _ := strings.Cut(s, ";")
		dir, body, _ := strings.Cut(strings.TrimSpace(body), " ")
		if dir == "" {
			continue
		}
		l := line{text: s, toCard: dir == ">"}
		body, l.silent = strings.CutSuffix(strings.TrimSpace(body), "--")
		l.b = unhex(t, body)
		lines = append(lines, l)
	}
	prefix := []byte{7}
	s := m.Start(unhex(t, c.apdu), prefix)
	wait := p.WWT(0) // between two characters
	if c.mode != T0Character {
		wait = 260 * p.WWT(0) // a whole answer, as slow as it may be
	}
	var pending []byte
	asked, silent := 0, false
	for !s.Done {
		if s.Wait != wait {
			t.Fatalf("the wait is %v, want %v", s.Wait, wait)
		}
		if s.Extended {
			if asked++; asked == c.asks {
				s = m.Expire()
				continue
			}
		}
		if (s.Want > 0) != (c.mode == T0Character) {
			t.Fatalf("%+v", s)
		}
		if len(s.Send) > 0 {
			if len(pending) > 0 {
				t.Fatalf("sending % X while the card still sends % X", s.Send, pending)
			}
			if len(lines) < 2 {
				t.Fatalf("% X sent after the end of the trace", s.Send)
			}
			if l := lines[0]; !l.toCard || !bytes.Equal(l.b, s.Send) {
				t.Fatalf("sent % X at the line %q", s.Send, l.text)
			}
			if lines[1].toCard {
				t.Fatalf("no answer to the line %q", lines[0].text)
			}
			pending, silent = lines[1].b, lines[1].silent
			lines = lines[2:]
			if c.mode != T0Character && !silent {
				s = m.Next(pending, nil)
				pending = nil
				continue
			}
		}
		if len(pending) == 0 {
			if !silent {
				t.Fatalf("waits for %d characters after the card's last", s.Want)
			}
			silent = false
			s = m.Next(nil, ErrTimeout)
			continue
		}
		n := min(max(s.Want/2, 1), len(pending)) // in pieces
		b := pending[:n]
		pending = pending[n:]
		s = m.Next(b, nil)
	}
	if len(pending) > 0 || silent {
		t.Errorf("not read: % X, silence %v", pending, silent)
	}
	for _, l := range lines {
		t.Errorf("not played: %s", l.text)
	}
	if c.errs != nil {
		t.Log(s.Err)
		for _, e := range c.errs {
			if !errors.Is(s.Err, e) {
				t.Errorf("error %q is not %q", s.Err, e)
			}
		}
		if inDoubt := errors.Is(s.Err, ErrInDoubt); inDoubt != (c.errs[len(c.errs)-1] == ErrInDoubt) {
			t.Errorf("error %q: in doubt %v", s.Err, inDoubt)
		}
		if m.Dead() == c.alive {
			t.Errorf("Dead is %v", m.Dead())
		}
		return
	}
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	if got, want := m.Response(), append(prefix, unhex(t, c.want)...); !bytes.Equal(got, want) {
		t.Errorf("response % X, want % X", got, want)
	}
	if m.Dead() {
		t.Error("Dead")
	}
}

// ISO/IEC 7816-3:2006 §10.3.3, procedure bytes.
func TestT0Character(t *testing.T) {
	for _, c := range []t0Trace{
		{name: "case 1", rule: "SW1 SW2 directly", apdu: "00A40000", want: "9000",
			trace: "> 00 A4 00 00 00\n< 90 00"},
		{name: "case 1, acknowledged", rule: "tolerated: an ACK for no data", apdu: "00A40000", want: "9000",
			trace: "> 00 A4 00 00 00\n< A4 90 00"},
		{name: "case 2", rule: "INS: all data", apdu: "0084000004", want: "01020304 9000",
			trace: "> 00 84 00 00 04\n< 84 01 02 03 04 90 00"},
		{name: "case 2, 256 bytes", rule: "P3 = 00 means 256", apdu: "00B0000000", want: fill(256) + "9000",
			trace: "> 00 B0 00 00 00\n< B0 " + fill(256) + " 90 00"},
		{name: "case 2 byte by byte", rule: "INS^FF: one byte", apdu: "0084000004", want: "01020304 9000",
			trace: "> 00 84 00 00 04\n< 7B 01 7B 02 84 03 04 90 00"},
		{name: "case 2 with programming voltage", rule: "INS^01 as INS, INS^FE as INS^FF (1989 edition)", apdu: "0084000004", want: "01020304 9000",
			trace: "> 00 84 00 00 04\n< 7A 01 85 02 03 04 90 00"},
		{name: "NULL everywhere", rule: "60 restarts the waiting time", apdu: "0084000002", want: "6060 9000",
			trace: "> 00 84 00 00 02\n< 60 60 84 60 60 60 90 00"},
		{name: "SW2 60", rule: "after SW1 comes SW2, whatever it is", apdu: "00A40000", want: "9060",
			trace: "> 00 A4 00 00 00\n< 90 60"},
		{name: "case 3", rule: "INS: send all", apdu: "00D6000003010203", want: "9000",
			trace: "> 00 D6 00 00 03\n< D6\n> 01 02 03\n< 90 00"},
		{name: "case 3 byte by byte", rule: "INS^FF: send one", apdu: "00D6000003010203", want: "6A80",
			trace: "> 00 D6 00 00 03\n< 60 29\n> 01\n< 60 29\n> 02\n< D6\n> 03\n< 60 6A 80"},
		{name: "case 3 refused early", rule: "SW1 SW2 in place of the ACK", apdu: "00D6000003010203", want: "6982",
			trace: "> 00 D6 00 00 03\n< 69 82"},
		{name: "case 3, 61xx", rule: "contract: passed up", apdu: "00A40000023F00", want: "6110",
			trace: "> 00 A4 00 00 02\n< A4\n> 3F 00\n< 61 10"},
		{name: "case 4", rule: "61xx: GET RESPONSE", apdu: "00A40000023F0000", want: "AABB 9000",
			trace: "> 00 A4 00 00 02\n< A4\n> 3F 00\n< 61 02\n> 00 C0 00 00 02\n< C0 AA BB 90 00"},
		{name: "case 2 with the wrong Le", rule: "6Cxx: once more with P3 = xx", apdu: "00B0000000", want: "AABB 9000",
			trace: "> 00 B0 00 00 00\n< 6C 02\n> 00 B0 00 00 02\n< B0 AA BB 90 00"},
		{name: "data broken off by SW1", rule: "the status word ends the command", apdu: "0084000004", want: "01 6F00",
			trace: "> 00 84 00 00 04\n< 7B 01 6F 00"},

		{name: "silence", rule: "WWT", apdu: "0084000004", errs: []error{ErrTimeout, ErrInDoubt},
			trace: "> 00 84 00 00 04\n< --"},
		{name: "silence before the data were sent", rule: "WWT; the card lacks the data", apdu: "00D6000003010203", errs: []error{ErrTimeout},
			trace: "> 00 D6 00 00 03\n< --"},
		{name: "silence after the data were sent", rule: "WWT", apdu: "00D6000003010203", errs: []error{ErrTimeout, ErrInDoubt},
			trace: "> 00 D6 00 00 03\n< D6\n> 01 02 03\n< --"},
		{name: "silence within the data", rule: "WWT", apdu: "0084000004", errs: []error{ErrTimeout, ErrInDoubt},
			trace: "> 00 84 00 00 04\n< 84 01 02 --"},
		{name: "silence in place of SW2", rule: "WWT", apdu: "0084000004", errs: []error{ErrTimeout, ErrInDoubt},
			trace: "> 00 84 00 00 04\n< 90 --"},
		{name: "unknown procedure byte", rule: "neither NULL, ACK nor SW1", apdu: "0084000004", errs: []error{ErrProtocol, ErrInDoubt},
			trace: "> 00 84 00 00 04\n< 12"},
		{name: "ACK once too often", rule: "all data are there", apdu: "0084000001", errs: []error{ErrProtocol, ErrInDoubt},
			trace: "> 00 84 00 00 01\n< 84 01 84"},
		{name: "NULL for an hour", rule: "contract: waiting is bounded by the clock", apdu: "0084000001", want: "AA9000",
			trace: "> 00 84 00 00 01\n< " + strings.Repeat("60 ", 3600) + "84 AA 90 00"},
		{name: "NULL for ever", rule: "contract: the clock's owner ends it", apdu: "0084000001", errs: []error{ErrTimeout, ErrInDoubt}, asks: 6,
			trace: "> 00 84 00 00 01\n< 60 60 60 60 60 60"},
		{name: "ACK for nothing twice", rule: "tolerated once", apdu: "00A40000", errs: []error{ErrProtocol, ErrInDoubt},
			trace: "> 00 A4 00 00 00\n< A4 A4"},
	} {
		c.mode = T0Character
		t.Run(c.name, c.run)
	}
}

// "Over T=0 what fits no case says EINVAL. A command that is well formed but too long
// for the way says EOPNOTSUPP, nothing sent." ENVELOPE is for TPDUs only.
func TestT0Refused(t *testing.T) {
	for _, c := range []struct {
		apdu string
		mode T0Mode
		want error
	}{
		{"00600000", T0TPDU, ErrInvalid}, {"006F0000", T0Character, ErrInvalid},
		{"00900000", T0TPDU, ErrInvalid}, {"009F000000", T0Character, ErrInvalid},
		{"FFCA000000", T0Character, ErrInvalid},
		{"00A400000301", T0TPDU, ErrInvalid}, {"00A400000301", T0Character, ErrInvalid},
		{"00B201140000", T0TPDU, ErrInvalid}, {"00B201140000", T0Character, ErrInvalid},
		{"FF8800046000", T0TPDU, ErrInvalid}, {"60", T0TPDU, ErrInvalid},
		{"", T0APDU, ErrInvalid}, {"00A400", T0APDU, ErrInvalid}, {"", T0TPDU, ErrInvalid},
		{"00B00000000000", T0APDU, ErrUnsupported},
		{"00D6000000000101", T0APDU, ErrUnsupported},
		{"00DB3FFF00012C" + fill(300) + "0000", T0APDU, ErrUnsupported},
		{"00DB3FFFFF" + fill(257), T0APDU, ErrUnsupported}, // no C-APDU, and too long for a short one
	} {
		m := NewT0(T0Config{Params: DefaultParams(0), Mode: c.mode})
		s := m.Start(unhex(t, c.apdu), nil)
		if !s.Done || !errors.Is(s.Err, c.want) || len(s.Send) != 0 || m.Dead() {
			t.Errorf("%s: %+v", c.apdu, s)
		}
	}
	// The longest that a carrier of short C-APDUs takes, and an extended one.
	for n, extended := range map[int]bool{261: false, MaxCommand: true} {
		for more := range 2 {
			s := NewT0(T0Config{Params: DefaultParams(0), Mode: T0APDU, Extended: extended}).Start(make([]byte, n+more), nil)
			if s.Done != (more == 1) || (s.Err == nil) != (more == 0) {
				t.Errorf("%d bytes, extended %v: %v", n+more, extended, s.Err)
			}
		}
	}
}

// T=0 cannot tell a late answer from another, so nothing is sent until a reset.
func TestT0Dead(t *testing.T) {
	for _, abandon := range []bool{false, true} {
		m := NewT0(T0Config{Params: DefaultParams(0)})
		m.Start([]byte{0, 0x84, 0, 0, 8}, nil)
		if !abandon {
			m.Next(nil, ErrTimeout)
		}
		s := m.Start([]byte{0, 0x84, 0, 0, 8}, nil)
		if !s.Done || !errors.Is(s.Err, ErrProtocol) || len(s.Send) != 0 || !m.Dead() {
			t.Errorf("abandon %v: %+v", abandon, s)
		}
		if s := m.Next([]byte{0x90, 0}, nil); !s.Done || s.Err == nil {
			t.Errorf("abandon %v: Next: %+v", abandon, s)
		}
	}
}

// What one exchange leaves behind is nothing to the next.
func TestT0Next(t *testing.T) {
	m := NewT0(T0Config{Params: DefaultParams(0)})
	play := func(capdu, want string, answers ...string) {
		t.Helper()
		s := m.Start(unhex(t, capdu), nil)
		for _, a := range answers {
			s = m.Next(unhex(t, a), nil)
		}
		if !s.Done || s.Err != nil || !bytes.Equal(m.Response(), unhex(t, want)) {
			t.Fatalf("%s: % X, %+v", capdu, m.Response(), s)
		}
	}
	const select4 = "00A4040002A00000"
	play(select4, "AA6283", "6283", "AA9000")                    // a warning
	play(select4, "AA9000", "6101", "AA9000")                    // is not that of the next
	play("80A4040002A00000", "AA9000", "6101", "6E00", "AA9000") // another class
	play(select4, "BB9000", "6101", "BB9000")                    // is not for the next
	play("00B0000000", "CC9000", "6C01", "CC9000")               // a corrected length
	play("00B0000000", "DD9000", "6C01", "DD9000")               // may be corrected again
	play("00B0000001", "9000", "9000")
}

// What the carrier says about a failure is not lost.
func TestT0CarrierErrors(t *testing.T) {
	for _, c := range []struct {
		err, is     error
		dead, doubt bool
	}{
		{fmt.Errorf("261 bytes are too many for this reader: %w", ErrInvalid), ErrInvalid, false, false},
		{fmt.Errorf("parity error in SW2: %w", ErrProtocol), ErrProtocol, true, true},
		{errors.New("overrun"), ErrProtocol, true, true},
	} {
		m := NewT0(T0Config{Params: DefaultParams(0)})
		m.Start([]byte{0, 0x84, 0, 0, 8}, nil)
		s := m.Next(nil, c.err)
		if !s.Done || !errors.Is(s.Err, c.err) || !errors.Is(s.Err, c.is) || errors.Is(s.Err, ErrInDoubt) != c.doubt || m.Dead() != c.dead {
			t.Errorf("%v: dead %v, %+v", c.err, m.Dead(), s)
		}
	}
}

func TestT0Allocations(t *testing.T) {
	answers := [][]byte{{0x61, 0x04}, {1, 2, 3, 4, 0x90, 0x00}}
	m := NewT0(T0Config{Params: DefaultParams(0)})
	capdu := []byte{0, 0xA4, 4, 0, 2, 0x3F, 0, 0}
	dst := make([]byte, 0, 300)
	if n := testing.AllocsPerRun(100, func() {
		s := m.Start(capdu, dst)
		for i := 0; !s.Done; i++ {
			s = m.Next(answers[i], nil)
		}
		if s.Err != nil || len(m.Response()) != 6 {
			t.Fatal(s.Err)
		}
	}); n != 0 {
		t.Errorf("%v allocations in an exchange", n)
	}
}

func BenchmarkT0(b *testing.B) {
	answers := [][]byte{{0x61, 0x04}, {1, 2, 3, 4, 0x90, 0x00}}
	m := NewT0(T0Config{Params: DefaultParams(0)})
	capdu := []byte{0, 0xA4, 4, 0, 2, 0x3F, 0, 0}
	dst := make([]byte, 0, 300)
	b.ReportAllocs()
	for b.Loop() {
		s := m.Start(capdu, dst)
		for i := 0; !s.Done; i++ {
			s = m.Next(answers[i], nil)
		}
	}
}

// FuzzT0 plays a card that sends whatever the fuzzer wants, over and over.
// Run with: go test -fuzz FuzzT0 ./reader/iso7816
func FuzzT0(f *testing.F) {
	for mode := range byte(3) {
		f.Add(mode, unhex(f, "00A40400023F0000"), unhex(f, "02 6102 04 AABB9000"))
		f.Add(mode, unhex(f, "00B0000000"), unhex(f, "02 6C02 04 AABB9000"))
		f.Add(mode, unhex(f, "00D6000003010203"), unhex(f, "03 60D690 01 00"))
		f.Add(mode, unhex(f, "0084000002"), unhex(f, "06 7B017B029000"))
		f.Add(mode, unhex(f, "00D6000000012C"+fill(300)), unhex(f, "02 9000 FF"))
	}
	f.Fuzz(func(t *testing.T, mode byte, capdu, in []byte) {
		if len(in) == 0 {
			return
		}
		p := DefaultParams(0)
		m := NewT0(T0Config{Params: p, Mode: T0Mode(mode % 3), Extended: mode&4 != 0})
		cmd, perr := ParseCommand(capdu)
		pos := 0
		take := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = in[pos%len(in)]
				pos++
			}
			return b
		}
		s := m.Start(capdu, nil)
		switch whole := T0Mode(mode%3) == T0APDU; {
		case perr != nil && !whole && !errors.Is(s.Err, ErrInvalid):
			t.Fatalf("malformed, but %+v", s)
		case whole && s.Err == nil && !bytes.Equal(s.Send, capdu): // as it is
			t.Fatalf("sent % X", s.Send)
		case whole && (s.Err == nil) != (Carries(capdu, mode&4 != 0) == nil):
			t.Fatalf("%v", s.Err)
		}
		// The longest: 65536 bytes in TPDUs of one, each with 6Cxx and the
		// procedure bytes around, and the waiting time.
		for n := 0; !s.Done; n++ {
			if n > 600_000 {
				t.Fatal("no end")
			}
			if s.Extended && n > 1000 {
				s = m.Expire()
				continue
			}
			if s.Wait <= 0 || (s.Want > 0) != (T0Mode(mode%3) == T0Character) {
				t.Fatalf("%+v", s)
			}
			want := s.Want
			if want == 0 {
				want = int(take(1)[0])
				if want == 0xFF {
					s = m.Next(nil, ErrTimeout)
					continue
				}
			}
			s = m.Next(take(want), nil)
		}
		if s.Err == nil && T0Mode(mode%3) != T0APDU && len(m.Response()) > cmd.Ne+2 {
			t.Fatalf("a response of %d bytes to Ne %d", len(m.Response()), cmd.Ne)
		}
	})
}

// Data that a reader fetched by itself are at most what one GET RESPONSE brings, and a piece
// of a C-APDU in an ENVELOPE has none.
func TestT0DataTooMany(t *testing.T) {
	for name, c := range map[string]struct{ apdu, answer string }{
		"257 bytes":               {"00A40400 02A000 00", fill(257) + "9000"},
		"to an ENVELOPE's middle": {"00DB3FFF 00 012C" + fill(300) + "0000", "AA 90 00"},
	} {
		m := NewT0(T0Config{Mode: T0TPDU})
		if s := m.Start(unhex(t, c.apdu), nil); s.Err != nil {
			t.Fatal(s.Err)
		}
		if s := m.Next(unhex(t, c.answer), nil); !s.Done || !errors.Is(s.Err, ErrProtocol) {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
