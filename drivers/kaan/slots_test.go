package kaan

import (
	"bytes"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/kaan/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// Each slot is described by its own file, of a B1 its status too.
func TestSecondSlot(t *testing.T) {
	for _, d := range []Driver{KAAN(nil), B1(nil)} {
		t.Run(d.Name(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := emu.New(emu.Config{Slots: 2, B1: d.b1})
				card := icc.NewMemory("sle4442")
				if err := e.Contacts()[1].Insert(card); err != nil {
					t.Fatal(err)
				}
				p := serialtest.Plug(e)
				defer p.Unplug()
				r := open(t, d, p)
				defer r.Close()
				status(t, r.Slots()[0], reader.Absent)
				status(t, r.Slots()[1], reader.Present)
				l := connect(t, r.Slots()[1])
				got, err := l.ReadMemory(t.Context(), 0, 256, nil)
				if err != nil || !bytes.Equal(got, card.Contents()) {
					t.Errorf("% X, %v", got, err)
				}
			})
		})
	}
}

// Power that is switched off is off, and a card that was put in since has none, though nobody
// looked meanwhile.
func TestNoPower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTerminal(t, kind{card: t1})
		p := serialtest.Plug(e)
		defer p.Unplug()
		r := open(t, KAAN(nil), p)
		defer r.Close()
		s, c := r.Slots()[0], e.Contacts()[0]
		connect(t, s)
		if err := s.PowerOff(t.Context()); err != nil || c.Powered() {
			t.Errorf("%v; power %v", err, c.Powered())
		}
		connect(t, s)
		c.Remove()
		if err := c.Insert(t1()); err != nil {
			t.Fatal(err)
		}
		status(t, s, reader.Present)
	})
}
