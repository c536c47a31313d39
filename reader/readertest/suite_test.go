package readertest

import (
	"testing"

	"github.com/cardfs/cardfs/reader/icc"
)

// "A slot has Remove and Insert, or is Fixed"; "has Silent, or NeverSilent says why
// not": nothing is left out because somebody forgot it.
func TestHooks(t *testing.T) {
	f, silent := func() {}, func(bool) {}
	for _, x := range []struct {
		slot Slot
		ok   bool
	}{
		{Slot{Remove: f, Insert: f, Silent: silent}, true},
		{Slot{Fixed: true, Silent: silent}, true},
		{Slot{Fixed: true, NeverSilent: "it talks"}, true},
		{Slot{Remove: f, Insert: f, NeverSilent: "it talks"}, true},
		{Slot{}, false},
		{Slot{Silent: silent}, false},
		{Slot{Fixed: true}, false},
		{Slot{Remove: f, Silent: silent}, false},
		{Slot{Insert: f, Silent: silent}, false},
		{Slot{Fixed: true, Remove: f, Silent: silent}, false},
		{Slot{Fixed: true, Insert: f, Silent: silent}, false},
		{Slot{Remove: f, Insert: f}, false},
		{Slot{Remove: f, Insert: f, Silent: silent, NeverSilent: "it talks"}, false},
		{Contact(new(icc.Contact), false), true},
		{Contact(new(icc.Contact), true), true},
	} {
		if err := x.slot.check(); (err == nil) != x.ok {
			t.Errorf("%+v: %v", x.slot, err)
		}
	}
}

// Contact's hooks do what they say.
func TestContact(t *testing.T) {
	var c icc.Contact
	if c.Insert(card{}) != nil {
		t.Fatal("no card")
	}
	s := Contact(&c, false)
	s.Remove()
	if c.Present() {
		t.Error("the card is still there")
	}
	s.Insert()
	if !c.Present() {
		t.Error("the card is not back")
	}
	for _, on := range []bool{true, false} {
		if s.Silent(on); c.Faults().Mute != on {
			t.Errorf("mute %v, want %v", !on, on)
		}
	}
}

type card struct{}

func (card) ATR() []byte           { return []byte{0x3B, 0x00} }
func (card) Reset(bool)            {}
func (card) Process([]byte) []byte { return []byte{0x90, 0x00} }

// "Close releases what the device holds, after the Reader was closed": once for each device
// that was made, whatever became of its Open.
func TestFixtureIsClosedLast(t *testing.T) {
	for _, fault := range []string{"none", "Open does not look at ctx"} {
		made, closed, early := 0, 0, 0
		Suite(t, func(t *testing.T) *Fixture {
			made++
			fx := fixture(fault)(t)
			f, release := fx.Driver.(*fake), fx.Close
			fx.Close = func() {
				closed++
				release()
				select {
				case <-f.closed:
				default:
					early++
				}
			}
			return fx
		})
		unopened := 0
		if fault == "none" {
			unopened = 1 // by the test of an Open that is cancelled
		}
		if made == 0 || closed != made || early != unopened {
			t.Errorf("%s: %d devices, %d of them closed, %d before their Reader", fault, made, closed, early)
		}
	}
}
