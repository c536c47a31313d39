// Package gempc drives Gemplus readers with a GemCore: GemPC430, GemPC432 and GemPC435 on
// USB; GemPC410, GemPC413, GCR400, GCR410 and GCR410P on a serial port. The readers take the
// same commands, which command.go has; the framing is the bus's: usb.go, and gbp.go with
// serial.go.
//
// The maker's manual was not available. Commands, status bytes and framing were observed:
// what Debian's libgempc430 1.0.8, libgempc410 1.0.8 and libgcr410 2.4.0 send, and what they
// accept. The reader does the PPS and runs T=1; in T=0 it takes one TPDU a command.
package gempc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// gemplus is the vendor ID.
const gemplus = 0x08E6

var models = []reader.ID{
	{Vendor: gemplus, Product: 0x0430, Model: "Gemplus GemPC430"},
	{Vendor: gemplus, Product: 0x0432, Model: "Gemplus GemPC432"},
	{Vendor: gemplus, Product: 0x0435, Model: "Gemplus GemPC435"},
}

// versions are the serial models, as OpenCT 0.6.20 tells them apart.
var versions = map[string]string{
	"OROS-R2.24RM":     "Gemplus GCR400",
	"OROS-R2.99-R1.10": "Gemplus GCR410",
	"OROS-R2.99-R1.11": "Gemplus GCR410P",
	"OROS-R2.99-R1.21": "Gemplus GemPC410",
	"GemCore-R1.21-GM": "Gemplus GemPC410",
	"OROS-R2.99-R1.32": "Gemplus GemPC413",
}

// Driver drives all models.
type Driver struct {
	Log *slog.Logger // of the serial ports; may be nil
}

var _ reader.Attacher = Driver{}

// Name is "gempc".
func (Driver) Name() string { return "gempc" }

// IDs lists the USB models. A serial reader is attached by the name of its port.
func (Driver) IDs() []reader.ID { return models }

// Attach takes a reader on a serial port, whose name is the address.
func (d Driver) Attach(dev reader.Device) (reader.Device, error) {
	if err := dev.OnlyParams(); err != nil {
		return dev, err
	}
	dev.ID = reader.ID{Model: "Gemplus serial reader"}
	return serial.Attach(dev, d.Log)
}

// Open makes the connection to the reader and switches it to the mode for ISO cards.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	s := &slot{name: dev.Name(), model: dev.ID.Model}
	l, err := openLine(ctx, dev)
	if err != nil {
		return nil, s.fail("open", err)
	}
	s.line = l
	if err := s.start(ctx); err != nil {
		_ = l.Close()
		return nil, err
	}
	s.slots[0] = s
	return s, nil
}

func openLine(ctx context.Context, dev reader.Device) (line, error) {
	if _, ok := dev.Link.(serial.Opener); ok {
		return openGBP(ctx, dev)
	}
	return openUSB(ctx, dev)
}

// slot is a Reader and its only Slot.
type slot struct {
	gemcore
	name    string
	model   string
	slots   [1]reader.Slot
	powered bool // by us, and perhaps not since taken away
	t       int  // protocol of the card
}

var (
	_ reader.Reader     = (*slot)(nil)
	_ reader.Slot       = (*slot)(nil)
	_ reader.Identifier = (*slot)(nil)
)

func (s *slot) Slots() []reader.Slot { return s.slots[:] }

func (s *slot) Identify() (string, map[string]string) {
	model := cmp.Or(versions[s.version], s.model, "Gemplus GemCore reader")
	if s.version == "" {
		return model, nil
	}
	return model, map[string]string{"version": s.version}
}

// fail wraps err with the reader and what was tried.
func (s *slot) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", s.name, what, err)
}

// start makes the reader ready, in libgempc430's order. If the first answer looks wrong it
// was perhaps another command's, left over from a program that had the reader before.
func (s *slot) start(ctx context.Context) error {
	answer, err := s.command(ctx, cmdMode, shortWait)
	if errors.Is(err, reader.ErrGone) || ctx.Err() != nil {
		return s.fail("set the mode", err)
	}
	if err == nil && len(answer) == 1 && (answer[0] == done || answer[0] == unknown) {
		return s.fail("version", s.identify(ctx))
	}
	return s.fail("start", s.restart(ctx))
}

// isVersion reports whether an answer is one to cmdVersion: status and up to 16 characters
// of text. The answer to a card's command ends with SW1 SW2, which no card ends a text with.
func isVersion(answer []byte) bool {
	if len(answer) < 1+4 || len(answer) > 1+16 || answer[0] != done {
		return false
	}
	return !slices.ContainsFunc(answer[1:], func(b byte) bool { return b < 0x20 || b > 0x7E })
}

// Traits: the reader does the PPS, at power-up, and runs T=1.
func (s *slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.ShortAPDU, AutoPPS: true, Slack: time.Second}
}

func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	data, err := s.simple(ctx, cmdStatus)
	if err == nil && len(data) == 0 {
		err = fmt.Errorf("an empty answer: %w", reader.ErrProtocol)
	}
	switch {
	case errors.Is(err, reader.ErrNoCard):
		return reader.Absent, nil
	case err != nil:
		return reader.Absent, s.fail("status", err)
	case data[0]&cardIn == 0:
		return reader.Absent, nil
	case data[0]&cardPowered == 0: // or another card has come since the last look
		return reader.Present, nil
	}
	return reader.Powered, nil
}

// PowerOn activates the card. The reader has no warm reset that is known: a reset is a
// power-up of a card that has power. For a cold one the power is switched off first.
func (s *slot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	if how == reader.Cold && s.powered {
		if err := s.PowerOff(ctx); err != nil {
			return nil, err
		}
	}
	s.powered = false
	var atr []byte
	var err error
	for _, cmd := range [][]byte{cmdUp, cmdUpSlow, cmdISO, cmdUpPlain} {
		var status byte
		var data []byte
		status, data, err = s.do(ctx, powerWait, cmd)
		if err != nil {
			return nil, s.fail("power up", err)
		}
		switch {
		case status == done && cmd[0] != opPowerUp:
			continue
		case status == done && len(data) > 0:
			atr = append(atr, data...)
		case status == done:
			err = fmt.Errorf("an empty ATR: %w", reader.ErrProtocol)
		default:
			err = statusError(status)
		}
		if atr != nil {
			break
		}
		if errors.Is(err, reader.ErrNoCard) {
			return nil, s.fail("power up", err)
		}
		if status == silent && len(cmd) > 1 && cmd[1] == cmdUpSlow[1] {
			break
		}
	}
	if atr == nil {
		return nil, s.fail("power up", fmt.Errorf("%w: %w", err, reader.ErrMute))
	}
	s.t = protocol(atr)
	s.powered = true
	return atr, nil
}

// powerWait is for a power-up, which waits for the card.
const powerWait = 10 * time.Second

// protocol returns the protocol that the reader has with a card: the ATR's first one, or
// that of its specific mode.
func protocol(atr []byte) int {
	a, err := iso7816.ParseATR(atr)
	if err != nil {
		return 0
	}
	if t, _, specific := a.Specific(); specific {
		return t
	}
	return a.Default()
}

func (s *slot) PowerOff(ctx context.Context) error {
	s.powered = false
	_, err := s.simple(ctx, cmdDown)
	if errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrUnsupported) {
		err = nil
	}
	return s.fail("power down", err)
}

// answerWait is the longest wait for an answer. The reader keeps the card's waiting times
// by itself and asks for no time, so a card that computes for minutes looks like a silent
// reader.
const answerWait = 10 * time.Minute

func (s *slot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	wait := answerWait
	if x.Wait > 0 {
		wait = min(wait, x.Wait)
	}
	if s.lost { // the reader may be reset, or has been switched off and on
		switch status, err := s.Status(ctx); {
		case err != nil:
			return dst, err
		case status == reader.Absent:
			return dst, s.fail("exchange", reader.ErrNoCard)
		case status == reader.Present:
			return dst, s.fail("exchange", reader.ErrStale)
		}
	}
	dst, err := s.exchange(ctx, s.t, x.Out, wait, dst)
	return dst, s.fail("exchange", err)
}
