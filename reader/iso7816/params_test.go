package iso7816

import (
	"testing"
	"time"
)

// The formulas at clocks where the results are round.
func TestWaitingTimes(t *testing.T) {
	const f = 3_720_000 // 372 cycles: 100 µs
	for _, c := range []struct {
		name      string
		got, want time.Duration
	}{
		{"etu, 11", Params{TA1: 0x11}.ETU(f), 100 * time.Microsecond},
		{"etu, 18: D 12", Params{TA1: 0x18}.ETU(f), 100 * time.Microsecond / 12},
		{"etu, reserved", Params{TA1: 0xFF}.ETU(f), 100 * time.Microsecond},
		{"WWT = WI*960*Fi/f", Params{TA1: 0x11, WI: 10}.WWT(f), 960 * time.Millisecond},
		{"WWT does not depend on D", Params{TA1: 0x18, WI: 10}.WWT(f), 960 * time.Millisecond},
		{"WWT depends on F", Params{TA1: 0x31, WI: 10}.WWT(f), 1920 * time.Millisecond},
		{"WWT, WI reserved", Params{TA1: 0x11}.WWT(f), 960 * time.Millisecond},
		{"BWT = 11 etu + 2^BWI*960*372/f", Params{TA1: 0x11, BWI: 4}.BWT(f), 16*96*time.Millisecond + 1100*time.Microsecond},
		{"BWT: only the 11 etu depend on D", Params{TA1: 0x12, BWI: 0}.BWT(f), 96*time.Millisecond + 550*time.Microsecond},
		{"BWT: BWI above 9 is reserved", Params{TA1: 0x11, BWI: 15}.BWT(f), 512*96*time.Millisecond + 1100*time.Microsecond},
		{"CWT = (11+2^CWI) etu", Params{TA1: 0x11, CWI: 5}.CWT(f), 4300 * time.Microsecond},
		{"CWT, D 2", Params{TA1: 0x12, CWI: 0}.CWT(f), 600 * time.Microsecond},
		{"BGT = 22 etu", Params{TA1: 0x11}.BGT(f), 2200 * time.Microsecond},
		{"GT = 12 etu", Params{TA1: 0x11}.GT(f), 1200 * time.Microsecond},
		{"GT with N", Params{TA1: 0x11, N: 5}.GT(f), 1700 * time.Microsecond},
		{"GT, N = FF, T=0", Params{T: 0, TA1: 0x11, N: 0xFF}.GT(f), 1200 * time.Microsecond},
		{"GT, N = FF, T=1", Params{T: 1, TA1: 0x11, N: 0xFF}.GT(f), 1100 * time.Microsecond},
	} {
		// Rounded up to a cycle and a nanosecond.
		if d := c.got - c.want; d < 0 || d > 300*time.Nanosecond {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
	if got, want := DefaultParams(0).WWT(0), DefaultParams(0).WWT(DefaultClockHz); got != want {
		t.Errorf("clock 0: %v, want %v", got, want)
	}
}

// ISO/IEC 7816-3:2006 tables 7 and 8: Fi with the highest clock, and Di; a reserved one
// makes both the defaults.
func TestFD(t *testing.T) {
	fs := [16][2]int{
		0: {372, 4000}, 1: {372, 5000}, 2: {558, 6000}, 3: {744, 8000}, 4: {1116, 12000}, 5: {1488, 16000}, 6: {1860, 20000},
		9: {512, 5000}, 10: {768, 7500}, 11: {1024, 10000}, 12: {1536, 15000}, 13: {2048, 20000},
	}
	ds := [16]int{1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 6: 32, 7: 64, 8: 12, 9: 20}
	for ta1 := range 256 {
		f, d, kHz, valid := fs[ta1>>4][0], ds[ta1&0x0F], fs[ta1>>4][1], true
		if f == 0 || d == 0 {
			f, d, kHz, valid = 372, 1, 5000, false
		}
		gotF, gotD, hz, ok := Params{TA1: byte(ta1)}.FD()
		if gotF != f || gotD != d || hz != kHz*1000 || ok != valid {
			t.Errorf("TA1=%02X: F=%d D=%d, %d Hz, %v", ta1, gotF, gotD, hz, ok)
		}
	}
}
