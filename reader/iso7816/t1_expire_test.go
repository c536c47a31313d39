package iso7816

import (
	"errors"
	"testing"
	"time"
)

// "T=1: an IFSC of 0 or FF is reserved" (ISO/IEC 7816-3:2006 §11.4.2): 32 is used.
func TestT1ReservedIFSC(t *testing.T) {
	for ifsc, want := range map[int]int{-1: 32, 0: 32, 1: 1, 32: 32, 254: 254, 255: 32} {
		p := DefaultParams(1)
		p.IFSC = ifsc
		m := NewT1(T1Config{Params: p})
		s := m.Start(make([]byte, 300), nil)
		if got := int(s.Send[2]); got != want {
			t.Errorf("IFSC %d: a block of %d bytes, want %d", ifsc, got, want)
		}
	}
}

// An exchange that its user gave up is one that took too long, whatever noise the
// card makes of the RESYNCH that follows.
func TestT1ExpireThenNoise(t *testing.T) {
	m := NewT1(T1Config{Params: DefaultParams(1)})
	m.Start([]byte{0, 0x84, 0, 0, 8}, nil)
	s := m.Next([]byte{0, 0xC3, 1, 1, 0xC3}, nil) // S(WTX request)
	if !s.Extended || s.Wait <= 0 || s.Wait > time.Hour {
		t.Fatalf("%+v", s)
	}
	n := 0
	for s = m.Expire(); !s.Done; s = m.Next([]byte{1, 2, 3, 4}, nil) {
		if n++; n > 10 {
			t.Fatal("no end")
		}
		if s.Send[1] != 0xC0 {
			t.Fatalf("sent % X, want S(RESYNCH request)", s.Send)
		}
	}
	if !errors.Is(s.Err, ErrTimeout) || !errors.Is(s.Err, ErrInDoubt) || !m.Dead() {
		t.Errorf("%v, dead %v", s.Err, m.Dead())
	}
}
