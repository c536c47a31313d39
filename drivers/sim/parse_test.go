package sim

import (
	"testing"
)

// ISO/IEC 7816-3:2006 §12.1: the lengths of each case, with one byte more and one less.
func TestParse(t *testing.T) {
	for _, x := range []struct {
		capdu    string
		ok       bool
		data, le int
	}{
		{"00 A4 00", false, 0, 0},
		{"00 A4 00 00", true, 0, 0},
		{"00 A4 00 00 05", true, 0, 5},
		{"00 A4 00 00 00", true, 0, 256},
		{"00 A4 00 00 02 3F", false, 0, 0},
		{"00 A4 00 00 02 3F 00", true, 2, 0},
		{"00 A4 00 00 02 3F 00 07", true, 2, 7},
		{"00 A4 00 00 02 3F 00 00", true, 2, 256},
		{"00 A4 00 00 02 3F 00 00 00", false, 0, 0},
		{"00 A4 00 00 00 00", false, 0, 0},
		{"00 A4 00 00 00 01 02", true, 0, 0x102},
		{"00 A4 00 00 00 00 00", true, 0, 65536},
		{"00 A4 00 00 00 00 00 00", false, 0, 0},
		{"00 A4 00 00 00 00 02 3F", false, 0, 0},
		{"00 A4 00 00 00 00 02 3F 00", true, 2, 0},
		{"00 A4 00 00 00 00 02 3F 00 01", false, 0, 0},
		{"00 A4 00 00 00 00 02 3F 00 01 02", true, 2, 0x102},
		{"00 A4 00 00 00 00 02 3F 00 00 00", true, 2, 65536},
		{"00 A4 00 00 00 00 02 3F 00 00 00 00", false, 0, 0},
	} {
		k, ok := parse(unhex(x.capdu))
		if ok != x.ok || ok && (len(k.data) != x.data || k.le != x.le) {
			t.Errorf("%s: %d bytes of data, Le %d, %v; want %d, %d, %v", x.capdu, len(k.data), k.le, ok, x.data, x.le, x.ok)
		}
	}
}
