package iso7816

import (
	"bytes"
	"testing"
)

// Character mode: characters may come in any pieces; too many are an error.
func TestT1CharacterPieces(t *testing.T) {
	p := DefaultParams(1)
	m := NewT1(T1Config{Params: p, Character: true})
	s := m.Start([]byte{0, 0xA4, 0, 0}, nil)
	for i, c := range block(0, 0x61, 0x90, 0x00) {
		if s.Done || s.Want == 0 {
			t.Fatalf("character %d: %+v", i, s)
		}
		if i == 3 && (s.Want != 4 || s.Wait != 4*p.CWT(0)) {
			t.Errorf("after the prologue: %+v", s)
		}
		s = m.Next([]byte{c}, nil)
	}
	if !s.Done || s.Err != nil || !bytes.Equal(m.Response(), []byte{0x61, 0x90, 0x00}) {
		t.Errorf("%+v, % X", s, m.Response())
	}

	s = m.Start([]byte{0, 0xA4, 0, 0}, nil)
	s = m.Next(make([]byte, 4), nil)
	if s.Want < 255 || len(s.Send) != 0 || s.Wait != p.CWT(0) {
		t.Fatalf("more characters than wanted should be waited out: %+v", s)
	}
	if s = m.Next(nil, ErrTimeout); len(s.Send) == 0 || s.Send[1] != 0x92 {
		t.Errorf("then R with error code 2: %+v", s)
	}
	// CWT exceeded in the middle of a block.
	s = m.Next([]byte{0, 0x40}, nil)
	if s = m.Next(nil, ErrTimeout); len(s.Send) == 0 || s.Send[1] != 0x92 {
		t.Errorf("a block that breaks off: %+v", s)
	}
}
