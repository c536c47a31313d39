// Package emu emulates the ACR38 of Advanced Card Systems at the level of its USB transfers.
// It was written from the maker's reference manual and from what Debian's libacsccid1 sends
// and accepts, and shares nothing with the driver of this project.
//
// Lock order: Commands.mu, then those of the cards in the contacts.
package emu

import (
	"cmp"
	"context"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Config is what differs between readers.
type Config struct {
	Product uint16
	Packet  int  // wMaxPacketSize of the bulk endpoints; 0: 64
	ZLP     bool // an answer that fills its last packet is followed by an empty one
	Padded  bool // an answer without data fills its packet
	SAM     bool // a second card position
	Serial  string
	// Patience is how long a silent card is waited for; 0: as long as its protocol says.
	Patience time.Duration
}

// Reader is an emulated ACR38.
type Reader struct {
	*usbtest.Device
	cfg      Config
	cards    []*position
	commands usbtest.Commands
}

// position is one place for a card.
type position struct {
	contact icc.Contact
	kind    byte // the type that was selected
}

const (
	intrIn  = 0x81
	bulkIn  = 0x82
	bulkOut = 0x02
)

// NewACR38 makes an ACR38U. With "" it has no serial number.
func NewACR38(serial string) *Reader { return New(Config{Product: 0x9000, Serial: serial}) }

// NewSAM makes an ACR38U-SAM.
func NewSAM(serial string) *Reader { return New(Config{Product: 0x90CF, SAM: true, Serial: serial}) }

// New makes a reader.
func New(c Config) *Reader {
	c.Packet = cmp.Or(c.Packet, 64)
	r := &Reader{cfg: c, cards: []*position{{}}}
	if c.SAM {
		r.cards = append(r.cards, &position{})
	}
	r.Device = usbtest.New(usbtest.Model{
		// libacsccid takes an interface of class 00.
		Identity: usbtest.Identity{
			Vendor: 0x072F, Product: c.Product,
			Manufacturer: "ACS", Name: "ACR38U", Serial: c.Serial,
			Interfaces: []usb.Interface{{Class: 0x00, Endpoints: []usb.Endpoint{
				usbtest.Interrupt(intrIn, 8, 10),
				usbtest.Bulk(bulkOut, c.Packet),
				usbtest.Bulk(bulkIn, c.Packet),
			}}},
		},
		Out:       r.commands.Out,
		Reset:     r.powerLost,
		Unplugged: r.powerLost,
	})
	r.commands = usbtest.Commands{
		Device: r.Device, In: bulkIn, ZLP: c.ZLP, Length: length,
		Answer: func(ctx context.Context, p []byte) []byte { return r.frame(r.command(ctx, p[1], p[4:])) },
	}
	card := &r.cards[0].contact
	card.OnChange(func() {
		m := []byte{0x01, 0xC0, 0, 0, 0, 0, 0, 0}
		if card.Present() {
			m[1] = 0xC1
		}
		r.Send(intrIn, m)
	})
	return r
}

// Contacts returns the card positions.
func (r *Reader) Contacts() (list []*icc.Contact) {
	for _, c := range r.cards {
		list = append(list, &c.contact)
	}
	return list
}

// powerLost runs when the port is reset or the reader is unplugged.
func (r *Reader) powerLost() {
	r.commands.Lost()
	for _, c := range r.cards {
		c.contact.Deactivate()
	}
}

// length is that of the command that begins with p. The host may fill up its last packet.
func length(p []byte) int {
	switch {
	case p[0] != 0x01:
		return -1
	case len(p) < 4:
		return 0
	}
	return 4 + int(p[2])<<8 + int(p[3])
}

// frame is the answer of a status and data.
func (r *Reader) frame(status byte, data []byte) []byte {
	p := append([]byte{0x01, status, byte(len(data) >> 8), byte(len(data))}, data...)
	if r.cfg.Padded && len(data) == 0 {
		p = append(p, make([]byte, r.cfg.Packet-len(p))...)
	}
	return p
}

// command carries out one instruction: status and data.
func (r *Reader) command(ctx context.Context, ins byte, data []byte) (byte, []byte) {
	c := r.cards[0]
	if ins == 0x90 || ins == 0x91 || ins == 0xB0 || ins == 0xB1 || ins == 0x0C {
		if len(r.cards) < 2 {
			return 0xFF, nil
		}
		c = r.cards[1]
	}
	card := &c.contact
	switch ins {
	case 0x01:
		s := []byte("ACR38 1000\xFE\xFE\x30\x0F\x00\x00")
		s[14] = c.kind
		switch {
		case card.Powered():
			s[15] = 3
		case card.Present():
			s[15] = 1
		}
		return 0, s
	case 0x02:
		if len(data) != 1 {
			return 0xF6, nil
		}
		if data[0] != 0x00 && data[0] != 0x0C && data[0] != 0x0D {
			return 0xFF, nil // memory cards
		}
		c.kind = data[0]
		return 0, nil
	case 0x07:
		if len(data) != 1 {
			return 0xF6, nil
		}
		return 0, nil
	case 0x80, 0x90:
		return r.reset(ctx, c, data)
	case 0x81, 0x91:
		if !card.Present() {
			return 0xFA, nil
		}
		card.Deactivate()
		return 0, nil
	case 0x0B:
		if len(data) < 3 {
			return 0xF6, nil
		}
		return 0, nil
	case 0x0A, 0x0C:
		if card.PPS(data) == nil {
			return 0xF7, nil
		}
		return 0, nil
	case 0xA0, 0xA1, 0xB0, 0xB1:
		return r.exchange(ctx, card, int(ins&1), data)
	}
	return 0xFF, nil
}

func (r *Reader) reset(ctx context.Context, c *position, data []byte) (byte, []byte) {
	if len(data) > 1 || len(data) == 1 && data[0] > 3 {
		return 0xF6, nil
	}
	card := &c.contact
	if !card.Present() {
		return 0xFA, nil
	}
	atr, err := card.Activate(ctx, card.Powered())
	switch {
	case err != nil && !card.Present():
		return 0xFA, nil
	case err != nil:
		card.Deactivate()
		return 0xFE, nil
	case c.kind != 0 && int(c.kind&1) != card.Protocol():
		card.Deactivate()
		return 0xFB, nil
	}
	return 0, atr
}

func (r *Reader) exchange(ctx context.Context, card *icc.Contact, t int, tx []byte) (byte, []byte) {
	switch {
	case !card.Present():
		return 0xFA, nil
	case !card.Powered():
		return 0xF9, nil
	case t != card.Protocol():
		return 0xF4, nil
	case len(tx) < 4:
		return 0xF6, nil
	}
	rx := card.TPDU(ctx, tx)
	if rx == nil {
		card.Hold(ctx, cmp.Or(r.cfg.Patience, card.BlockWait()))
		if !card.Present() {
			return 0xFA, nil
		}
		return 0xFE, nil
	}
	return 0, rx
}
