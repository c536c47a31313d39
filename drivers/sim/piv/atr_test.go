package piv

import (
	"bytes"
	"testing"

	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/reader/icc"
)

// Any reader's protocol can carry the card.
func TestATR(t *testing.T) {
	for _, s := range []applet.Settings{{}, {ATR: "t0"}, {ATR: "contactless"}, {Model: yubikey}, {Model: yubikey, ATR: "contactless"}, {Model: yubikey, ATR: "t0"}} {
		s.Cost = applet.Cheap
		h := newHost(t, s)
		var c icc.Contact
		c.Insert(h.card)
		if _, err := c.Activate(t.Context(), false); err != nil {
			t.Errorf("%+v: %v", s, err)
			continue
		}
		if got, want := c.Protocol(), map[bool]int{true: 1, false: 0}[s.ATR == ""]; got != want {
			t.Errorf("%+v: T=%d", s, got)
		}
		if rx := c.APDU(t.Context(), unhex("00A4040005A00000030800")); !bytes.HasSuffix(rx, unhex("9000")) {
			t.Errorf("%+v: %X", s, rx)
		}
	}
	for _, s := range []applet.Settings{{ATR: "t2"}, {Model: "nitrokey"}} {
		if _, err := New(s); err == nil {
			t.Errorf("%+v is taken", s)
		}
	}
}
