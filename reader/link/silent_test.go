package link

import (
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Over T=0 a command is never repeated. A rate at which nothing came is dropped at the next
// reset. A rate at which anything came is proven.
func TestSilentRate(t *testing.T) {
	play(t, `cold
		< 3B 10 12
		> FF 10 12 FD
		< FF 10 12 FD
		> 00 84 00 00 02
		< --
		off
		cold
		< 3B 10 12
		> 00 84 00 00 02
		< 90 00
		> 00 84 00 00 02
		< --
		off
		cold
		< 3B 10 12
		> 00 84 00 00 02
		< --
		off
		cold
		< 3B 10 12`, "", func(t *testing.T, s *script, l *Link) {
		powerUp(t, l)
		transmit(t, l, "00 84 00 00 02", "", reader.ErrTimeout)
		again := func() {
			t.Helper()
			if err := l.PowerOff(t.Context()); err != nil {
				t.Error(err)
			}
			powerUp(t, l)
			if want := "F=372 D=1 instead of F=372 D=2"; l.Fallback() != want {
				t.Errorf("fallback %q, want %q", l.Fallback(), want)
			}
		}
		again()
		transmit(t, l, "00 84 00 00 02", "90 00", nil)
		transmit(t, l, "00 84 00 00 02", "", reader.ErrTimeout) // no matter of the rate any more
		again()
		transmit(t, l, "00 84 00 00 02", "", reader.ErrTimeout) // nor of this one, which is proven
		again()
	})
}

// A card that is silent at every rate has another fault. Findings about its rates without
// proof are dropped.
func TestSilentAtEveryRate(t *testing.T) {
	play(t, `cold
		< 3B 10 12
		> FF 10 12 FD
		< FF 10 12 FD
		> 00 84 00 00 02
		< --
		off
		cold
		< 3B 10 12
		> 00 84 00 00 02
		< --
		off
		cold
		< 3B 10 12
		> FF 10 12 FD
		< FF 10 12 FD
		> 00 84 00 00 02
		< 90 00`, "", func(t *testing.T, s *script, l *Link) {
		for range 2 {
			powerUp(t, l)
			transmit(t, l, "00 84 00 00 02", "", reader.ErrTimeout)
			if err := l.PowerOff(t.Context()); err != nil {
				t.Error(err)
			}
		}
		powerUp(t, l)
		transmit(t, l, "00 84 00 00 02", "90 00", nil)
		if l.Fallback() != "" {
			t.Errorf("fallback %q", l.Fallback())
		}
	})
}

// A reader that takes APDUs hides the rates: its silence proves nothing about them.
func TestSilentReader(t *testing.T) {
	play(t, "cold\n< 3B 10 12\nselect T=0 TA1=12\n> 00 84 00 00 02\n< --\noff\ncold\n< 3B 10 12\nselect T=0 TA1=12", "select", func(t *testing.T, s *script, l *Link) {
		s.Level, s.AutoPPS = reader.ShortAPDU, true
		powerUp(t, l)
		transmit(t, l, "00 84 00 00 02", "", reader.ErrTimeout)
		l.PowerOff(t.Context())
		powerUp(t, l)
	})
}

// A slot remembers the rates of 64 cards; after that it begins anew.
func TestManyCards(t *testing.T) {
	l := New(Config{Slot: slot{newScript(t, "")}})
	for i := range 2 * maxCards {
		atr, err := iso7816.ParseATR([]byte{0x3B, 0x01, byte(i)})
		if err != nil {
			t.Fatal(err)
		}
		l.rates(atr).fail(0x12)
		if l.rates(atr).fail(0x12); len(l.rates(atr).failed) != 1 {
			t.Fatalf("card %d: %+v", i, l.rates(atr))
		}
		if len(l.known) > maxCards {
			t.Fatalf("%d cards are remembered", len(l.known))
		}
	}
	if len(l.known) != maxCards {
		t.Errorf("%d cards are remembered, of %d", len(l.known), maxCards)
	}
}
