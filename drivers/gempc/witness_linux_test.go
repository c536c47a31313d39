package gempc

import (
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/gempc/emu"
	"github.com/cardfs/cardfs/tests/witness"
)

// The emulator is right if a driver of other authors agrees: Debian's libgempc430.
var libgempc430 = witness.USB{
	Packages: []string{"libgempc430", "libusb-0.1-4"},
	Driver:   Driver{},
	Plug: func(t *testing.T, protocol int) *usbtest.Port {
		e := emu.New430("")
		if err := e.Contacts()[0].Insert([]card{t0, t1}[protocol]); err != nil {
			t.Fatal(err)
		}
		return e.Plug()
	},
}

func TestLibgempc430InMachine(t *testing.T) { libgempc430.Host(t, "TestWitness") }

func TestWitness(t *testing.T) { libgempc430.Guest(t) }
