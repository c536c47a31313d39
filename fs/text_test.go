package fs

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// "A line of hex in (blanks allowed, case free, # starts a comment), a line of
// spaced upper-case hex out."
func TestHex(t *testing.T) {
	for _, tt := range []struct {
		line, want string
		ok         bool
	}{
		{"00A40004", "\x00\xa4\x00\x04", true},
		{" 00 a4\t0 0\v0 4 \r", "\x00\xa4\x00\x04", true},
		{"00A4 # SELECT ZZ", "\x00\xa4", true},
		{"#", "", true},
		{"", "", true},
		{"0", "", false},
		{"00A", "", false},
		{"00 A # 4", "", false},
		{"00G4", "", false},
		{"0x00", "", false},
		{"00;A4", "", false},
		{"00\x00A4", "", false},
		{"00A4\xc3", "", false},
	} {
		got, err := parseHex(nil, []byte(tt.line))
		if tt.ok != (err == nil) || tt.ok && string(got) != tt.want || !tt.ok && !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%q: % X, %v", tt.line, got, err)
		}
	}
	if got := string(appendHex([]byte("x"), []byte{0x3B, 0, 0xFF})); got != "x3B 00 FF\n" {
		t.Errorf("%q", got)
	}
}

// parseHex reads what appendHex writes. Whatever parseHex accepts stays the same when it is
// written and read again.
func FuzzHex(f *testing.F) {
	for _, s := range []string{"00A40004023F00", "", "# comment", "3b b7 94", "0", "zz", "00 # \xff", "0\t0\r"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		text := appendHex(nil, line)
		if back, err := parseHex(nil, text[:len(text)-1]); err != nil || !bytes.Equal(back, line) {
			t.Fatalf("% X came back as % X, %v", line, back, err)
		}
		before := []byte("before")
		got, err := parseHex(before, line)
		if !bytes.HasPrefix(got, before) {
			t.Fatalf("%q: what was in dst is gone", line)
		}
		if err != nil {
			if !errors.Is(err, reader.ErrInvalid) {
				t.Fatalf("%q: %v", line, err)
			}
			return
		}
		if 2*(len(got)-len(before)) > len(line) {
			t.Fatalf("%q: %d bytes", line, len(got)-len(before))
		}
		again, err := parseHex(nil, bytes.TrimSuffix(appendHex(nil, got), []byte("\n")))
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%q: % X, then % X, %v", line, got, again, err)
		}
	})
}

// The error says which character is wrong, so that a long line can be corrected.
func TestHexErrors(t *testing.T) {
	for line, want := range map[string]string{"zz": "character 1 ", "00 a4 x": "character 7 ", "00A": "an odd number of hex digits"} {
		if _, err := parseHex(nil, []byte(line)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", line, err, want)
		}
	}
}
