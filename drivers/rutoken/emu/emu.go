// Package emu emulates the Rutoken S at the level of its USB transfers, and its card. It
// was written from the traffic that OpenCT's driver was observed to have, and shares
// nothing with the driver of this project. What else a real token may do is unknown; the
// emulated one stalls such requests.
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

// Token is an emulated Rutoken S. Its card goes into Contact; faults of Contact are faults
// of the token.
type Token struct {
	*usbtest.Device
	Contact icc.Contact

	mu     sync.Mutex
	state  state
	life   int  // counts power cycles: what an earlier one began is forgotten
	count  byte // of the busy card
	linger []int
	left   int // reads of the status that are still answered with busy

	header   [5]byte
	incoming bool   // state data: the command's, which come from the host
	data     []byte // for the host, or for its next GET RESPONSE
	sw       [2]byte
}

// state is what the status byte shows once the card is not busy.
type state byte

const (
	idle    state = 0x00
	dataDue state = 0x10
	swDue   state = 0x20
	working state = 0x40
	silent  state = 0x80
	atrDue  state = 0xF0 // shown as 10
)

// patience is how long a transfer to the token waits for the card, so that a quick card
// is not busy when the host asks for the status.
const patience = 5 * time.Millisecond

// New makes a Rutoken S. The real one is not known to have a serial number in its USB
// descriptors; with "" this one has none either.
func New(serial string) *Token { return newToken(serial, 0x20, "Rutoken S") }

// NewUaToken makes a uaToken S.
func NewUaToken(serial string) *Token { return newToken(serial, 0x12, "uaToken S") }

func newToken(serial string, product uint16, title string) *Token {
	t := new(Token)
	t.Device = usbtest.New(usbtest.Model{
		// One interface of the vendor's own class, no endpoints.
		Identity: usbtest.Identity{
			Vendor: 0x0A89, Product: product,
			Manufacturer: "Aktiv Co.", Name: title, Serial: serial,
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

// Linger makes the card look busy for so many reads of the status: the first number after
// the next transfer of a header, data or answer, the second after the one that follows …
// -1 is for good.
func (t *Token) Linger(reads ...int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.linger = reads
}

// powerLost runs when the port is reset or the token is unplugged.
func (t *Token) powerLost() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.enter(idle)
}

// enter is a power-off that leads to s. mu is held.
func (t *Token) enter(s state) {
	t.Contact.Deactivate()
	t.life++
	t.state, t.left, t.incoming = s, 0, false
	clear(t.data)
	t.data = t.data[:0]
}

// control serves the vendor requests.
func (t *Token) control(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	if s.Value != 0 || s.Index != 0 {
		return 0, usb.ErrStall
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Context().Err() != nil {
		return 0, usbtest.ErrNAK // unplugged meanwhile
	}
	switch typ := s.RequestType; {
	case typ == 0x41 && s.Request == 0x63 && len(data) == 0:
		t.enter(atrDue)
		return 0, nil
	case typ == 0xC1 && s.Request == 0xA0:
		return copy(data, []byte{t.status()}), nil
	case t.state == working || t.left != 0:
		return 0, usb.ErrStall
	case typ == 0xC1 && s.Request == 0x62 && t.state == atrDue:
		atr, err := t.Contact.Activate(ctx, false)
		if err != nil {
			t.state = silent
			return 0, usb.ErrStall
		}
		t.state = idle
		return copy(data, atr), nil
	case typ == 0x41 && s.Request == 0x65 && t.state == idle && len(data) == len(t.header):
		t.header = [5]byte(data)
		t.takeHeader(ctx)
		return len(data), nil
	case typ == 0x41 && s.Request == 0x65 && t.state == dataDue && t.incoming && len(data) == int(t.header[4]):
		command := append(append(t.header[:len(t.header):len(t.header)], data...), 0)
		t.run(ctx, command)
		return len(data), nil
	case typ == 0xC1 && s.Request == 0x6F && t.state == dataDue && !t.incoming:
		n := copy(data, t.data)
		clear(t.data)
		t.data = t.data[:0]
		t.show(swDue)
		return n, nil
	case typ == 0xC1 && s.Request == 0x6F && t.state == swDue && len(data) == len(t.sw):
		t.show(idle)
		return copy(data, t.sw[:]), nil
	}
	return 0, usb.ErrStall
}

// status is the answer to a read of the status. mu is held.
func (t *Token) status() byte {
	switch {
	case t.state == working:
	case t.left < 0:
	case t.left > 0:
		t.left--
	case t.state == atrDue:
		return byte(dataDue)
	default:
		return byte(t.state)
	}
	t.count++
	return byte(working) | t.count&0x0F
}

// show has the card reach state s, and be busy before that as Linger says. mu is held.
func (t *Token) show(s state) {
	if t.state != working {
		t.count = 0
	}
	t.state, t.left = s, 0
	if len(t.linger) > 0 {
		t.left, t.linger = t.linger[0], t.linger[1:]
	}
}

// outgoing are the commands that bring data along with some P3 and expect data with the
// one here: T=0 headers do not tell.
var outgoing = map[[2]byte]byte{{0x00, 0xA4}: 0x20, {0x80, 0x30}: 0xFF}

// takeHeader begins a command. mu is held.
func (t *Token) takeHeader(ctx context.Context) {
	h := t.header
	cla, ins, p3 := h[0], h[1], h[4]
	p3Out, either := outgoing[[2]byte{cla, ins}]
	switch {
	case ins == 0xC0:
		t.getResponse()
		return
	case !t.Contact.Incoming(cla, ins), either && p3 == p3Out:
		t.run(ctx, h[:])
	case p3 == 0:
		t.run(ctx, h[:4])
	default:
		t.incoming = true
		t.show(dataDue)
	}
}

// getResponse hands out what the last command left. mu is held.
func (t *Token) getResponse() {
	le := int(t.header[4])
	switch n := len(t.data); {
	case n == 0:
		t.sw = [2]byte{0x69, 0x85}
		t.show(swDue)
	case le != 0 && le > n:
		t.sw = [2]byte{0x6C, byte(n)}
		t.show(swDue)
	default:
		if le != 0 {
			clear(t.data[le:])
			t.data = t.data[:le]
		}
		t.sw = [2]byte{0x90, 0x00}
		t.show(dataDue)
	}
}

// run gives a command to the card. mu is held, but not while the card works.
func (t *Token) run(ctx context.Context, command []byte) {
	life := t.life
	t.state, t.count, t.left = working, 0, 0
	command = append([]byte(nil), command...)
	done := make(chan struct{})
	t.mu.Unlock()
	defer t.mu.Lock()
	t.Go(func() {
		defer close(done)
		rx := append([]byte(nil), t.Contact.APDU(t.Context(), command)...)
		if len(rx) == 0 {
			t.Contact.Hold(t.Context(), t.Contact.BlockWait())
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.life == life {
			t.answered(rx)
		}
		clear(command)
		clear(rx)
	})
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// answered takes the card's answer; an empty one is silence. mu is held.
func (t *Token) answered(rx []byte) {
	n := len(rx) - 2
	if n < 0 {
		t.show(silent)
		return
	}
	wasIncoming := t.incoming || t.header[4] == 0 && t.Contact.Incoming(t.header[0], t.header[1])
	t.incoming = false
	clear(t.data)
	t.data, t.sw = append(t.data[:0], rx[:n]...), [2]byte(rx[n:])
	le := int(t.header[4])
	if le == 0 {
		le = 256
	}
	switch {
	case wasIncoming || n == 0: // data wait for GET RESPONSE
		t.show(swDue)
	case n < le && t.header[1] != 0x30 || n > le:
		t.data, t.sw = t.data[:0], [2]byte{0x6C, byte(n)}
		t.show(swDue)
	default:
		t.show(dataDue)
	}
}
