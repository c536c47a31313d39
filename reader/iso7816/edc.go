package iso7816

// Error detection codes of T=1 blocks, ISO/IEC 7816-3:2006 §11.3.4.

// LRC is the exclusive-or of all bytes of b.
func LRC(b []byte) byte {
	var x byte
	for _, c := range b {
		x ^= c
	}
	return x
}

// CRC is the cyclic redundancy check of b: polynomial x16+x12+x5+1, register
// preset to FFFF, least significant bit of each byte first. It goes onto the
// line high byte first.
//
// ISO/IEC 13239, which 7816-3 refers to, describes a final inversion. OpenCT
// 0.6.20 and libccid 1.5 send the register as it is, and so does this function;
// no card that uses the CRC was at hand to confirm either form.
func CRC(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, c := range b {
		crc = crc>>8 ^ crcTable[byte(crc)^c]
	}
	return crc
}

// crcTable is the effect of one byte on the register; 8408 is the polynomial
// with its bits reversed.
var crcTable = func() (t [256]uint16) {
	for i := range t {
		r := uint16(i)
		for range 8 {
			if r&1 != 0 {
				r = r>>1 ^ 0x8408
			} else {
				r >>= 1
			}
		}
		t[i] = r
	}
	return t
}()

// edcLen is how many bytes the EDC of a block takes.
func edcLen(crc bool) int {
	if crc {
		return 2
	}
	return 1
}

// appendEDC appends the EDC of the bytes of b from start on.
func appendEDC(b []byte, start int, crc bool) []byte {
	if crc {
		c := CRC(b[start:])
		return append(b, byte(c>>8), byte(c))
	}
	return append(b, LRC(b[start:]))
}

// checkEDC reports whether b ends in its right EDC.
func checkEDC(b []byte, crc bool) bool {
	n := len(b) - edcLen(crc)
	if n < 0 {
		return false
	}
	if crc {
		c := CRC(b[:n])
		return b[n] == byte(c>>8) && b[n+1] == byte(c)
	}
	return LRC(b) == 0
}
