package smph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const (
	// resetTime is how long a card is held in reset, as OSCAM does. OpenCT takes a second.
	resetTime = 50 * time.Millisecond
	// supplyTime is from when the supply comes until the card is released. The oscillator of an
	// interface that lives on DTR has to start. How long that takes is not known; a second was
	// seen to do.
	supplyTime = 300 * time.Millisecond
	// offTime is how long the supply is away in a cold reset.
	offTime = 300 * time.Millisecond
	// switchTime is how long the card switch may take to follow DTR.
	switchTime = 20 * time.Millisecond
	// surplusWait is how long nothing comes behind a whole ATR before it has ended. Adapters
	// hold characters back for 16 ms.
	surplusWait = 60 * time.Millisecond
)

// setMode sets the bit rate, and the parity of the card's convention, when what was sent has
// left.
func (s *slot) setMode(ctx context.Context, baud int) error {
	return s.port.SetMode(ctx, serial.Mode{Baud: baud, Frame: s.parity, Check: true})
}

// Status asks the card switch.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	in, err := s.look(ctx, "status")
	switch {
	case err != nil || !in:
		return reader.Absent, err
	case s.powered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// look reports whether there is a card. What is put in next finds the contacts in reset.
func (s *slot) look(ctx context.Context, what string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, s.fail(what, err)
	}
	lines, err := s.port.Lines(ctx)
	if err != nil {
		return false, s.fail(what, err)
	}
	if s.present(lines) {
		return true, nil
	}
	s.parity, s.odd = direct, ""
	if err := s.holdReset(ctx); err != nil {
		return false, s.fail(what, err)
	}
	return false, nil
}

// holdReset puts the card in reset, in which it forgets everything.
func (s *slot) holdReset(ctx context.Context) error {
	s.powered = false
	on, off := s.resetLines(true)
	return s.port.SetLines(ctx, on, off)
}

// supply switches DTR, with the card in reset.
func (s *slot) supply(ctx context.Context, give bool) error {
	s.powered = false
	on, off := s.resetLines(true)
	if give {
		on |= serial.DTR
	} else {
		off |= serial.DTR
	}
	if err := s.port.SetLines(ctx, on, off); err != nil {
		return err
	}
	s.used = s.used && give
	return nil
}

// PowerOn resets the card. Its supply is on from when the port is opened, so that the first
// reset is a cold one already.
func (s *slot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	const what = "reset"
	if err := ctx.Err(); err != nil {
		return nil, s.fail(what, err)
	}
	s.inverse = false
	if err := s.contacts(ctx, how); err != nil {
		return nil, s.fail(what, err)
	}
	if in, err := s.look(ctx, what); err != nil || !in {
		if err == nil {
			err = s.fail(what, reader.ErrNoCard)
		}
		return nil, err
	}
	// What has come belongs to something before.
	err := s.port.Flush()
	if err == nil {
		s.used = true
		on, off := s.resetLines(false)
		err = s.port.SetLines(ctx, on, off)
	}
	if err != nil {
		return nil, s.fail(what, err)
	}
	atr, err := s.answerToReset(ctx)
	if err != nil {
		_ = s.holdReset(ctx)
		return nil, err
	}
	s.parity = direct
	if s.inverse {
		s.parity = inverse
	}
	p, err := s.read(atr)
	if err == nil {
		err = s.setMode(ctx, s.port.Mode().Baud)
	}
	if err != nil {
		_ = s.holdReset(ctx)
		return nil, s.fail("ATR", err)
	}
	s.times(p)
	s.powered = true
	return atr, nil
}

// contacts brings the card into reset, with its supply on and the line at the rate of the ATR.
// The rest of a command that was cancelled leaves while the card is in reset.
func (s *slot) contacts(ctx context.Context, how reader.Reset) error {
	if how == reader.Cold && s.used {
		if err := s.supply(ctx, false); err != nil {
			return err
		}
		if err := s.pause(ctx, offTime); err != nil {
			return err
		}
	}
	wait := resetTime
	if !s.used {
		wait = supplyTime
	}
	if err := s.supply(ctx, true); err != nil {
		return err
	}
	baud, _ := s.baud(iso7816.DefaultTA1)
	if err := s.setMode(ctx, baud); err != nil {
		return err
	}
	s.times(iso7816.DefaultParams(0))
	return s.pause(ctx, wait)
}

// read returns the parameters in force behind an ATR, which the PPS request already needs. A
// card may send an ATR that breaks the standard, and is taken as it is, but has to send it twice:
// a character may have been lost, or be another.
func (s *slot) read(atr []byte) (p iso7816.Params, err error) {
	p = iso7816.DefaultParams(0)
	a, err := iso7816.ParseATR(atr)
	if err != nil {
		return p, err
	}
	if d := a.Defects(); len(d) > 0 && s.odd != string(atr) {
		s.odd = string(atr)
		return p, fmt.Errorf("%v; it is read again: %w", d[0], reader.ErrProtocol)
	}
	if q, err := a.Params(a.Default()); err == nil {
		p.T, p.N = q.T, q.N
	}
	return p, nil
}

// answerToReset collects the ATR, as long as it says it is, or less or more as it comes.
//
// TS tells the convention. That of a card with the inverse one comes as 03, and as the frame has
// even parity, with wrong parity, and so must all that follows. Of a port that reports no wrong
// parity, none has. A port may also drop such characters: where no TS comes, or another, the next
// reset has the other parity.
func (s *slot) answerToReset(ctx context.Context) ([]byte, error) {
	const what = "ATR"
	atr := s.in[:0]
	var tsWrong bool // TS has wrong parity
	var bad error    // a character differs from it
	for whole, wait := 1, s.atrWait(); ; {
		free := s.in[len(atr) : iso7816.MaxATR+1]
		if len(atr) < whole {
			free = free[:whole-len(atr)]
		} else {
			wait = surplusWait
		}
		n, err := s.receive(ctx, what, free, wait)
		wrong := errors.Is(err, serial.ErrParity)
		if len(atr) == 0 {
			tsWrong = wrong
		} else if n > 1 && tsWrong || n > 0 && wrong != tsWrong { // all but the last are right
			bad = s.fail(what, serial.ErrParity)
		}
		if n > 0 && s.inverse {
			convert(free[:n])
		}
		if len(atr) == 0 && n > 0 {
			switch free[0] {
			case 0x3B:
			case 0x03:
				s.inverse = true
				convert(free[:n])
			default:
				s.parity = otherFrame(s.parity)
				return nil, s.fail(what, fmt.Errorf("it begins with neither 3B nor 03: %w", reader.ErrProtocol))
			}
		}
		atr = s.in[:len(atr)+n]
		if len(atr) > 0 {
			whole = iso7816.ATRLength(atr)
		}
		switch {
		case err == nil || wrong:
		case !errors.Is(err, errSilent):
			return nil, err
		case bad != nil:
			return nil, bad
		case len(atr) == 0:
			s.parity = otherFrame(s.parity)
			return nil, fmt.Errorf("%w: %w; if there is a card, %s= or %s= may be others", err, reader.ErrMute, paramType, paramClock)
		default:
			return bytes.Clone(atr), nil
		}
		if max(len(atr), whole) > iso7816.MaxATR {
			return nil, s.fail(what, fmt.Errorf("%d characters or more; %d are the most: %w", max(len(atr), whole), iso7816.MaxATR, reader.ErrProtocol))
		}
	}
}

// atrWait is the initial waiting time, 9600 etu (ISO/IEC 7816-3:2006 §8.1).
func (s *slot) atrWait() time.Duration { return iso7816.DefaultParams(0).WWT(s.clockHz) + slack }

// PowerOff holds the card in reset and takes its supply, unless the card switch lives on DTR,
// too: then nobody would see the card any more, and reset alone has to do, in which it forgets
// a verified PIN.
func (s *slot) PowerOff(ctx context.Context) error {
	const what = "power off"
	in, err := s.look(ctx, what)
	if err != nil || !in {
		return err
	}
	if err = s.supply(ctx, false); err == nil && s.detect != 0 {
		if err = s.pause(ctx, switchTime); err == nil {
			if in, err = s.look(ctx, what); err != nil {
				return err
			}
			if !in {
				if err = s.supply(ctx, true); err == nil {
					err = s.pause(ctx, switchTime)
				}
			}
		}
	}
	if err != nil {
		return s.fail(what, err)
	}
	return nil
}

// pause waits for d, or until ctx ends or the port leaves, which is an error.
func (s *slot) pause(ctx context.Context, d time.Duration) error {
	return s.pauser.Pause(ctx, s.port.Gone(), d)
}
