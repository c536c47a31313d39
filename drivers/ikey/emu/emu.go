// Package emu emulates Rainbow iKeys at the level of their USB transfers. It was written
// from the observed traffic of OpenCT's drivers and shares nothing with the driver of this
// project. Whatever else a real token may do is unknown; the emulated one stalls such
// requests.
//
// Lock order: Token.mu, then those of the card in Contact.
package emu

import (
	"context"
	"sync"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Token is an emulated iKey. Its card goes into Contact; faults of Contact are faults of
// the token.
type Token struct {
	*usbtest.Device
	Contact icc.Contact

	kind kind

	mu     sync.Mutex
	block  []byte // the block not yet passed to the card
	answer []byte // to the latest command or block
	ready  bool   // answer is valid
}

// kind is one model.
type kind struct {
	product  uint16
	title    string
	power    byte // bMaxPower, in 2 mA
	identity []byte
	command  func(t *Token, ctx context.Context, value uint16) (answer []byte, known bool)
}

// New3000 makes an iKey 3000. The real one is not known to have a serial number; with ""
// this one has none either.
func New3000(serial string) *Token {
	return newToken(serial, kind{
		product: 0x1300, title: "iKey 3000", power: 50,
		identity: []byte{0x0A, 0x61, 0x00, 0x07, 0x2D, 0x2D, 0xC0, 0x80, 0x80, 0x60},
		command:  command3000,
	})
}

// New2032 makes an iKey 2032. Its commands ask for an ATR of 25 bytes, which the card
// should have.
func New2032(serial string) *Token {
	return newToken(serial, kind{
		product: 0x1202, title: "iKey 2032", power: 28,
		identity: []byte{0x0D, 0x63, 0x00, 0x06, 0x2D, 0x2D, 0xC0, 0x80, 0x80, 0x60, 0x80, 0x01, 0x19},
		command:  command2032,
	})
}

func newToken(serial string, k kind) *Token {
	t := &Token{kind: k}
	t.Device = usbtest.New(usbtest.Model{
		// Low speed, one interface of the vendor's own class, no endpoints.
		Identity: usbtest.Identity{
			USB: 0x0100, Class: 0xFF, Vendor: 0x04B9, Product: k.product, Power: k.power,
			Manufacturer: "Rainbow Technologies", Name: k.title, Serial: serial,
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
	t.block, t.answer, t.ready = t.block[:0], nil, false
}

// control serves the vendor requests.
func (t *Token) control(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	switch {
	case s.RequestType == 0xC1 && s.Request == 0x00 && s.Value == 0 && s.Index == 0:
		return copy(data, t.kind.identity), nil
	case s.RequestType == 0xC1 && s.Request == 0x01 && s.Value == 0 && s.Index == 0:
		return t.fetch(ctx, data)
	case s.RequestType == 0x41 && s.Request == 0x16 && s.Index == 0 && len(data) <= 1:
		// The predecessor of OpenCT's driver sent one data byte along with a PPS.
		answer, known := t.kind.command(t, ctx, s.Value)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.block, t.answer, t.ready = t.block[:0], answer, answer != nil
		if !known {
			return 0, usb.ErrStall
		}
		return len(data), nil
	case s.RequestType == 0x41 && s.Request == 0x17:
		t.mu.Lock()
		defer t.mu.Unlock()
		// NAD and PCB are the bytes of wValue, LEN and the next byte those of wIndex.
		t.block = append(t.block[:0], byte(s.Value), byte(s.Value>>8), byte(s.Index), byte(s.Index>>8))
		t.block, t.ready = append(t.block, data...), false
		return len(data), nil
	}
	return 0, usb.ErrStall
}

// fetch passes the block to the card when the host asks for the answer, so that this
// transfer takes as long as the card does.
func (t *Token) fetch(ctx context.Context, data []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.block) > 0 {
		rx := t.Contact.TPDU(ctx, t.block)
		t.block = t.block[:0]
		if t.ready = rx != nil; t.ready {
			t.answer = append([]byte(nil), rx...)
			if len(rx) == 5 && rx[1] == 0xE1 { // three surplus bytes were seen behind S(IFS response)
				t.answer = append(t.answer, 0x40, 0x98, 0xC1)
			}
		}
	}
	if !t.ready {
		return 0, usbtest.ErrNAK
	}
	return copy(data, t.answer), nil
}

// activate resets the card and returns its ATR; nil: it is silent.
func (t *Token) activate(ctx context.Context) []byte {
	atr, err := t.Contact.Activate(ctx, false)
	if err != nil {
		return nil
	}
	return atr
}

// reset is the command 0000 of both models.
func (t *Token) reset() []byte {
	t.Contact.Deactivate()
	return []byte{0}
}

func command3000(t *Token, ctx context.Context, value uint16) ([]byte, bool) {
	switch value {
	case 0x0000:
		return t.reset(), true
	case 0x2005: // a length byte, the ATR, padding up to 32 bytes; with which bytes is unknown
		atr := t.activate(ctx)
		answer := make([]byte, 32)
		if len(atr) < len(answer) {
			answer[0] = byte(copy(answer[1:], atr))
		}
		return answer, true
	case 0x0002:
		return t.Contact.PPS([]byte{0xFF, 0x11, 0x11, 0xFF}), true
	}
	return nil, false
}

func command2032(t *Token, ctx context.Context, value uint16) ([]byte, bool) {
	switch value {
	case 0x0000:
		return t.reset(), true
	case 0x1901: // the ATR as it is
		return t.activate(ctx), true
	}
	return nil, false
}
