package applet

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestPIN(t *testing.T) {
	p := NewPIN([]byte("123456"), 3, Cheap)
	for i, x := range []struct {
		value string
		ok    bool
		wrong int
	}{
		{"123456", true, 0}, {"12345", false, 0x63C2}, {"", false, 0x63C1}, {"123456", true, 0},
		{"1", false, 0x63C2}, {"1", false, 0x63C1}, {"1", false, SWBlocked}, {"123456", false, SWBlocked}, {"1", false, SWBlocked},
	} {
		ok := p.Check([]byte(x.value))
		if ok != x.ok || !ok && p.Left() != x.wrong {
			t.Errorf("try %d: %v %X, want %v %X", i, ok, p.Left(), x.ok, x.wrong)
		}
	}
	p.Set([]byte("654321"))
	if p.Tries != 3 || p.Check([]byte("123456")) || !p.Check([]byte("654321")) {
		t.Error("set: the new value must count, with all tries")
	}
	p.Set(nil)
	if p.IsSet() || p.Check(nil) || p.Check([]byte{}) {
		t.Error("no value matches")
	}
}

// Whoever reads the file sees neither the PIN nor whether two cards have the same.
func TestPINIsSalted(t *testing.T) {
	a, b := NewPIN([]byte("123456"), 3, Cheap), NewPIN([]byte("123456"), 3, Cheap)
	if bytes.Equal(a.Hash, b.Hash) || len(a.Salt) != 16 || len(a.Hash) != 32 {
		t.Error("not salted")
	}
	text, err := json.Marshal(a)
	if err != nil || bytes.Contains(text, []byte("123456")) {
		t.Errorf("%s, %v", text, err)
	}
	var c PIN
	if err := json.Unmarshal(text, &c); err != nil || !c.Valid() || !c.Check([]byte("123456")) {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestPINValid(t *testing.T) {
	for _, p := range []PIN{
		{}, {Cost: 3, Max: 3}, {Cost: 1, Max: 3}, {Cost: 1 << 21, Max: 3}, {Cost: -4, Max: 3}, {Cost: 4, Max: 256}, {Cost: 4, Max: 3, Tries: 4}, {Cost: 4, Max: 3, Tries: -1},
	} {
		if p.Valid() {
			t.Errorf("%+v", p)
		}
	}
	if SWTries(200) != 0x63CF {
		t.Error("SW1 SW2 shows up to 15 tries")
	}
}
