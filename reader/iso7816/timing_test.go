package iso7816

import (
	"math"
	"testing"
	"time"
)

// "The character waiting time": WWT in T=0 (§10.2), CWT in T=1 (§11.4.3); a card that has
// not negotiated yet may be as slow as the slowest that it offers.
func TestTiming(t *testing.T) {
	const hz = 4_000_000
	t0 := Params{T: 0, TA1: 0x11, WI: 10}
	t1 := Params{T: 1, TA1: 0x11, BWI: 4, CWI: 13, IFSC: 32}
	if got, want := t0.Timing(hz), (Timing{t0.GT(hz), t0.WWT(hz), t0.WWT(hz)}); got != want {
		t.Errorf("T=0: %+v, want %+v", got, want)
	}
	if got, want := t1.Timing(hz), (Timing{t1.GT(hz), t1.BWT(hz), t1.CWT(hz)}); got != want || got.Wait == got.Gap {
		t.Errorf("T=1: %+v, want %+v", got, want)
	}
	atr, err := ParseATR(unhex(t, "3B 90 95 80 01 16")) // TA1 95; T=0, T=1
	if err != nil {
		t.Fatal(err)
	}
	slowest := atr.Slowest(func(p Params) Timing { return p.Timing(hz) })
	for _, protocol := range atr.Protocols() {
		for _, ta1 := range []byte{0x11, 0x95} {
			p, err := atr.Params(protocol)
			if err != nil {
				t.Fatal(err)
			}
			p.TA1 = ta1
			if got := p.Timing(hz); slowest.Slower(got) != slowest {
				t.Errorf("T=%d TA1=%02X: %+v is slower than %+v", protocol, ta1, got, slowest)
			}
		}
	}
	a, b := Timing{1, 20, 3}, Timing{10, 2, 3}
	if got := a.Slower(b); got != (Timing{10, 20, 3}) {
		t.Errorf("slower: %+v", got)
	}
}

// No time overflows, whatever a card or a reader says.
func TestTimingLimit(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		t      Timing
		n, wtx int
		want   time.Duration
	}{
		{Timing{ms, time.Second, 100 * ms}, 0, 0, 1400 * ms},
		{Timing{ms, time.Second, 100 * ms}, 100, 1, 1600 * ms},
		{Timing{ms, time.Second, 100 * ms}, 100, 5, 5600 * ms},
		{Timing{math.MaxInt64, 0, 0}, 1, 0, math.MaxInt64},
		{Timing{0, math.MaxInt64 / 2, math.MaxInt64 / 8}, 0, 2, math.MaxInt64},
		{Timing{math.MaxInt64 / 4, math.MaxInt64 / 4, math.MaxInt64 / 4}, 2, 4, math.MaxInt64},
	} {
		if got := tt.t.Limit(tt.n, tt.wtx); got != tt.want {
			t.Errorf("%+v, %d characters, WTX %d: %v, want %v", tt.t, tt.n, tt.wtx, got, tt.want)
		}
	}
}

// "TS 3F: inverse convention" (§8.1): whoever sets a reader up is told with the parameters.
func TestParamsConvention(t *testing.T) {
	for atr, want := range map[string]bool{"3B 00": false, "3F 00": true, "3F 11 95": true} {
		a, err := ParseATR(unhex(t, atr))
		if err != nil {
			t.Fatal(err)
		}
		p, err := a.Params(0)
		best, err2 := a.Best(0, nil)
		if err != nil || err2 != nil || p.Inverse != want || best.Inverse != want {
			t.Errorf("%s: %v %v, %v %v", atr, p.Inverse, best.Inverse, err, err2)
		}
	}
}
