package icc

import (
	"context"
	"testing"
)

// Whatever an interface device sends, the engine survives it, answers with
// blocks that are valid themselves, and is back in order after RESYNCH.
func FuzzT1(f *testing.F) {
	f.Add(unhex("09 00 00 05 00 84 00 00 08 89"), false, 0)
	f.Add(unhex("04 00 C1 01 10 D0 04 00 C2 00 C2"), false, 3)
	f.Add(unhex("05 00 20 00 20 04 00 90 00 90"), true, 1)
	f.Fuzz(func(t *testing.T, in []byte, crc bool, ifs int) {
		atr := atrT1
		if crc {
			atr = atrT1crc
		}
		c, _ := powered(t, atr, Faults{RequestIFS: max(0, ifs%255), AbortChain: max(0, ifs%3)})
		c.fresh = false
		for len(in) > 0 {
			n := min(int(in[0]), len(in)-1)
			rx := c.TPDU(context.Background(), in[1:1+n])
			if rx != nil && c.t1.check(rx) != 0 && int(rx[2]) <= c.t1.ifsc {
				t.Fatalf("answered % X", rx)
			}
			in = in[1+n:]
		}
		c.SetFaults(Faults{})
		if crc {
			trace(t, c, "> 00 C0 00 F3 99\n< 00 E0 00 D0 AA")
			return
		}
		trace(t, c, "> 00 C0 00 C0\n< 00 E0 00 E0\n> 00 00 05 00 84 00 00 08 89\n< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12")
	})
}

// At character level any characters in any portions.
func FuzzChars(f *testing.F) {
	f.Add(unhex("05 01 00 84 00 00 08 01 01"), 0)
	f.Add(unhex("09 03 00 00 05 00 84 00 00 08 89"), 1)
	f.Add(unhex("04 02 FF 11 95 7B 00 02"), 2)
	f.Fuzz(func(t *testing.T, in []byte, which int) {
		atr := []string{atrT0, atrT1, atrBoth}[uint(which)%3]
		c, _ := powered(t, atr, Faults{Every: which & 7})
		for len(in) > 1 {
			n, want := min(int(in[0]), len(in)-2), int(in[1])
			if rx := c.Chars(context.Background(), in[2:2+n], want); len(rx) > want {
				t.Fatalf("%d characters, %d wanted", len(rx), want)
			}
			in = in[2+n:]
		}
	})
}

func FuzzATR(f *testing.F) {
	for _, atr := range []string{atrT0, atrT1, atrBoth, atrT1crc} {
		f.Add(unhex(atr))
	}
	f.Fuzz(func(t *testing.T, atr []byte) {
		if p, err := parseATR(atr); err == nil && (p.t > 1 || p.ifsc < 1 || p.wait() < 0) {
			t.Errorf("%+v", p)
		}
	})
}
