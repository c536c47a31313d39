// Package emu emulates CCID and ICCD devices at the level of their USB transfers. It was
// written from the specifications (CCID 1.1, ICCD 1.0) and shares no framing with the
// driver: it has its own numbers, message headers and descriptors. Otherwise a mistake in
// the shared code would go unnoticed, as both sides would make it.
//
// A [Reader] is a [usbtest.Device]: once plugged in, it is a link for the driver, or a
// device for the kernel. Each of its slots has an [icc.Contact] for the card. [Config]
// says what the reader does itself (voltages, parameters, PPS, S(IFS)) and what it leaves
// to the host. Its class descriptor says the same.
//
// [Reader.Inject] causes faults at the level of messages. Faults of the transfers
// themselves belong to the device: usbtest.Fault.
//
//	config.go       the properties of a reader; readers to choose from
//	descriptors.go  its descriptors
//	slot.go         messages in and out, time extensions, abort
//	card.go         the commands
//	pin.go          the PIN pad: its keys, Secure
//	iccd.go         the control transfers of ICCD, versions A and B
//	serial.go       a front for a serial line
//	node.go         a front that is a device file of the kernel
//	faults.go       the ways to answer wrongly
//
// Lock order: iccd.mu, Reader.mu, then those of the device.
package emu

import (
	"context"
	"sync"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Reader is an emulated CCID, or an ICCD USB card. It keeps its cards while it is
// unplugged.
type Reader struct {
	*usbtest.Device
	cfg   Config
	slots []*slot
	iccd  iccd

	mu      sync.Mutex
	changed []bool // slots with a change not yet reported to the host
	faults  []*Fault
	emv     bool
}

const (
	bulkOut     = 0x02
	bulkIn      = 0x81
	interruptIn = 0x83
)

// New makes a reader that is not plugged in. Cards go into Contact(n).
func New(c Config) *Reader {
	e := &Reader{cfg: c.complete(), emv: c.EMV}
	e.changed = make([]bool, e.cfg.Slots)
	for n := range e.cfg.Slots {
		s := &slot{e: e, n: n, keys: make(chan byte, 64), ctlSeq: -1, bulkSeq: -1}
		s.contact.OnChange(func() { e.cardMoved(s) })
		e.slots = append(e.slots, s)
	}
	e.Device = usbtest.New(usbtest.Model{
		Identity:   e.cfg.identity(),
		Control:    e.control,
		Accepts:    e.accepts,
		Out:        func(_ uint8, p []byte) { e.message(p) },
		In:         e.slotChange,
		Configured: e.configured,
		Reset:      e.portReset,
		Unplugged:  e.powerLost,
	})
	return e
}

// Config returns the reader's configuration with every field filled in.
func (e *Reader) Config() Config { return e.cfg }

// Contact returns the card position of slot n.
func (e *Reader) Contact(n int) *icc.Contact { return &e.slots[n].contact }

// Contacts returns the card positions of all slots.
func (e *Reader) Contacts() []*icc.Contact {
	var list []*icc.Contact
	for _, s := range e.slots {
		list = append(list, &s.contact)
	}
	return list
}

// HasKeys reports whether the reader is a PIN pad.
func (e *Reader) HasKeys() bool { return e.cfg.PINPad }

// cardMoved handles an insertion or a removal.
func (e *Reader) cardMoved(s *slot) {
	if s.contact.Present() && e.cfg.Features&AutoActivate != 0 {
		s.contact.Activate(e.Context(), false)
	}
	e.mu.Lock()
	if !s.contact.Present() && s.cancel != nil {
		s.cancel()
	}
	e.changed[s.n] = true
	e.mu.Unlock()
	e.Wake()
}

// configured runs when a host starts to use the reader. Cards already present count as
// changes, so that the host learns of them.
func (e *Reader) configured() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for n, s := range e.slots {
		e.changed[n] = s.contact.Present()
	}
}

// portReset powers all cards off and ends the commands under way.
func (e *Reader) portReset() {
	e.powerLost()
	e.mu.Lock()
	defer e.mu.Unlock()
	for n, s := range e.slots {
		e.changed[n] = e.changed[n] || s.contact.Present()
	}
}

// powerLost runs when the reader is reset or unplugged.
func (e *Reader) powerLost() {
	e.iccd.mu.Lock()
	e.iccd.stop()
	e.iccd.mu.Unlock()
	for _, s := range e.slots {
		e.mu.Lock()
		s.stop()
		s.ctlSeq, s.bulkSeq = -1, -1
		e.mu.Unlock()
		s.contact.Deactivate()
		s.forgetKeys()
	}
}

// accepts reports whether the bulk-OUT endpoint accepts a message.
func (e *Reader) accepts(_ uint8, p []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fault(StallOut, p) == nil
}

// slotChange returns the interrupt message NotifySlotChange (CCID 1.1 §6.3.1) and reports
// whether any slot changed.
func (e *Reader) slotChange(ep uint8) ([]byte, bool) {
	if ep != interruptIn {
		return nil, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	news := false
	msg := make([]byte, 1+(e.cfg.Slots+3)/4)
	msg[0] = 0x50
	for n, s := range e.slots {
		var bits byte
		if s.contact.Present() {
			bits = 1
		}
		if e.changed[n] {
			bits |= 2
			news = true
		}
		msg[1+n/4] |= bits << (n % 4 * 2)
	}
	clear(e.changed)
	return msg, news
}

// control serves the requests of the class.
func (e *Reader) control(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	e.mu.Lock()
	f := e.fault(StallControl, []byte{s.Request})
	e.mu.Unlock()
	if f != nil || s.RequestType&0x7F != 0x21 || s.Index != 0 {
		return 0, usb.ErrStall
	}
	if e.cfg.Protocol != CCID {
		return e.controlICCD(ctx, s, data)
	}
	return e.controlCCID(s, data)
}
