// Package smph drives Phoenix and SmartMouse interfaces: a card on a serial line, with little
// between them but a clock and levels. There is no reader that could be asked anything.
//
//	TXD, RXD  both are the card's I/O: what the host sends comes back to it as an echo
//	RTS       the card's RST
//	DTR       the card's supply
//	CTS       the switch in the slot; some have it on another line
//
// The host sends and receives single characters at the card's rate, and package core does
// PPS, T=0 and T=1.
//
// What is known is from OpenCT 0.6.20, as its driver was observed: the lines, 9600 bit/s, the
// echo; and from OSCAM, another host, in public: the length of a reset, two stop bits, and
// that the card switch and the clock differ between interfaces. Nothing was tried with an
// interface.
//
//	frame.go   parameters, rates, conventions
//	driver.go  the reader
//	power.go   what the lines do, and the ATR
//	chars.go   characters
package smph

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Driver drives both.
type Driver struct {
	Log *slog.Logger // of the ports; may be nil
}

var _ reader.Attacher = Driver{}

// Name is "smph".
func (Driver) Name() string { return "smph" }

// IDs returns nil: nothing announces an interface on a serial line.
func (Driver) IDs() []reader.ID { return nil }

// Attach checks the parameters.
func (d Driver) Attach(dev reader.Device) (reader.Device, error) {
	if err := dev.OnlyParams(paramType, paramClock, paramDetect); err != nil {
		return dev, err
	}
	set, err := parse(dev.Params)
	if err != nil {
		return dev, fmt.Errorf("smph: %w", err)
	}
	dev.ID.Model = set.model()
	return serial.Attach(dev, d.Log)
}

// Open opens the port and holds the card in reset. There is nothing that could answer.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	set, err := parse(dev.Params)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dev.Name(), err)
	}
	s := &slot{name: dev.Name(), settings: set, parity: direct}
	s.slots[0] = s
	baud, _ := set.baud(iso7816.DefaultTA1)
	if s.port, err = serial.Open(ctx, dev, serial.Mode{Baud: baud, Frame: s.parity, Check: true}); err != nil {
		return nil, s.fail("open", err)
	}
	if err = s.holdReset(ctx); err == nil {
		err = s.pause(ctx, switchTime)
	}
	if errors.Is(err, serial.ErrNoLines) {
		err = fmt.Errorf("the card's reset is on RTS, and this port has none: %w", err)
	}
	if err != nil {
		_ = s.port.Close()
		return nil, s.fail("hold the card in reset", err)
	}
	return s, nil
}

// slot is a Reader and its only Slot.
type slot struct {
	settings
	port   serial.Port
	name   string
	slots  [1]reader.Slot
	pauser reader.Pauser

	used    bool // the card was released since its supply came
	powered bool // the card was reset and has answered
	inverse bool // the card's convention
	parity  serial.Frame
	odd     string // an ATR that breaks the standard, as the card sent it last

	turn  time.Duration // from the last character of the card to the first to it
	guard time.Duration // from the echo of a character to the next; 0: as the frame has it
	heard time.Time     // the last character of the card
	in    [2 * mostOut]byte
	out   [mostOut]byte // characters of the inverse convention
}

var (
	_ reader.Reader      = (*slot)(nil)
	_ reader.Slot        = (*slot)(nil)
	_ reader.Identifier  = (*slot)(nil)
	_ reader.ParamSetter = (*slot)(nil)
	_ reader.RateLimiter = (*slot)(nil)
)

func (s *slot) Slots() []reader.Slot  { return s.slots[:] }
func (s *slot) Gone() <-chan struct{} { return s.port.Gone() }

// Close takes the card's supply: DTR and RTS go off.
func (s *slot) Close() error { return s.port.Close() }

// Identify returns what `attach` said.
func (s *slot) Identify() (string, map[string]string) {
	return s.model(), map[string]string{"clock": strconv.FormatFloat(float64(s.clockHz)/1e6, 'f', -1, 64) + " MHz"}
}

// slack is added to the card's waiting times for the way through an adapter.
const slack = 300 * time.Millisecond

// Traits: the host does the PPS, T=0 and T=1.
func (s *slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.Character, ClockHz: s.clockHz, Slack: slack}
}

// Supports reports whether ports have the bit rate.
func (s *slot) Supports(ta1 byte) bool {
	_, ok := s.baud(ta1)
	return ok
}

// SetParams sets the bit rate and the times of characters.
func (s *slot) SetParams(ctx context.Context, p iso7816.Params) error {
	const what = "set the bit rate"
	baud, ok := s.baud(p.TA1)
	if !ok {
		return s.fail(what, fmt.Errorf("TA1=%02X: %d bit/s; there are %d to %d: %w", p.TA1, baud, leastBaud, mostBaud, reader.ErrUnsupported))
	}
	if err := s.setMode(ctx, baud); err != nil {
		return s.fail(what, err)
	}
	s.times(p)
	return nil
}

// fail wraps err with the reader and what was tried.
func (s *slot) fail(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", s.name, what, err)
}
