package kaan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/memcard"
)

// slot is one card position.
type slot struct {
	*terminal
	*memcard.Commands
	number int  // from 0
	ins    byte // that resets the card
	told   reader.Chip

	powered bool // by us, and perhaps not since taken away
	memory  bool // the card is a memory card
	t0      bool
}

var (
	_ reader.Slot             = (*slot)(nil)
	_ reader.Memory           = (*slot)(nil)
	_ reader.ProtocolSelector = (*slot)(nil)
)

// makeSlots makes a slot, or two if the terminal lists the second one.
func (t *terminal) makeSlots(told reader.Chip) {
	for n := range maxSlots {
		if n > 0 && !t.has(unit(n)) {
			break
		}
		s := &slot{terminal: t, number: n, ins: t.ins, told: told}
		s.Commands = &memcard.Commands{Dialect: memcard.Terminal, Send: s.sendMemory}
		if t.has(unitDisplay) {
			t.slots = append(t.slots, display{s})
		} else {
			t.slots = append(t.slots, s)
		}
	}
}

func (s *slot) fail(what string, err error) error {
	if err != nil && len(s.slots) > 1 {
		what = fmt.Sprintf("slot %d: %s", s.number, what)
	}
	return s.terminal.fail(what, err)
}

// Traits: the terminal does the PPS, and T=0 but for what follows 61xx and 6Cxx.
func (s *slot) Traits() reader.Traits {
	if s.memory {
		return reader.Traits{Level: reader.Synchronous}
	}
	return reader.Traits{Level: reader.ShortAPDU, AutoPPS: true}
}

// Status asks the terminal. Some say only that there is a card.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	value, err := s.status(ctx, s.number)
	switch {
	case err != nil:
		return reader.Absent, s.fail("status", err)
	case value&ctbcs.CardIn == 0:
		s.powered = false
		return reader.Absent, nil
	case value&ctbcs.CardOff != 0 || !s.powered: // or another card has come since the last look
		s.powered = false
		return reader.Present, nil
	}
	return reader.Powered, nil
}

// PowerOn resets the card, which the terminal activates if need be. There is no warm reset;
// a cold one of a card with power needs that taken away.
func (s *slot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	if s.powered && (how == reader.Cold || s.memory) {
		if err := s.PowerOff(ctx); err != nil {
			return nil, err
		}
	}
	s.powered, s.memory, s.t0 = false, false, false
	atr, sw, err := s.ask(ctx, reset(s.ins, unit(s.number)))
	if err == nil && unknown(sw) && s.ins == insReset {
		s.ins = insResetOlder
		atr, sw, err = s.ask(ctx, reset(s.ins, unit(s.number)))
	}
	if err != nil {
		return nil, s.fail("reset of the card", err)
	}
	switch sw {
	case ctbcs.Processor:
		if len(atr) == 0 {
			return nil, s.fail("reset of the card", fmt.Errorf("an empty ATR: %w", reader.ErrMute))
		}
		s.powered = true
		return atr, nil
	case ctbcs.Done, swMemory, swTypeUnknown, swNoProtocol:
		atr, err = s.powerMemory(ctx, sw, atr)
		return atr, s.fail("memory card", err)
	}
	return nil, s.fail("reset of the card", s.absent(ctx, s.number, ctbcs.Error(sw)))
}

// PowerOff ejects the card, as far as the terminal can: its power goes. OpenCT sends
// nothing; the command is KOBIL's and libtowitoko's. A terminal without it keeps the power on.
func (s *slot) PowerOff(ctx context.Context) error {
	s.powered, s.memory = false, false
	_, _, err := s.ask(ctx, eject(s.number))
	return s.fail("eject", err)
}

// SelectProtocol tells the terminal, which then does the PPS. It can be told right after a reset
// alone, and some know no such command: they use the card's first protocol.
func (s *slot) SelectProtocol(ctx context.Context, want iso7816.Params) (iso7816.Params, error) {
	protocol := byte(protocolT1)
	if want.T == 0 {
		protocol = protocolT0
	}
	err := s.setProtocol(ctx, protocol)
	s.t0 = want.T == 0
	return want, err
}

func (s *slot) setProtocol(ctx context.Context, protocol byte) error {
	_, sw, err := s.ask(ctx, setProtocol(s.number, protocol))
	if err == nil && sw != ctbcs.Done && sw != swNotNow && !unknown(sw) {
		err = ctbcs.Error(sw)
	}
	return s.fail("set the protocol", err)
}

// Exchange sends a short C-APDU. In T=0, Le of case 4 stays behind (ISO/IEC 7816-3:2006
// §12.2.4).
func (s *slot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	out := x.Out
	if err := iso7816.Carries(out, false); err != nil {
		return dst, s.fail("exchange", err)
	}
	if s.t0 && len(out) > 5 && len(out) == 6+int(out[4]) {
		out = out[:len(out)-1]
	}
	// The terminal keeps the card's times, and asks for more.
	t := ctbcs.Times{Wait: ctbcs.AnswerWait, Until: x.Until, Extended: x.Extended}
	if t.Until.IsZero() {
		t.Until = time.Now().Add(exchangeLimit)
	}
	start := len(dst)
	dst, err := s.do(ctx, nadCard[s.number], out, t, dst)
	if err == nil && ctbcs.Doubtful(dst[start:]) || errors.Is(err, reader.ErrTimeout) {
		if why := s.lost(ctx); why != nil {
			clear(dst[start:])
			return dst[:start], s.fail("exchange", why)
		}
	}
	return dst, s.fail("exchange", err)
}

// lost says why an exchange failed, if the card is not there or has no power.
func (s *slot) lost(ctx context.Context) error {
	value, err := s.status(ctx, s.number)
	switch {
	case errors.Is(err, reader.ErrGone) || ctx.Err() != nil:
		return err
	case err != nil:
		return nil // what the exchange had says more
	case value&ctbcs.CardIn == 0:
		s.powered = false
		return reader.ErrNoCard
	case value&ctbcs.CardOff != 0:
		s.powered = false
		return reader.ErrStale
	}
	return nil
}

// exchangeLimit is for a card that asks for time without end, if nobody else has a limit.
const exchangeLimit = 10 * time.Minute
