// Package emu emulates the reader of a Cherry SmartBoard. It was written from what OpenCT's driver sends and accepts,
// and shares nothing with the driver of this project. What a real reader does otherwise is not known; the emulated one
// is silent then.
package emu

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Reader is an emulated reader. Its card goes into Contact.
type Reader struct {
	Contact icc.Contact
	// Patience is how long a silent card is waited for; 0: as long as its protocol says.
	Patience time.Duration

	opt  Options
	off  atomic.Bool
	cuts atomic.Int64 // of the power
}

// Options are what is not known of real readers, and what a test needs.
type Options struct {
	Text string // by which the reader identifies itself
	// Events is where the two notices of a card come.
	Events Events
	// Busy is how many commands are answered by "again" first.
	Busy int
	// EmptyATR: a card without an ATR is answered for by an empty one, and not by silence.
	EmptyATR bool
	// Quiet: the host is not told to wait for a card.
	Quiet bool
}

// Events is where the notices that a card was put in or taken out come.
type Events int

const (
	Never   Events = iota // only in the middle of an exchange
	Instead               // also in place of the next status
	Unasked               // also at once
)

// New makes a reader.
func New(o Options) *Reader {
	o.Text = cmp.Or(o.Text, "Cherry SmartBoard")
	return &Reader{opt: o}
}

// Contacts returns the one card position.
func (r *Reader) Contacts() []*icc.Contact { return []*icc.Contact{&r.Contact} }

// Mode is the mode of the line.
func (r *Reader) Mode() serial.Mode { return serial.Mode{Baud: 115200, Frame: serial.Frame8E2} }

// Switch switches the keyboard off and on.
func (r *Reader) Switch(on bool) {
	if r.off.Swap(!on) == on {
		r.cuts.Add(1)
		r.Contact.Deactivate()
	}
}

// Serve is serialtest.Device.
func (r *Reader) Serve(l *serialtest.Line) {
	l.SetMode(r.Mode())
	s := &session{r: r, l: l, cuts: r.cuts.Load(), busy: r.opt.Busy}
	s.had.Store(r.Contact.Present())
	r.Contact.OnChange(s.cardMoved)
	defer func() {
		r.Contact.OnChange(nil)
		r.Contact.Deactivate()
	}()
	for s.next() {
	}
}

// session is the reader while it is plugged in.
type session struct {
	r    *Reader
	l    *serialtest.Line
	cuts int64
	part []byte // of a frame
	bad  bool   // a character of it came with wrong parity
	busy int
	on   atomic.Bool // started
	had  atomic.Bool // a card, at the last status
	set  int         // protocol, as the host set it, plus one; 0: none since the reset
}

// next takes what comes next.
func (s *session) next() bool {
	e, ok := s.l.Next()
	if !ok {
		return false
	}
	if cuts := s.r.cuts.Load(); cuts != s.cuts {
		s.cuts = cuts
		s.stop()
		s.part = nil
	}
	switch {
	case s.r.off.Load():
	case e.Kind == serialtest.Break:
		s.stop()
		s.part = nil
	case e.Kind == serialtest.Char:
		s.take(e)
	}
	return true
}

func (s *session) stop() {
	s.on.Store(false)
	s.set = 0
	s.r.Contact.Deactivate()
}

// take takes a character. For the rest of a frame the reader waits until a break.
func (s *session) take(e serialtest.Event) {
	if len(s.part) == 0 {
		if e.Char != 0 {
			return
		}
		s.bad = false
	}
	s.part, s.bad = append(s.part, e.Char), s.bad || e.Wrong
	if len(s.part) < 2 {
		return
	}
	switch n := int(s.part[1]); {
	case n == 0:
		s.part = nil
	case len(s.part) == 2+n:
		p := s.part[2:]
		s.part = nil
		if !s.bad {
			s.command(p[0], p[1:])
		}
	}
}

func (s *session) answer(code byte, data ...byte) {
	if len(data) <= 254 && !s.r.off.Load() {
		s.l.Send(append([]byte{0, byte(1 + len(data)), code}, data...)...)
	}
}

func (s *session) command(code byte, data []byte) {
	if code != 0x60 && code != 0x6A && !s.on.Load() {
		return
	}
	if s.busy > 0 {
		s.busy--
		s.answer(0x67)
		return
	}
	c := &s.r.Contact
	switch {
	case code == 0x6A && len(data) == 0:
		s.stop()
		s.answer(0x6B)
	case code == 0x60 && len(data) == 0:
		s.on.Store(true)
		s.had.Store(c.Present())
		s.answer(0x60, []byte(s.r.opt.Text)...)
	case code == 0x65 && len(data) == 0:
		s.status()
	case code == 0x62 && len(data) == 0:
		s.set = 0
		atr, err := c.Activate(s.l.Context(), c.Powered())
		switch {
		case err == nil:
			s.answer(0x64, atr...)
		case !c.Present():
			s.answer(0x66)
		case s.r.opt.EmptyATR:
			s.answer(0x64)
		}
	case code == 0x61 && c.Powered():
		switch string(data) {
		case "\x00\x00\x0A\x00\x10":
			s.set = 1
		case "\x10\x00\x00\x75\x10":
			s.set = 2
		default:
			return
		}
		s.answer(0x62)
	case code == 0x67:
		s.exchange(data)
	}
}

// status answers whether there is a card.
func (s *session) status() {
	in := s.r.Contact.Present()
	if s.had.Swap(in) != in && s.r.opt.Events == Instead {
		s.event(in)
		return
	}
	switch {
	case !in:
		s.answer(0x61, 0x00, 0x00, 0x00, 0x01)
	case s.r.Contact.Powered():
		s.answer(0x61, 0x19, 0x01, 0x00, 0x04)
	default:
		s.answer(0x61, 0x08, 0x00, 0x00, 0x02)
	}
}

func (s *session) event(in bool) {
	if in {
		s.answer(0x65)
	} else {
		s.answer(0x66)
	}
}

// cardMoved runs when a card was put in or taken out.
func (s *session) cardMoved() {
	if s.r.opt.Events == Unasked && s.on.Load() && !s.r.off.Load() {
		s.event(s.r.Contact.Present())
	}
}

// The reader tells the host to wait at once, and then again and again.
const (
	firstWait = 10 * time.Millisecond
	nextWait  = 500 * time.Millisecond
)

// exchange sends data to the card. While the card is silent the reader is occupied with it, and what the host sends
// has to wait.
func (s *session) exchange(data []byte) {
	c := &s.r.Contact
	switch {
	case !c.Present():
		s.answer(0x66)
		return
	case !c.Powered() || s.set != c.Protocol()+1:
		return
	}
	ctx, cancel := context.WithCancel(s.l.Context())
	defer cancel()
	done := make(chan []byte, 1)
	go func() {
		rx := c.TPDU(ctx, data)
		if len(rx) == 0 {
			c.Hold(ctx, cmp.Or(s.r.Patience, c.BlockWait()))
		}
		done <- rx
	}()
	t := time.NewTimer(firstWait)
	defer t.Stop()
	for {
		select {
		case rx := <-done:
			switch {
			case len(rx) > 0:
				s.answer(0x64, rx...)
			case !c.Present() && s.r.opt.Events != Unasked: // or it was said already
				s.had.Store(false)
				s.answer(0x66)
			}
			return
		case <-t.C:
			if !s.r.opt.Quiet {
				s.answer(0x63)
			}
			t.Reset(nextWait)
		}
	}
}
