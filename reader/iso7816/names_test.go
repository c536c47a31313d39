package iso7816

import "testing"

func TestNames(t *testing.T) {
	for ins, want := range map[byte]string{0xA4: "SELECT", 0xB1: "READ BINARY", 0x20: "VERIFY", 0x01: ""} {
		if got := CommandName(ins); got != want {
			t.Errorf("INS %02X: %q, want %q", ins, got, want)
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
