package sim

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
)

// Every memory card, in every reader without a bus. A reader that was attached without one
// shows no sign of taking one.
func TestMemoryCards(t *testing.T) {
	for _, m := range models {
		if _, ok := m.make("").(*plainHardware); !ok { // it has a driver of its own
			continue
		}
		for _, name := range icc.MemoryNames() {
			if m.name != "memory" && name != "sle4442" && name != "at24c32" {
				continue
			}
			t.Run(m.name+"/"+name, func(t *testing.T) {
				mgr, d := manager(t)
				ctl(t, mgr, "attach sim "+m.name+" card="+name)
				hw := d.devices[m.name+"-1"].hw.(*plainHardware)
				s := open(t, mgr, 0)
				chip := hw.contact.Card().(*icc.Memory)
				want := chip.Contents()
				if name == "sle4428" {
					copy(want[1022:], []byte{0, 0}) // its PSC
				}
				got, err := s.ReadMemory(context.Background(), 0, 1<<17, nil)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if i := mgr.Slot(0).Info(); i.Chip.Size != len(want) || i.Protocol() != "memory" {
					t.Errorf("%+v", i)
				}
				if name == "at24c32" {
					if n, err := s.WriteMemory(context.Background(), 30, []byte{1, 2, 3, 4}); n != 4 || err != nil || !bytes.Equal(chip.Contents()[29:35], []byte{0xFF, 1, 2, 3, 4, 0xFF}) {
						t.Errorf("write: %d, %v", n, err)
					}
				}
				// Another card, with a processor: the reader is what it was.
				ctl(t, mgr, "sim 0 remove")
				events := mgr.Slot(0).Follow()
				defer events.Close()
				for mgr.Slot(0).Info().State != core.StateEmpty {
					if _, _, err := events.Next(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
				ctl(t, mgr, "sim 0 insert dual")
				s = open(t, mgr, 0)
				if answer, err := s.Transmit(context.Background(), unhex("00A4000C023F00"), nil); !strings.HasPrefix(m.name, "char") && (err != nil || !bytes.Equal(answer, []byte{0x90, 0})) {
					t.Errorf("% X, %v", answer, err)
				}
				if mgr.Slot(0).Info().Chip.Size != 0 {
					t.Error("the next card is taken for a memory card")
				}
			})
		}
		mgr, _ := manager(t)
		ctl(t, mgr, "attach sim "+m.name)
		if err := mgr.Slot(0).WaitReady(context.Background(), true); err != nil {
			t.Fatal(err)
		}
		if (mgr.Slot(0).Features().Memory != nil) != (m.name == "memory") {
			t.Errorf("%s, as it comes: %v", m.name, mgr.Slot(0).Features().Memory)
		}
	}
}

// A chip that is silent, taken out or without power: how long it is waited for, and the error.
func TestMemoryErrors(t *testing.T) {
	for what, x := range map[string]struct {
		do  func(d *device, c *icc.Contact)
		err error
	}{
		"mute":     {func(d *device, c *icc.Contact) { c.SetFaults(icc.Faults{Mute: true}) }, reader.ErrTimeout},
		"removed":  {func(d *device, c *icc.Contact) { c.Remove() }, reader.ErrNoCard},
		"no power": {func(d *device, c *icc.Contact) { c.Deactivate() }, reader.ErrStale},
		"gone":     {func(d *device, c *icc.Contact) { d.unplug() }, reader.ErrGone},
	} {
		mgr, d := manager(t)
		ctl(t, mgr, "attach sim memory")
		s := open(t, mgr, 0)
		x.do(d.devices["memory-1"], d.devices["memory-1"].hw.contacts()[0])
		if _, err := s.ReadMemory(context.Background(), 0, 4, nil); !errors.Is(err, x.err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for param, want := range map[string]error{"i2c:4096": nil, "i2c:4097": reader.ErrInvalid} {
		_, err := New().Attach(reader.Device{Address: "memory", Params: map[string]string{"memory": param}})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", param, err)
		}
	}
}
