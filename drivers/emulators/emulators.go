// Package emulators lists the devices that cardfs can emulate. Package sim turns them into
// simulated readers, for `attach sim` and `mount --sim`. The virtual machine of the tests
// plugs them into its kernel. The drivers' test suite runs over each of them.
package emulators

import (
	"log/slog"

	"github.com/cardfs/cardfs/drivers/acs"
	acsemu "github.com/cardfs/cardfs/drivers/acs/emu"
	"github.com/cardfs/cardfs/drivers/bus/chardev/chardevtest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest/ftdi"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/cardman"
	cardmanemu "github.com/cardfs/cardfs/drivers/cardman/emu"
	"github.com/cardfs/cardfs/drivers/ccid"
	ccidemu "github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/drivers/cm4000"
	cm4000emu "github.com/cardfs/cardfs/drivers/cm4000/emu"
	"github.com/cardfs/cardfs/drivers/cyberjack"
	cyberjackemu "github.com/cardfs/cardfs/drivers/cyberjack/emu"
	"github.com/cardfs/cardfs/drivers/egate"
	egateemu "github.com/cardfs/cardfs/drivers/egate/emu"
	"github.com/cardfs/cardfs/drivers/epass3k"
	epass3kemu "github.com/cardfs/cardfs/drivers/epass3k/emu"
	"github.com/cardfs/cardfs/drivers/etoken"
	etokenemu "github.com/cardfs/cardfs/drivers/etoken/emu"
	"github.com/cardfs/cardfs/drivers/eutron"
	eutronemu "github.com/cardfs/cardfs/drivers/eutron/emu"
	"github.com/cardfs/cardfs/drivers/gempc"
	gempcemu "github.com/cardfs/cardfs/drivers/gempc/emu"
	"github.com/cardfs/cardfs/drivers/ikey"
	ikeyemu "github.com/cardfs/cardfs/drivers/ikey/emu"
	"github.com/cardfs/cardfs/drivers/kaan"
	kaanemu "github.com/cardfs/cardfs/drivers/kaan/emu"
	"github.com/cardfs/cardfs/drivers/rutoken"
	rutokenemu "github.com/cardfs/cardfs/drivers/rutoken/emu"
	"github.com/cardfs/cardfs/drivers/smartboard"
	smartboardemu "github.com/cardfs/cardfs/drivers/smartboard/emu"
	"github.com/cardfs/cardfs/drivers/smph"
	smphemu "github.com/cardfs/cardfs/drivers/smph/emu"
	"github.com/cardfs/cardfs/drivers/starkey"
	starkeyemu "github.com/cardfs/cardfs/drivers/starkey/emu"
	"github.com/cardfs/cardfs/drivers/towitoko"
	towitokoemu "github.com/cardfs/cardfs/drivers/towitoko/emu"
	"github.com/cardfs/cardfs/drivers/wbeiuu"
	wbeiuuemu "github.com/cardfs/cardfs/drivers/wbeiuu/emu"
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
	// Params are parameters that its driver takes, each with the values that it may have.
	Params map[string][]string
	// Driver returns the driver for it, which logs to log.
	Driver func(log *slog.Logger) reader.Driver
	// New makes one, unplugged and without cards.
	New func(serial string) Device
}

// Device is an emulated device: a USB, a Serial or a Node. It keeps its cards while it is
// unplugged.
type Device interface {
	// Contacts returns its card positions, one for each slot.
	Contacts() []*icc.Contact
}

// USB is a device with a plug for USB: a link for its driver, and a device for usbip.
type USB interface {
	Device
	Plug() *usbtest.Port
}

// Serial is a device at the end of a serial line.
type Serial interface {
	Device
	serialtest.Device
}

// Node is a device with a file of its own, which no kernel has.
type Node interface {
	Device
	chardevtest.Device
}

// Plugged is a device that is plugged in: the link for its driver.
type Plugged interface {
	reader.Link
	Unplug()
}

// Plug plugs a device in for its driver in this process.
func Plug(d Device) Plugged {
	switch d := d.(type) {
	case Serial:
		return serialtest.Plug(d)
	case Node:
		return chardevtest.Plug(d)
	}
	return d.(USB).Plug()
}

// PlugUSB plugs a device in for the kernel, a serial one by an adapter with that serial
// number. It returns nil for a device that cannot be plugged in so.
func PlugUSB(d Device, number string) *usbtest.Port {
	switch d := d.(type) {
	case Serial:
		return ftdi.Plug(d, number)
	case Node:
		return nil
	case USB:
		return d.Plug()
	}
	return nil
}

// All is the list: a new emulator is one line here.
func All() []Emulator {
	return []Emulator{
		usbToken("ikey3k", ikey.IKey3000, "token", func(s string) Device { return ikeyemu.New3000(s) }, ""),
		usbToken("ikey2k", ikey.IKey2032, "datakey", func(s string) Device { return ikeyemu.New2032(s) }, "takes the card datakey alone"),
		usbToken("epass3k", epass3k.Driver{}, "epass", func(s string) Device { return epass3kemu.New(s) }, "takes cards with T=0"),
		usbToken("egate", egate.Driver{}, "cryptoflex", func(s string) Device { return egateemu.New(s) }, "takes cards with T=0"),
		usbToken("etoken", etoken.PRO, "cardos", func(s string) Device { return etokenemu.NewPRO(s) }, ""),
		usbToken("etoken64", etoken.PRO64, "cardos", func(s string) Device { return etokenemu.NewPRO64(s) }, ""),
		usbStarKey(),
		usbToken("eutron", eutron.Driver{}, "cardos", func(s string) Device { return eutronemu.New(s) }, ""),
		usbReader("acr38", acs.Driver{}, "token", func(s string) Device { return acsemu.NewACR38(s) }),
		usbReader("acr30", acs.ACR30{}, "token", func(s string) Device { return acsemu.NewACR30(s) }),
		serialReader("acr30-serial", acs.ACR30{}, "ACS ACR30 (serial)", "t0", func() Device { return acsemu.NewSerialACR30() }),
		usbReader("cyberjack", cyberjack.Driver{}, "token", func(s string) Device { return cyberjackemu.New(cyberjackemu.Config{Serial: s}) }),
		usbReader("gempc430", gempc.Driver{}, "t0", func(s string) Device { return gempcemu.New430(s) }),
		serialReader("gempc410", gempc.Driver{}, "Gemplus GemPC410", "t0", func() Device { return gempcemu.New410() }),
		{
			Name: "cm4000", ID: reader.ID{Model: "Omnikey CardMan Mobile 4000"}, About: "a PC card with a device file of its own",
			Cards:  []string{"t0"},
			Driver: func(log *slog.Logger) reader.Driver { return cm4000.Driver{Log: log} },
			New:    func(string) Device { return cm4000emu.New() },
		},
		usbRutoken(),
		serialReader("kaan", kaan.KAAN(nil), "Kobil KAAN", "token", func() Device { return kaanemu.NewKAAN() }),
		serialReader("b1", kaan.B1(nil), "DTAG/T-TeleSec B1", "token", func() Device { return kaanemu.NewB1() }),
		serialReader("smartboard", smartboard.Driver{}, "Cherry SmartBoard", "token", func() Device { return smartboardemu.New(smartboardemu.Options{}) }),
		serialReader("towitoko", towitoko.Driver{}, "Towitoko Chipdrive External", "t0", func() Device { return towitokoemu.New() }),
		serialReader("smph", smph.Driver{}, "Phoenix interface", "token", func() Device { return smphemu.New(smphemu.Config{}) }),
		usbCardMan(),
		usbReader("wbeiuu", wbeiuu.Driver{}, "t0", func(s string) Device { return wbeiuuemu.New(s) }),
		usbCCID("ccid", "Simulated CCID reader", ccidemu.TPDUReader(), "TPDU level", "token"),
		usbCCID("ccid-char", "Simulated CCID character reader", ccidemu.CharacterReader(), "character level", "token"),
		usbCCID("ccid-short", "Simulated CCID short APDU reader", ccidemu.ShortAPDUReader(), "short APDU level", "token"),
		usbCCID("ccid-ext", "Simulated CCID extended APDU reader", ccidemu.ExtendedAPDUReader(), "extended APDU level", "token"),
		usbCCID("twoslot", "Simulated two-slot CCID reader", ccidemu.TwoSlotReader(), "TPDU level, two slots: a T=1 and a T=0 card", "token", "t0"),
		usbCCID("pinpad", "Simulated CCID PIN pad", ccidemu.PINPadReader(), "short APDU level, with keys and a display", "token"),
		acrCCID("acr39", "an ACR39U, TPDU level, which takes memory cards too", "token"),
		usbCCID("iccd", "Simulated ICCD token", ccidemu.ICCDB(), "a token of the ICCD class, version B", "token"),
		usbCCID("iccd-a", "Simulated ICCD token of version A", ccidemu.ICCDA(), "a token of the ICCD class, version A", "t0"),
		{
			Name: "ccid-serial", ID: reader.ID{Model: "Gemalto GemPC Twin"}, About: "a GemPC Twin on a serial line: CCID, TPDU level",
			Cards:  []string{"token"},
			Driver: func(log *slog.Logger) reader.Driver { return ccid.Driver{Log: log} },
			New:    func(string) Device { return ccidemu.NewTwin() },
		},
		{
			Name: "cm4040", ID: reader.ID{Model: "OMNIKEY CardMan 4040"}, About: "a PC card with a device file of its own: CCID, TPDU level; unproven",
			Cards:  []string{"token"},
			Driver: func(log *slog.Logger) reader.Driver { return ccid.Driver{Log: log} },
			New:    func(string) Device { return ccidemu.NewCM4040() },
		},
	}
}

// usbReader is a reader of the driver's first ID.
func usbReader(name string, driver reader.Driver, card string, make func(serial string) Device) Emulator {
	e := usbToken(name, driver, card, make, "")
	e.Fixed = false
	return e
}

// usbToken is a token of the driver's first ID.
func usbToken(name string, driver reader.Driver, card string, make func(serial string) Device, about string) Emulator {
	id := driver.IDs()[0]
	if about != "" {
		about = "; " + about
	}
	return Emulator{
		Name: name, ID: id, About: id.Model + " at the level of its USB transfers" + about,
		Cards: []string{card}, Fixed: true,
		Driver: func(*slog.Logger) reader.Driver { return driver },
		New:    make,
	}
}

// serialReader is a reader on a serial line.
func serialReader(name string, driver reader.Driver, model, card string, make func() Device) Emulator {
	return Emulator{
		Name: name, ID: reader.ID{Model: model}, About: model + " on a serial line",
		Cards:  []string{card},
		Driver: func(*slog.Logger) reader.Driver { return driver },
		New:    func(string) Device { return make() },
	}
}

// usbStarKey is a token whose driver has something to say to the log.
func usbStarKey() Emulator {
	e := usbToken("starkey", starkey.Driver{}, "token", func(s string) Device { return starkeyemu.New(s) }, "unproven")
	e.Driver = func(log *slog.Logger) reader.Driver { return starkey.Driver{Log: log} }
	return e
}

// usbCardMan is a reader whose driver has something to say to the log.
func usbCardMan() Emulator {
	e := usbReader("cardman", cardman.Driver{}, "t0", func(s string) Device { return cardmanemu.New(s) })
	e.About = "OMNIKEY CardMan 2020 on USB; unproven; takes cards with T=0"
	e.Driver = func(log *slog.Logger) reader.Driver { return cardman.Driver{Log: log} }
	return e
}

// acrCCID is a CCID reader of Advanced Card Systems, known by its IDs.
func acrCCID(name, about, card string) Emulator {
	e := usbCCID(name, "ACS ACR39U", ccidemu.MemoryReader(), about, card)
	c := ccidemu.MemoryReader()
	c.Manufacturer, c.Name = "ACS", "ACR39U"
	e.ID = reader.ID{Vendor: c.Vendor, Product: c.Product, Model: "ACS ACR39U"}
	e.New = func(serial string) Device {
		c := c
		c.Serial = serial
		return ccidemu.New(c)
	}
	return e
}

// usbRutoken is a token whose driver takes a parameter.
func usbRutoken() Emulator {
	e := usbToken("rutoken", rutoken.Driver{}, "rutoken", func(s string) Device { return rutokenemu.New(s) },
		"key rewrite=on|off")
	e.Params = map[string][]string{"rewrite": {"on", "off"}}
	return e
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
