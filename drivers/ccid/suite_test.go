package ccid

import (
	"testing"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

// What the core relies on, at every level.
func TestSuite(t *testing.T) {
	polled := emu.TPDUReader()
	polled.NoInterrupt = true
	one := emu.TwoSlotReader()
	one.BusySlots = 1
	for _, c := range []struct {
		name string
		cfg  emu.Config
		atr  []byte
	}{
		{"character T=0", emu.CharacterReader(), atrT0},
		{"character T=1", emu.CharacterReader(), atrT1},
		{"TPDU T=0", emu.TPDUReader(), atrT0},
		{"TPDU T=1", emu.TPDUReader(), atrT1},
		{"polled", polled, atrT1},
		{"short APDU", emu.ShortAPDUReader(), atrT1},
		{"extended APDU", emu.ExtendedAPDUReader(), atrT1},
		{"two slots", emu.TwoSlotReader(), atrT1},
		{"two slots, one at once", one, atrT1},
		{"ICCD A", emu.ICCDA(), atrT0},
		{"ICCD B", emu.ICCDB(), atrT1},
	} {
		t.Run(c.name, func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := newDevice(c.cfg)
				f := &readertest.Fixture{
					Driver:  Driver{},
					Device:  reader.Device{Driver: "ccid", Address: "emulator", Link: e},
					Command: unhex("00 84 00 00 04"), Answer: unhex("00 01 02 03 90 00"),
					Unplug: e.Unplug, Close: e.Unplug,
				}
				for n := range e.Config().Slots {
					e.Contact(n).Insert(&testCard{atr: c.atr})
					f.Slots = append(f.Slots, readertest.Contact(e.Contact(n), c.cfg.Features&emu.Token != 0))
				}
				return f
			})
		})
	}
}
