package iso7816

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func fill(n int) string { return strings.Repeat("AB", n) }

// ISO/IEC 7816-3:2006 §12.1.3: the case follows from the length L of the body
// and its first bytes.
func TestParseCommand(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Case
		nc   int
		ne   int
	}{
		{"00A40000", Case1, 0, 0},
		{"00B0000001", Case2S, 0, 1},
		{"00B0000000", Case2S, 0, 256},
		{"00B00000FF", Case2S, 0, 255},
		{"00A4000001AB", Case3S, 1, 0},
		{"00A40000FF" + fill(255), Case3S, 255, 0},
		{"00A4000001AB00", Case4S, 1, 256},
		{"00A40000FF" + fill(255) + "07", Case4S, 255, 7},
		{"00B00000000001", Case2E, 0, 1},
		{"00B00000000100", Case2E, 0, 256},
		{"00B00000000000", Case2E, 0, 65536},
		{"00D60000000001AB", Case3E, 1, 0},
		{"00D60000000100" + fill(256), Case3E, 256, 0},
		{"00D6000000FFFF" + fill(65535), Case3E, 65535, 0},
		{"00D60000000001AB0000", Case4E, 1, 65536},
		{"00D6000000FFFF" + fill(65535) + "0001", Case4E, 65535, 1},
	} {
		b := unhex(t, c.in)
		cmd, err := ParseCommand(b)
		if err != nil {
			t.Errorf("%.20s: %v", c.in, err)
			continue
		}
		if cmd.Case() != c.want || len(cmd.Data) != c.nc || cmd.Ne != c.ne || cmd.Extended != c.want.Extended() {
			t.Errorf("%.20s: case %v, %d data bytes, Ne %d, extended %v", c.in, cmd.Case(), len(cmd.Data), cmd.Ne, cmd.Extended)
		}
		if got, err := cmd.Append([]byte{9}); err != nil || !bytes.Equal(got[1:], b) {
			t.Errorf("%.20s: built again as %.20X, %v", c.in, got, err)
		}
	}
}

func TestCaseString(t *testing.T) {
	for c, want := range map[Case]string{-1: "?", 0: "?", Case1: "1", Case2S: "2S", Case3S: "3S", Case4S: "4S", Case2E: "2E", Case3E: "3E", Case4E: "4E", Case4E + 1: "?"} {
		if got := c.String(); got != want {
			t.Errorf("%d: %s, want %s", int(c), got, want)
		}
	}
}

// A carrier of short C-APDUs takes 261 bytes, one of extended ones 65,544.
func TestCarries(t *testing.T) {
	short := func(n int) []byte { return append([]byte{0, 0xB2, 1, 0x14, 0}, make([]byte, n-5)...) } // no C-APDU
	for _, c := range []struct {
		in             []byte
		short, carried error
	}{
		{nil, ErrInvalid, ErrInvalid},
		{make([]byte, 3), ErrInvalid, ErrInvalid},
		{make([]byte, 4), nil, nil},
		{unhex(t, "00A4000005010203"), nil, nil},
		{unhex(t, "00B00000000001"), ErrUnsupported, nil},
		{unhex(t, "00D60000000001AB"), ErrUnsupported, nil},
		{short(261), nil, nil},
		{short(262), ErrUnsupported, nil},
		{make([]byte, MaxCommand), ErrUnsupported, nil},
		{make([]byte, MaxCommand+1), ErrUnsupported, ErrInvalid},
	} {
		if err := Carries(c.in, false); !errors.Is(err, c.short) {
			t.Errorf("%d bytes, short: %v, want %v", len(c.in), err, c.short)
		}
		if err := Carries(c.in, true); !errors.Is(err, c.carried) {
			t.Errorf("%d bytes, extended: %v, want %v", len(c.in), err, c.carried)
		}
	}
}

func TestParseCommandMalformed(t *testing.T) {
	for _, c := range []struct{ in, words string }{
		{"", "at least 4 bytes"},
		{"00A400", "here are 3"},
		{"00A4000005010203", "Lc says 5 data bytes, 3 follow"},
		{"00A400000301020304 05", "Lc says 3 data bytes, 5 follow"},
		{"00A400000000", "extended length of two bytes must follow"},
		{"00A400000000000102", "Lc says 0 data bytes, 2 follow"},
		{"00A40000000003 0102", "Lc says 3 data bytes, 2 follow"},
		{"00A40000000001 0102", "cannot be an Le of 2"},
		{"00A40000000001 01020304", "Lc says 1 data bytes, 4 follow"},
	} {
		_, err := ParseCommand(unhex(t, c.in))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: error %v, want %q in it", c.in, err, c.words)
		}
	}
}

func TestCommandAppend(t *testing.T) {
	for _, c := range []struct {
		cmd  Command
		want string
	}{
		{Command{INS: 0xA4, Extended: true}, "00A40000"}, // case 1 has no length to extend
		{Command{INS: 0xB0, Ne: 257}, "00B00000000101"},
		{Command{INS: 0xB0, Ne: 256}, "00B0000000"},
		{Command{INS: 0xD6, Data: []byte{1}, Ne: 300}, "00D6000000000101012C"},
		{Command{INS: 0xD6, Data: []byte{1}, Ne: 5, Extended: true}, "00D60000000001010005"},
	} {
		got, err := c.cmd.Append(nil)
		if err != nil || !bytes.Equal(got, unhex(t, c.want)) {
			t.Errorf("%+v: % X, %v; want %s", c.cmd, got, err, c.want)
		}
	}
	for _, c := range []Command{{Data: make([]byte, 65536)}, {Ne: 65537}, {Ne: -1}} {
		if _, err := c.Append(nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d data bytes, Ne %d: error %v", len(c.Data), c.Ne, err)
		}
	}
}

func TestSplitResponse(t *testing.T) {
	data, sw, err := SplitResponse([]byte{1, 2, 0x90, 0x00})
	if !bytes.Equal(data, []byte{1, 2}) || sw != 0x9000 || err != nil {
		t.Errorf("% X %04X %v", data, sw, err)
	}
	if _, _, err := SplitResponse([]byte{0x90}); !errors.Is(err, ErrProtocol) {
		t.Errorf("error %v", err)
	}
}

// FuzzAPDU: go test -fuzz FuzzAPDU ./reader/iso7816
func FuzzAPDU(f *testing.F) {
	for _, s := range []string{"00A40000", "00B0000000", "00A4000001AB", "00A4000001AB00",
		"00B00000000000", "00D60000000001AB", "00D60000000001AB0000", "00A400000000", "FF"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, err := ParseCommand(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		got, err := cmd.Append(nil)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("% X parses and builds as % X, %v", b, got, err)
		}
	})
}
