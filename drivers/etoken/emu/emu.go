// Package emu emulates Aladdin eTokens at the level of their USB transfers. It was written
// from the observed traffic of OpenCT's drivers and shares nothing with the driver of this
// project. Whatever else a real token may do is unknown; the emulated one stalls such
// requests.
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

// Token is an emulated eToken. Its card goes into Contact; faults of Contact are faults of
// the token.
type Token struct {
	*usbtest.Device
	Contact icc.Contact

	kind kind

	mu      sync.Mutex
	block   []byte           // the block not yet passed to the card
	answers map[uint8][]byte // to be fetched, by the request that fetches them
}

// kind is one model.
type kind struct {
	product uint16
	title   string
	// request answers what comes after the ATR; nil: the model does not know it.
	request func(request uint8, data []byte) (answer []byte)
}

// NewPRO makes an eToken PRO. The real one is not known to have a serial number; with ""
// this one has none either.
func NewPRO(serial string) *Token {
	return newToken(serial, kind{product: 0x050C, title: "eToken PRO", request: func(request uint8, data []byte) []byte {
		switch {
		case request == 0x03 && len(data) == 0:
			return make([]byte, 13)
		case request == 0x02 && len(data) == 6:
			return []byte{0}
		}
		return nil
	}})
}

// NewPRO64 makes an eToken PRO 64k.
func NewPRO64(serial string) *Token {
	return newToken(serial, kind{product: 0x0600, title: "eToken PRO 64k", request: func(request uint8, data []byte) []byte {
		switch {
		case request == 0x08 && len(data) == 0:
			return make([]byte, 2)
		case request == 0x03 && len(data) == 0:
			return []byte{0}
		}
		return nil
	}})
}

func newToken(serial string, k kind) *Token {
	t := &Token{kind: k, answers: make(map[uint8][]byte)}
	t.Device = usbtest.New(usbtest.Model{
		// Low speed, one interface of the vendor's own class, no endpoints.
		Identity: usbtest.Identity{
			USB: 0x0100, Class: 0xFF, Vendor: 0x0529, Product: k.product,
			Manufacturer: "Aladdin", Name: k.title, Serial: serial,
			Interfaces: []usb.Interface{{Class: 0xFF}},
		},
		Control:   t.control,
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
	t.forget()
}

// forget drops what the host has not fetched. t.mu is held.
func (t *Token) forget() {
	t.block = t.block[:0]
	clear(t.answers)
}

// control serves the vendor requests.
func (t *Token) control(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	if s.Value != 0 || s.Index != 0 {
		return 0, usb.ErrStall
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch s.RequestType {
	case 0x40:
		return t.take(ctx, s.Request, data)
	case 0xC0:
		return t.give(ctx, s.Request, data)
	}
	return 0, usb.ErrStall
}

// take serves the requests that the host sends.
func (t *Token) take(ctx context.Context, request uint8, data []byte) (int, error) {
	switch {
	case request == 0x01 && len(data) == 0:
		t.forget()
		t.Contact.Deactivate()
		if atr, err := t.Contact.Activate(ctx, false); err == nil {
			t.answers[0x81] = append([]byte{byte(len(atr))}, atr...)
		}
		return 0, nil
	case request == 0x06:
		if len(data) > 36 {
			// An information field of more than 32 bytes is reported to crash the token.
			t.Die(false)
			return 0, usbtest.ErrNAK
		}
		t.block = append(t.block[:0], data...)
		delete(t.answers, 0x86)
		return len(data), nil
	}
	answer := t.kind.request(request, data)
	if answer == nil {
		return 0, usb.ErrStall
	}
	t.answers[request+0x80] = answer
	return len(data), nil
}

// give serves the fetches of answers. A block is passed to the card when the host asks for
// the answer, so that this transfer takes as long as the card does.
func (t *Token) give(ctx context.Context, request uint8, data []byte) (int, error) {
	switch {
	case request != 0x81 && request != 0x86 && t.kind.request(request-0x80, make([]byte, 6)) == nil && t.kind.request(request-0x80, nil) == nil:
		return 0, usb.ErrStall
	case request == 0x86 && len(data) > 0x25: // which upset the token
		return 0, usb.ErrStall
	case request == 0x86 && len(t.block) > 0:
		if rx := t.Contact.TPDU(ctx, t.block); rx != nil {
			t.answers[0x86] = slices.Clone(rx)
		}
		t.block = t.block[:0]
	}
	answer, ready := t.answers[request]
	if !ready {
		return 0, usbtest.ErrNAK
	}
	return copy(data, answer), nil
}
