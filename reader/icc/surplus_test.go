package icc

import (
	"context"
	"strings"
	"testing"
)

// ISO/IEC 7816-3:2006 §10.3.2: P3 says how many data follow; what comes behind them is
// none of the command's.
func TestSurplusData(t *testing.T) {
	c, card := powered(t, atrT0, Faults{})
	c.TPDU(context.Background(), unhex("00 D6 00 00 02 AA BB CC DD"))
	if len(card.calls) != 1 || strings.ReplaceAll(card.calls[0], " ", "") != "00D6000002AABB00" { // the contact adds Le
		t.Errorf("the card got %q", card.calls)
	}
}

// Whoever asks for the contact's state or sets its faults leaves it usable.
func TestContactIsLetGo(t *testing.T) {
	c, _ := powered(t, atrT0, Faults{})
	for range 2 {
		c.PPS(unhex("FF 00 FF"))
		c.SetFaults(Faults{})
		c.Faults()
		c.Present()
		c.Powered()
		if rx := c.APDU(context.Background(), unhex("00 A4 00 00")); len(rx) < 2 {
			t.Errorf("% X", rx)
		}
	}
	c.Deactivate()
	if c.Powered() {
		t.Error("it has power")
	}
	c.Remove()
	if c.Present() {
		t.Error("it is there")
	}
}

// "After the first byte of a protocol" the card is silent to a PPS, whatever the level.
func TestNoPPSAfterAPDU(t *testing.T) {
	c, _ := powered(t, atrT0, Faults{})
	c.APDU(context.Background(), unhex("00 A4 00 00"))
	if rx := c.PPS(unhex("FF 00 FF")); rx != nil {
		t.Errorf("% X", rx)
	}
}
