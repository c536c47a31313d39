// Package serial is the base of drivers for readers on a serial line: a small interface,
// its implementation on the terminals of Linux, and the way to a port by name.
//
// # Serial lines
//
// A line carries characters one after the other, each way on its own wire. A character is
// a start bit, 5 to 8 data bits, perhaps a parity bit, and one stop bit or two; the frame
// 8E2 has 8 data bits, even parity and 2 stop bits. Nothing on the line says how fast it
// is or how its frames look: both ends must know. A receiver with another idea gets other
// characters, with wrong parity or without a stop bit. A break is a line held at 0 for
// longer than a character.
//
// The other wires are modem lines. The host drives DTR and RTS, the device CTS, DSR, CD
// and RI. Readers use them as they like: for power, for the card's RST, for the switch
// that a card closes.
//
// A driver reads and writes characters on a Port. It sees no packets: an answer may come
// in pieces, and how long to wait for the next character is the driver's to know.
//
// # Ports
//
// A tty of the kernel is a Port by Open. It is written on the system calls, beside
// go.bug.st/serial, which this package once meant to use. That library keeps the file
// descriptor to itself, so that nothing can be added beside it; its reads take a thread
// each and its writes cannot be ended; a character with wrong parity becomes 00; a
// hang-up is noticed by a read alone. Here the runtime's poller waits for characters, and
// an idle port costs nothing.
//
// Not every port can do everything. A pseudo-terminal has no modem lines (ErrNoLines) and
// no parity, and accepts every Mode. A USB adapter rounds speeds.
package serial

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Mode is how characters look on the line.
type Mode struct {
	Baud  int   // bits per second
	Frame Frame // "8N1"
	// Check has Read tell characters with wrong parity, or without a stop bit, from
	// others (ErrParity). Without it they are taken as they are.
	Check bool
}

// Frame is the form of a character: the number of its data bits, 5 to 8; its parity, N
// none, E even, O odd, M always 1, S always 0; and the number of its stop bits, 1 or 2.
type Frame string

// The frames that readers use.
const (
	Frame8N1 Frame = "8N1"
	Frame8N2 Frame = "8N2"
	Frame8E1 Frame = "8E1"
	Frame8E2 Frame = "8E2"
	Frame8O1 Frame = "8O1"
	Frame8O2 Frame = "8O2"
)

// Valid reports whether f is a frame.
func (f Frame) Valid() bool {
	return len(f) == 3 && f[0] >= '5' && f[0] <= '8' && strings.IndexByte("NEOMS", f[1]) >= 0 && (f[2] == '1' || f[2] == '2')
}

// Data is the number of data bits of a valid frame.
func (f Frame) Data() int { return int(f[0] - '0') }

// Parity is the parity of a valid frame: N, E, O, M or S.
func (f Frame) Parity() byte { return f[1] }

// Stop is the number of stop bits of a valid frame.
func (f Frame) Stop() int { return int(f[2] - '0') }

// Bits is the length of a character in bit times, start and stop bits included.
func (f Frame) Bits() int {
	n := 1 + f.Data() + f.Stop()
	if f.Parity() != 'N' {
		n++
	}
	return n
}

// Valid returns an error for a mode that no line can have.
func (m Mode) Valid() error {
	if m.Baud <= 0 || m.Baud > 1<<24 || !m.Frame.Valid() {
		return fmt.Errorf("no line is %q: %w", m, reader.ErrInvalid)
	}
	return nil
}

// Time is how long n characters take.
func (m Mode) Time(n int) time.Duration {
	return time.Duration(n) * time.Duration(m.Frame.Bits()) * time.Second / time.Duration(m.Baud)
}

// String returns the mode as ParseMode takes it: "9600 8E2", "9600 8O1 check".
func (m Mode) String() string {
	s := fmt.Sprintf("%d %s", m.Baud, m.Frame)
	if m.Check {
		s += " check"
	}
	return s
}

// ParseMode reads "9600 8E2" or "9600 8E2 check".
func ParseMode(s string) (Mode, error) {
	words := strings.Fields(s)
	m := Mode{Check: len(words) == 3 && words[2] == "check"}
	if len(words) == 2 || m.Check {
		m.Baud, _ = strconv.Atoi(words[0])
		m.Frame = Frame(words[1])
	}
	if m.Valid() != nil {
		return Mode{}, fmt.Errorf("%q is no mode such as 9600 8E2: %w", s, reader.ErrInvalid)
	}
	return m, nil
}

// Lines is a set of modem lines that are on.
type Lines uint8

const (
	DTR Lines = 1 << iota // the host drives these two
	RTS
	CTS // the device drives these
	DSR
	CD
	RI
)

var lineNames = []string{"DTR", "RTS", "CTS", "DSR", "CD", "RI"}

// String lists the lines: "DTR RTS".
func (l Lines) String() string {
	var on []string
	for i, name := range lineNames {
		if l&(1<<i) != 0 {
			on = append(on, name)
		}
	}
	return strings.Join(on, " ")
}

// ParseLines reads what String returns.
func ParseLines(s string) (Lines, error) {
	var l Lines
words:
	for word := range strings.FieldsSeq(s) {
		for i, name := range lineNames {
			if word == name {
				l |= 1 << i
				continue words
			}
		}
		return 0, fmt.Errorf("%q is no modem line: %w", word, reader.ErrInvalid)
	}
	return l, nil
}

// Port is one end of a line: the host's.
//
// Its methods are called one at a time, but Gone and Close, which may be called at any
// time, and Read beside Write. Each ends with ctx (ctx.Err()), and when the port leaves
// (reader.ErrGone). An error of them names the port and what was tried.
type Port interface {
	// SetMode waits until what was written has left, and changes the line. A port that
	// cannot do the mode says reader.ErrUnsupported.
	SetMode(ctx context.Context, m Mode) error
	// Mode is the mode that was set last.
	Mode() Mode
	// Read reads the characters that are there, at most len(p), but at least one, for
	// which it waits (ErrTimeout; 0: as long as ctx lasts). If the port's mode has Check,
	// Read ends behind a character that came with wrong parity and returns ErrParity:
	// p[n-1] is that character, and the next Read goes on behind it.
	Read(ctx context.Context, p []byte, wait time.Duration) (int, error)
	// Write writes all of p. It may return before p has left: see Drain. A port that takes
	// nothing for long returns reader.ErrTimeout.
	Write(ctx context.Context, p []byte) error
	// Drain waits until everything written has left, the last stop bit included, as far
	// as the port knows. If ctx ends it, what has not left is dropped.
	Drain(ctx context.Context) error
	// Flush drops what has come and was not read.
	Flush() error
	// SetLines switches DTR and RTS: those in on, those in off, the others stay.
	// ErrNoLines: the port has none.
	SetLines(ctx context.Context, on, off Lines) error
	// Lines returns the lines that are on, the host's own included. Errors: ErrNoLines.
	Lines(ctx context.Context) (Lines, error)
	// Break holds the line at 0 for d.
	Break(ctx context.Context, d time.Duration) error
	// Gone is closed as soon as the port has left, even while nothing is read.
	Gone() <-chan struct{}
	// Close ends everything under way. DTR and RTS go off.
	Close() error
}

var (
	// ErrTimeout: no character came in time.
	ErrTimeout = fmt.Errorf("nothing came: %w", reader.ErrTimeout)
	// ErrParity: a character came with wrong parity, or without a stop bit.
	ErrParity = fmt.Errorf("wrong parity: %w", reader.ErrProtocol)
	// ErrNoLines: the port has no modem lines. A driver that can do without goes on.
	ErrNoLines = fmt.Errorf("no modem lines: %w", reader.ErrUnsupported)
)

// Opener is the reader.Device.Link of a device on a serial line.
type Opener interface {
	reader.Link
	// OpenSerial opens the port in mode m, with DTR and RTS on and nothing to read. It
	// waits for a port that is not there yet.
	OpenSerial(ctx context.Context, m Mode) (Port, error)
}

// Open opens the port of dev.
func Open(ctx context.Context, dev reader.Device, m Mode) (Port, error) {
	o, ok := dev.Link.(Opener)
	if !ok {
		return nil, fmt.Errorf("%s %s: not on a serial line: %w", dev.Driver, dev.Address, reader.ErrInvalid)
	}
	if l, ok := o.(link); ok {
		l.SetHost(dev.Host)
	}
	return o.OpenSerial(ctx, m)
}

// ReadFull fills p. It waits for the whole of it, not for each character; 0: as long as
// ctx lasts. It returns how many characters came, also with an error. With ErrParity they
// end with the wrong one, and ReadFull may be called again for the rest.
func ReadFull(ctx context.Context, port Port, p []byte, wait time.Duration) (int, error) {
	var until time.Time
	if wait > 0 {
		until = time.Now().Add(wait)
	}
	for n := 0; n < len(p); {
		if n > 0 && wait > 0 {
			wait = max(time.Until(until), 1) // what is there already is taken
		}
		m, err := port.Read(ctx, p[n:], wait)
		if n += m; err != nil {
			return n, came(n, len(p), err)
		}
	}
	return len(p), nil
}

// ReadChars is ReadFull with a time for the first character and a time between any two.
func ReadChars(ctx context.Context, port Port, p []byte, first, each time.Duration) (int, error) {
	wait := first
	for n := 0; n < len(p); wait = each {
		m, err := port.Read(ctx, p[n:], wait)
		if n += m; err != nil {
			return n, came(n, len(p), err)
		}
	}
	return len(p), nil
}

// came says in err how much of an answer came, if that is why it ended.
func came(n, of int, err error) error {
	if n > 0 && errors.Is(err, ErrTimeout) {
		return fmt.Errorf("%d of %d characters came: %w", n, of, err)
	}
	return err
}
