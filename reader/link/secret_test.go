package link

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// The rest of the words stays as it is.
func TestConcealed(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"no number":               "no number",
		"12":                      "N",
		"12 bytes of 7":           "N bytes of N",
		"LEN=12, 7bytes":          "LEN=N, N",
		"T=0: T=1: T=12 T=2 XT=1": "T=0: T=1: T=N T=N XT=1",
		"0B, 0x1f, 1.5s, -3":      "N, N, N.N, -N",
		"SW1 SW2 (bError FB)":     "SW1 SW2 (bError FB)",
		"é9 9é":                   "é9 N",
		"(4)":                     "(N)",
		"…8":                      "…N",
	} {
		if got := (concealed{errors.New(text)}).Error(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

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
			if got := secret([]byte{byte(cla), byte(ins), 0, 0, 1, 0xAA}); got != (want != "") {
				t.Errorf("%02X %02X: %v, want %q", cla, ins, got, want)
			}
		}
	}
	// ISO/IEC 7816-8:2016 §5.4: P1 and P2 are the tags of what comes and goes.
	for p1 := range 256 {
		for p2 := range 256 {
			want := p1 == 0x80 || p2 == 0x80 && (p1 == 0x82 || p1 == 0x84 || p1 == 0x86 || p1 == 0x83 || p1 == 0x85)
			for _, ins := range []byte{0x2A, 0x2B} {
				if got := secret([]byte{0, ins, byte(p1), byte(p2), 1, 0xAA}); got != want {
					t.Errorf("PERFORM SECURITY OPERATION %02X %02X: %v", p1, p2, got)
				}
			}
		}
	}
	// What is no command may be a PIN.
	for _, p := range []string{"", "\x31\x32\x33", "\x00\xA4\x04\x00\x02\x31", "1234567"} {
		if !secret([]byte(p)) {
			t.Errorf("%q is shown", p)
		}
	}
}

// Conceal keeps what the error is.
func TestConceal(t *testing.T) {
	err := Conceal(fmt.Errorf("%d bytes: %w", 12, reader.ErrTimeout))
	if !errors.Is(err, reader.ErrTimeout) || !strings.HasPrefix(err.Error(), "N bytes: ") {
		t.Error(err)
	}
}
