// Package emu emulates terminals with CT-BCS over T=1 on a serial line: a KAAN and a B1. It
// was written from what OpenCT 0.6.20 sends and accepts and from public descriptions of
// CT-BCS, and shares nothing with the driver of this project.
//
// Lock order: Terminal.mu, then those of the cards in their contacts.
package emu

import (
	"context"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Config is what a terminal is.
type Config struct {
	Slots int // 1 or 2
	B1    bool
	// Units are listed beside those of the slots: 40 a display, 50 a keypad.
	Units []byte
	// Older: it knows INS 11 alone for a reset, and answers a status by its value.
	Older bool
	// Plain: a slot's status says only whether there is a card.
	Plain bool
	Baud  int // 0: 9600
	Most  int // bytes of a block to the host; 0: 253
	// Takes are the bytes of a block from the host; 0: 32, with which T=1 begins (ISO 7816-3,
	// 11.4.2). Debian's libctapimkt1 1.0.5 never chains: the terminals that it is for take a
	// whole command, at most 254 bytes.
	Takes int
	// Pace is how long it takes to answer a block.
	Pace time.Duration
}

// Terminal is a serialtest.Device.
type Terminal struct {
	cfg   Config
	slots []*slot
	file  uint16 // that is selected

	mu    sync.Mutex
	text  string // on the display
	typed string // by the user, for the next PIN; "": nobody is there
}

type slot struct {
	icc.Contact
	fresh bool // reset, and no command since
	t     byte // protocol, as SET INTERFACE PARAMETER has it
}

// New makes a terminal.
func New(c Config) *Terminal {
	if c.Baud == 0 {
		c.Baud = 9600
	}
	if c.Most == 0 {
		c.Most = 253
	}
	if c.Takes == 0 {
		c.Takes = 32
	}
	t := &Terminal{cfg: c}
	for range max(1, c.Slots) {
		t.slots = append(t.slots, &slot{})
	}
	return t
}

// pace is much less than the characters of a block take on a line.
const pace = 100 * time.Microsecond

// NewKAAN makes a KAAN with a display and keys.
func NewKAAN() *Terminal { return New(Config{Units: []byte{0x40, 0x50}, Pace: pace}) }

// NewB1 makes a B1.
func NewB1() *Terminal { return New(Config{B1: true, Pace: pace}) }

// Contacts returns the card positions.
func (t *Terminal) Contacts() (all []*icc.Contact) {
	for _, s := range t.slots {
		all = append(all, &s.Contact)
	}
	return all
}

// Text is what the display shows.
func (t *Terminal) Text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text
}

// Type has a user type digits and OK at the next request, or cancel it with "C".
func (t *Terminal) Type(digits string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.typed = digits
}

// Serve is serialtest.Device.
func (t *Terminal) Serve(l *serialtest.Line) {
	l.SetMode(serial.Mode{Baud: t.cfg.Baud, Frame: serial.Frame8E1, Check: true})
	defer t.off()
	t.file = 0
	in := make(chan message)
	var on sync.Mutex
	alive := !t.cfg.B1
	var start *time.Timer
	lines := func(now serial.Lines) {
		if !t.cfg.B1 {
			return
		}
		if start != nil {
			start.Stop()
		}
		on.Lock()
		defer on.Unlock()
		if now&serial.DTR == 0 {
			alive = false
			l.SetLines(0, serial.DSR)
			return
		}
		if !alive {
			start = time.AfterFunc(startTime, func() {
				on.Lock()
				defer on.Unlock()
				alive = true
				l.SetLines(serial.DSR, 0)
			})
		}
	}
	defer func() {
		if start != nil {
			start.Stop()
		}
	}()
	p := &peer{most: t.cfg.Most, takes: t.cfg.Takes, execute: t.execute, send: func(b []byte) {
		if t.cfg.Pace > 0 {
			time.Sleep(t.cfg.Pace)
		}
		on.Lock()
		defer on.Unlock()
		if alive {
			l.Send(b...)
		}
	}}
	done := make(chan struct{})
	go func() { defer close(done); p.run(l.Context(), in) }()
	collect(l, in, lines)
	<-done
}

// startTime is what a B1 takes from DTR to DSR.
const startTime = 800 * time.Millisecond

// off takes the power of all cards away.
func (t *Terminal) off() {
	for _, s := range t.slots {
		s.Deactivate()
		s.t, s.fresh = 0, false
	}
}

func sw(b []byte, w uint16) []byte { return append(b, byte(w>>8), byte(w)) }

// execute answers a command to the terminal or a card; nil: it stays silent.
func (t *Terminal) execute(ctx context.Context, node byte, c []byte) []byte {
	if len(c) < 4 {
		return sw(nil, 0x6700)
	}
	switch node {
	case 0x02:
		return t.slots[0].card(ctx, c)
	case 0x32:
		if len(t.slots) < 2 {
			return sw(nil, 0x6A00)
		}
		return t.slots[1].card(ctx, c)
	}
	switch {
	case c[0] == 0x20 && c[2] == 0:
		return t.self(c)
	case c[0] == 0x20 && c[2] == 0x40:
		return t.show(c)
	case c[0] == 0x00:
		return t.files(c)
	case c[0] != 0x20 && c[0] != 0x80:
		return sw(nil, 0x6E00)
	}
	n := int(c[2]) - 1
	if n < 0 || n >= len(t.slots) {
		return sw(nil, 0x6A00)
	}
	s := t.slots[n]
	switch {
	case c[0] == 0x80 && c[1] == 0x60:
		return s.protocol(c)
	case c[0] != 0x20:
		return sw(nil, 0x6E00)
	}
	switch c[1] {
	case 0x10, 0x11, 0x12:
		if c[1] == 0x10 && t.cfg.Older {
			return sw(nil, 0x6B00)
		}
		return s.reset(ctx, c)
	case 0x13:
		if string(c[3:]) != "\x80\x00" {
			return sw(nil, 0x6A00)
		}
		return t.status(s)
	case 0x15:
		s.Deactivate()
		s.t = 0
		if s.Present() {
			return sw(nil, 0x6200)
		}
		return sw(nil, 0x9000)
	case 0x18:
		return t.verify(ctx, s, c)
	}
	return sw(nil, 0x6D00)
}

// self answers commands about the terminal.
func (t *Terminal) self(c []byte) []byte {
	switch {
	case c[1] == 0x10 && t.cfg.Older:
		return sw(nil, 0x6B00)
	case c[1] == 0x10 || c[1] == 0x11:
		t.off()
		return sw(nil, 0x9000)
	case c[1] == 0x13 && string(c[3:]) == "\x81\x00":
		b := []byte{0x81, byte(len(t.slots) + len(t.cfg.Units))}
		for n := range t.slots {
			b = append(b, byte(n+1))
		}
		return sw(append(b, t.cfg.Units...), 0x9000)
	}
	return sw(nil, 0x6D00)
}

func (t *Terminal) status(s *slot) []byte {
	v := byte(0)
	switch {
	case s.Present() && t.cfg.Plain:
		v = 1
	case s.Present() && s.Powered():
		v = 5
	case s.Present():
		v = 3
	}
	if t.cfg.Older {
		return sw([]byte{v}, 0x9000)
	}
	return sw([]byte{0x80, 1, v}, 0x9000)
}

// reset is the whole ATR, and what kind of card it is from.
func (s *slot) reset(ctx context.Context, c []byte) []byte {
	s.t, s.fresh = 0, false
	switch {
	case c[3] != 1:
		return sw(nil, 0x6A00)
	case !s.Present():
		return sw(nil, 0x6400)
	}
	if m, ok := s.Card().(*icc.Memory); ok {
		return s.resetMemory(ctx, m)
	}
	atr, err := s.Activate(ctx, s.Powered())
	if err != nil {
		s.Deactivate()
		return sw(nil, 0x6400)
	}
	s.fresh, s.t = true, byte(s.Contact.Protocol()+1)
	return sw(append([]byte(nil), atr...), 0x9001)
}

// protocol is SET INTERFACE PARAMETER, which may follow a reset alone.
func (s *slot) protocol(c []byte) []byte {
	if len(c) != 8 || c[4] != 3 || c[5] != 0x22 || c[6] != 1 {
		return sw(nil, 0x6A80)
	}
	if !s.Powered() {
		return sw(nil, 0x6985)
	}
	want := c[7]
	if _, ok := s.Card().(*icc.Memory); ok {
		if want < 0x80 {
			return sw(nil, 0x6A85)
		}
		s.t = want
		return sw(nil, 0x9000)
	}
	switch {
	case !s.fresh:
		return sw(nil, 0x6985)
	case want != 1 && want != 2:
		return sw(nil, 0x6A85)
	case want != s.t && s.PPS([]byte{0xFF, want - 1, 0xFF ^ (want - 1)}) == nil:
		return sw(nil, 0x6A85)
	}
	s.t = want
	return sw(nil, 0x9000)
}

// card passes a command on. T=0 has no Le beside data.
func (s *slot) card(ctx context.Context, c []byte) []byte {
	switch {
	case !s.Present():
		return sw(nil, 0x64A1)
	case !s.Powered():
		return sw(nil, 0x64A2)
	}
	s.fresh = false
	if m, ok := s.Card().(*icc.Memory); ok {
		return s.memory(ctx, m, c)
	}
	var rx []byte
	if s.t == 1 {
		if len(c) == 4 {
			c = append(c, 0)
		}
		if len(c) > 5 && len(c) != 5+int(c[4]) {
			return sw(nil, 0x6700)
		}
		rx = s.TPDU(ctx, c)
	} else {
		rx = s.APDU(ctx, c)
	}
	if len(rx) >= 2 {
		return append([]byte(nil), rx...)
	}
	if s.Hold(ctx, min(s.BlockWait(), 2*time.Second)) {
		return nil // what a real one does with such a card is not known
	}
	return sw(nil, 0x64A1)
}

// objects takes simple data objects apart.
func objects(c []byte) (all map[byte][]byte, ok bool) {
	all = map[byte][]byte{}
	if len(c) < 5 || len(c) != 5+int(c[4]) {
		return nil, false
	}
	for b := c[5:]; len(b) > 0; {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return nil, false
		}
		all[b[0]] = b[2 : 2+int(b[1])]
		b = b[2+int(b[1]):]
	}
	return all, true
}

func (t *Terminal) unit(u byte) bool {
	for _, v := range t.cfg.Units {
		if v == u {
			return true
		}
	}
	return false
}

func (t *Terminal) show(c []byte) []byte {
	all, ok := objects(c)
	if c[1] != 0x17 || !t.unit(0x40) {
		return sw(nil, 0x6A00)
	}
	if text := all[0x50]; ok && len(text) <= 32 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.text = string(text)
		return sw(nil, 0x9000)
	}
	return sw(nil, 0x6700)
}

// verify is PERFORM VERIFICATION: the digits go into the command, from the left.
func (t *Terminal) verify(ctx context.Context, s *slot, c []byte) []byte {
	all, ok := objects(c)
	to := all[0x52]
	if !t.unit(0x50) {
		return sw(nil, 0x6D00)
	}
	if !ok || len(to) < 6 {
		return sw(nil, 0x6700)
	}
	t.mu.Lock()
	digits := t.typed
	t.typed = ""
	t.mu.Unlock()
	switch digits {
	case "":
		wait := 15 * time.Second
		if v := all[0x80]; len(v) == 1 {
			wait = time.Duration(v[0]) * time.Second
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		return sw(nil, 0x6400)
	case "C":
		return sw(nil, 0x6401)
	}
	if want := int(to[0] >> 4); want != 0 && want != len(digits) {
		return sw(nil, 0x6400)
	}
	at := int(to[1]) - 1
	apdu := append([]byte(nil), to[2:]...)
	pin := []byte(digits)
	if to[0]&0x0F == 0 { // BCD
		pin = nil
		for i := 0; i < len(digits); i += 2 {
			b := digits[i]<<4 | 0x0F
			if i+1 < len(digits) {
				b = digits[i]<<4 | digits[i+1]&0x0F
			}
			pin = append(pin, b)
		}
	}
	if len(apdu) <= 5 { // no room was made: the terminal makes it
		apdu = append(append(apdu[:4], byte(len(pin))), pin...)
	} else {
		if at < 5 || at+len(pin) > len(apdu) {
			return sw(nil, 0x6A80)
		}
		copy(apdu[at:], pin)
	}
	return s.card(ctx, apdu)
}
