// Package emu emulates an ePass3000 at the level of its USB transfers. It was written from the
// observed traffic of OpenCT's driver and shares nothing with the driver of this project.
// Whatever else a real token may do is unknown; the emulated one stalls such messages.
//
// Lock order: Commands.mu, then those of the card in Contact.
package emu

import (
	"context"
	"slices"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Token is an emulated ePass3000. Its card goes into Contact; faults of Contact are faults of
// the token.
type Token struct {
	*usbtest.Device
	Contact icc.Contact

	config   Config
	commands usbtest.Commands
}

// Config is what is not known of the real token, and what differs between its models.
type Config struct {
	Packet    uint8 // wMaxPacketSize of the endpoints
	ZLP       bool  // an empty packet follows a full last one
	Interface uint8 // 1: interface 0 is another, without endpoints
	// Direct: the token fetches the data that 61xx announces by itself, as newer ones do.
	Direct bool
}

const (
	command = 0x02
	answer  = 0x81
)

// New makes an ePass3000. The real one is not known to have a serial number; with "" this one
// has none either.
func New(serial string) *Token { return NewConfig(serial, Config{Packet: 64}) }

// NewConfig makes one that differs.
func NewConfig(serial string, c Config) *Token {
	t := &Token{config: c}
	interfaces := []usb.Interface{{Number: c.Interface, Class: 0xFF, Endpoints: []usb.Endpoint{
		usbtest.Bulk(command, int(c.Packet)),
		usbtest.Bulk(answer, int(c.Packet)),
	}}}
	if c.Interface > 0 {
		interfaces = append([]usb.Interface{{Class: 0xFF}}, interfaces...)
	}
	t.Device = usbtest.New(usbtest.Model{
		// Full speed, an interface of the vendor's own class, two bulk endpoints.
		Identity: usbtest.Identity{
			Vendor: 0x096E, Product: 0x0401,
			Manufacturer: "Feitian Technologies", Name: "ePass3000", Serial: serial,
			Interfaces: interfaces,
		},
		Accepts:   t.accepts,
		Out:       t.commands.Out,
		Reset:     t.powerLost,
		Unplugged: t.powerLost,
	})
	t.commands = usbtest.Commands{Device: t.Device, In: answer, ZLP: c.ZLP, Length: length, Answer: t.answer}
	return t
}

// Contacts returns the one card position.
func (t *Token) Contacts() []*icc.Contact { return []*icc.Contact{&t.Contact} }

// powerLost runs when the port is reset or the token is unplugged.
func (t *Token) powerLost() {
	t.commands.Lost()
	t.Contact.Deactivate()
}

// length is how long the message is that p begins with; -1: it is none. 0: that is not known
// yet.
func length(p []byte) int {
	for i, want := range []byte{0x52, 0x36, 0x00} {
		if i < len(p) && p[i] != want {
			return -1
		}
	}
	if len(p) < 6 {
		return 0
	}
	n := int(p[4])<<8 | int(p[5])
	switch p[3] {
	case 0x01:
		if n == 0 {
			return 6
		}
	case 0x02: // CLA INS P1 P2 P3, and the data
		if n == 5 || n > 5 && n <= 260 {
			return 6 + n
		}
	}
	return -1
}

// accepts refuses what is no part of a message.
func (t *Token) accepts(_ uint8, p []byte) bool {
	all := slices.Concat(t.commands.Part(), p)
	n := length(all)
	tpdu := n > 6
	if n < 0 || n > 0 && len(all) > n || tpdu && !t.Contact.Powered() {
		t.commands.Drop()
		return false
	}
	return true
}

// answer answers a message.
func (t *Token) answer(ctx context.Context, m []byte) []byte {
	value := t.value(ctx, m)
	if value == nil {
		return nil
	}
	return slices.Concat([]byte{0x52, 0x36, 0x00, 0x00, byte(len(value) >> 8), byte(len(value))}, value)
}

// value answers a message; nil: the card is silent.
func (t *Token) value(ctx context.Context, m []byte) []byte {
	if m[3] == 0x01 {
		atr, err := t.Contact.Activate(ctx, false)
		if err != nil {
			return nil
		}
		return slices.Concat([]byte{0, 0}, atr, []byte{0, 0, 0})
	}
	rx := t.Contact.TPDU(ctx, m[6:])
	if t.config.Direct && len(m) > 11 && len(rx) == 2 && rx[0] == 0x61 {
		return t.Contact.TPDU(ctx, []byte{m[6], 0xC0, 0, 0, rx[1]})
	}
	return rx
}
