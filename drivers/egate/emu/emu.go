// Package emu emulates an e-gate at the level of its USB transfers. It was written from
// the observed traffic of OpenCT's driver and shares nothing with the driver of this
// project. Whatever else a real token may do is unknown; the emulated one stalls such
// requests.
//
// Lock order: Token.mu, then those of the card in Contact.
package emu

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Token is an emulated e-gate. Its card goes into Contact; faults of Contact are faults of
// the token.
type Token struct {
	*usbtest.Device
	Contact icc.Contact

	mu     sync.Mutex
	atr    []byte // of the latest reset; nil: the card is silent
	looked bool   // the status was read since the reset
	phase  byte   // what the status says when the token is not busy
	busy   bool   // the next status says so, in any case
	header []byte // the command, while its data are due
	answer []byte // what the host has not read of the card's data
	sw     []byte
	run    *run // the card at work; nil: it has nothing to do
	piece  int
}

// run is one command in the card.
type run struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when rx is there
	rx     []byte        // nil: the card is silent
}

const (
	phaseReady = 0x00
	phaseData  = 0x10
	phaseSW    = 0x20
	busy       = 0x40
)

// New makes an e-gate. The real one is not known to have a serial number; with "" this one
// has none either.
func New(serial string) *Token {
	t := &Token{}
	t.Device = usbtest.New(usbtest.Model{
		// Full speed, one interface of the vendor's own class, no endpoints.
		Identity: usbtest.Identity{
			Class: 0xFF, Vendor: 0x0973, Product: 0x0001,
			Manufacturer: "Schlumberger", Name: "e-gate", Serial: serial,
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

// Pieces makes the token give at most n bytes in one read of an answer; 0: all of it.
func (t *Token) Pieces(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.piece = n
}

// powerLost runs when the port is reset or the token is unplugged.
func (t *Token) powerLost() {
	t.Contact.Deactivate()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle()
	t.atr, t.looked = nil, false
}

// idle ends what is under way. t.mu is held.
func (t *Token) idle() {
	if t.run != nil {
		t.run.cancel()
	}
	t.run, t.phase, t.busy, t.header, t.answer, t.sw = nil, phaseReady, false, nil, nil, nil
}

// control serves the vendor requests.
func (t *Token) control(ctx context.Context, s usb.Setup, p []byte) (int, error) {
	if s.Value != 0 || s.Index != 0 {
		return 0, usb.ErrStall
	}
	if s.RequestType == 0xC0 && s.Request == 0xA0 && len(p) > 0 {
		return t.status(ctx, p)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case s.RequestType == 0x40 && s.Request == 0x90 && len(p) == 0:
		return t.reset(ctx)
	case t.run != nil: // busy
	case s.RequestType == 0xC0 && s.Request == 0x83 && t.phase == phaseReady && t.looked:
		if t.atr == nil {
			return 0, usbtest.ErrNAK
		}
		return copy(p, t.atr), nil
	case s.RequestType == 0x40 && s.Request == 0x80 && t.phase == phaseReady && t.atr != nil && len(p) == 5:
		return t.takeHeader(p)
	case s.RequestType == 0x40 && s.Request == 0x82 && t.phase == phaseData && t.header != nil && len(p) == length(t.header[4]):
		command := append(t.header, p...)
		t.header = nil
		t.start(command)
		return len(p), nil
	case s.RequestType == 0xC0 && s.Request == 0x81 && t.phase == phaseData && t.header == nil && len(p) > 0:
		if t.piece > 0 {
			p = p[:min(len(p), t.piece)]
		}
		n := copy(p, t.answer)
		if t.answer = t.answer[n:]; len(t.answer) == 0 {
			t.phase = phaseSW
		}
		return n, nil
	case s.RequestType == 0xC0 && s.Request == 0x81 && t.phase == phaseSW && len(p) == 2:
		t.phase = phaseReady
		return copy(p, t.sw), nil
	}
	return 0, usb.ErrStall
}

// length is what P3 says of the length of the data.
func length(p3 byte) int {
	if p3 == 0 {
		return 256
	}
	return int(p3)
}

// reset resets the card, whatever it is doing. t.mu is held.
func (t *Token) reset(ctx context.Context) (int, error) {
	t.idle()
	t.atr, t.looked = nil, false
	if atr, err := t.Contact.Activate(ctx, false); err == nil {
		t.atr = slices.Clone(atr)
	}
	return 0, nil
}

// takeHeader begins a command. t.mu is held.
func (t *Token) takeHeader(p []byte) (int, error) {
	t.answer, t.sw = nil, nil
	if p[4] > 0 && t.Contact.Incoming(p[0], p[1]) {
		t.header, t.phase, t.busy = slices.Clone(p), phaseData, true
		return len(p), nil
	}
	t.start(slices.Clone(p))
	// The data of GET RESPONSE are at hand.
	t.busy = p[1] != 0xC0
	return len(p), nil
}

// start gives a TPDU to the card. t.mu is held.
func (t *Token) start(tpdu []byte) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{cancel: cancel, done: make(chan struct{})}
	t.run, t.busy = r, true
	t.Go(func() {
		defer cancel()
		r.rx = slices.Clone(t.Contact.TPDU(ctx, tpdu))
		close(r.done)
	})
}

// status serves the request for the status. It holds the answer for a moment, so that a
// card that needs no time is not busy for ever. A silent card leaves it unanswered.
func (t *Token) status(ctx context.Context, p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looked = true
	if t.busy {
		t.busy = false
		p[0] = busy
		return 1, nil
	}
	if r := t.run; r != nil {
		t.mu.Unlock()
		moment := time.NewTimer(time.Millisecond)
		select {
		case <-r.done:
		case <-moment.C:
		case <-ctx.Done():
		}
		moment.Stop()
		t.mu.Lock()
		select {
		case <-r.done:
			return t.finished(r, p)
		default:
		}
		p[0] = busy
		return 1, nil
	}
	p[0] = t.phase
	return 1, nil
}

// finished is the status after a command in the card. t.mu is held.
func (t *Token) finished(r *run, p []byte) (int, error) {
	if t.run != r || len(r.rx) < 2 {
		return 0, usbtest.ErrNAK
	}
	n := len(r.rx) - 2
	t.run, t.answer, t.sw, t.phase = nil, r.rx[:n], r.rx[n:], phaseSW
	if n > 0 {
		t.phase = phaseData
	}
	p[0] = t.phase
	return 1, nil
}
