// Package emu emulates a REINER SCT cyberJack of the first generation, pinpad or e-com, at the
// level of its USB transfers. It was written from what OpenCT 0.6.20 was observed to send and
// to accept, from the kernel's module cyberjack (the notices on the interrupt endpoint), and
// from the maker's old CT-API library for these readers; it shares nothing with the driver of
// this project.
//
// Lock order: Reader.mu, then the USB device's, then those of the card in Contact.
package emu

import (
	"context"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Config is what a reader is.
type Config struct {
	Serial string
	Most   int  // bytes of a block to the host; 0: 254
	ZLP    bool // an answer that fills its last packet is followed by an empty one
	// EmptyWTX: it asks for time without saying how much.
	EmptyWTX bool
	// Patience is how long it takes before it asks for more time; 0: 3 s.
	Patience time.Duration
}

// Reader is an emulated reader. Its card goes into Contact.
type Reader struct {
	*usbtest.Device
	Contact icc.Contact
	cfg     Config

	mu    sync.Mutex
	typed string // by the user, for the next PIN; "": nobody is there
	peer
}

// The endpoints.
const (
	notices = 0x81
	bulkIn  = 0x82
	bulkOut = 0x02
)

// New makes a reader. It is not plugged in.
func New(c Config) *Reader {
	if c.Most == 0 {
		c.Most = 254
	}
	if c.Patience == 0 {
		c.Patience = 3 * time.Second
	}
	r := &Reader{cfg: c}
	r.Device = usbtest.New(usbtest.Model{
		// Full speed, one interface of the vendor's own class.
		Identity: usbtest.Identity{
			Class: 0xFF, Subclass: 0xFF, Protocol: 0xFF, Vendor: 0x0C4B, Product: 0x0100,
			Manufacturer: "REINER SCT", Name: "cyberJack pinpad/e-com USB", Serial: c.Serial,
			Interfaces: []usb.Interface{{Class: 0xFF, Endpoints: []usb.Endpoint{
				usbtest.Interrupt(notices, 8, 10),
				usbtest.Bulk(bulkOut, 64),
				usbtest.Bulk(bulkIn, 64),
			}}},
		},
		Out:       r.out,
		In:        r.notice,
		Reset:     r.powerLost,
		Unplugged: r.powerLost,
	})
	return r
}

// Contacts returns the one card position.
func (r *Reader) Contacts() []*icc.Contact { return []*icc.Contact{&r.Contact} }

// Type has a user type digits and OK at the next request, or cancel it with "C".
func (r *Reader) Type(digits string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.typed = digits
}

// Tell has the reader send an S-block of that PCB before its next answer: E5 and F5 for a
// card that came or went, which the host acknowledges, E6 and F6 for nothing.
func (r *Reader) Tell(pcb byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, pcb)
}

// Acknowledged is how many E5 and F5 the host took note of, and how many keys.
func (r *Reader) Acknowledged() (cards, keys int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cards, r.keys
}

// powerLost runs when the port is reset or the reader is unplugged.
func (r *Reader) powerLost() {
	r.mu.Lock()
	r.part, r.pending = nil, nil
	r.restart()
	r.mu.Unlock()
	r.Contact.Deactivate()
}

func sw(b []byte, w uint16) []byte { return append(b, byte(w>>8), byte(w)) }

// execute answers a command to the terminal or the card; nil: it stays silent.
func (r *Reader) execute(ctx context.Context, node byte, c []byte) []byte {
	switch {
	case len(c) < 4:
		return sw(nil, 0x6700)
	case node == 0x02:
		return r.card(ctx, c)
	case c[0] != 0x20:
		return sw(nil, 0x6E00)
	}
	unit := c[2]
	switch {
	case c[1] == 0x11 && unit == 0: // RESET CT
		r.Contact.Deactivate()
		return sw(nil, 0x9000)
	case c[1] == 0x13 && unit == 0: // GET STATUS
		if string(c[3:]) != "\x80\x00" {
			return sw(nil, 0x6A00)
		}
		return sw([]byte{0x80, 1, r.status()}, 0x9000)
	case unit != 1:
		return sw(nil, 0x6A00)
	case c[1] == 0x12: // REQUEST ICC
		return r.request(ctx, c)
	case c[1] == 0x15: // EJECT ICC
		r.Contact.Deactivate()
		return sw(nil, 0x9000)
	case c[1] == 0x18: // PERFORM VERIFICATION
		return r.verify(ctx, c)
	}
	return sw(nil, 0x6D00)
}

func (r *Reader) status() byte {
	switch {
	case !r.Contact.Present():
		return 0x00
	case r.Contact.Powered():
		return 0x05
	}
	return 0x03
}

// request waits for a card as many seconds as it is told, and resets it: the whole ATR.
func (r *Reader) request(ctx context.Context, c []byte) []byte {
	var wait time.Duration
	switch {
	case c[3] != 1:
		return sw(nil, 0x6A00)
	case len(c) == 7 && c[4] == 1 && c[6] == 0, len(c) == 6 && c[4] == 1:
		wait = time.Duration(c[5]) * time.Second
	case len(c) > 5:
		return sw(nil, 0x6700)
	}
	if r.Contact.Powered() {
		return sw(nil, 0x6201)
	}
	for ; !r.Contact.Present(); wait -= look {
		if wait <= 0 {
			return sw(nil, 0x6200)
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return nil
		}
	}
	atr, err := r.Contact.Activate(ctx, false)
	if err != nil {
		r.Contact.Deactivate()
		return sw(nil, 0x6400)
	}
	return sw(append([]byte(nil), atr...), 0x9001)
}

// look is how often it looks for a card that is waited for.
const look = 100 * time.Millisecond

// card passes a command on.
func (r *Reader) card(ctx context.Context, c []byte) []byte {
	switch {
	case !r.Contact.Present():
		return sw(nil, 0x64A1)
	case !r.Contact.Powered():
		return sw(nil, 0x64A2)
	}
	if rx := r.Contact.APDU(ctx, c); len(rx) >= 2 {
		return append([]byte(nil), rx...)
	}
	if r.Contact.Hold(ctx, min(r.Contact.BlockWait(), 2*time.Second)) {
		return nil // what a real one does with such a card is not known
	}
	return sw(nil, 0x64A1)
}

// verify takes a PIN from the keys, and sends the card a command with it.
func (r *Reader) verify(ctx context.Context, c []byte) []byte {
	wait := 15 * time.Second
	var to []byte
	if len(c) < 5 || len(c) != 5+int(c[4]) {
		return sw(nil, 0x6700)
	}
	for b := c[5:]; len(b) > 0; {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return sw(nil, 0x6700)
		}
		switch v := b[2 : 2+int(b[1])]; {
		case b[0] == 0x80 && len(v) == 1:
			wait = time.Duration(v[0]) * time.Second
		case b[0] == 0x52:
			to = v
		}
		b = b[2+int(b[1]):]
	}
	if len(to) < 6 {
		return sw(nil, 0x6700)
	}
	r.mu.Lock()
	digits := r.typed
	r.typed = ""
	r.mu.Unlock()
	switch digits {
	case "":
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		return sw(nil, 0x6400)
	case "C":
		return sw(nil, 0x6401)
	}
	for range digits {
		if !r.key(ctx, 0xC4) {
			return nil
		}
	}
	if !r.key(ctx, 0xF4) { // OK
		return nil
	}
	apdu := enter(to, digits)
	if apdu == nil {
		return sw(nil, 0x6A80)
	}
	return r.card(ctx, apdu)
}

// enter puts digits into the command behind the control byte and the position: from the left,
// in BCD or as text. A command of which the position is beyond the end gets room.
func enter(to []byte, digits string) []byte {
	if n := int(to[0] >> 4); n != 0 && n != len(digits) {
		return nil
	}
	pin := []byte(digits)
	if to[0]&0x0F == 0 {
		pin = nil
		for i, d := range []byte(digits) {
			if i%2 == 0 {
				pin = append(pin, d<<4|0x0F)
			} else {
				pin[i/2] = pin[i/2]&0xF0 | d&0x0F
			}
		}
	}
	at, apdu := int(to[1])-1, append([]byte(nil), to[2:]...)
	switch {
	case len(apdu) <= 5:
		return append(append(apdu[:4], byte(len(pin))), pin...)
	case at < 5 || at+len(pin) > len(apdu):
		return nil
	}
	copy(apdu[at:], pin)
	return apdu
}
