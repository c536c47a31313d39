// Package emu emulates a Eutron CryptoIdentity IT-SEC at the level of its USB transfers. It
// was written from the observed traffic of OpenCT's driver and shares nothing with the
// driver of this project. Whatever else a real token may do is unknown; the emulated one
// stalls such requests.
//
// Lock order: Token.mu, then those of the card in Contact.
package emu

import (
	"context"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Token is an emulated token. Its card goes into Contact; faults of Contact are faults of
// the token.
type Token struct {
	*usbtest.Device
	Contact icc.Contact

	mu     sync.Mutex
	out    []byte        // what came from the card and was not read
	pieces []int         // see Pieces
	life   int           // counts the times that the card lost its power
	sent   [][]byte      // what the card has still to be given
	idle   chan struct{} // closed when the card is done with it; nil: it is
}

// New makes a token. The real one is not known to have a serial number; with "" this one
// has none either.
func New(serial string) *Token {
	t := &Token{}
	t.Device = usbtest.New(usbtest.Model{
		// One interface of the vendor's own class, no endpoints. bcdDevice 1.20 was seen.
		Identity: usbtest.Identity{
			USB: 0x0100, Class: 0xFF, Vendor: 0x073D, Product: 0x0005, Release: 0x0120,
			Manufacturer: "Eutron", Name: "CryptoIdentity ITSEC", Serial: serial,
			Interfaces: []usb.Interface{{Class: 0xFF}},
		},
		Control:   t.control,
		Reset:     t.powerLost,
		Unplugged: t.unplugged,
	})
	return t
}

// Contacts returns the one card position.
func (t *Token) Contacts() []*icc.Contact { return []*icc.Contact{&t.Contact} }

// Pieces sets how many bytes each of the next reads brings at the most for which there are
// some. Later ones bring all.
func (t *Token) Pieces(sizes ...int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pieces = sizes
}

// Stray puts bytes behind those that were not read, as if the card had sent them.
func (t *Token) Stray(p ...byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out = append(t.out, p...)
}

// powerOff takes the card's power, and forgets what was to be given to it.
func (t *Token) powerOff() {
	t.Contact.Deactivate()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.life++
	t.sent = nil
}

// powerLost runs when the port is reset.
func (t *Token) powerLost() {
	t.powerOff()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out = nil
}

// unplugged runs when the token has left. Its work has ended, or was never started.
func (t *Token) unplugged() {
	t.powerLost()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle = nil
}

// control serves the vendor requests. The first drivers sent most of them to the interface
// instead of the endpoint.
func (t *Token) control(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	if s.Index != 0 || s.RequestType&0x7F != 0x42 && s.RequestType&0x7F != 0x41 {
		return 0, usb.ErrStall
	}
	switch in := s.In(); s.Request {
	case 0x01:
		if !in && s.Value == 0 && len(data) > 0 {
			t.give(data)
			return len(data), nil
		}
	case 0x02:
		if in && s.Value == 0 {
			return t.read(ctx, data), nil
		}
	case 0x09:
		if !in && s.Value == 0 && len(data) == 0 {
			t.reset(ctx)
			return 0, nil
		}
	case 0x65:
		if !in && s.Value != 0 && len(data) == 0 {
			return 0, nil
		}
	case 0xA0, 0xA1, 0xA2, 0xA3:
		if !in && s.Value == 0 && len(data) == 0 {
			return 0, nil
		}
	}
	return 0, usb.ErrStall
}

// reset resets the card. What came from it before stays to be read: OpenCT's driver empties
// the token first.
func (t *Token) reset(ctx context.Context) {
	t.powerOff()
	t.mu.Lock()
	idle := t.idle
	t.mu.Unlock()
	if idle != nil {
		// What is on its way must not reach the card after the reset.
		select {
		case <-idle:
		case <-ctx.Done():
			return
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if atr, err := t.Contact.Activate(ctx, false); err == nil {
		t.out = append(t.out, atr...)
	}
}

// give passes characters to the card, while the host does something else.
func (t *Token) give(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent = append(t.sent, append([]byte(nil), p...))
	if t.idle == nil {
		t.idle = make(chan struct{})
		t.Go(t.work)
	}
}

// work gives the card what was sent to it and collects what it sends.
func (t *Token) work() {
	ctx := t.Context()
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.sent) > 0 {
		p, life := t.sent[0], t.life
		t.sent = t.sent[1:]
		for {
			t.mu.Unlock()
			c := t.Contact.Chars(ctx, p, 1)
			t.mu.Lock()
			if len(c) == 0 || t.life != life {
				break
			}
			t.out, p = append(t.out, c...), nil
		}
	}
	close(t.idle)
	t.idle = nil
}

// atOnce is how long a card may take that answers at once, on a machine with other things
// to do.
const atOnce = 10 * time.Millisecond

// read returns what has come so far. It never waits for a card that takes its time.
func (t *Token) read(ctx context.Context, data []byte) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if idle := t.idle; idle != nil {
		t.mu.Unlock()
		timer := time.NewTimer(atOnce)
		select {
		case <-idle:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		t.mu.Lock()
	}
	n := min(len(data), len(t.out))
	if n > 0 && len(t.pieces) > 0 {
		n, t.pieces = min(n, t.pieces[0]), t.pieces[1:]
	}
	copy(data, t.out[:n])
	t.out = t.out[n:]
	return n
}
