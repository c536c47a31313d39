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

// A connection to several nodes: each exchange has its NAD, "they share the sequence numbers",
// and S(RESYNCH) by itself begins it anew.
func TestT1Nodes(t *testing.T) {
	m := NewT1(T1Config{NAD: 0x12, AutoIFSD: true})
	answer := func(nad, pcb byte, inf ...byte) []byte {
		return appendEDC(append([]byte{nad<<4 | nad>>4, pcb, byte(len(inf))}, inf...), 0, false)
	}
	begin := func(nad byte, pcb byte) Step {
		t.Helper()
		m.SetNAD(nad)
		s := m.Start([]byte{0, 0xA4, 0, 0}, nil)
		if s.Done || s.Send[0] != nad || s.Send[1] != pcb {
			t.Errorf("to %02X: %+v", nad, s)
		}
		return m.Next(answer(nad, pcb, 0x90, 0x00), nil)
	}
	for _, x := range []struct{ nad, pcb byte }{{0x12, 0x00}, {0x02, 0x40}, {0x32, 0x00}} {
		if s := begin(x.nad, x.pcb); !s.Done || s.Err != nil {
			t.Errorf("%+v", s)
		}
	}
	// Another node's answer is not ours.
	m.SetNAD(0x02)
	m.Start([]byte{0, 0xA4, 0, 0}, nil)
	if s := m.Next(answer(0x32, 0x40, 0x90, 0x00), nil); s.Done || s.Send[1] != 0x92 {
		t.Errorf("%+v", s)
	}
	s := m.Resync()
	if s.Done || s.Send[0] != 0x02 || s.Send[1] != 0xC0 {
		t.Errorf("%+v", s)
	}
	if s = m.Next(answer(0x02, 0xE0), nil); !s.Done || s.Err != nil || m.Dead() {
		t.Errorf("%+v, dead %v", s, m.Dead())
	}
	begin(0x12, 0x00)
	// Nobody answers: rule 6.4.
	s, n := endless(t, m, m.Resync(), func([]byte) ([]byte, error) { return nil, ErrTimeout })
	if !errors.Is(s.Err, ErrTimeout) || errors.Is(s.Err, ErrInDoubt) || !m.Dead() || n != 4 {
		t.Errorf("error %v, dead %v, %d steps", s.Err, m.Dead(), n)
	}
	if s := m.Resync(); !s.Done || !errors.Is(s.Err, ErrProtocol) {
		t.Errorf("%+v", s)
	}
}

// ISO/IEC 7816-3:2006 §11.3.2.3 reserves LEN = FF. Some readers' own links use it.
func TestT1Long(t *testing.T) {
	for _, long := range []bool{false, true} {
		m := NewT1(T1Config{Params: DefaultParams(1), AutoIFSD: true, Long: long})
		refused := 0
		s, _ := endless(t, m, m.Start([]byte{0, 0xB0, 0, 0, 0xFD}, nil), func(out []byte) ([]byte, error) {
			if out[1]&0xC0 == 0x80 && out[1]&0x0F != 0 {
				if refused++; refused == 2 {
					return block(0, 0x90, 0), nil
				}
			}
			return block(0, append(make([]byte, 253), 0x90, 0)...), nil
		})
		if want := map[bool]int{true: 255, false: 2}[long]; s.Err != nil || len(m.Response()) != want || (refused > 0) == long {
			t.Errorf("long %v: %d bytes, %d refusals, %v", long, len(m.Response()), refused, s.Err)
		}
	}
}
