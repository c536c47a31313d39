// Package emu emulates Phoenix and SmartMouse interfaces on a serial line: the wires between
// the line and a card. It was written from what OpenCT 0.6.20 does with them, and shares
// nothing with the driver of this project.
//
// Lock order: Interface.mu, wires.mu, then the line's and the card's.
package emu

import (
	"cmp"
	"context"
	"math/bits"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Config is what interfaces, and the ports before them, differ in.
type Config struct {
	SmartMouse bool         // RTS on releases the card; else it resets it
	ClockHz    int          // of the card; 0: 3,579,545
	Detect     serial.Lines // the card switch; 0: CTS
	DetectOn   bool         // it is on with a card; else without one
	NoDetect   bool         // there is no switch
	Fed        bool         // the switch is fed by DTR: without that it is off
	NoEcho     bool         // what the host sends does not come back
	Paced      bool         // characters take their time
	Port       Port
	// Surplus follows each ATR.
	Surplus []byte
}

// Port is what the host's port does with a character of the card that has wrong parity.
type Port int

const (
	Marks Port = iota // it says so
	Blind             // it says nothing
	Drops             // it drops the character
)

// Interface is a serialtest.Device. Its card goes into Contact.
type Interface struct {
	Contact icc.Contact
	cfg     Config

	mu    sync.Mutex
	wires *wires // while it is plugged in
}

// New makes an interface.
func New(c Config) *Interface {
	c.ClockHz = cmp.Or(c.ClockHz, 3_579_545)
	c.Detect = cmp.Or(c.Detect, serial.CTS)
	i := &Interface{cfg: c}
	i.Contact.OnChange(i.cardMoved)
	return i
}

// Contacts returns the one card position.
func (i *Interface) Contacts() []*icc.Contact { return []*icc.Contact{&i.Contact} }

func (i *Interface) cardMoved() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.wires != nil {
		i.wires.detect()
	}
}

// detect switches the line of the card switch. i.mu is held.
func (w *wires) detect() {
	c := w.i.cfg
	on := w.i.Contact.Present() == c.DetectOn
	if c.NoDetect || c.Fed && w.line.Lines()&serial.DTR == 0 {
		on = false
	}
	if on {
		w.line.SetLines(c.Detect, 0)
	} else {
		w.line.SetLines(0, c.Detect)
	}
}

// wires is an interface that is plugged in.
type wires struct {
	i    *Interface
	line *serialtest.Line

	supplied bool      // DTR
	reset    bool      // RST is low
	since    time.Time // it is

	mu   sync.Mutex // for what is on the line, which both sides share
	stop func()     // ends what the card does; nil: it is in reset, or never was
	hear chan byte  // what the card hears
}

// leastReset is how long RST has to be low (ISO/IEC 7816-3:2006 §6.2.3): 400 clock cycles.
func (w *wires) leastReset() time.Duration {
	return 400 * time.Second / time.Duration(w.i.cfg.ClockHz)
}

// Serve is serialtest.Device.
func (i *Interface) Serve(l *serialtest.Line) {
	// The line's own end takes no part: the host hears itself whatever its mode is, and the
	// card has a mode of its own.
	l.SetMode(serial.Mode{})
	w := &wires{i: i, line: l}
	i.mu.Lock()
	i.wires = w
	w.detect()
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		i.wires = nil
		i.mu.Unlock()
		w.end()
		i.Contact.Deactivate()
	}()
	w.switched(l.Lines())
	for {
		e, ok := l.Next()
		switch {
		case !ok:
			return
		case e.Kind == serialtest.LinesChange:
			w.switched(e.Lines)
		case e.Kind == serialtest.Char:
			w.char(e.Char, e.Wrong)
		}
	}
}

// end ends what the card is doing.
func (w *wires) end() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// switched is what DTR and RTS do to the card.
func (w *wires) switched(l serial.Lines) {
	supplied := l&serial.DTR != 0
	reset := l&serial.RTS != 0 != w.i.cfg.SmartMouse
	wasSupplied, wasReset := w.supplied, w.reset
	w.supplied, w.reset = supplied, reset
	if reset && (!wasReset || !wasSupplied) {
		w.since = time.Now()
	}
	if !supplied || reset {
		w.end()
	}
	if !supplied {
		w.i.Contact.Deactivate()
	}
	if wasSupplied != supplied && w.i.cfg.Fed {
		w.i.mu.Lock()
		w.detect()
		w.i.mu.Unlock()
	}
	// Without a reset behind the supply there is no ATR.
	if supplied && !reset && wasReset && wasSupplied && time.Since(w.since) >= w.leastReset() {
		ctx, cancel := context.WithCancel(w.line.Context())
		over, hear := make(chan struct{}), make(chan byte, 4096)
		w.hear = hear
		w.stop = func() {
			cancel()
			<-over
		}
		go func() {
			defer close(over)
			w.live(ctx, hear)
		}()
	}
}

// F and D by TA1 (ISO/IEC 7816-3:2006 tables 7 and 8).
var (
	clockRate = [16]int{372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048}
	bitRate   = [16]int{0, 1, 2, 4, 8, 16, 32, 64, 12, 20}
)

// mode is the card's side of the line. In the inverse convention the parity bit is inverted,
// too, so that the parity is odd.
func (w *wires) mode(inverse bool, ta1 byte) serial.Mode {
	f, d := clockRate[ta1>>4], bitRate[ta1&0x0F]
	if f == 0 || d == 0 {
		f, d = 372, 1
	}
	m := serial.Mode{Baud: w.i.cfg.ClockHz * d / f, Frame: serial.Frame8E2}
	if inverse {
		m.Frame = serial.Frame8O2
	}
	return m
}

func (w *wires) inverse() bool {
	card := w.i.Contact.Card()
	return card != nil && len(card.ATR()) > 0 && card.ATR()[0] == 0x3F
}

// inverted is a character as the other convention has it.
func inverted(c byte) byte { return ^bits.Reverse8(c) }

// char is a character from the host. Its echo is on the same wire, and so is what a card with
// T=0 does to a character with wrong parity (ISO/IEC 7816-3:2006 §7.3): no stop bit is left.
func (w *wires) char(c byte, wrong bool) {
	host := w.line.HostMode()
	if w.i.cfg.Paced {
		time.Sleep(host.Time(1))
	}
	inverse := w.inverse()
	card := w.mode(inverse, w.i.Contact.Rate())
	off := host.Baud - card.Baud
	fits := max(off, -off)*100 <= 3*card.Baud
	damaged := wrong || host.Frame.Parity() != card.Frame.Parity()
	blocks := w.i.Contact.Protocol() == 1
	signal := fits && damaged && !blocks && w.i.Contact.Protocol() == 0
	if !w.i.cfg.NoEcho {
		w.mu.Lock()
		if (wrong || signal) && w.i.cfg.Port != Blind {
			w.line.SendWrong(c)
		} else {
			w.line.Send(c)
		}
		w.mu.Unlock()
	}
	if w.stop == nil || !fits || damaged && !blocks {
		return
	}
	if inverse {
		c = inverted(c)
	}
	if damaged {
		c ^= 0x10
	}
	select {
	case w.hear <- c:
	default:
	}
}

// send sends characters of the card at the rate of ta1.
func (w *wires) send(ctx context.Context, ta1 byte, p ...byte) {
	inverse := w.inverse()
	m := w.mode(inverse, ta1)
	for _, c := range p {
		if w.i.cfg.Paced {
			t := time.NewTimer(m.Time(1))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		}
		if ctx.Err() != nil {
			return
		}
		if inverse {
			c = inverted(c)
		}
		w.sendOne(m, c)
	}
}

func (w *wires) sendOne(m serial.Mode, c byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	host := w.line.HostMode()
	if m.Frame != host.Frame {
		switch w.i.cfg.Port {
		case Drops:
			return
		case Blind:
			m.Frame = host.Frame
		}
	}
	w.line.SetMode(m)
	w.line.Send(c)
	w.line.SetMode(serial.Mode{})
}

// blockGap is how long a card waits for the next character of a block: longer than the character
// waiting time of most, as the host may be busy.
const blockGap = 100 * time.Millisecond

// live is the card from a reset to the next.
func (w *wires) live(ctx context.Context, hear <-chan byte) {
	contact := &w.i.Contact
	atr, err := contact.Activate(ctx, true)
	if err != nil {
		return
	}
	rate := contact.Rate()
	w.send(ctx, 0x11, atr...)
	w.send(ctx, 0x11, w.i.cfg.Surplus...)
	gap := time.NewTimer(blockGap)
	defer gap.Stop()
	for {
		var late <-chan time.Time
		if contact.Partial() {
			gap.Reset(blockGap)
			late = gap.C
		}
		select {
		case c := <-hear:
			rate = contact.Rate() // until the card has answered: a PPS changes it
			contact.Chars(ctx, []byte{c}, 0)
			if contact.Partial() {
				continue
			}
		case <-late:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			p := contact.Chars(ctx, nil, 1)
			if len(p) == 0 {
				break
			}
			w.send(ctx, rate, p...)
		}
	}
}
