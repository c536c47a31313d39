package iso7816

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func mustATR(t *testing.T, s string) *ATR {
	t.Helper()
	a, err := ParseATR(unhex(t, s))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return a
}

// "Only TS wrong, no bytes, or more than 33 fail."
func TestParseATRRefused(t *testing.T) {
	for _, c := range []struct {
		in     string
		reason ATRReason
		words  string
	}{
		{"", ATREmpty, "no bytes"},
		{"3A 00", ATRBadTS, "3A"},
		{"03 00", ATRBadTS, "inverse"},
		{"00", ATRBadTS, "00"},
		{"3A " + strings.Repeat("80 ", 40), ATRBadTS, "3A"},
		{"3B " + strings.Repeat("80 ", 33), ATRTooLong, "34 bytes"},
		{"3F 0F " + strings.Repeat("55 ", 32), ATRTooLong, "34 bytes; 33 are the most"},
	} {
		_, err := ParseATR(unhex(t, c.in))
		var e *ATRError
		if !errors.As(err, &e) || e.Reason != c.reason || !strings.Contains(err.Error(), c.words) || !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: error %v, want %q with %q", c.in, err, c.reason, c.words)
		}
	}
}

// "Any ATR that begins with 3B or 3F gives a working card: wrong or missing TCK, too
// few or too many historical bytes, T=15 first. What could be decoded counts, the
// rest is default."
func TestATRDefects(t *testing.T) {
	for _, c := range []struct {
		in      string
		params  string // of the default protocol
		hist    string
		defects string // reasons and words, one a line
	}{
		{"3B", "T=0 F=372 D=1 N=0 WI=10", "", "bytes missing: T0 is missing"},
		{"3B 10", "T=0 F=372 D=1 N=0 WI=10", "", "bytes missing: TA1 is announced, but the ATR ends after 2 bytes"},
		{"3B 70 95", "T=0 F=372 D=1 N=0 WI=10", "", "bytes missing: TB1 is announced, but the ATR ends after 3"},
		{"3B 50 95 05", "T=0 F=372 D=1 N=5 WI=10", "", ""},
		{"3B 80", "T=0 F=372 D=1 N=0 WI=10", "", "bytes missing: TD1 is announced"},
		{"3B 80 01", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "", "bytes missing: TCK is missing"},
		{"3B 80 81", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "", "bytes missing: TD2 is announced"},
		{"3B 80 81 31 FE", "T=1 F=372 D=1 N=0 IFSC=254 BWI=4 CWI=13 LRC", "", "bytes missing: TB3 is announced"},
		{"3B 80 F0 11", "T=0 F=372 D=1 N=0 WI=10", "", "bytes missing: TB2 is announced\nreserved value: TA2 fixes T=1"},
		{"3B 02 41", "T=0 F=372 D=1 N=0 WI=10", "41", "bytes missing: 2 historical bytes are announced, 1 are there"},
		{"3B 02 41 42 43", "T=0 F=372 D=1 N=0 WI=10", "4142", "bytes left over: 4 bytes announced, 5 are there"},
		{"3B 02 41 42 00 00", "T=0 F=372 D=1 N=0 WI=10", "4142", "bytes left over: 4 bytes announced, 6 are there"},
		{"3B 02 41 42 01", "T=0 F=372 D=1 N=0 WI=10", "4142", "needless TCK: the last byte is a TCK"},
		{"3B 80 01 81 00", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "", "bytes left over: 4 bytes announced, 5"},
		{"3B 80 01 80", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "", "bad TCK: TCK is 80 instead of 81"},
		{"3B 80 01 80 90 00", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "", "bad TCK: TCK is 80 instead of 81\nbytes left over: 4 bytes announced, 6"},
		{"3B 80 1F 00 9F", "T=0 F=372 D=1 N=0 WI=10", "", "T=15 in TD1: TD1 is 1F"},
		{"3B 80 0F 8F", "T=0 F=372 D=1 N=0 WI=10", "", "T=15 in TD1: TD1 is 0F"},
		{"3B 80 9F 43 01 5D", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "", "T=15 in TD1\nreserved value: TD2 names T=1 after T=15\nreserved value: TA2 fixes T=3\nreserved value: TA2 is 43"},
		{"3B 88 01 31", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "31", "bytes missing: 8 historical bytes are announced, 1 are there\nbytes missing: TCK is missing"},
		// Two real ones: a gas card and a GSM card.
		{"3B 10 14 50", "T=0 F=372 D=1 N=0 WI=10", "", "bytes left over: 3 bytes announced, 4 are there"},
		{"3B 67 00 00 29 20 00 6F 78 90 00 4A", "T=0 F=372 D=1 N=0 WI=10", "2920006F789000", "bytes left over: 11 bytes announced, 12"},

		{"3B 10 7F", "T=0 F=372 D=1 N=0 WI=10", "", "reserved value: TA1 is 7F"},
		{"3B 80 40 00", "T=0 F=372 D=1 N=0 WI=10", "", "reserved value: TC2 is 00"},
		{"3B 80 10 60", "T=0 F=372 D=1 N=0 WI=10", "", "reserved value: TA2 is 60"},
		{"3B 80 81 11 FF EF", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "", "reserved value: IFSC is FF"},
		{"3B 80 81 11 00 10", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "", "reserved value: IFSC is 00"},
		{"3B 80 81 21 F2 D2", "T=1 F=372 D=1 N=0 IFSC=32 BWI=9 CWI=2 LRC", "", "reserved value: BWI is 15"},
		{"3B 80 81 21 95 B5", "T=1 F=372 D=1 N=0 IFSC=32 BWI=9 CWI=5 LRC", "", ""},
		{"3B 80 81 41 03 43", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 CRC", "", "reserved value: the EDC byte is 03"},
		{"3B 80 81 80 01 80", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", "", "reserved value: TD2 names T=0 after T=1"},
		{"3B 0F " + strings.Repeat("55", 15), "T=0 F=372 D=1 N=0 WI=10", strings.Repeat("55", 15), ""},
		{"3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1", "T=1 F=372 D=1 N=0 IFSC=254 BWI=6 CWI=5 LRC", "53504B32339000", ""},
	} {
		a := mustATR(t, c.in)
		var want []string
		if c.defects != "" {
			want = strings.Split(c.defects, "\n")
		}
		got := a.Defects()
		for i, d := range got {
			if i < len(want) && !strings.HasPrefix(string(d.Reason)+": "+d.String(), want[i]) && !strings.HasPrefix(string(d.Reason), want[i]) {
				t.Errorf("%s: %s: %s, want %s", c.in, d.Reason, d, want[i])
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %q, want %q", c.in, got, want)
		}
		if h := fmt.Sprintf("%X", a.Historical()); h != c.hist {
			t.Errorf("%s: historical bytes %s, want %s", c.in, h, c.hist)
		}
		if err := checkATR(a); err != nil {
			t.Errorf("%s: %v", c.in, err)
		}
		t0 := a.Protocols()[0]
		if _, _, specific := a.Specific(); specific {
			continue
		}
		if p, err := a.Params(t0); err != nil || p.String() != c.params {
			t.Errorf("%s: %v, %v; want %s", c.in, p, err, c.params)
		}
	}
	// The longest: 33 bytes are allowed, however few of them are announced.
	if a := mustATR(t, "3B 00 "+strings.Repeat("55 ", 31)); len(a.Defects()) != 1 || len(a.Bytes()) != MaxATR {
		t.Errorf("%q", a.Defects())
	}
}

func TestATRFields(t *testing.T) {
	// T=0 and T=1, everything there, T=15 at the end.
	a := mustATR(t, "3F D2 96 FF 81 B1 FE 45 1F 43 41 42 6F")
	if !a.Inverse() {
		t.Error("TS 3F is the inverse convention")
	}
	want := []Group{
		{T: 0, Has: HasTA | HasTC | HasTD, TA: 0x96, TC: 0xFF, TD: 0x81},
		{T: 1, Has: HasTD, TD: 0xB1},
		{T: 1, Has: HasTA | HasTB | HasTD, TA: 0xFE, TB: 0x45, TD: 0x1F},
		{T: 15, Has: HasTA, TA: 0x43},
	}
	if got := a.Groups(); !slices.Equal(got, want) {
		t.Errorf("groups %+v", got)
	}
	if string(a.Historical()) != "AB" || !slices.Equal(a.Protocols(), []int{1}) || a.Default() != 1 {
		t.Errorf("historical %q, protocols %v, default %d", a.Historical(), a.Protocols(), a.Default())
	}
	p, err := a.Params(1)
	if want := (Params{T: 1, TA1: 0x11, N: 0xFF, WI: 10, IFSC: 254, Inverse: true, BWI: 4, CWI: 5, ClockStop: 1}); err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := a.Best(1, nil); err != nil || p.TA1 != 0x96 || !a.NeedsPPS(p) {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := a.Params(0); !errors.Is(err, ErrUnsupported) {
		t.Errorf("T=0 is not offered: %v", err)
	}
}

// The parameters in force without a PPS, and those worth one.
func TestATRParams(t *testing.T) {
	for _, c := range []struct {
		name, atr string
		protocols []int
		t         int
		force     string // Params.String, or the words of an error
		best      byte   // 0: no PPS needed
	}{
		{"no TD1: T=0 only", "3B 02 41 42", []int{0}, 0, "T=0 F=372 D=1 N=0 WI=10", 0},
		{"TA1 is an offer in negotiable mode", "3B 10 95", []int{0}, 0, "T=0 F=372 D=1 N=0 WI=10", 0x95},
		{"TA1 11 is no offer", "3B 10 11", []int{0}, 0, "T=0 F=372 D=1 N=0 WI=10", 0},
		{"TA1 reserved is not used", "3B 10 7F", []int{0}, 0, "T=0 F=372 D=1 N=0 WI=10", 0},
		{"TC1, TC2", "3B C0 05 40 14", []int{0}, 0, "T=0 F=372 D=1 N=5 WI=20", 0},
		{"TC2 00 is reserved", "3B 80 40 00", []int{0}, 0, "T=0 F=372 D=1 N=0 WI=10", 0},
		{"specific mode: TA1 holds", "3B 90 95 10 00", []int{0}, 0, "T=0 F=512 D=16 N=0 WI=10", 0},
		{"specific mode, F and D implicit", "3B 90 95 10 10", []int{0}, 0, "T=0 F=372 D=1 N=0 WI=10", 0},
		{"specific mode without TA1", "3B 80 10 00", []int{0}, 0, "T=0 F=372 D=1 N=0 WI=10", 0},
		{"specific mode, the other protocol", "3B 90 95 91 01 31 20 45 C1", []int{1}, 0, "specific mode with T=1", 0},
		{"specific mode, reserved TA1: default", "3B 90 7F 10 00", []int{0}, 0, "T=0 F=372 D=1 N=0 WI=10", 0},
		{"both protocols, T=0", "3B 80 80 01 01", []int{0, 1}, 0, "T=0 F=372 D=1 N=0 WI=10", 0},
		{"both protocols, T=1 needs a PPS", "3B 80 80 01 01", []int{0, 1}, 1, "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", 0x11},
		{"T=1 in TD1 alone: TA2 is no IFSC", "3B 80 01 81", []int{1}, 1, "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", 0},
		{"T=1, CRC", "3B 80 81 F1 40 75 01 00 C4", []int{1, 0}, 1, "T=1 F=372 D=1 N=0 IFSC=64 BWI=7 CWI=5 CRC", 0},
		{"only the first TA for T=1 counts", "3B 80 81 91 40 11 80 41", []int{1}, 1, "T=1 F=372 D=1 N=0 IFSC=64 BWI=4 CWI=13 LRC", 0},
		{"IFSC FF is reserved", "3B 80 81 11 FF EF", []int{1}, 1, "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=13 LRC", 0},
		{"BWI 15 is reserved", "3B 80 81 21 F2 D2", []int{1}, 1, "T=1 F=372 D=1 N=0 IFSC=32 BWI=9 CWI=2 LRC", 0},
		{"T=15 is not offered", "3B 80 80 1F 03 1C", []int{0}, 15, "offers T=[0], not T=15", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(t, c.atr)
			if x := LRC(b[1:]); x != 0 && slices.Max(c.protocols) > 0 {
				t.Fatalf("TCK should be %02X", b[len(b)-1]^x)
			}
			a, err := ParseATR(b)
			if err != nil {
				t.Fatal(err)
			}
			if got := a.Protocols(); !slices.Equal(got, c.protocols) {
				t.Errorf("protocols %v", got)
			}
			p, err := a.Params(c.t)
			if err != nil {
				if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.force) {
					t.Errorf("error %v, want %q", err, c.force)
				}
				return
			}
			if p.String() != c.force {
				t.Errorf("in force %v, want %s", p, c.force)
			}
			best, err := a.Best(c.t, nil)
			if err != nil {
				t.Fatal(err)
			}
			if a.NeedsPPS(best) != (c.best != 0) || c.best != 0 && best.TA1 != c.best {
				t.Errorf("best %v, PPS %v", best, a.NeedsPPS(best))
			}
		})
	}
}

func TestATRSpecific(t *testing.T) {
	a := mustATR(t, "3B 90 95 10 90")
	if tt, implicit, ok := a.Specific(); tt != 0 || !implicit || !ok || a.Changeable() {
		t.Errorf("%d %v %v, changeable %v", tt, implicit, ok, a.Changeable())
	}
	if a = mustATR(t, "3B 80 10 00"); !a.Changeable() {
		t.Error("bit 8 of TA2 is clear: changeable")
	}
	if a = mustATR(t, "3B 00"); a.Changeable() {
		t.Error("negotiable mode is not specific mode")
	}
}

// A reader that cannot use the offer gets the next slower D of the same F, then 11.
func TestATRBest(t *testing.T) {
	a := mustATR(t, "3B 10 18") // F 372, D 12
	for _, c := range []struct {
		usable []byte
		want   byte
	}{
		{[]byte{0x18, 0x14}, 0x18}, {[]byte{0x14, 0x12}, 0x14}, {[]byte{0x12}, 0x12}, {nil, 0x11}, {[]byte{0x95}, 0x11},
	} {
		p, err := a.Best(0, func(ta1 byte) bool { return slices.Contains(c.usable, ta1) })
		if err != nil || p.TA1 != c.want {
			t.Errorf("usable % X: %02X, %v; want %02X", c.usable, p.TA1, err, c.want)
		}
	}
}

// D is taken from the offer's F as long as the rate is above 1/372, which needs no PPS.
func TestATRBestLadder(t *testing.T) {
	for ta1, want := range map[string]string{
		"96": "96 99 95 98 94 93 92 11", "97": "97 96 99 95 98 94 93 92 11",
		"18": "18 14 13 12 11", "34": "34 33 11", // F 744: D 2 is 1/372
		"33": "33 11", "32": "32 11", "D7": "D7 D6 D9 D5 D8 D4 11", "11": "11", "01": "01 11",
	} {
		a := mustATR(t, "3B 10 "+ta1)
		var failed []byte
		var got []string
		for {
			p, err := a.Best(0, func(ta1 byte) bool { return !slices.Contains(failed, ta1) })
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%02X", p.TA1))
			if p.TA1 == DefaultTA1 {
				break
			}
			failed = append(failed, p.TA1)
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%s: %s, want %s", ta1, got, want)
		}
	}
}

// rebuild writes an ATR from its parts.
func rebuild(a *ATR) []byte {
	b := []byte{a.raw[0], a.groups[0].Has<<4 | byte(len(a.hist))}
	for _, g := range a.groups {
		for j, v := range [...]byte{g.TA, g.TB, g.TC, g.TD} {
			if g.Has&(1<<j) != 0 {
				b = append(b, v)
			}
		}
	}
	b = append(b, a.hist...)
	if a.tck > 0 {
		b = append(b, LRC(b[1:]))
	}
	return b
}

// checkATR holds a parsed ATR to what is true of all of them.
func checkATR(a *ATR) error {
	whole := !a.defective(ATRMissing) && !a.defective(ATRBadTCK) && a.rest == len(a.raw)
	if b := rebuild(a); whole && !bytes.Equal(b, a.raw) {
		return fmt.Errorf("rebuilt as % X", b)
	}
	n := 2 + len(a.hist)
	for _, g := range a.groups {
		n += bits.OnesCount8(g.Has)
	}
	if a.tck > 0 {
		n++
	}
	if n = min(n, len(a.raw)); n != a.rest {
		return fmt.Errorf("%d bytes decoded, %d used", n, a.rest)
	}
	if err := checkATRLength(a); err != nil {
		return err
	}
	ts := a.Protocols()
	if len(ts) == 0 || slices.Contains(ts, 15) {
		return fmt.Errorf("protocols %v", ts)
	}
	for _, t := range ts {
		p, err := a.Params(t)
		if err != nil {
			if !errors.Is(err, ErrUnsupported) {
				return err
			}
			continue
		}
		if _, _, _, ok := p.FD(); !ok || p.IFSC < 1 || p.IFSC > 254 || p.BWI > 9 || p.WI == 0 {
			return fmt.Errorf("parameters %+v", p)
		}
		if p.WWT(0) <= 0 || p.BWT(0) <= 0 || p.CWT(0) <= 0 {
			return fmt.Errorf("waiting times of %v", p)
		}
		best, err := a.Best(t, nil)
		if err != nil {
			return err
		}
		if req := PPSRequest(t, best.TA1); a.NeedsPPS(best) && len(req) < 3 {
			return fmt.Errorf("PPS % X", req)
		}
	}
	var sb strings.Builder
	if err := a.Describe(&sb); err != nil {
		return err
	}
	if strings.Contains(sb.String(), "%!") && !bytes.Contains(a.hist, []byte("%!")) {
		return fmt.Errorf("description:\n%s", sb.String())
	}
	return nil
}

// checkATRLength receives the ATR character by character: no part of it is whole, none
// announces more than there is, and at the end nothing is missing that was announced.
func checkATRLength(a *ATR) error {
	whole := ATRLength(a.raw)
	if missing := whole > len(a.raw); missing != a.defective(ATRMissing) {
		return fmt.Errorf("%d of %d bytes, and the defects are %v", len(a.raw), whole, a.Defects())
	} else if want := a.rest; !missing && whole != want && (whole != want-1 || !a.defective(ATRSpareTCK)) {
		return fmt.Errorf("length %d, %d bytes were used", whole, want)
	}
	last := 0
	for i := range min(whole, len(a.raw)) {
		n := ATRLength(a.raw[:i])
		if n <= i || n < last || n > whole {
			return fmt.Errorf("after %d bytes of %d the length is %d, before it was %d", i, whole, n, last)
		}
		last = n
	}
	return nil
}

// ISO/IEC 7816-3:2006 §8.2: T0 announces TA1 to TD1 and K historical bytes, each TD the
// next group; TCK is there if a TD names another protocol than T=0.
func TestATRLength(t *testing.T) {
	for _, x := range []struct {
		atr  string
		want int
	}{
		{"", 2}, {"3B", 2}, {"3B 00", 2}, {"3B 0F", 17}, {"3B 10", 3}, {"3B F0", 6},
		{"3B 80", 3}, {"3B 80 00", 3}, {"3B 80 01", 4}, {"3B 80 80 01", 5}, {"3B 80 80 80", 5}, {"3B 80 81 00", 5},
		{"3B F2 98 00 FF", 8}, {"3B F2 98 00 FF C1", 11}, {"3B F2 98 00 FF C1 10 31", 13},
		{"3B F2 98 00 FF C1 10 31 FE 55 C8 03 15", 13}, {"3B F2 98 00 FF C1 10 31 FE 55 C8 03 15 FF", 13},
		{"3B FF 11 00 00 81 31 FE 4D 80 25 A0 00 00 00 56 57 44 4B 33 33 30 06 00 D0", 25},
		{"3B 80" + strings.Repeat(" 80", 31), 34}, // it never ends
		{"03 FF", 21}, // whatever TS is
	} {
		if got := ATRLength(unhex(t, x.atr)); got != x.want {
			t.Errorf("%s: %d, want %d", x.atr, got, x.want)
		}
	}
}

// FuzzATR: go test -fuzz FuzzATR ./reader/iso7816
func FuzzATR(f *testing.F) {
	for _, s := range []string{
		"3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1", "3B D2 96 FF 81 B1 FE 45 1F 03 41 42 2F",
		"3B 00", "3F 65 25 00 2C 09 69 90 00", "3B 90 95 91 81 31 20 45 41", "3B 80 1F 00 9F",
		"3B 0F 80 12 49 9F 22 12 34 43 00 A4 04 51 41 81 07",
		"3B 9F 95 80 1F 42 80 31 A0 73 BE 21 15 67 41 42 43 44 82 90 00 4E",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseATR(b)
		if err != nil {
			var e *ATRError
			if !errors.As(err, &e) {
				t.Fatalf("% X: %v", b, err)
			}
			if len(b) > 0 && len(b) <= MaxATR && (b[0] == 0x3B || b[0] == 0x3F) {
				t.Fatalf("% X: %v", b, err)
			}
			return
		}
		if err := checkATR(a); err != nil {
			t.Fatalf("% X: %v", b, err)
		}
	})
}

// ISO/IEC 7816-3:2006 §8.3: the first TAi, TBi and TCi of a protocol count (i > 2), in
// whichever group each is.
func TestATRFirst(t *testing.T) {
	for _, c := range []struct {
		atr  string
		want string // Params of T=1
	}{
		{"3B 80 81 71 20 45 01 75", "T=1 F=372 D=1 N=0 IFSC=32 BWI=4 CWI=5 CRC"},
		// TA3 in the first group of T=1, TB4 and TC4 in the second, all again in the third.
		{"3B 80 81 91 80 E1 45 01 71 FE 9A 00 00", "T=1 F=372 D=1 N=0 IFSC=128 BWI=4 CWI=5 CRC"},
		{"3B 80 81 B1 80 45 71 FE 9A 01 00", "T=1 F=372 D=1 N=0 IFSC=128 BWI=4 CWI=5 CRC"},
		// A group of T=15 between is none of them.
		{"3B 80 81 9F C3 71 40 23 01 00", "T=1 F=372 D=1 N=0 IFSC=64 BWI=2 CWI=3 CRC"},
	} {
		a, err := ParseATR(unhex(t, c.atr))
		if err != nil {
			t.Fatal(err)
		}
		p, err := a.Params(1)
		if err != nil || p.String() != c.want {
			t.Errorf("%s: %v, %v; want %s", c.atr, p, err, c.want)
		}
	}
}
