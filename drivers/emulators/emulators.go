// Package emulators lists the devices that cardfs can emulate. Package sim turns them into
// simulated readers, for `attach sim` and `mount --sim`. The virtual machine of the tests
// plugs them into its kernel. The drivers' test suite runs over each of them.
package emulators

import (
	"log/slog"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid"
	ccidemu "github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/drivers/ikey"
	ikeyemu "github.com/cardfs/cardfs/drivers/ikey/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// Emulator is one kind of device.
type Emulator struct {
	Name  string // DEVICE of attach
	ID    reader.ID
	About string // what it is, for help
	// Cards are initially in its slots, in the words of package sim. A token keeps its
	// card for good (Fixed).
	Cards []string
	Fixed bool
	// Driver returns the driver for it, which logs to log.
	Driver func(log *slog.Logger) reader.Driver
	// New makes one, unplugged and without cards.
	New func(serial string) Device
}

// Device is an emulated USB device. It keeps its cards while it is unplugged.
type Device interface {
	// Plug plugs it in: a link for its driver, and a device for usbip.
	Plug() *usbtest.Port
	// Contacts returns its card positions, one for each slot.
	Contacts() []*icc.Contact
}

// All is the list: a new emulator is one line here.
func All() []Emulator {
	return []Emulator{
		iKey("ikey3k", ikey.IKey3000, "token", ikeyemu.New3000, ""),
		iKey("ikey2k", ikey.IKey2032, "datakey", ikeyemu.New2032, "takes the card datakey alone"),
		usbCCID("ccid", "Simulated CCID reader", ccidemu.TPDUReader(), "TPDU level", "token"),
		usbCCID("ccid-char", "Simulated CCID character reader", ccidemu.CharacterReader(), "character level", "token"),
		usbCCID("ccid-short", "Simulated CCID short APDU reader", ccidemu.ShortAPDUReader(), "short APDU level", "token"),
		usbCCID("ccid-ext", "Simulated CCID extended APDU reader", ccidemu.ExtendedAPDUReader(), "extended APDU level", "token"),
		usbCCID("twoslot", "Simulated two-slot CCID reader", ccidemu.TwoSlotReader(), "TPDU level, two slots: a T=1 and a T=0 card", "token", "t0"),
		usbCCID("pinpad", "Simulated CCID PIN pad", ccidemu.PINPadReader(), "short APDU level, with keys and a display", "token"),
		usbCCID("iccd", "Simulated ICCD token", ccidemu.ICCDB(), "a token of the ICCD class, version B", "token"),
		usbCCID("iccd-a", "Simulated ICCD token of version A", ccidemu.ICCDA(), "a token of the ICCD class, version A", "t0"),
	}
}

func iKey(name string, driver ikey.Driver, card string, make func(serial string) *ikeyemu.Token, about string) Emulator {
	id := driver.IDs()[0]
	if about != "" {
		about = "; " + about
	}
	return Emulator{
		Name: name, ID: id, About: id.Model + " at the level of its USB transfers" + about,
		Cards: []string{card}, Fixed: true,
		Driver: func(*slog.Logger) reader.Driver { return driver },
		New:    func(serial string) Device { return make(serial) },
	}
}

func usbCCID(name, title string, c ccidemu.Config, about string, cards ...string) Emulator {
	c.Vendor, c.Product = 0xF055, 0xCC1D
	c.Manufacturer, c.Name = "cardfs", title
	return Emulator{
		Name: name, ID: reader.ID{Vendor: c.Vendor, Product: c.Product, Model: title}, About: "USB CCID: " + about,
		Cards: cards, Fixed: c.Features&ccidemu.Token != 0,
		Driver: func(log *slog.Logger) reader.Driver { return ccid.Driver{Log: log} },
		New: func(serial string) Device {
			c := c
			c.Serial = serial
			return ccidemu.New(c)
		},
	}
}
