package hex

import "testing"

func TestHex(t *testing.T) {
	for _, s := range []string{"9000", "90 00", " 9 0 0 0\n", "90\t00"} {
		if got := Spaced(Bytes(s)); got != "90 00" {
			t.Errorf("%q: %s", s, got)
		}
	}
	for _, bad := range []string{"9", "9G", "0x90"} {
		if b, err := Decode(bad); err == nil {
			t.Errorf("%q: % X", bad, b)
		}
	}
}
