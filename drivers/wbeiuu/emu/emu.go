// Package emu emulates a WB Electronics Infinity USB Unlimited at the level of its USB
// transfers. It was written from the observed traffic of Linux's iuu_phoenix and of OpenCT's
// driver and shares nothing with the driver of this project. Whatever else a real reader may
// do is unknown; the emulated one stalls such commands.
//
// Lock order: Reader.mu, then those of the card in Contact.
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

const (
	bulkOut = 0x02
	bulkIn  = 0x82
)

// Reader is an emulated reader. Its card goes into Contact. Characters take the time that
// they take on the line.
type Reader struct {
	*usbtest.Device
	Contact icc.Contact

	mu    sync.Mutex
	opt   Options
	awake bool
	queue [][]byte // transfers that were not carried out yet
	busy  bool     // a goroutine carries them out
	uart  uart
	life  context.Context // of the card between two resets
	stop  context.CancelFunc
	low   bool          // RST
	sent  [][]byte      // what the card has still to be given
	idle  chan struct{} // closed when the card is done with it; nil: it is
}

// Options are what is not known of real readers, and what a test needs.
type Options struct {
	// Drops: characters with wrong parity are lost. Otherwise they come as they are.
	Drops bool
	// ZLP: an answer that fills its last packet is followed by an empty one.
	ZLP bool
	// State is the state register with a card; 0 means 01, a card in the full-size slot.
	State byte
	// Zeros come before each ATR.
	Zeros int
}

// New makes a reader. The real one is not known to have a serial number; with "" this one has
// none either.
func New(serial string) *Reader {
	r := &Reader{}
	r.life, r.stop = context.WithCancel(context.Background())
	r.Device = usbtest.New(usbtest.Model{
		// One interface of the vendor's own class with two bulk endpoints.
		Identity: usbtest.Identity{
			Class: 0xFF, ControlPacket: 64, Vendor: 0x104F, Product: 0x0004,
			Manufacturer: "WB Electronics", Name: "Infinity USB Unlimited", Serial: serial,
			Interfaces: []usb.Interface{{Class: 0xFF, Subclass: 0xFF, Protocol: 0xFF, Endpoints: []usb.Endpoint{
				usbtest.Bulk(bulkOut, 64),
				usbtest.Bulk(bulkIn, 64),
			}}},
		},
		Control:   r.control,
		Accepts:   r.accepts,
		Out:       r.take,
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

// Stray puts characters behind those that were not received, as if the card had sent them.
func (r *Reader) Stray(p ...byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range p {
		r.uart.rx = append(r.uart.rx, arrival{b, time.Now()})
	}
}

// powerLost runs when the port is reset or the reader is unplugged.
func (r *Reader) powerLost() {
	r.Contact.Deactivate()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLife()
	r.awake, r.queue, r.uart, r.low = false, nil, uart{}, false
}

// endLife ends what the card is doing. r.mu is held.
func (r *Reader) endLife() {
	r.stop()
	r.life, r.stop = context.WithCancel(context.Background())
	r.sent = nil
}

// control knows one request: wake up.
func (r *Reader) control(_ context.Context, s usb.Setup, data []byte) (int, error) {
	if s != (usb.Setup{RequestType: 0x03, Request: 0x02, Value: 0x0002}) || len(data) > 0 {
		return 0, usb.ErrStall
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awake = true
	return 0, nil
}

// accepts refuses commands before the wake-up, and commands that nobody has seen.
func (r *Reader) accepts(_ uint8, p []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.awake {
		return false
	}
	for len(p) > 0 {
		n := length(p)
		if n == 0 {
			return false
		}
		p = p[n:]
	}
	return true
}

// length returns the length of the command at the beginning of p; 0: there is none.
func length(p []byte) int {
	n := 0
	switch p[0] {
	case 0x00, 0x01, 0x02, 0x03, 0x4A, 0x50, 0x52, 0x53, 0x56:
		n = 1
	case 0x05, 0x06:
		n = 2
	case 0x04:
		n = 8
	case 0x49, 0x4C:
		n = 4
	case 0x5E:
		switch {
		case len(p) >= 3 && p[1] == 0x04:
			n = 3 + int(p[2])
		case len(p) >= 2 && p[1] == 0x02:
			n = 5
		}
	}
	if n > len(p) {
		return 0
	}
	return n
}

// take takes a transfer.
func (r *Reader) take(_ uint8, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, p)
	if !r.busy {
		r.busy = true
		r.Go(r.work)
	}
}

// work carries out the commands, one after the other.
func (r *Reader) work() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 && r.Context().Err() == nil {
		p := r.queue[0]
		r.queue = r.queue[1:]
		for len(p) > 0 {
			n := length(p)
			r.command(p[:n])
			p = p[n:]
		}
	}
	r.queue, r.busy = nil, false
}

// pause lets time pass. r.mu is held, but not meanwhile.
func (r *Reader) pause(d time.Duration) {
	r.mu.Unlock()
	defer r.mu.Lock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
}

// command carries out one command. r.mu is held.
func (r *Reader) command(p []byte) {
	switch p[0] {
	case 0x01:
		r.answer([]byte("1.01"))
	case 0x02:
		r.answer([]byte("Infinity USB Unl"))
	case 0x03:
		r.answer([]byte{r.state()})
	case 0x05:
		r.pause(time.Duration(p[1]) * time.Microsecond)
	case 0x06:
		r.pause(time.Duration(p[1]) * time.Millisecond)
	case 0x49:
		r.uart = uart{on: true, speed: namedSpeeds[[2]byte{p[1], p[2]}], parity: p[3] & 0x0F}
	case 0x4A:
		r.uart = uart{}
	case 0x50:
		r.answer([]byte("1.00"))
	case 0x52:
		r.low = true
		r.endLife()
		r.uart.cut(time.Now())
	case 0x53:
		r.reset()
	case 0x56:
		got := r.uart.received(time.Now())
		r.answer([]byte{byte(len(got))})
		if len(got) > 0 {
			r.answer(got)
		}
	case 0x5E:
		switch p[1] {
		case 0x02:
			r.uart.speed, r.uart.parity = dividedSpeed(p[2], p[3]), p[4]&0x0F
		case 0x04:
			r.give(p[3:])
		}
	}
}

func (r *Reader) answer(p []byte) { r.SendPackets(bulkIn, p, r.opt.ZLP) }

// state is the state register.
func (r *Reader) state() byte {
	switch {
	case !r.Contact.Present():
		return 0x00
	case r.opt.State != 0:
		return r.opt.State
	}
	return 0x01
}

// reset raises RST. r.mu is held.
func (r *Reader) reset() {
	if !r.low {
		return
	}
	r.low = false
	if idle := r.idle; idle != nil { // what is on its way must not reach the card after the reset
		r.mu.Unlock()
		<-idle
		r.mu.Lock()
	}
	atr, err := r.Contact.Activate(r.Context(), true)
	if err != nil {
		return
	}
	for range r.opt.Zeros {
		r.uart.rx = append(r.uart.rx, arrival{0, time.Now()})
	}
	r.uart.fromCard(r.convention(), r.Contact.Rate(), atr)
}

func (r *Reader) convention() convention {
	card := r.Contact.Card()
	return convention{inverse: card != nil && len(card.ATR()) > 0 && card.ATR()[0] == 0x3F, drops: r.opt.Drops}
}

// give sends characters to the card. r.mu is held.
func (r *Reader) give(p []byte) {
	p, ok := r.uart.toCard(r.convention(), r.Contact.Rate(), slices.Clone(p))
	if !ok || r.low {
		return
	}
	r.sent = append(r.sent, p)
	if r.idle == nil {
		r.idle = make(chan struct{})
		r.Go(r.talk)
	}
}

// talk gives the card what was sent to it, when it has arrived there, and collects what it
// sends.
func (r *Reader) talk() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.sent) > 0 {
		p, life, rate := r.sent[0], r.life, r.Contact.Rate()
		r.sent = r.sent[1:]
		if d := time.Until(r.uart.free); d > 0 {
			r.pause(d)
		}
		for life.Err() == nil {
			r.mu.Unlock()
			ctx, cancel := context.WithCancel(life)
			stop := context.AfterFunc(r.Context(), cancel)
			c := r.Contact.Chars(ctx, p, 1)
			stop()
			cancel()
			r.mu.Lock()
			if len(c) == 0 || life.Err() != nil {
				break
			}
			r.uart.fromCard(r.convention(), rate, c)
			p = nil
		}
	}
	close(r.idle)
	r.idle = nil
}
