package icc

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// short is a card with a given ATR that answers two bytes of data.
type short struct{ atr []byte }

func (c short) ATR() []byte           { return c.atr }
func (c short) Reset(bool)            {}
func (c short) Process([]byte) []byte { return []byte{0x11, 0x22, 0x90, 0x00} }

// An ATR has at least TS and T0; which interface bytes follow is told bit by bit.
func TestATREdges(t *testing.T) {
	for _, atr := range [][]byte{nil, {}, {0x3B}} {
		var c Contact
		c.Insert(short{atr})
		if _, err := c.Activate(context.Background(), false); !errors.Is(err, ErrMute) {
			t.Errorf("ATR % X: %v, want %v", atr, err, ErrMute)
		}
	}
	wait := func(atr ...byte) int64 {
		var c Contact
		c.Insert(short{atr})
		if _, err := c.Activate(context.Background(), false); err != nil {
			t.Fatalf("ATR % X: %v", atr, err)
		}
		return int64(c.BlockWait())
	}
	// TC2 is WI: 10 by default, and twice the time with 20, whatever is before it.
	plain := wait(0x3B, 0x00)
	for _, atr := range [][]byte{{0x3B, 0x80, 0x40, 20}, {0x3B, 0x90, 0x11, 0x40, 20}, {0x3B, 0xE0, 0x00, 0x00, 0x40, 20}} {
		if got := wait(atr...); got < 2*plain-1000 || got > 2*plain+1000 {
			t.Errorf("ATR % X: WWT %d, want %d", atr, got, 2*plain)
		}
	}
}

// ISO/IEC 7816-3:2006 §10.3.3: NULL, then INS^FF before each single byte, and
// each byte once; without the fault INS and all of them.
func TestSingleBytes(t *testing.T) {
	for every, want := range map[int]string{0: "B0 11 22 90 00", 1: "60 4F 11 4F 22 90 00"} {
		var c Contact
		c.Insert(short{[]byte{0x3B, 0x00}})
		if _, err := c.Activate(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		c.SetFaults(Faults{Every: every})
		if got := fmt.Sprintf("% X", c.Chars(context.Background(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, 100)); got != want {
			t.Errorf("every %d: %s, want %s", every, got, want)
		}
	}
}

// A command that would take data but says that there are none (P3 00) is executed at once:
// no procedure byte asks for nothing (ISO/IEC 7816-3:2006 §10.3.2).
func TestNoDataAreAskedFor(t *testing.T) {
	for header, want := range map[string]string{
		"00 D6 00 00 00": "61 02", "00 D6 00 00 01": "D6", "00 B0 00 00 00": "6C 02",
	} {
		var c Contact
		c.Insert(short{[]byte{0x3B, 0x00}})
		if _, err := c.Activate(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("% X", c.Chars(context.Background(), unhex(header), 100)); got != want {
			t.Errorf("%s: %s, want %s", header, got, want)
		}
	}
}
