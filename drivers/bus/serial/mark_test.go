package serial

import (
	"bytes"
	"testing"
)

// "FF 00 x is x with wrong parity, FF FF is FF, all else is itself (termios(3))."
func TestUnmark(t *testing.T) {
	for _, c := range []struct {
		src, want string
		used      int
		wrong     bool
		room      int
	}{
		{"", "", 0, false, 9},
		{"\x01\x00\x02", "\x01\x00\x02", 3, false, 9},
		{"\x01\x02\x03", "\x01\x02", 2, false, 2},
		{"\xFF\xFF\x01", "\xFF\x01", 3, false, 9},
		{"\xFF\xFF\xFF\xFF", "\xFF", 2, false, 1},
		{"\x01\xFF\x00\x02\x03", "\x01\x02", 4, true, 9},
		{"\xFF\x00\x00\x03", "\x00", 3, true, 9}, // a break
		{"\xFF\x00\xFF\x03", "\xFF", 3, true, 9},
		{"\x01\xFF", "\x01", 1, false, 9},
		{"\x01\xFF\x00", "\x01", 1, false, 9},
		{"\xFF", "", 0, false, 9},
		{"\x01\xFF\x00\x02", "\x01", 1, false, 1},
	} {
		dst := make([]byte, c.room)
		n, used, wrong := unmark(dst, []byte(c.src))
		if string(dst[:n]) != c.want || used != c.used || wrong != c.wrong {
			t.Errorf("% X: % X, %d used, wrong %v; want % X, %d, %v", c.src, dst[:n], used, wrong, c.want, c.used, c.wrong)
		}
	}
	if got := plain([]byte("\x01\xFF\xFF\xFF\x00\x02\x03\xFF")); !bytes.Equal(got, []byte("\x01\xFF\x02\x03")) {
		t.Errorf("% X", got)
	}
}

// However what the kernel marked is cut into pieces, the same characters come out.
func FuzzUnmark(f *testing.F) {
	f.Add([]byte("\x01\xFF\xFF\xFF\x00\x02\x03"), []byte{1, 0, 1, 1}, 2)
	f.Fuzz(func(t *testing.T, chars, wrong []byte, piece int) {
		piece = max(1, min(piece, 8))
		isWrong := func(i int) bool { return i < len(wrong) && wrong[i]&1 != 0 }
		var marked []byte
		for i, c := range chars {
			switch {
			case isWrong(i):
				marked = append(marked, 0xFF, 0, c)
			case c == 0xFF:
				marked = append(marked, 0xFF, 0xFF)
			default:
				marked = append(marked, c)
			}
		}
		var left, got []byte
		for len(got) < len(chars) {
			n := min(piece, len(marked))
			left, marked = append(left, marked[:n]...), marked[n:]
			for {
				dst := make([]byte, piece)
				wrote, used, bad := unmark(dst, left)
				left = left[used:]
				got = append(got, dst[:wrote]...)
				if bad != (wrote > 0 && isWrong(len(got)-1)) {
					t.Fatalf("character %d is wrong: %v", len(got)-1, bad)
				}
				if wrote == 0 {
					break
				}
			}
			if n == 0 && len(got) < len(chars) {
				t.Fatalf("%d of %d characters came", len(got), len(chars))
			}
		}
		if !bytes.Equal(got, chars) || len(left) != 0 {
			t.Errorf("% X, %d left; want % X", got, len(left), chars)
		}
	})
}
