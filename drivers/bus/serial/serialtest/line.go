package serialtest

import (
	"context"
	"math/bits"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
)

// Device is an emulated device at the end of a line. It outlives being unplugged.
type Device interface {
	// Serve runs while the device is plugged in and has power. It returns when the line
	// ends, as Line.Next says.
	Serve(l *Line)
}

// DeviceFunc is a Device that is only its function.
type DeviceFunc func(l *Line)

// Serve calls f.
func (f DeviceFunc) Serve(l *Line) { f(l) }

// Line is a device's end of a line, from when it is plugged in until it is unplugged.
// Characters arrive at once, whatever the speed; but one that was sent in another mode
// than the receiver's arrives as it would on a wire: see garble.
type Line struct {
	ctx   context.Context
	leave context.CancelFunc

	mu       sync.Mutex
	wake     chan struct{} // closed and replaced when something below changes
	mode     serial.Mode   // of the device
	hostMode serial.Mode
	lines    serial.Lines // that are on, of both ends
	toDevice []Event
	toHost   []char
	sent     [2]int // characters since Plug, by direction: to the device, to the host
	faults   []Fault
	silent   [2]bool // by the fault Silence
	observe  func(Entry)
}

// char is a character on its way to the host.
type char struct {
	c     byte
	wrong bool // parity, or no stop bit
}

// Kind is the kind of an Event.
type Kind int

const (
	Char        Kind = iota // a character came
	LinesChange             // the host switched DTR or RTS
	Break                   // the host held the line at 0
	Timeout                 // nothing happened
)

// Event is what a device notices on its line.
type Event struct {
	Kind  Kind
	Char  byte
	Wrong bool         // the character came with wrong parity, or without a stop bit
	Lines serial.Lines // that are on from now on
}

func newLine() *Line {
	l := &Line{wake: make(chan struct{})}
	l.ctx, l.leave = context.WithCancel(context.Background())
	l.mode = serial.Mode{Baud: 9600, Frame: serial.Frame8N1}
	l.hostMode = l.mode
	return l
}

// changed wakes all who wait. l.mu is held.
func (l *Line) changed() {
	close(l.wake)
	l.wake = make(chan struct{})
}

// Context ends when the device is unplugged.
func (l *Line) Context() context.Context { return l.ctx }

// Next waits for the next event. It returns false when the device was unplugged.
func (l *Line) Next() (Event, bool) { return l.NextWithin(0) }

// NextWithin is Next, with an event of the kind Timeout after d; 0: never.
func (l *Line) NextWithin(d time.Duration) (Event, bool) {
	var late <-chan time.Time
	for {
		l.mu.Lock()
		if l.ctx.Err() != nil {
			l.mu.Unlock()
			return Event{}, false
		}
		if len(l.toDevice) > 0 {
			e := l.toDevice[0]
			l.toDevice = l.toDevice[1:]
			l.mu.Unlock()
			return e, true
		}
		wake := l.wake
		l.mu.Unlock()
		if late == nil && d > 0 {
			t := time.NewTimer(d)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-wake:
		case <-l.ctx.Done():
		case <-late:
			return Event{Kind: Timeout}, true
		}
	}
}

// Char waits for the next character and passes over other events. It returns false when
// the device was unplugged.
func (l *Line) Char() (byte, bool) {
	for {
		e, ok := l.Next()
		if !ok || e.Kind == Char {
			return e.Char, ok
		}
	}
}

// Read fills p with characters, as Char does.
func (l *Line) Read(p []byte) bool {
	for i := range p {
		c, ok := l.Char()
		if !ok {
			return false
		}
		p[i] = c
	}
	return true
}

// Send sends characters to the host.
func (l *Line) Send(p ...byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range p {
		l.send(c, false)
	}
}

// SendWrong sends a character with wrong parity.
func (l *Line) SendWrong(c byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.send(c, true)
}

// send puts a character on the wire to the host. l.mu is held.
func (l *Line) send(c byte, wrong bool) {
	if l.ctx.Err() != nil {
		return
	}
	for _, got := range l.disturb(toHost, char{c, wrong}, l.mode, l.hostMode) {
		l.note(Entry{Kind: In, Data: []byte{got.c}, Wrong: []bool{got.wrong}})
		l.toHost = append(l.toHost, got)
	}
	l.changed()
}

// SetMode changes the device's mode.
func (l *Line) SetMode(m serial.Mode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mode = m
}

// Mode is the device's mode.
func (l *Line) Mode() serial.Mode {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mode
}

// HostMode is the mode that the host set last. No device can see it on a wire: it is for
// tests.
func (l *Line) HostMode() serial.Mode {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hostMode
}

// Lines are the modem lines that are on.
func (l *Line) Lines() serial.Lines {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines
}

// AwaitLines waits until the modem lines are other than old. It returns false when ctx
// ended or the device was unplugged.
func (l *Line) AwaitLines(ctx context.Context, old serial.Lines) (serial.Lines, bool) {
	for {
		l.mu.Lock()
		now, wake := l.lines, l.wake
		l.mu.Unlock()
		if l.ctx.Err() != nil || ctx.Err() != nil {
			return now, false
		}
		if now != old {
			return now, true
		}
		select {
		case <-wake:
		case <-ctx.Done():
		case <-l.ctx.Done():
		}
	}
}

// SetLines switches the device's modem lines: CTS, DSR, CD and RI.
func (l *Line) SetLines(on, off serial.Lines) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.lines&hostHas | (l.lines|on)&^off&deviceHas
	if now == l.lines {
		return
	}
	l.lines = now
	l.note(Entry{Kind: DeviceLines, Lines: now & deviceHas})
	l.changed()
}

// Drop unplugs the device from within Serve: a loss of power.
func (l *Line) Drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop()
}

// drop is Drop with l.mu held.
func (l *Line) drop() {
	if l.ctx.Err() == nil {
		l.note(Entry{Kind: Unplug})
		l.leave()
		l.changed()
	}
}

// note gives an entry to the observer. l.mu is held.
func (l *Line) note(e Entry) {
	if l.observe != nil {
		l.observe(e)
	}
}

// parityBit is the level on the line behind the data bits: the parity bit, or the stop bit
// in a frame without parity.
func parityBit(c byte, f serial.Frame) int {
	c &= 1<<f.Data() - 1
	switch odd := bits.OnesCount8(c) & 1; f.Parity() {
	case 'E':
		return odd
	case 'O':
		return odd ^ 1
	case 'S':
		return 0
	}
	return 1 // mark, or the stop bit
}

// garble is what arrives of a character that was sent in one mode and received in another.
// With another speed it is another character. With another parity the parity bit may be
// wrong; to a receiver without parity it is a stop bit that is missing.
func garble(in char, from, to serial.Mode) char {
	if from.Baud == 0 || to.Baud == 0 {
		return in
	}
	if off := from.Baud - to.Baud; max(off, -off)*20 > from.Baud { // more than 5 %
		arrives := bits.Reverse8(in.c) ^ 0xA5
		if off > 0 { // what is wrong both ways stays wrong
			arrives ^= 0x36
		}
		return char{arrives, true}
	}
	if from.Frame.Data() != to.Frame.Data() {
		return char{in.c ^ 0x80, true}
	}
	wrong := parityBit(in.c, from.Frame) != parityBit(in.c, to.Frame)
	return char{in.c, wrong != in.wrong}
}
