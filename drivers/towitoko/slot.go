package towitoko

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Traits: the host does the PPS, T=0 and T=1. A block goes to the reader behind one header, so
// that there are no gaps in it; therefore the cap of IFSC.
func (s *slot) Traits() reader.Traits {
	if s.powered && s.memory {
		return reader.Traits{Level: reader.Synchronous}
	}
	return reader.Traits{Level: reader.Character, IFSC: mostSent - blockOverhead, ClockHz: clockHz, Slack: slack}
}

// blockOverhead is NAD, PCB, LEN and a CRC (ISO/IEC 7816-3:2006 §11.3).
const blockOverhead = 5

// Status asks the reader, and sets its LED as OpenCT does: red if there is a card.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	if err := s.begin(ctx); err != nil {
		return reader.Absent, s.fail("status", err)
	}
	defer s.end()
	in, err := s.present(ctx)
	switch {
	case err != nil:
		return reader.Absent, s.fail("status", err)
	case !in:
		return reader.Absent, nil
	case s.powered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// present reports whether there is a card.
func (s *slot) present(ctx context.Context) (bool, error) {
	if err := s.ready(ctx); err != nil {
		return false, err
	}
	state, err := s.state(ctx)
	if err != nil {
		return false, err
	}
	led := byte(ledOff)
	if state&cardIn != 0 {
		led = ledRed
	}
	if err := s.setLED(ctx, led); err != nil {
		return false, err
	}
	return state&cardIn != 0, nil
}

// state asks for the status. The first answer after a card was put in may take longer than
// others, and is asked for again (libtowitoko). What does not answer then is perhaps switched off.
func (s *slot) state(ctx context.Context) (byte, error) {
	data, err := s.command(ctx, 1, cmdStatus...)
	if errors.Is(err, serial.ErrTimeout) || errors.Is(err, errChecksum) {
		data, err = s.command(ctx, 1, cmdStatus...)
	}
	if err != nil {
		s.lost = true
		return 0, err
	}
	if data[0]&cardIn == 0 || data[0]&cardChanged != 0 {
		s.cardLost()
	}
	return data[0], nil
}

// same returns an error if the card that has power is not there any more, or another one is.
func (s *slot) same(ctx context.Context) error {
	lost := s.lost
	in, err := s.present(ctx)
	if err != nil && !lost && s.lost { // it was switched off and on, perhaps
		in, err = s.present(ctx)
	}
	switch {
	case err != nil:
		return err
	case !in:
		return reader.ErrNoCard
	case !s.active:
		return reader.ErrStale
	}
	return nil
}

// PowerOn activates and resets the card. There is no warm reset but the command for a reset
// sent to a card that has power.
func (s *slot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	if err := s.begin(ctx); err != nil {
		return nil, s.fail("power up", err)
	}
	defer s.end()
	atr, err := s.powerOn(ctx, how)
	if err == nil {
		s.powered = true
	}
	return atr, s.fail("power up", err)
}

func (s *slot) powerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	if s.active && (how == reader.Cold || s.memory) {
		if err := s.deactivate(ctx); err != nil {
			return nil, err
		}
	}
	s.powered, s.inverse = false, false
	if err := s.setSpeed(ctx, slowBaud); err != nil {
		return nil, err
	}
	s.times(iso7816.DefaultParams(0))
	if s.model.memoryOnly {
		if err := s.activate(ctx); err != nil {
			return nil, err
		}
		return s.resetMemory(ctx)
	}
	s.parity = 0 // a reader that was switched off and on meanwhile may have none
	if err := s.setParity(ctx, evenParity); err != nil {
		return nil, err
	}
	if err := s.activate(ctx); err != nil {
		return nil, err
	}
	if s.memory { // and it has not been taken out since
		if atr, err := s.resetMemory(ctx); !errors.Is(err, reader.ErrMute) {
			return atr, err
		}
		s.memory = false
	}
	if atr, err := s.reset(ctx); !errors.Is(err, reader.ErrMute) {
		return atr, err
	}
	if atr, err := s.resetMemory(ctx); !errors.Is(err, reader.ErrMute) {
		return atr, err
	}
	// A reader may drop characters with wrong parity.
	if err := s.setParity(ctx, oddParity); err != nil {
		return nil, err
	}
	if err := s.activate(ctx); err != nil {
		return nil, err
	}
	return s.reset(ctx)
}

// reset resets a processor card, in OpenCT's order of the two ways.
func (s *slot) reset(ctx context.Context) (atr []byte, err error) {
	for _, cmd := range [][]byte{cmdResetHigh, cmdResetLow} {
		if err := s.send(ctx, cmd); err != nil {
			return nil, err
		}
		if atr, err = s.answerToReset(ctx); !errors.Is(err, reader.ErrMute) {
			break
		}
	}
	return atr, err
}

// activate gives the card its power, and then looks whether there is one.
func (s *slot) activate(ctx context.Context) error {
	if _, err := s.command(ctx, 0, cmdActivate...); err != nil {
		return fmt.Errorf("activate: %w", err)
	}
	in, err := s.present(ctx)
	if err == nil && !in {
		err = reader.ErrNoCard
	}
	s.active = err == nil
	return err
}

// PowerOff takes the card's power.
func (s *slot) PowerOff(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return s.fail("power down", err)
	}
	defer s.end()
	err := s.ready(ctx)
	if err == nil {
		err = s.deactivate(ctx)
	}
	return s.fail("power down", err)
}

func (s *slot) deactivate(ctx context.Context) error {
	s.powered, s.active = false, false
	if _, err := s.command(ctx, 0, cmdDeactivate...); err != nil {
		return fmt.Errorf("deactivate: %w", err)
	}
	return nil
}

// Supports reports whether the reader has the bit rate.
func (s *slot) Supports(ta1 byte) bool {
	_, ok := baudOf(ta1)
	return ok
}

// SetParams sets the speed of the line, which is the card's, and the times of characters.
func (s *slot) SetParams(ctx context.Context, p iso7816.Params) error {
	const what = "set the parameters"
	baud, ok := baudOf(p.TA1)
	if !ok {
		return s.fail(what, fmt.Errorf("TA1=%02X: the reader does not have it: %w", p.TA1, reader.ErrUnsupported))
	}
	if err := s.begin(ctx); err != nil {
		return s.fail(what, err)
	}
	defer s.end()
	if err := s.setSpeed(ctx, baud); err != nil {
		return s.fail(what, err)
	}
	s.times(p)
	return nil
}
