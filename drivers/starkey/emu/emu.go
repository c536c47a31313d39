// Package emu emulates a G&D StarKey 100 as far as OpenCT's driver expects one: no real
// token is known to have answered a command. It shares nothing with the driver of this
// project. It sends its ATR once, when the host reads after the token was plugged in or its
// port reset, and takes T=1 blocks as an eToken does.
//
// Lock order: Token.mu, then those of the card in Contact.
package emu

import (
	"context"
	"slices"
	"sync"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Token is an emulated StarKey. Its card goes into Contact; faults of Contact are faults of
// the token.
type Token struct {
	*usbtest.Device
	Contact icc.Contact

	mu     sync.Mutex
	spoke  bool   // the ATR was sent, or the card had none
	block  []byte // the block not yet passed to the card
	answer []byte // to the latest block; nil: none yet
}

// New makes a StarKey 100. The real one is not known to have a serial number; with "" this
// one has none either.
func New(serial string) *Token {
	t := new(Token)
	t.Device = usbtest.New(usbtest.Model{
		// One interface of the vendor's own class with an interrupt endpoint, whose packets are
		// made up.
		Identity: usbtest.Identity{
			Class: 0xFF, Vendor: 0x096E, Product: 0x0005,
			Manufacturer: "Giesecke & Devrient", Name: "StarKey 100", Serial: serial,
			Interfaces: []usb.Interface{{Class: 0xFF, Endpoints: []usb.Endpoint{usbtest.Interrupt(0x81, 32, 10)}}},
		},
		Control:   t.control,
		In:        t.message,
		Reset:     t.powerLost,
		Unplugged: t.powerLost,
	})
	return t
}

// Contacts returns the one card position.
func (t *Token) Contacts() []*icc.Contact { return []*icc.Contact{&t.Contact} }

// powerLost runs when the port is reset or the token is unplugged.
func (t *Token) powerLost() {
	t.Contact.Deactivate()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spoke, t.block, t.answer = false, t.block[:0], nil
}

// message is the one message of the interrupt endpoint.
func (t *Token) message(uint8) ([]byte, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spoke {
		return nil, false
	}
	t.spoke = true
	atr, err := t.Contact.Activate(context.Background(), false)
	return atr, err == nil
}

// control serves the vendor requests.
func (t *Token) control(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch s {
	case usb.Setup{RequestType: 0x40, Request: 0x06}:
		if len(data) > 36 {
			return 0, usb.ErrStall
		}
		t.block, t.answer = append(t.block[:0], data...), nil
		return len(data), nil
	case usb.Setup{RequestType: 0xC0, Request: 0x86}:
		if len(data) > 0x25 {
			return 0, usb.ErrStall
		}
		return t.fetch(ctx, data)
	}
	return 0, usb.ErrStall
}

// fetch passes the block to the card when the host asks for the answer, so that this
// transfer takes as long as the card does.
func (t *Token) fetch(ctx context.Context, data []byte) (int, error) {
	if len(t.block) > 0 {
		t.answer = slices.Clone(t.Contact.TPDU(ctx, t.block))
		t.block = t.block[:0]
	}
	if t.answer == nil {
		return 0, usbtest.ErrNAK
	}
	return copy(data, t.answer), nil
}
