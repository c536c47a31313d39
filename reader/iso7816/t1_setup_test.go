package iso7816

import (
	"errors"
	"strings"
	"testing"
)

func TestT1Setup(t *testing.T) {
	// "S(IFS request) not understood": IFSD stays 32, and that is no error.
	m := NewT1(T1Config{Params: DefaultParams(1)})
	s, n := endless(t, m, m.Setup(), func([]byte) ([]byte, error) { return block(0x82), nil })
	if s.Err != nil || m.IFSD() != 32 || n != 4 {
		t.Errorf("error %v, IFSD %d, %d steps", s.Err, m.IFSD(), n)
	}
	// Rule 7.4.1: no valid block at all in three attempts.
	m = NewT1(T1Config{Params: DefaultParams(1)})
	s, n = endless(t, m, m.Setup(), func([]byte) ([]byte, error) { return nil, ErrTimeout })
	if !errors.Is(s.Err, ErrTimeout) || !m.Dead() || n != 4 {
		t.Errorf("error %v, dead %v, %d steps", s.Err, m.Dead(), n)
	}
	// Nothing to announce.
	for _, cfg := range []T1Config{{AutoIFSD: true}, {IFSD: 32}} {
		m = NewT1(cfg)
		if s := m.Setup(); !s.Done || s.Err != nil {
			t.Errorf("%+v: %+v", cfg, s)
		}
	}
	if m = NewT1(T1Config{AutoIFSD: true, IFSD: 100}); m.IFSD() != 100 {
		t.Errorf("the reader announced 100, IFSD is %d", m.IFSD())
	}
}

// A reader that can send less than the card accepts caps IFSC, also when the
// card raises it.
func TestT1IFSCMax(t *testing.T) {
	m := NewT1(T1Config{Params: DefaultParams(1), IFSCMax: 20})
	longest := 0
	first := true
	s, _ := endless(t, m, m.Start(make([]byte, 200), nil), func(out []byte) ([]byte, error) {
		longest = max(longest, int(out[2]))
		switch {
		case first:
			first = false
			return block(0xC1, 200), nil
		case out[1] == 0xE1:
			return block(0x90), nil
		case out[1]&0x20 != 0:
			return block(0x80 | (^out[1]>>2)&0x10), nil
		}
		return block(0, 0x90, 0), nil
	})
	if s.Err != nil || longest != 20 || m.IFSC() != 20 {
		t.Errorf("error %v, longest block %d, IFSC %d", s.Err, longest, m.IFSC())
	}
}

func TestT1Refused(t *testing.T) {
	m := NewT1(T1Config{})
	for _, n := range []int{0, 3, MaxCommand + 1} {
		if s := m.Start(make([]byte, n), nil); !s.Done || !errors.Is(s.Err, ErrInvalid) || len(s.Send) != 0 {
			t.Errorf("%d bytes: %+v", n, s)
		}
	}
	if s := m.Next(nil, nil); !s.Done || s.Err == nil {
		t.Errorf("Next without an exchange: %+v", s)
	}
}

// A command withdrawn before its block was sent leaves no trace, not even of
// the S(RESYNCH request) that an exchange abandoned before it calls for.
func TestT1Withdraw(t *testing.T) {
	capdu := []byte{0, 0x20, 0, 1}
	m := NewT1(T1Config{Params: DefaultParams(1)})
	m.Start(capdu, nil)
	m.Withdraw()
	if s := m.Start(capdu, nil); s.Done || s.Send[1] != 0x00 {
		t.Errorf("after Withdraw: %+v", s)
	}
	if s := m.Start(capdu, nil); s.Done || s.Send[1] != 0xC0 {
		t.Errorf("after an abandoned exchange: %+v", s)
	}
	m.Withdraw()
	if s := m.Start(capdu, nil); s.Done || s.Send[1] != 0xC0 {
		t.Errorf("after an abandoned exchange and Withdraw: %+v", s)
	}
}

func TestT1ErrorWords(t *testing.T) {
	m := NewT1(T1Config{Params: DefaultParams(1)})
	s, _ := endless(t, m, m.Start([]byte{0, 0x20, 0, 1}, nil), func([]byte) ([]byte, error) { return nil, ErrTimeout })
	for _, w := range []string{"T=1", "waiting time", "may have executed", "must be reset"} {
		if !strings.Contains(s.Err.Error(), w) {
			t.Errorf("error %q lacks %q", s.Err, w)
		}
	}
}
