// Package emu emulates an OMNIKEY CardMan 2020 as far as OpenCT's driver expects one: no real reader is known to have
// answered a command so. It shares nothing with the driver of this project. Whatever else a real one may do is
// unknown; the emulated one stalls such requests.
//
// Lock order: Reader.mu, then those of the card in Contact.
package emu

import (
	"context"
	"slices"
	"sync"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Reader is an emulated reader. Its card goes into Contact.
type Reader struct {
	*usbtest.Device
	Contact icc.Contact

	mu   sync.Mutex
	opt  Options
	set  bool            // the line to the card was set
	life context.Context // of the card between two resets
	stop context.CancelFunc
	sent [][]byte // what the card has still to be given
	busy bool     // a goroutine gives it
	pps  []byte   // the card's answer to a PPS
}

// Options are what is not known of real readers.
type Options struct {
	Pad  bool // packets are filled up with zeros
	Low  bool // the status of a card has bit 02 too
	Ones bool // each character of the card comes in a packet of its own
	Mute bool // commands have no answer that OpenCT would know
}

// New makes a CardMan 2020. The real one is not known to have a serial number; with "" this one has none either.
func New(serial string) *Reader {
	r := &Reader{}
	r.life, r.stop = context.WithCancel(context.Background())
	r.Device = usbtest.New(usbtest.Model{
		// One interface of the vendor's own class with an interrupt endpoint.
		Identity: usbtest.Identity{
			Class: 0xFF, Vendor: 0x076B, Product: 0x0596,
			Manufacturer: "OMNIKEY", Name: "CardMan 2020", Serial: serial,
			Interfaces: []usb.Interface{{Class: 0xFF, Endpoints: []usb.Endpoint{usbtest.Interrupt(0x81, 8, 10)}}},
		},
		Control:   r.control,
		Reset:     r.powerLost,
		Unplugged: r.powerLost,
	})
	return r
}

// Contacts returns the one card position.
func (r *Reader) Contacts() []*icc.Contact { return []*icc.Contact{&r.Contact} }

// Set sets options.
func (r *Reader) Set(o Options) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opt = o
}

// powerLost runs when the port is reset or the reader is unplugged.
func (r *Reader) powerLost() {
	r.Contact.Deactivate()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLife()
	r.set = false
}

// endLife ends what the card is doing. r.mu is held.
func (r *Reader) endLife() {
	r.stop()
	r.life, r.stop = context.WithCancel(context.Background())
	r.sent, r.pps = nil, nil
}

// control serves the vendor requests.
func (r *Reader) control(ctx context.Context, s usb.Setup, p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch at := [2]uint16{s.Value, s.Index}; {
	case s.RequestType == 0xC2 && s.Request == 0x00 && at == [2]uint16{} && len(p) > 0 && r.pps != nil:
		n := copy(p, r.pps)
		r.pps = nil
		return n, nil
	case s.RequestType != 0x42:
	case s.Request == 0x30 && s.Index == 2 && speed(byte(s.Value>>8)) && byte(s.Value) == 0 && len(p) == 0:
		r.set = true
		return 0, nil
	case s.Request == 0x20 && at == [2]uint16{} && len(p) == 0:
		r.send([]byte{r.status()})
		return 0, nil
	case s.Request == 0x10 && s.Value <= 1 && s.Index == 0 && len(p) == 0 && r.set:
		r.reset(ctx, s.Value == 1)
		return 0, nil
	case s.Request == 0x11 && at == [2]uint16{} && len(p) == 0:
		r.Contact.Deactivate()
		r.endLife()
		return 0, nil
	case s.Request == 0x01 && at == [2]uint16{} && len(p) == 4:
		r.negotiate(p)
		return len(p), nil
	case s.Request == 0x02 && at == [2]uint16{} && len(p) > 0:
		r.sent = append(r.sent, slices.Clone(p))
		if !r.busy {
			r.busy = true
			r.Go(r.talk)
		}
		return len(p), nil
	}
	return 0, usb.ErrStall
}

// speed reports whether the parameters of the line are known: bit rate, clock, odd parity.
func speed(b byte) bool {
	return slices.Contains([]byte{1, 2, 3, 4, 6, 8, 0x0C}, b&0x0F) && b&0x60 == 0
}

// send sends packets. r.mu is held.
func (r *Reader) send(p []byte) {
	for len(p) > 0 {
		n := min(len(p), 8)
		packet := slices.Clone(p[:n])
		if p = p[n:]; r.opt.Pad {
			packet = append(packet, make([]byte, 8-n)...)
		}
		r.Send(0x81, packet)
	}
}

func (r *Reader) status() byte {
	b := byte(0x00)
	switch {
	case !r.Contact.Present():
		return 0
	case r.Contact.Powered():
		b = 0xC0
	default:
		b = 0x40
	}
	if r.opt.Low {
		b |= 0x02
	}
	return b
}

// reset sends the ATR of a card that has one. r.mu is held.
func (r *Reader) reset(ctx context.Context, warm bool) {
	r.endLife()
	if atr, err := r.Contact.Activate(ctx, warm); err == nil {
		r.send(atr)
	}
}

// negotiate sends a PPS to the card. r.mu is held.
func (r *Reader) negotiate(p []byte) {
	if r.pps = slices.Clone(r.Contact.PPS(p)); r.pps != nil {
		r.send([]byte{0x04, 0x00})
	} else {
		r.send([]byte{0x00, 0x00})
	}
}

// talk gives the card what was sent to it, and sends what comes back.
func (r *Reader) talk() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.sent) > 0 {
		p, life, most := r.sent[0], r.life, 1
		r.sent = r.sent[1:]
		for life.Err() == nil {
			r.mu.Unlock()
			ctx, cancel := context.WithCancel(life)
			end := context.AfterFunc(r.Context(), cancel)
			c := slices.Clone(r.Contact.Chars(ctx, p, most))
			if len(c) == 1 && most == 1 && c[0] != 0x60 && !r.opt.Ones {
				c = append(c, r.Contact.Chars(ctx, nil, 7)...)
			}
			end()
			cancel()
			r.mu.Lock()
			if len(c) == 0 || life.Err() != nil {
				break
			}
			if !r.opt.Mute {
				r.send(c)
			}
			p = nil
			if most = 1; len(c) == 8 {
				most = 8
			}
		}
	}
	r.busy = false
}
