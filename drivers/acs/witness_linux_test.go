package acs

import (
	"testing"

	"github.com/cardfs/cardfs/drivers/acs/emu"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/tests/witness"
)

// The emulator is right if a driver of other authors agrees: Debian's libacsccid1.
var libacsccid = witness.USB{
	Packages: []string{"libacsccid1"},
	Driver:   Driver{},
	Plug: func(t *testing.T, protocol int) *usbtest.Port {
		e := emu.NewACR38("")
		if err := e.Contacts()[0].Insert([]card{t0, t1}[protocol]); err != nil {
			t.Fatal(err)
		}
		return e.Plug()
	},
}

func TestLibacsccidInMachine(t *testing.T) { libacsccid.Host(t, "TestWitness") }

func TestWitness(t *testing.T) { libacsccid.Guest(t) }
