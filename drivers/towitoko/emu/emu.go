// Package emu emulates the Towitoko Chipdrives and Kartenzwerge at the level of their serial
// line. It was written from what OpenCT 0.6.20 and libtowitoko 2.0.7 were observed to send and
// to accept, and shares nothing with the driver of this project. What a real reader does with
// other commands is unknown; the emulated one is silent.
//
// Lock order: Reader.mu, then those of the card in Contact.
package emu

import (
	"context"
	"math/bits"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Types of readers.
const (
	Micro          = 0x61
	KartenzwergII  = 0x64
	Kartenzwerg    = 0x80 // memory cards only
	External       = 0x84
	Twin           = 0x88 // its second slot is not emulated
	Internal       = 0x90
	defaultVersion = 0x10
)

// Reader is an emulated reader. Its card goes into Contact.
type Reader struct {
	Contact icc.Contact
	opt     Options

	mu      sync.Mutex
	changed bool // since the last status
	power   bool // of the card
	cold    bool // the card had no power before
	off     bool
	cuts    int // of the reader's power
	led     byte
}

// Options are what differs between readers, what is not known of them, and what a test needs.
type Options struct {
	Type byte // 0: External
	// AnyLine: the reader understands every speed and parity. For pseudo-terminals.
	AnyLine bool
	// Baud is the speed that the reader had from an earlier program; 0: 9600.
	Baud int
	// Plain: a Kartenzwerg II without parity until it is told one, as OpenCT has it.
	Plain bool
	// LowOnly: the card answers to the reset that is active low alone.
	LowOnly bool
	// Drops: characters of the card with wrong parity are lost.
	Drops bool
	// NoLED: commands for the LED are not answered.
	NoLED bool
	// Slow is how long the first status takes after a card was put in or taken out.
	Slow time.Duration
	// Bare: a write of 15 bytes does not end with 0F, as libtowitoko has it.
	Bare bool
	// Pause is how long the reader takes for everything.
	Pause time.Duration
}

// New makes a Chipdrive External.
func New() *Reader { return NewReader(Options{Pause: time.Millisecond}) }

// NewReader makes a reader.
func NewReader(o Options) *Reader {
	if o.Type == 0 {
		o.Type = External
	}
	r := &Reader{opt: o, changed: true}
	r.Contact.OnChange(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changed, r.power = true, false
	})
	return r
}

// Contacts returns the one card position.
func (r *Reader) Contacts() []*icc.Contact { return []*icc.Contact{&r.Contact} }

// LED is the code of its colour: 0 off, 1 red, 2 green, 3 yellow.
func (r *Reader) LED() byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.led
}

// Switch switches the reader's power supply, which is not the line's.
func (r *Reader) Switch(on bool) {
	r.mu.Lock()
	was := !r.off
	r.off = !on
	if was != on {
		r.cuts++
		r.changed, r.power, r.led = true, false, 0
	}
	r.mu.Unlock()
	if !on {
		r.Contact.Deactivate()
	}
}

func (r *Reader) supply() (off bool, cuts int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.off, r.cuts
}

const (
	// giveUp is how long the reader waits for the next character of a command. Nobody has
	// measured it.
	giveUp = 200 * time.Millisecond
	// deafTime is how long it hears nothing after a change of the speed, for which
	// libtowitoko waits 150 ms.
	deafTime = 100 * time.Millisecond
)

// Serve is serialtest.Device.
func (r *Reader) Serve(l *serialtest.Line) {
	_, cuts := r.supply()
	s := &life{r: r, l: l, cuts: cuts}
	baud := r.opt.Baud
	if baud == 0 {
		baud = 9600
	}
	s.start(baud)
	for s.next() {
	}
	s.hush()
	r.Contact.Deactivate()
	r.mu.Lock()
	r.power = false
	r.mu.Unlock()
}

// life is a reader while it has power.
type life struct {
	r    *Reader
	l    *serialtest.Line
	cuts int

	baud   int       // r.mu guards it and parity: what the card sends is passed on by another goroutine
	parity byte      // E, O or N
	deaf   time.Time // until then

	in      []byte // of a command
	raw     int    // characters for the card that are to come
	lead    int    // of the two characters before them
	data    []byte
	pending bool // data waits for the line to be turned around

	stop context.CancelFunc // ends what the card is sending
	over chan struct{}      // closed when it has ended

	chip
}

func (s *life) start(baud int) {
	s.hush()
	*s = life{r: s.r, l: s.l, cuts: s.cuts, parity: 'E'}
	if s.r.opt.Type == Kartenzwerg || s.r.opt.Plain {
		s.parity = 'N'
	}
	s.setLine(baud, s.parity)
}

func (s *life) setLine(baud int, parity byte) {
	s.r.mu.Lock()
	s.baud, s.parity = baud, parity
	s.r.mu.Unlock()
	m := serial.Mode{Baud: baud, Frame: serial.Frame("8" + string(parity) + "2")}
	if parity == 'N' {
		m.Frame = serial.Frame8N1
	}
	if s.r.opt.AnyLine {
		m.Baud = 0
	}
	s.l.SetMode(m)
}

// next takes the next character. It returns false when the line ends.
func (s *life) next() bool {
	var patience time.Duration
	if len(s.in) > 0 || s.raw > 0 || s.lead > 0 {
		patience = giveUp
	}
	e, ok := s.l.NextWithin(patience)
	if !ok {
		return false
	}
	if off, cuts := s.r.supply(); off || cuts != s.cuts {
		if cuts != s.cuts {
			s.cuts = cuts
			s.start(9600)
		}
		if off {
			return true
		}
	}
	switch {
	case e.Kind == serialtest.Timeout:
		s.drop()
	case e.Kind != serialtest.Char, time.Now().Before(s.deaf):
	case e.Wrong && s.parity != 'N' && !s.r.opt.AnyLine: // lost
	default:
		s.take(e.Char)
	}
	return true
}

// drop forgets what did not come whole.
func (s *life) drop() { s.in, s.raw, s.lead, s.data, s.pending = nil, 0, 0, nil, false }

// take takes one character.
func (s *life) take(c byte) {
	switch {
	case s.lead > 0:
		if c != []byte{0xF8, 0xFE}[s.lead-1] {
			s.drop()
			return
		}
		s.lead--
		return
	case s.raw > 0:
		s.data = append(s.data, c)
		if s.raw--; s.raw > 0 {
			return
		}
		if s.baud > 9600 {
			s.pending = true
			return
		}
		s.talk(s.data)
		s.data = nil
		return
	case s.pending && c == 0xF8:
		s.talk(s.data)
		s.data, s.pending = nil, false
		return
	}
	s.in = append(s.in, c)
	cmd, n := s.in, 0
	if s.baud >= 115200 {
		n = 1 + int(s.in[0]) + 1
		cmd = s.in[1:]
	} else if n = s.length(s.in); n == 0 {
		return
	}
	switch {
	case n < 0: // until nothing comes any more
		if len(s.in) > 300 {
			s.in = s.in[:300]
		}
		return
	case len(s.in) < n:
		return
	case len(cmd) < 2 || sum(0, s.in[:n-1]) != s.in[n-1]:
		s.in = nil
		return
	}
	cmd = cmd[:len(cmd)-1]
	s.in = nil
	if s.r.opt.Pause > 0 {
		time.Sleep(s.r.opt.Pause)
	}
	s.carryOut(cmd)
}

// sum is the checksum.
func sum(c byte, p []byte) byte {
	for _, b := range p {
		c ^= b
		c = c<<1 | c>>7
		c ^= 1
	}
	return c
}

// answer sends data with its checksum, or the acknowledge.
func (s *life) answer(data ...byte) {
	s.l.Send(append(append([]byte(nil), data...), sum(1, data))...)
}

// length is the length of the command that begins with p, with its checksum; 0: that is not
// known yet; -1: there is none.
func (s *life) length(p []byte) int {
	at := func(i int) int { // -1: has not come
		if i < len(p) {
			return int(p[i])
		}
		return -1
	}
	follows := func(n int, want ...int) int {
		for i, w := range want {
			switch at(1 + i) {
			case -1:
				return 0
			case w:
			default:
				return -1
			}
		}
		return n
	}
	switch c := p[0]; {
	case c == 0x00, c == 0x03:
		return 2
	case c == 0x60, c == 0x61:
		return follows(3, 0x0F)
	case c == 0x80, c == 0xA0:
		return follows(5, 0x6F, 0x00, 0x05)
	case c == 0x6E:
		return 6
	case c == 0x6F:
		switch at(2) {
		case -1:
			return 0
		case 0x05:
			return 4
		case 0x6A:
			return 5
		}
	case c >= 0x10 && c <= 0x1E:
		return 2
	case c == 0x4E && s.r.opt.Bare:
		return 17
	case c >= 0x40 && c <= 0x4E:
		return int(c&0x0F) + 4
	case c == 0x70:
		return max(follows(9, 0x64, 0x42), follows(10, 0xA0, 0x42), follows(5, 0x80, 0x62, 0x0F))
	case c == 0x72:
		return follows(7, 0x6E)
	case c == 0x73:
		return follows(8, 0x67, 0x6E)
	case c == 0x7C:
		return max(follows(10, 0x64, 0x41), follows(11, 0x64, 0x42))
	case c == 0x7E:
		return max(follows(3, 0x10), follows(8, 0x66, 0x6E))
	case c == 0x7F:
		return follows(8, 0x66, 0x6E)
	}
	return -1
}

// carryOut carries out a command, whose checksum was right.
func (s *life) carryOut(p []byte) {
	only := s.r.opt.Type == Kartenzwerg // memory cards only
	switch c := p[0]; {
	case len(p) == 1 && c == 0x00:
		s.answer(s.r.opt.Type, defaultVersion)
	case len(p) == 1 && c == 0x03:
		s.answer(s.status())
	case len(p) == 2 && p[1] == 0x0F && c == 0x60:
		s.r.mu.Lock()
		if s.r.Contact.Present() && !s.r.power {
			s.r.power, s.r.cold = true, true
		}
		s.r.mu.Unlock()
		s.answer()
	case len(p) == 2 && p[1] == 0x0F && c == 0x61:
		s.hush()
		s.r.mu.Lock()
		s.r.power = false
		s.r.mu.Unlock()
		s.r.Contact.Deactivate()
		s.chip = chip{}
		s.answer()
	case len(p) == 4 && (c == 0x80 || c == 0xA0) && !only:
		s.reset(c == 0xA0)
	case len(p) == 3 && c == 0x6F && p[2] == 0x05 && !only:
		if s.pending { // it goes on
			s.r.Contact.Chars(s.l.Context(), s.toCard(s.data), 0)
			s.data, s.pending = nil, false
		}
		if s.raw = int(p[1]); s.raw > 0 && s.baud > 9600 {
			s.lead = 2
		}
	case len(p) == 4 && c == 0x6F && p[2] == 0x6A && p[3] == 0x0F:
		s.set(p[1], only)
	case len(p) == 5 && c == 0x6E && !only:
		s.speed(p)
	default:
		if answer, ok := s.chip.command(s.l.Context(), s.r, p); ok {
			s.answer(answer...)
		}
	}
}

func (s *life) status() byte {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	var state byte
	if r.Contact.Present() {
		state |= 0x40
	}
	if r.changed {
		state |= 0x80
		r.changed = false
		if d := r.opt.Slow; d > 0 {
			r.mu.Unlock()
			time.Sleep(d)
			r.mu.Lock()
		}
	}
	if s.chip.deaf {
		state |= 0x10
	}
	return state
}

func (s *life) set(code byte, only bool) {
	switch {
	case code <= 3:
		if s.r.opt.NoLED {
			return
		}
		s.r.mu.Lock()
		s.r.led = code
		s.r.mu.Unlock()
		s.answer()
	case code == 0x40 && !only:
		s.setParity('E')
	case code == 0x80 && !only:
		s.setParity('O')
	}
}

// setParity acknowledges with the old parity, but has the new one before the host can know.
func (s *life) setParity(parity byte) {
	const ack = 0x01
	old := s.parity
	s.setLine(s.baud, parity)
	if level(ack, old) == level(ack, parity) {
		s.l.Send(ack)
	} else {
		s.l.SendWrong(ack)
	}
}

// level is the line behind the data bits: parity, or a stop bit.
func level(c, parity byte) int {
	odd := bits.OnesCount8(c) & 1
	switch parity {
	case 'E':
		return odd
	case 'O':
		return 1 - odd
	}
	return 1
}

var speeds = map[[2]byte]int{
	{0x60, 0x07}: 1200, {0x2E, 0x03}: 2400, {0x17, 0x05}: 4800, {0x0F, 0x01}: 6975, {0x0B, 0x02}: 9600, {0x07, 0x01}: 14400,
	{0x05, 0x02}: 19200, {0x03, 0x00}: 28800, {0x02, 0x00}: 38400, {0x01, 0x00}: 57600, {0x80, 0x00}: 115200,
}

func (s *life) speed(p []byte) {
	baud := speeds[[2]byte{p[1], p[3]}]
	if baud == 0 || p[2] != p[1]^0x5D || p[4] != 0x08 {
		return
	}
	s.answer()
	s.setLine(baud, s.parity)
	s.deaf = time.Now().Add(deafTime)
}
