package wbeiuu

import (
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/wbeiuu/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

func load(t *testing.T, file string) usbtest.Session {
	t.Helper()
	return readertest.Load(t, usbtest.Load, "testdata/"+file)
}

// The driver sends what the session's host sends, with the same time-outs and pauses, and
// accepts what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := usbtest.NewPlayer(t, load(t, "session.txt")).Describe(emu.New("").Descriptors())
		p.Step("open")
		r, _ := open(t, p)
		h := readertest.NewHost(t, p, r)
		h.Identify(model, "version", "1.00")
		h.Status("status", reader.Present)
		h.PPS = "PPS"
		h.PowerUp("reset", string(readertest.Fast))
		h.Step("commands")
		h.Transmit("00 A4 00 00 02 3F 00", "90 00")
		h.Transmit("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
		h.PowerOff("power off")
		h.Status("card out", reader.Absent)
		h.Step("close")
		r.Close()
	})
}

// The emulated reader answers the sessions' hosts as the sessions' devices do.
func TestReaderPlaysSession(t *testing.T) {
	for file, c := range map[string]card{"session.txt": readertest.Fast, "kernel.txt": readertest.Fast, "openct.txt": readertest.Plain} {
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newReader(t, c)
				usbtest.Replay(t, load(t, file), e.Plug(), map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
				e.Unplug()
			})
		})
	}
}
