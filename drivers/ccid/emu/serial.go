package emu

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader/icc"
)

// Serial is a reader whose messages go over a serial line, in frames of their own: the
// emulated Reader with another front.
//
// What is known of such readers is what libccid 1.5.2 (libccidtwin) sends and accepts. How
// they treat damage is not known: this one refuses a frame with a wrong sum, and one whose
// rest does not come, and passes over what is no frame.
type Serial struct {
	*Reader
	Firmware string // the answer to Escape 02, of a SEC1210 to Escape 06
	// Slow: the reader works at 9600 bit/s until Escape 01 10 20, as a GemCore SIM Pro 2.
	Slow bool
	// Echo: the reader repeats each character of the host's, as a GemPC Twin.
	Echo bool
	// Patience is how long the rest of a frame may take.
	Patience time.Duration
	// Strict: the reader refuses each character outside a frame, too.
	Strict bool
	// Requests has the reader ask for time by single characters and not by messages, for
	// whose sequel libccid waits in vain.
	Requests bool

	microchip bool // Escape 06 asks for the firmware, and there is nothing of Gemalto's
	corrupt   atomic.Pointer[func(p []byte) []byte]
}

// Corrupt has f, if not nil, change what goes to the host from now on: a frame, a refusal or
// a notice. What it returns goes instead.
func (r *Serial) Corrupt(f func(p []byte) []byte) {
	if f == nil {
		r.corrupt.Store(nil)
		return
	}
	r.corrupt.Store(&f)
}

var _ serialtest.Device = (*Serial)(nil)

// NewTwin is a GemPC Twin.
func NewTwin() *Serial { return newSerial(Config{}) }

// NewPinPad is a GemPC PinPad.
func NewPinPad() *Serial { return newSerial(Config{PINPad: true}) }

// NewGemCore is a GemCore POS Pro, which has five slots, or SIM Pro, which has two.
func NewGemCore(slots int) *Serial {
	r := newSerial(Config{Slots: slots, BusySlots: 1})
	r.Echo, r.Firmware = false, "emulated GemCore"
	return r
}

// NewSIMPro2 is a GemCore SIM Pro 2.
func NewSIMPro2() *Serial {
	r := NewGemCore(2)
	r.Slow = true
	return r
}

// NewSEC1210 is a SEC1210: the UR2 has two slots, the URT one. It sends no notices.
func NewSEC1210(slots int) *Serial {
	r := newSerial(Config{Slots: slots, BusySlots: 1, Features: AutoParamsATR | AutoClock | AutoBaud | AutoPPS, Clock: 4800, DataRate: 12903, NoInterrupt: true})
	r.Echo, r.Firmware, r.microchip = false, "emulated SEC1210", true
	return r
}

func newSerial(c Config) *Serial {
	c.Level = 1
	if c.Features == 0 {
		c.Features, c.Clock, c.DataRate = AutoClock|AutoBaud|AnyNAD, 4000, 10753
	}
	return &Serial{Reader: New(c), Echo: true, Requests: true, Firmware: "emulated Twin   ", Patience: 100 * time.Millisecond}
}

// Contacts returns the card position.
func (r *Serial) Contacts() []*icc.Contact { return r.Reader.Contacts() }

// front is a Serial with power.
type front struct {
	*Serial
	line *serialtest.Line
	conn usb.Conn

	mu      sync.Mutex
	last    []byte   // the answer sent last
	busy    bool     // a command is under way
	queue   [][]byte // commands behind it
	held    bool     // notices wait for a command
	notices []byte
}

// Mode is the mode of the line at first.
func (r *Serial) Mode() serial.Mode {
	if r.Slow {
		return mode(9600)
	}
	return mode(115200)
}

func mode(baud int) serial.Mode { return serial.Mode{Baud: baud, Frame: serial.Frame8N2} }

// Serve is serialtest.Device.
func (r *Serial) Serve(l *serialtest.Line) {
	port := r.Plug()
	defer r.Unplug()
	conn, err := port.OpenUSB(l.Context(), 0)
	if err != nil {
		return
	}
	defer conn.Close()
	r.mu.Lock()
	clear(r.changed) // nothing is told of a card that was there before
	r.mu.Unlock()
	f := &front{Serial: r, line: l, conn: conn}
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(f.answers)
	if !r.cfg.NoInterrupt {
		work.Go(f.changes)
	}
	f.commands()
}

// send sends one thing to the host. f.mu is held.
func (f *front) send(p []byte) {
	if corrupt := f.corrupt.Load(); corrupt != nil {
		p = (*corrupt)(append([]byte(nil), p...))
	}
	f.line.Send(p...)
}

// answer sends a message to the host. f.mu is held.
func (f *front) answer(m []byte) {
	p := append([]byte{0x03, 0x06}, m...)
	var lrc byte
	for _, c := range p {
		lrc ^= c
	}
	p = append(p, lrc)
	for _, n := range f.notices {
		f.send([]byte{0x50, n})
	}
	f.notices = nil
	f.last = p
	f.send(p)
}

// answers passes on what the reader answers.
func (f *front) answers() {
	var buf [65600]byte
	for {
		n, err := f.conn.In(f.line.Context(), bulkIn, buf[:], 0)
		if err != nil {
			if f.line.Context().Err() == nil {
				f.line.Drop() // the reader left
			}
			return
		}
		f.mu.Lock()
		switch more := n > 7 && buf[7]&0xC0 == 0x80; {
		case more && f.Requests:
			f.send([]byte{0x80 | buf[8]})
		default:
			f.answer(buf[:n])
			if !more {
				f.next()
			}
		}
		f.mu.Unlock()
	}
}

// changes passes on the reader's notices.
func (f *front) changes() {
	var buf [64]byte
	for {
		n, err := f.conn.In(f.line.Context(), interruptIn, buf[:], 0)
		if err != nil {
			return
		}
		f.mu.Lock()
		switch {
		case n < 2:
		case f.held && !f.busy:
			f.notices = append(f.notices, buf[1]&3)
		default:
			f.send([]byte{0x50, buf[1] & 3})
		}
		f.mu.Unlock()
	}
}

// commands takes what the host sends.
func (f *front) commands() {
	for {
		c, ok := f.char()
		if !ok {
			return
		}
		if c != 0x03 {
			if f.Strict {
				f.mu.Lock()
				f.send([]byte{0x03, 0x15, 0x16})
				f.mu.Unlock()
			}
			continue
		}
		m, whole, alive := f.frame()
		if !alive {
			return
		}
		f.mu.Lock()
		switch {
		case !whole:
			f.send([]byte{0x03, 0x15, 0x16})
		case m == nil: // the host wants the last answer again
			if f.last != nil {
				f.send(f.last)
			}
		default:
			f.command(m)
		}
		f.mu.Unlock()
	}
}

func (f *front) char() (byte, bool) {
	c, ok := f.line.Char()
	if ok && f.Echo {
		f.line.Send(c)
	}
	return c, ok
}

// frame reads a frame behind its first character. A nil message that is whole is a
// refusal.
func (f *front) frame() (m []byte, whole, alive bool) {
	lrc := byte(0x03)
	next := func() (byte, bool) {
		e, ok := f.line.NextWithin(f.Patience)
		if !ok || e.Kind == serialtest.Timeout {
			return 0, false
		}
		if f.Echo {
			f.line.Send(e.Char)
		}
		lrc ^= e.Char
		return e.Char, true
	}
	on := func() bool { return f.line.Context().Err() == nil }
	switch c, ok := next(); {
	case ok && c == 0x15:
		_, ok := next()
		return nil, ok && lrc == 0, on()
	case !ok || c != 0x06:
		return nil, false, on()
	}
	for len(m) < 10 || len(m) < 10+int(m[1])+int(m[2])<<8 {
		c, ok := next()
		if !ok {
			return nil, false, on()
		}
		if m = append(m, c); len(m) > f.cfg.MaxMessage {
			break
		}
	}
	_, ok := next()
	return m, ok && lrc == 0, on()
}

// next begins the next command, if there is one. f.mu is held.
func (f *front) next() {
	f.busy = false
	if len(f.queue) > 0 {
		m := f.queue[0]
		f.queue = f.queue[1:]
		f.command(m)
	}
}

// command has the reader do a command, behind the one under way. f.mu is held.
func (f *front) command(m []byte) {
	if m[0] == 0x72 { // Abort. There is no control request beside it
		_, _ = f.conn.Control(context.Background(), usb.Setup{RequestType: 0x21, Request: 1, Value: uint16(m[6])<<8 | uint16(m[5])}, nil, time.Minute)
		f.queue, f.busy = nil, false
	}
	if f.busy {
		f.queue = append(f.queue, m)
		return
	}
	if data, own := f.escape(m); own {
		f.answer(append([]byte{0x83, byte(len(data)), 0, 0, 0, m[5], m[6], f.slots[0].icc(), 0, 0}, data...))
		if f.Slow && bytes.Equal(m[10:], []byte{0x01, 0x10, 0x20}) {
			f.line.SetMode(mode(115200))
		}
		f.next()
		return
	}
	_, err := f.conn.Out(context.Background(), bulkOut, m, false, time.Minute)
	f.busy = err == nil
}

// escape answers the Escapes that the front itself understands. f.mu is held.
func (f *front) escape(m []byte) (data []byte, own bool) {
	if m[0] != 0x6B || len(m) <= 10 {
		return nil, false
	}
	switch p := m[10:]; {
	case f.microchip:
		return []byte(f.Firmware), bytes.Equal(p, []byte{0x06})
	case p[0] == 2:
		if len(p) == 1 {
			data = []byte(f.Firmware)
		}
		return data, true
	case p[0] == 1:
		if len(p) == 3 && p[1] == 1 {
			f.held = p[2] == 1
		}
		return nil, true
	case p[0] == 0x6A:
		if f.cfg.PINPad {
			// What a PIN pad can do, in 21 bytes: conditions at 3, indexes at 8.
			data = make([]byte, 21)
			data[3], data[8] = 7, 4
		}
		return data, true
	}
	return nil, m[10] == 0 || m[10] == 0xB2 // texts for the display
}
