package iso7816

import "testing"

func TestNames(t *testing.T) {
	for header, want := range map[[2]byte]string{
		{0x00, 0xA4}: "SELECT", {0x00, 0xB1}: "READ BINARY", {0x00, 0x20}: "VERIFY", {0x00, 0x01}: "",
		{0x0C, 0xCB}: "GET DATA", {0x43, 0xDB}: "PUT DATA",
		// an odd instruction of its own
		{0x00, 0x33}: "COMPARE", {0x00, 0x32}: "", {0x00, 0xA5}: "SELECT DATA", {0x00, 0xCF}: "MANAGE DATA", {0x00, 0xCE}: "",
		// classes with a meaning of their own, and what they leave to ISO/IEC 7816-4
		{0x80, 0x50}: "INITIALIZE UPDATE", {0x00, 0x50}: "", {0x84, 0xE2}: "STORE DATA", {0x00, 0xE2}: "APPEND RECORD",
		{0x80, 0xAE}: "GENERATE AC", {0x80, 0xCA}: "GET DATA", {0x81, 0xF2}: "GET STATUS", {0xC0, 0xE6}: "INSTALL",
		{0xE0, 0xE6}: "INSTALL", {0xB0, 0xE6}: "TERMINATE DF", {0xF0, 0x24}: "CHANGE REFERENCE DATA",
		{0xA0, 0x20}: "VERIFY CHV", {0xA0, 0xB0}: "READ BINARY", {0xA0, 0xF2}: "STATUS", {0xA1, 0xF2}: "GET STATUS",
		{0xFF, 0x82}: "LOAD KEYS", {0xFF, 0xCA}: "GET DATA", {0xFF, 0xB0}: "READ BINARY", {0xFF, 0x00}: "DIRECT TRANSMIT",
		{0x90, 0xCA}: "CREATE APPLICATION", {0x90, 0xA4}: "SELECT", {0x91, 0xCA}: "GET DATA",
	} {
		if got := CommandName(header[0], header[1]); got != want {
			t.Errorf("CLA %02X INS %02X: %q, want %q", header[0], header[1], got, want)
		}
	}
	for in, want := range map[string]string{
		"000000":   "I(0)",
		"006005":   "I(1, more follows)",
		"009000":   "R(1)",
		"008100":   "R(0, EDC or parity error)",
		"009200":   "R(1, other error)",
		"00C00000": "S(RESYNCH request)",
		"00E101FE": "S(IFS response)",
		"00C20000": "S(ABORT request)",
		"00E30109": "S(WTX response)",
		"00C40000": "S(C4)",
		"00C4":     "short block",
	} {
		if got := DescribeBlock(unhex(t, in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}
