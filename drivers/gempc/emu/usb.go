package emu

import (
	"context"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Reader is an emulated GemPC430, GemPC432 or GemPC435. Its card goes into Contact.
type Reader struct {
	*usbtest.Device
	core
	commands usbtest.Commands
}

// Config is what differs.
type Config struct {
	Product uint16
	Version string
	Packet  int  // wMaxPacketSize; 0: 64
	ZLP     bool // an answer that fills its last packet is followed by an empty one
	Serial  string
}

// The endpoints of the device that libgempc430 was run against.
const (
	bulkIn  = 0x82
	bulkOut = 0x02
)

// New430 makes a GemPC430. The real one is not known to have a serial number. It ends each
// answer, since libgempc430 asks for 264 bytes whatever it expects, and would else wait after
// an answer that fills its last packet.
func New430(serial string) *Reader {
	return New(Config{Product: 0x0430, Version: "GemUsb-R1.04-GM", ZLP: true, Serial: serial})
}

// New makes a reader.
func New(c Config) *Reader {
	if c.Packet == 0 {
		c.Packet = 64
	}
	r := &Reader{core: core{text: c.Version}}
	r.Device = usbtest.New(usbtest.Model{
		// Full speed, one interface of the vendor's own class. The first endpoint is the one to
		// read from.
		Identity: usbtest.Identity{
			Vendor: 0x08E6, Product: c.Product, Release: 0x0104,
			Manufacturer: "Gemplus", Name: "GemPC430", Serial: c.Serial,
			Interfaces: []usb.Interface{{Class: 0xFF, Endpoints: []usb.Endpoint{
				usbtest.Bulk(bulkIn, c.Packet),
				usbtest.Bulk(bulkOut, c.Packet),
			}}},
		},
		Out:       r.commands.Out,
		Reset:     r.powerLost,
		Unplugged: r.powerLost,
	})
	// A command is n and n bytes.
	r.commands = usbtest.Commands{
		Device: r.Device, In: bulkIn, ZLP: c.ZLP,
		Length: func(p []byte) int { return 1 + int(p[0]) },
		Answer: func(ctx context.Context, command []byte) []byte {
			answer := r.command(ctx, command[1:])
			return append([]byte{byte(len(answer))}, answer...)
		},
	}
	return r
}

// Contacts returns the one card position.
func (r *Reader) Contacts() []*icc.Contact { return []*icc.Contact{&r.Contact} }

// powerLost runs when the port is reset or the reader is unplugged.
func (r *Reader) powerLost() {
	r.commands.Lost()
	r.Contact.Deactivate()
	r.forget()
}
