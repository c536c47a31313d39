package iso7816

import "testing"

// The values are those of the reflected CCITT polynomial with preset FFFF and
// no final inversion, as OpenCT and libccid send it.
func TestEDC(t *testing.T) {
	block := unhex(t, "00 00 05 00 84 00 00 08")
	if got := LRC(block); got != 0x89 {
		t.Errorf("LRC %02X, want 89", got)
	}
	if got := CRC(block); got != 0xBBC1 {
		t.Errorf("CRC %04X, want BBC1", got)
	}
	if got := CRC([]byte("123456789")); got != 0x6F91 {
		t.Errorf("CRC %04X, want 6F91", got)
	}
	for _, crc := range []bool{false, true} {
		b := appendEDC([]byte{0xEE, 0x00, 0x00, 0x05}, 1, crc)
		if !checkEDC(b[1:], crc) {
			t.Errorf("crc %v: % X does not check", crc, b)
		}
		for i := 1; i < len(b); i++ {
			b[i] ^= 0x10
			if checkEDC(b[1:], crc) {
				t.Errorf("crc %v: % X checks with an error in byte %d", crc, b, i)
			}
			b[i] ^= 0x10
		}
		if checkEDC(nil, crc) {
			t.Errorf("crc %v: nothing checks", crc)
		}
	}
}
