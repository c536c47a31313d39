package acs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// slot is one card position: what those of an ACR30 and an ACR38 have in common.
type slot struct {
	*device
	ins       instructions
	kind      byte // the type of card that the next reset is for
	resetData []byte
	sam       bool

	off bool // the card is known to have no power
	t   int  // the protocol agreed on

	// A SAM's state is not reported: it is what the last power-up found.
	state reader.Status
	empty bool
}

// Traits: T=0 TPDUs and T=1 blocks.
func (s *slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.TPDU, IFSD: 254, Slack: time.Second}
}

func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	if s.sam {
		return s.samStatus(ctx)
	}
	state, err := byte(0), error(nil)
	fail := s.do(ctx, insStatus, nil, s.wait, func(p []byte) {
		if len(p) != statusLength {
			err = fmt.Errorf("%d bytes, not %d: %w", len(p), statusLength, reader.ErrProtocol)
			return
		}
		state = p[stateAt]
	})
	if err = errors.Join(fail, err); err != nil {
		return reader.Absent, s.fail("status", err)
	}
	switch state {
	case stateEmpty:
		return reader.Absent, nil
	case statePowered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

func (s *slot) samStatus(ctx context.Context) (reader.Status, error) {
	select {
	case <-s.Gone():
		return reader.Absent, s.fail("status", reader.ErrGone)
	default:
	}
	switch {
	case ctx.Err() != nil:
		return reader.Absent, s.fail("status", ctx.Err())
	case s.empty:
		return reader.Absent, nil
	case s.state == reader.Powered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// PowerOn resets the card. A cold reset takes the power away first; the reader resets a card
// that has power without doing so.
func (s *slot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	if how == reader.Cold && !s.off {
		if err := s.PowerOff(ctx); err != nil {
			return nil, err
		}
	}
	s.state, s.off = reader.Present, false
	if !s.sam {
		if err := s.do(ctx, insCardType, []byte{s.kind}, s.wait, nil); err != nil {
			return nil, s.fail("select the type of card", err)
		}
	}
	var atr []byte
	err := s.do(ctx, s.ins.reset, s.resetData, resetWait, func(p []byte) { atr = append(atr, p...) })
	if s.empty = errors.Is(err, reader.ErrNoCard); err == nil && len(atr) == 0 {
		err = fmt.Errorf("an empty ATR: %w", reader.ErrMute)
	}
	if err != nil && !isInDoubt(err) && !s.empty && !errors.Is(err, reader.ErrMute) {
		err = fmt.Errorf("%w: %w", err, reader.ErrMute)
	}
	if err != nil {
		return nil, s.fail("reset the card", err)
	}
	s.state = reader.Powered
	return atr, nil
}

func (s *slot) PowerOff(ctx context.Context) error {
	s.state = reader.Present
	err := s.do(ctx, s.ins.powerOff, nil, s.wait, nil)
	if errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrStale) {
		err = nil
	}
	s.off = err == nil
	return s.fail("power off", err)
}

// exchange sends what goes to the card by an instruction, with the answer appended to dst. If
// that has no data, instead is appended.
func (s *slot) exchange(ctx context.Context, ins byte, out []byte, wait time.Duration, dst, instead []byte) ([]byte, error) {
	if wait <= 0 {
		wait = exchangeWait
	}
	start := len(dst)
	err := s.do(ctx, ins, out, wait, func(p []byte) {
		if len(p) == 0 {
			p = instead
		}
		dst = iso7816.AppendResponse(dst, start, p...)
	})
	return dst, s.fail("exchange", err)
}

// tpdu is the instruction for a TPDU or a block.
func (s *slot) tpdu(out []byte) (ins byte, err error) {
	switch {
	case len(out) < 4:
		return 0, s.fail("exchange", fmt.Errorf("%d bytes are neither a TPDU nor a block: %w", len(out), reader.ErrInvalid))
	case s.t == 0:
		return s.ins.t0, nil
	}
	return s.ins.t1, nil
}
