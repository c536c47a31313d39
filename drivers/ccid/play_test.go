package ccid

import (
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// play plays a session that a test wrote down, in the notation of package usbtest, as the
// reader of that config, without its interrupt endpoint. What leaves open how long the host
// gives it has the limit that is the same everywhere.
func play(t *testing.T, cfg emu.Config, session string) *usbtest.Player {
	t.Helper()
	s, err := usbtest.Parse(session)
	if err != nil {
		t.Fatal(err)
	}
	for i := range s {
		switch l := &s[i]; {
		case l.Kind != usbtest.Transfer || l.Timeout != 0:
		case l.Control && l.Setup.RequestType == toInterface && l.Setup.Request == reqAbort:
			l.Timeout = syncLimit
		case l.Control && l.Setup.Request == reqGetDataRates:
			l.Timeout = statusLimit
		case l.Control, !l.In:
			l.Timeout = writeLimit
		}
	}
	cfg.NoInterrupt = true
	return usbtest.NewPlayer(t, s).Describe(newDevice(cfg).Descriptors())
}

// opened is the reader of a session.
func opened(t *testing.T, p *usbtest.Player) *ifd {
	t.Helper()
	r, err := Driver{}.Open(ctx, reader.Device{Link: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r.(*ifd)
}
