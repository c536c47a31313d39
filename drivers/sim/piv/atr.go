package piv

import "github.com/cardfs/cardfs/drivers/sim/applet"

var (
	// The ATR of a YubiKey 5: T=1, F and D 13, IFSC 254, and "YubiKey" in the historical bytes.
	atrYubiKey = []byte{0x3B, 0xFD, 0x13, 0x00, 0x00, 0x81, 0x31, 0xFE, 0x15, 0x80, 0x73, 0xC0, 0x21, 0xC0, 0x57,
		'Y', 'u', 'b', 'i', 'K', 'e', 'y', 0x40}
	// The same card behind a contactless reader (PC/SC part 3 §3.1.3.2.3.1).
	atrYubiKeyNFC = []byte{0x3B, 0x8D, 0x80, 0x01, 0x80, 0x73, 0xC0, 0x21, 0xC0, 0x57, 'Y', 'u', 'b', 'i', 'K', 'e', 'y', 0xF9}

	// Historical bytes in compact TLV (ISO/IEC 7816-4:2013 §12.1.1.2): 73, selection by DF
	// name, no files; chaining, extended lengths. Then 55, issuer's data.
	historical = []byte{0x80, 0x73, 0x80, 0x21, 0xC0, 0x57, 'S', 'I', 'M', '-', 'P', 'I', 'V'}
)

// atr is the card's Answer to Reset.
func atr(s applet.Settings) []byte {
	switch {
	case s.ATR == "contactless" && s.Model != "":
		return atrYubiKeyNFC
	case s.ATR == "contactless":
		return withTCK(0x3B, 0x8D, 0x80, 0x01)
	case s.ATR == "t0":
		// F and D 95, extra guard time 0, T=0 alone: no TCK.
		return append([]byte{0x3B, 0x5D, 0x95, 0x00}, historical...)
	case s.Model != "":
		return atrYubiKey
	}
	// F and D 95, T=1, IFSC 254, BWI 4, CWI 5.
	return withTCK(0x3B, 0x9D, 0x95, 0x81, 0x31, 0xFE, 0x45)
}

// withTCK adds the historical bytes and the check character (ISO/IEC 7816-3:2006 §8.2.5).
func withTCK(head ...byte) []byte {
	atr := append(head, historical...)
	var tck byte
	for _, b := range atr[1:] {
		tck ^= b
	}
	return append(atr, tck)
}
