package epass3k

import (
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/epass3k/emu"
	"github.com/cardfs/cardfs/reader/icc"
)

// Each transfer may fail in each way.
func TestFaults(t *testing.T) {
	faulttest.Session{
		Driver: Driver{}, New: func() faulttest.Device { return emu.New("") }, Card: func() icc.Card { return newCard() },
		Commands:  [][2]string{{selectMF, "90 00"}, {challenge, "11 12 13 14 15 16 17 18 90 00"}},
		Transfers: 6, Limit: 5 * time.Minute,
		// Nothing tells that data of the card are wrong.
		Unseen: func(l usbtest.Line, f usbtest.Fault) bool {
			return f.Kind == usbtest.Garbage
		},
	}.Run(t)
}
