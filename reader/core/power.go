package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/words"
)

// stamp notes that the card was just used. s.mu is held.
func (s *Slot) stamp() {
	if s.manager.options.IdleOff > 0 {
		s.used = time.Now()
	}
}

// powerOffIdle powers off a card that was unused for Options.IdleOff.
func (s *Slot) powerOffIdle(after time.Duration) {
	due := func() error {
		if s.held() || time.Since(s.used) < after {
			return reader.ErrLocked
		}
		return nil
	}
	s.mu.Lock()
	idle := s.card == reader.Powered && due() == nil
	s.mu.Unlock()
	if idle {
		s.inTurn(s.ctx, func() error { return s.powerOffIf(s.ctx, due) })
	}
}

// unused returns nil if by may power off the card and nobody else uses it. A power-up under
// way belongs to somebody's open. s.mu is held.
func (s *Slot) unused(by Caller) error {
	switch {
	case !s.admitted(by):
		return reader.ErrLocked
	case len(s.sessions) > 0 || s.powering != nil:
		return fmt.Errorf("the card is in use: %w", reader.ErrLocked)
	}
	return nil
}

// powerOffIf deactivates the card unless allowed, which is called with s.mu held, returns an
// error. The check and the change of state are one step: an open that comes meanwhile waits
// for the turn and powers the card up again. The caller holds the turn.
func (s *Slot) powerOffIf(ctx context.Context, allowed func() error) error {
	s.mu.Lock()
	if s.card == reader.Powered && allowed != nil {
		if err := allowed(); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	s.setUnpowered()
	s.mu.Unlock()
	err := s.link.PowerOff(ctx)
	if err != nil {
		err = fmt.Errorf("power off: %w", err)
		s.mu.Lock()
		s.noteError(err)
		s.mu.Unlock()
	}
	return err
}

// powerUp activates the card, or resets a powered one, and sets up its protocol: want is 0
// or 1, or -1 for the card's first offer. by is the caller who asked for a reset. ctx ends
// only the pauses between two tries. The caller holds the turn.
func (s *Slot) powerUp(ctx context.Context, how reader.Reset, want int, by Caller) error {
	s.mu.Lock()
	if s.manager.leaving.Err() != nil {
		s.mu.Unlock()
		return reader.ErrGone // Close took, or takes, the power off
	}
	was, before := s.card, s.epoch
	s.begin()
	s.raising = true
	s.mu.Unlock()
	if was != reader.Powered || s.level == reader.Synchronous { // whose PSC only power takes back
		how = reader.Cold
	}
	err := s.raise(ctx, how, want)
	if err != nil {
		s.link.PowerOff(s.ctx)
	}
	s.answered()
	s.under.Store(false)
	err = s.outcome(err)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.raising = false
	switch {
	case s.phase != ready || s.ctx.Err() != nil:
		return s.opening.err()
	case s.manager.leaving.Err() != nil:
		s.setUnpowered()
		return reader.ErrGone
	}
	s.stamp()
	if err != nil {
		switch {
		case errors.Is(err, reader.ErrNoCard):
			s.setCard(reader.Absent)
		case errors.Is(err, reader.ErrGone):
			s.opening.lost(err)
		default:
			s.setUnpowered()
			s.keepError(err)
			s.publish(Failed, "error", err.Error())
		}
		return err
	}
	s.setCard(max(reader.Present, s.card)) // where the reader had not noticed it yet
	answer, params := s.link.ATR(), s.link.Params()
	atr := answer.Bytes()
	s.card, s.atr, s.answer, s.params, s.fallback, s.lastErr = reader.Powered, atr, answer, params, s.link.Fallback(), nil
	s.level = s.link.Traits().Level
	s.offered = offered(s.link)
	s.setMemory(s.link.Card())
	s.renewEpoch(by, before)
	if s.fallback != "" {
		s.stats.count(&s.stats.fallbacks)
		s.log.Info("a slower rate is in force", "fallback", s.fallback)
	}
	if was == reader.Powered {
		s.publish(WasReset, "atr", fmt.Sprintf("%X", atr), "protocol", protocolName(params))
	} else {
		s.publish(PowerSet, "atr", fmt.Sprintf("%X", atr), "protocol", protocolName(params))
	}
	s.touch()
	return nil
}

// offered is the set of protocols that the card and the reader of l both have.
func offered(l *link.Link) (set uint32) {
	if l.ATR().Synchronous() {
		return protocolBit(iso7816.NoProtocol)
	}
	for _, t := range l.ATR().Protocols() {
		if l.Speaks(t) {
			set |= protocolBit(t)
		}
	}
	return set
}

// raise is Link.PowerUp with patience. The holder of the transaction keeps it, and the
// sessions, however often it is tried.
func (s *Slot) raise(ctx context.Context, how reader.Reset, want int) error {
	patience := newPatience()
	for {
		err := s.link.PowerUp(s.underWay, how, want)
		if err == nil {
			s.inVain = time.Time{}
			return nil
		}
		if time.Since(s.inVain) < patienceAgain || want >= 0 || !needsTime(err, s.link.Slot.Traits().Fixed) {
			return err
		}
		pause, ok := patience.next()
		if !ok {
			s.inVain = time.Now()
			return err
		}
		s.log.Info("power-up failed and is tried again", "in", pause, "error", words.Printable(err.Error(), words.MaxWords))
		s.mu.Lock()
		s.keepError(err)
		s.mu.Unlock()
		if !s.pause(ctx, pause) {
			return err
		}
		how = reader.Cold
	}
}

// pause waits for d. It returns false as soon as there is no reason to wait any longer: what is
// under way was ended, by a departure too, or the driver panicked, or ctx ended.
func (s *Slot) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return s.over() == nil
	case <-s.underWay.Done():
	case <-s.opening.over():
	case <-ctx.Done():
	}
	return false
}

// Action is a change of a card's power that a program can request.
type Action int

const (
	PowerUp   Action = iota // activate, unless powered already
	PowerDown               // deactivate
	ResetWarm
	ResetCold
	Eject
	Release // deactivate, unless somebody has the card open
)

// Power carries out a and returns when the card did it. It returns ErrLocked while somebody
// other than by holds the transaction, and for Release also while anybody has the card
// open. ctx ends only the wait for the turn, and for a device that needs time.
func (s *Slot) Power(ctx context.Context, a Action, by Caller) error {
	if err := s.WaitReady(ctx, by.Wait); err != nil {
		return err
	}
	if a == Release {
		// At once: the turn may be another's for an hour.
		s.Introduce(by)
		s.mu.Lock()
		err := s.unused(by)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	enter := s.enter
	if a == ResetWarm || a == ResetCold {
		enter = s.enterToReset
	}
	if err := enter(ctx, by); err != nil {
		return err
	}
	return s.holding(func() error { return s.power(ctx, a, by) })
}

// power is Power for a caller that holds the turn.
func (s *Slot) power(ctx context.Context, a Action, by Caller) error {
	s.mu.Lock()
	err, card, admitted := s.readyErr(), s.card, s.admitted(by)
	s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case a == PowerUp && card == reader.Powered:
		return nil
	case !admitted:
		return reader.ErrLocked
	case (a == PowerDown || a == Release) && card != reader.Powered:
		return nil
	case card == reader.Absent:
		// The reader may not have reported the card yet.
		if s.refresh(); !s.hasCard() {
			return reader.ErrNoCard
		}
	}
	admits := func() error {
		if !s.admitted(by) {
			return reader.ErrLocked
		}
		return nil
	}
	switch a {
	case PowerUp:
		return s.powerUp(ctx, reader.Cold, -1, by)
	case ResetCold:
		return s.reset(ctx, reader.Cold, by)
	case ResetWarm:
		return s.reset(ctx, reader.Warm, by)
	case PowerDown:
		return s.orGone(s.powerOffIf(s.ctx, admits))
	case Release:
		return s.orGone(s.powerOffIf(s.ctx, func() error { return s.unused(by) }))
	case Eject:
		e := s.link.Features.Ejector
		if e == nil {
			return fmt.Errorf("eject: %w", reader.ErrUnsupported)
		}
		if err := s.powerOffIf(s.ctx, admits); err != nil {
			return s.orGone(err)
		}
		err := e.Eject(s.ctx)
		s.refresh()
		return s.orGone(err)
	}
	return reader.ErrInvalid
}

// reset is powerUp for an explicit request.
func (s *Slot) reset(ctx context.Context, how reader.Reset, by Caller) error {
	err := s.powerUp(ctx, how, -1, by)
	if err == nil {
		s.stats.count(&s.stats.resets[how])
	}
	return err
}

func (s *Slot) hasCard() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.card != reader.Absent
}

// SelectProtocol makes T=t the protocol. If another one is in force, the card is reset and
// the protocol negotiated again, and earlier sessions go stale.
func (s *Slot) SelectProtocol(ctx context.Context, t int, by Caller) error {
	if err := s.enterToReset(ctx, by); err != nil {
		return err
	}
	return s.holding(func() error { return s.selectProtocol(ctx, t, by) })
}

// selectProtocol is SelectProtocol for a caller that holds the turn.
func (s *Slot) selectProtocol(ctx context.Context, t int, by Caller) error {
	s.mu.Lock()
	err, card, admitted := s.readyErr(), s.card, s.admitted(by)
	inForce := s.params.T
	s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case card == reader.Absent:
		return reader.ErrNoCard
	case card == reader.Powered && inForce == t:
		return nil
	case !admitted:
		return reader.ErrLocked
	case !s.link.Speaks(t):
		return fmt.Errorf("protocol T=%d: the reader does not have it: %w", t, reader.ErrUnsupported)
	case card == reader.Powered:
		if err := s.link.Selectable(t); err != nil {
			return err
		}
	}
	return s.powerUp(ctx, reader.Warm, t, by)
}
