// Package towitoko drives the Towitoko Chipdrives and Kartenzwerge: readers on a serial line,
// or on USB behind a serial adapter (PL2303) that the kernel makes a port of. They pass
// characters between the host and a processor card, at the speed of the line, and clock memory
// cards.
//
// The maker published nothing. The commands are those that OpenCT 0.6.20 was observed to send,
// and for what it lacks, the change of the speed, the synchronous reset and PSCs, those of
// libtowitoko 2.0.7. Of the Chipdrive Twin's two slots the first is served, as by OpenCT.
//
//	frame.go   commands and answers
//	driver.go  the reader
//	line.go    what goes over the line, and what mends it
//	slot.go    card status, reset and speed; chars.go: characters of a processor card
//	memory.go  memory cards
//
// Who uses the line has slot.use.
package towitoko

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/memcard"
)

// Driver drives all models.
type Driver struct {
	Log *slog.Logger // of the serial ports; may be nil
}

var _ reader.Attacher = Driver{}

// model is a type of reader.
type model struct {
	name string
	// plain: the line has no parity. The Kartenzwerg II is said to have none by OpenCT until
	// it is told one, and to have it by libtowitoko; so it is told at once.
	plain, maybePlain bool
	memoryOnly        bool          // it has no commands for processor cards
	noRTS             bool          // OpenCT switches RTS off for it, nobody knows why
	writePause        time.Duration // after each write to a memory card
}

// models are told apart by the first byte of an identification.
var models = map[byte]model{
	0x61: {name: "Towitoko Chipdrive Micro"},
	0x64: {name: "Towitoko Kartenzwerg II", maybePlain: true},
	0x80: {name: "Towitoko Kartenzwerg", plain: true, memoryOnly: true},
	0x84: {name: "Towitoko Chipdrive External"},
	0x88: {name: "Towitoko Chipdrive Twin", noRTS: true},
	0x90: {name: "Towitoko Chipdrive Internal", writePause: internalPause},
}

// internalPause is what libtowitoko gives the internal model after each write.
const internalPause = 90 * time.Millisecond

// anyModel is for types that nobody has described.
const anyModel = "Towitoko reader"

// Name is "towitoko".
func (Driver) Name() string { return "towitoko" }

// IDs returns nil: an adapter says nothing of what is behind it.
func (Driver) IDs() []reader.ID { return nil }

// Attach checks the parameters.
func (d Driver) Attach(dev reader.Device) (reader.Device, error) {
	if err := dev.OnlyParams(memcard.Param); err != nil {
		return dev, err
	}
	if _, err := told(dev); err != nil {
		return dev, err
	}
	dev.ID.Model = anyModel
	return serial.Attach(dev, d.Log)
}

func told(dev reader.Device) (reader.Chip, error) {
	value := dev.Params[memcard.Param]
	chip, err := memcard.Told(value)
	if err != nil {
		err = fmt.Errorf("towitoko: %s=%s: %w", memcard.Param, value, err)
	}
	return chip, err
}

// startTime is what OpenCT gives a reader after DTR and RTS are on, from which some have their power.
const startTime = time.Second

// Open looks for the reader.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	chip, err := told(dev)
	if err != nil {
		return nil, err
	}
	s := &slot{name: dev.Name(), told: chip, use: make(chan struct{}, 1)}
	s.slots[0] = s
	s.Clocked = memcard.NewClocked(clock{s})
	if s.port, err = serial.Open(ctx, dev, slow); err != nil {
		return nil, s.fail("open", err)
	}
	if err = s.pause(ctx, startTime); err == nil {
		err = s.find(ctx, true)
	}
	if err == nil && s.model.noRTS {
		if err = s.port.SetLines(ctx, 0, serial.RTS); errors.Is(err, serial.ErrNoLines) {
			err = nil
		}
	}
	if err != nil {
		_ = s.port.Close()
		return nil, s.fail("start", err)
	}
	return s, nil
}

// slot is a Reader and its only Slot.
type slot struct {
	*memcard.Clocked
	port  serial.Port
	name  string
	slots [1]reader.Slot
	told  reader.Chip

	model   model
	version byte
	use     chan struct{} // holds an element while somebody uses the line; Close does not wait for it
	pauser  reader.Pauser

	// The reader's state, as far as is known.
	baud   int
	parity byte // evenParity, oddParity, or 0: none was set
	led    byte
	lit    bool        // led is right
	dark   bool        // it does not answer to a command for its LED
	lost   bool        // it may have lost its power, or have another speed or parity
	next   serial.Mode // to which it may have changed; zero: none
	stray  bool        // there may still come something that belongs to what failed

	powered bool // the card was reset and has answered
	active  bool // the card has power
	memory  bool // the card is, or was when it was last in, a memory card
	inverse bool // the card's convention, which the host has to convert
	guard   time.Duration

	rx    [mostRead + 1]byte
	body  [1 + mostWritten + 1]byte // a command for a memory card
	frame [sendOverhead + mostSent]byte
}

var (
	_ reader.Reader      = (*slot)(nil)
	_ reader.Slot        = (*slot)(nil)
	_ reader.Identifier  = (*slot)(nil)
	_ reader.ParamSetter = (*slot)(nil)
	_ reader.RateLimiter = (*slot)(nil)
	_ reader.Memory      = (*slot)(nil)
)

func (s *slot) Slots() []reader.Slot  { return s.slots[:] }
func (s *slot) Gone() <-chan struct{} { return s.port.Gone() }

// Identify returns the model, and the second byte of the identification as the version, which
// it is to libtowitoko.
func (s *slot) Identify() (string, map[string]string) {
	return s.model.name, map[string]string{"version": fmt.Sprintf("%02X", s.version)}
}

// closeTime bounds what Close does.
const closeTime = time.Second

// Close leaves the reader as it is when it gets power, if nobody uses the line now.
func (s *slot) Close() error {
	select {
	case s.use <- struct{}{}: // for good
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		s.leave(ctx)
		cancel()
	default:
	}
	return s.port.Close()
}

// begin takes the line, which end gives back.
func (s *slot) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.use <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.port.Gone():
		return reader.ErrGone
	}
}

func (s *slot) end() { <-s.use }

func (s *slot) leave(ctx context.Context) {
	if s.lost {
		return
	}
	err := s.setSpeed(ctx, slowBaud)
	if err == nil && s.parity == oddParity {
		err = s.setParity(ctx, evenParity)
	}
	if err == nil && s.led != ledOff {
		_ = s.setLED(ctx, ledOff)
	}
}

// fail wraps err with the reader and what was tried.
func (s *slot) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", s.name, what, err)
}
