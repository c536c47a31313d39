package smph

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smph/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

func load(t *testing.T, file string) serialtest.Session {
	t.Helper()
	return readertest.Load(t, serialtest.Load, "testdata/"+file)
}

// The driver sends what the session's host sends, with the same pauses, switches the lines as it
// does, and accepts what comes.
func TestDriverPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, load(t, "session.txt"))
		p.Step("open")
		s := open(t, p, "")
		h := readertest.NewHost(t, p, s)
		h.Identify("Phoenix interface", "clock", "3.579545 MHz")
		h.Status("status", reader.Present)
		h.PPS = "PPS"
		h.PowerUp("reset", string(readertest.Fast))
		h.Step("commands")
		h.Transmit("00 A4 00 00 02 3F 00", "90 00")
		h.Transmit("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
		for _, how := range []reader.Reset{reader.Warm, reader.Cold} {
			h.PowerOn(how.String(), how, string(readertest.Fast))
		}
		h.PowerOff("power off")
		h.Status("card out", reader.Absent)
		h.Step("close")
		s.Close()
	})
}

func TestDriverPlaysSmartMouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, load(t, "smartmouse.txt"))
		p.Step("open")
		s := open(t, p, "type=smartmouse clock=6 detect=cd-on")
		h := readertest.NewHost(t, p, s)
		h.Identify("SmartMouse interface", "clock", "6 MHz")
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Errorf("%v, %v", st, err)
		}
		h.PowerUp("reset", string(readertest.Inverse))
		h.Step("commands")
		h.Transmit("00 A4 00 00 02 3F 00", "90 00")
		h.Transmit("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
		h.PowerOn("reset again", reader.Warm, string(readertest.Inverse))
		h.Status("card out", reader.Absent)
		h.Step("close")
		s.Close()
	})
}

// The emulated interface is to the sessions' hosts what the sessions' devices are.
func TestInterfacePlaysSessions(t *testing.T) {
	for file, x := range map[string]struct {
		emu.Config
		card
	}{
		"session.txt":    {emu.Config{}, readertest.Fast},
		"smartmouse.txt": {emu.Config{SmartMouse: true, ClockHz: 6_000_000, Detect: serial.CD, DetectOn: true}, readertest.Inverse},
		"openct.txt":     {emu.Config{}, readertest.Plain},
	} {
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newInterface(t, x.Config, slow{x.card})
				p := serialtest.Plug(e)
				defer p.Unplug()
				serialtest.Replay(t, load(t, file), p, map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
			})
		})
	}
}

// slow is a card that computes for longer than half its work waiting time over the command for
// which it sends NULL in session.txt.
type slow struct{ card }

func (s slow) Busy(command []byte) time.Duration {
	if s.card == readertest.Fast && command[1] == 0x84 {
		return 13 * time.Second
	}
	return 0
}
