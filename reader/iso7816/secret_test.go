package iso7816

import (
	"fmt"
	"strings"
	"testing"
)

// Which commands are secret, class by class and instruction by instruction: the rows are
// all there are.
func TestSecret(t *testing.T) {
	rows := []struct {
		cla  string // of two hex digits, x for any, i for one of the first interindustry half (0 to 7), p for 8 to F
		ins  string
		what string
	}{
		{"xx", "20 21 24 25 26 27 28 29 2C 2D", "reference data, 7816-4 table 4"},
		{"xx", "82 83 86 87", "EXTERNAL, MUTUAL, GENERAL AUTHENTICATE; LOAD KEYS"},
		{"xx", "D8 D9 DA DB FE FF", "PUT KEY, PUT DATA, PIV's keys"},
		{"xx", "C2 C3", "ENVELOPE"},
		{"B0", "2A 32 34 36 38 54 40 41 42 43 44 45 46", "MuscleCard"},
		{"F0", "2A", "Cryptoflex: VERIFY KEY"},
		{"FF", "00 D6", "PC/SC part 3: direct transmit, a storage card's blocks"},
		{"ix", "01 03", "OTP and OATH applets"},
		{"px", "E2 F4", "STORE DATA, WRITE KEY"},
		{"90", "C4", "DESFire: CHANGE KEY"},
	}
	matches := func(pattern string, cla byte) bool {
		for i, c := range pattern {
			n := cla >> 4
			if i == 1 {
				n = cla & 0x0F
			}
			switch {
			case c == 'x', c == 'i' && n < 8, c == 'p' && n >= 8, fmt.Sprintf("%X", n) == string(c):
			default:
				return false
			}
		}
		return true
	}
	for cla := range 256 {
		for ins := range 256 {
			want := ""
			for _, r := range rows {
				if matches(r.cla, byte(cla)) && strings.Contains(" "+r.ins+" ", fmt.Sprintf(" %02X ", ins)) {
					want = r.what
				}
			}
			if got := Secret([]byte{byte(cla), byte(ins), 0, 0, 1, 0xAA}); got != (want != "") {
				t.Errorf("%02X %02X: %v, want %q", cla, ins, got, want)
			}
		}
	}
	// ISO/IEC 7816-8:2016 §5.4: P1 and P2 are the tags of what comes and goes.
	for p1 := range 256 {
		for p2 := range 256 {
			want := p1 == 0x80 || p2 == 0x80 && (p1 == 0x82 || p1 == 0x84 || p1 == 0x86 || p1 == 0x83 || p1 == 0x85)
			for _, ins := range []byte{0x2A, 0x2B} {
				if got := Secret([]byte{0, ins, byte(p1), byte(p2), 1, 0xAA}); got != want {
					t.Errorf("PERFORM SECURITY OPERATION %02X %02X: %v", p1, p2, got)
				}
			}
		}
	}
	// GET DATA is open but for the KDF-DO of OpenPGP cards, in any class that is not a card's own.
	for tag, want := range map[string]bool{"\x00\xF9": true, "\x00\x6E": false, "\x01\xF9": false, "\x00\xFA": false} {
		for cla, open := range map[string]bool{"\x00": false, "\x01": false, "\x10": false, "\x80": true} {
			if got := Secret([]byte(cla + "\xCA" + tag + "\x00")); got != (want && !open) {
				t.Errorf("GET DATA % X: %v", cla+tag, got)
			}
		}
	}
	// What is no command may be a PIN.
	for _, p := range []string{"", "\x31\x32\x33", "\x00\xA4\x04\x00\x02\x31", "1234567"} {
		if !Secret([]byte(p)) {
			t.Errorf("%q is shown", p)
		}
	}
}

// ISO/IEC 7816-4:2013 §5.3.4: SW1 is 6X or 9X. Of a masked answer nothing else is shown,
// and not the last two bytes either where they are no SW1 SW2.
func TestMaskedAnswer(t *testing.T) {
	for answer, want := range map[string]string{
		"":                 Masked,
		"\x90":             Masked,
		"\x90\x00":         "90 00",
		"\x63\xC2":         "63 C2",
		"\x12\x34":         Masked,
		"\x80\x00":         Masked,
		"\x12\x34\x56":     Masked,
		"\x12\x34\x90\x00": Masked + " 90 00",
		"\x12\x34\x6A\x82": Masked + " 6A 82",
		"\x12\x34\x70\x00": Masked,
		"\x12\x34\xA0\x00": Masked,
	} {
		if got := MaskedAnswer([]byte(answer)); got != want {
			t.Errorf("% X: %q, want %q", answer, got, want)
		}
	}
}

// A masked command keeps its header: P3 would tell a PIN's length.
func TestMaskedCommand(t *testing.T) {
	for command, want := range map[string]string{
		"":                      Masked,
		"00200001":              "00 20 00 01",
		"0020000108":            "00 20 00 01 " + Masked,
		"00200001023132":        "00 20 00 01 " + Masked,
		"00200001 00 0002 3132": "00 20 00 01 " + Masked,
		"31323334353637":        Masked,
		"002000":                Masked,
	} {
		if got := MaskedCommand(unhex(t, strings.ReplaceAll(command, " ", ""))); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// GET RESPONSE fetches what belongs to the command before it, and any number of them do.
func TestSecrecy(t *testing.T) {
	var s Secrecy
	for _, x := range []struct {
		command string
		secret  bool
	}{
		{"00C0000002", false}, {"00A40000", false}, {"00C0000002", false},
		{"002A8086023132", true}, {"00C0000002", true}, {"00C1000002", true}, {"00C00000", true},
		{"00B0000001", false}, {"00C0000002", false},
		{"3132", true}, {"00C0000001", true}, {"00C000", true}, {"0084000008", false},
	} {
		if got := s.Next(unhex(t, x.command)); got != x.secret || bool(s) != x.secret {
			t.Errorf("%s: %v, want %v", x.command, got, x.secret)
		}
	}
}
