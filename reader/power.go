package reader

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// powerLimit bounds one activation with everything that belongs to it: three
// voltages with an ATR of 33 characters at 9600 etu each, PPS and S(IFS).
const powerLimit = 30 * time.Second

// stamp notes that the card was just used. b.mu is held.
func (b *Bay) stamp() {
	if b.manager.options.IdleOff > 0 {
		b.used = time.Now()
	}
}

// powerOffIdle takes the power off a card that nobody used for so long.
func (b *Bay) powerOffIdle(after time.Duration) {
	due := func() error {
		if b.lock != nil || time.Since(b.used) < after {
			return ErrLocked
		}
		return nil
	}
	b.mu.Lock()
	idle := b.card == Powered && due() == nil
	b.mu.Unlock()
	if idle {
		b.inTurn(b.ctx, func() error { return b.powerOffIf(b.ctx, due) })
	}
}

// unused is nil where by may take the power off and takes it from nobody. A
// power-up under way is somebody's open. b.mu is held.
func (b *Bay) unused(by Caller) error {
	switch {
	case !b.admitted(by):
		return ErrLocked
	case len(b.sessions) > 0 || b.powering != nil:
		return fmt.Errorf("the card is in use: %w", ErrLocked)
	}
	return nil
}

// powerOffIf deactivates the card unless allowed, which is called with b.mu held,
// says why not; nil allows it. That, and that the card has no power any more, is one
// step: an open that comes meanwhile waits for the turn and powers the card up again.
// The caller holds the turn.
func (b *Bay) powerOffIf(ctx context.Context, allowed func() error) error {
	b.mu.Lock()
	if b.card == Powered && allowed != nil {
		if err := allowed(); err != nil {
			b.mu.Unlock()
			return err
		}
	}
	b.setUnpowered()
	b.mu.Unlock()
	err := b.link.powerOff(ctx)
	if err != nil {
		err = fmt.Errorf("power off: %w", err)
		b.mu.Lock()
		b.noteError(err)
		b.mu.Unlock()
	}
	return err
}

// powerUp activates the card, or resets one that is powered, and sets its
// protocol up: want is 0 or 1, or -1 for the card's first offer. The caller
// holds the turn. by is who asked for a reset.
func (b *Bay) powerUp(how Reset, want int, by Caller) error {
	b.mu.Lock()
	if b.manager.leaving.Err() != nil {
		b.mu.Unlock()
		return ErrGone // Close took, or takes, the power off
	}
	was, before := b.card, b.epoch
	b.begin()
	b.raising = true
	b.mu.Unlock()
	if was != Powered {
		how = Cold
	}
	err := b.link.powerUp(b.link.ctx, how, want)
	b.under.Store(false)
	err = b.outcome(err)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.raising = false
	switch {
	case b.phase != ready || b.ctx.Err() != nil:
		return b.life.err()
	case b.manager.leaving.Err() != nil:
		b.setUnpowered()
		return ErrGone
	}
	b.stamp()
	if err != nil {
		switch {
		case errors.Is(err, ErrNoCard):
			b.setCard(Absent)
		case errors.Is(err, ErrGone):
			b.life.lost(err)
		default:
			b.setUnpowered()
			b.keepError(err)
			b.publish(Failed, "error", err.Error())
		}
		return err
	}
	b.setCard(max(Present, b.card)) // where the reader had not noticed it yet
	atr, params := b.link.atr.Bytes(), b.link.params
	b.card, b.atr, b.answer, b.params, b.fallback, b.lastErr = Powered, atr, b.link.atr, params, b.link.fallback, nil
	b.level = b.link.traits.Level
	b.renewEpoch(by, before)
	if b.fallback != "" {
		b.stats.count(&b.stats.fallbacks)
		b.log.Info("a slower rate is in force", "fallback", b.fallback)
	}
	if was == Powered {
		b.publish(WasReset, "atr", fmt.Sprintf("%X", atr), "protocol", fmt.Sprintf("T=%d", params.T))
	} else {
		b.publish(PowerSet, "atr", fmt.Sprintf("%X", atr), "protocol", fmt.Sprintf("T=%d", params.T))
	}
	b.touch()
	return nil
}

// Action is what a program may ask of a card's power.
type Action int

const (
	PowerUp   Action = iota // activate, unless powered already
	PowerDown               // deactivate
	ResetWarm
	ResetCold
	Eject
	Release // deactivate, if that takes the card from nobody
)

// Power does a, and returns when the card did it. by may not be the one whose
// transaction another holds: ErrLocked, which Release says, too, where anybody
// has the card open. ctx ends only the waiting for the turn.
func (b *Bay) Power(ctx context.Context, a Action, by Caller) error {
	if err := b.WaitReady(ctx, by.Wait); err != nil {
		return err
	}
	if a == Release {
		// At once: the turn may be another's for an hour.
		b.Introduce(by)
		b.mu.Lock()
		err := b.unused(by)
		b.mu.Unlock()
		if err != nil {
			return err
		}
	}
	enter := b.enter
	if a == ResetWarm || a == ResetCold {
		enter = b.enterToReset
	}
	if err := enter(ctx, by); err != nil {
		return err
	}
	return b.holding(func() error { return b.power(a, by) })
}

// power is Power with the turn.
func (b *Bay) power(a Action, by Caller) error {
	b.mu.Lock()
	err, card, admitted := b.readyErr(), b.card, b.admitted(by)
	b.mu.Unlock()
	switch {
	case err != nil:
		return err
	case a == PowerUp && card == Powered:
		return nil
	case !admitted:
		return ErrLocked
	case (a == PowerDown || a == Release) && card != Powered:
		return nil
	case card == Absent:
		// The reader may not have told us of the card yet.
		if b.refresh(); !b.hasCard() {
			return ErrNoCard
		}
	}
	admits := func() error {
		if !b.admitted(by) {
			return ErrLocked
		}
		return nil
	}
	switch a {
	case PowerUp:
		return b.powerUp(Cold, -1, by)
	case ResetCold:
		return b.reset(Cold, by)
	case ResetWarm:
		return b.reset(Warm, by)
	case PowerDown:
		return b.orGone(b.powerOffIf(b.ctx, admits))
	case Release:
		return b.orGone(b.powerOffIf(b.ctx, func() error { return b.unused(by) }))
	case Eject:
		e, ok := b.link.slot.(Ejector)
		if !ok {
			return fmt.Errorf("eject: %w", ErrUnsupported)
		}
		if err := b.powerOffIf(b.ctx, admits); err != nil {
			return b.orGone(err)
		}
		err := e.Eject(b.ctx)
		b.refresh()
		return b.orGone(err)
	}
	return ErrInvalid
}

// reset is powerUp for who asks for a reset.
func (b *Bay) reset(how Reset, by Caller) error {
	err := b.powerUp(how, -1, by)
	if err == nil {
		b.stats.count(&b.stats.resets[how])
	}
	return err
}

func (b *Bay) hasCard() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.card != Absent
}

// SelectProtocol makes T=t the protocol. Where that is not what is in force,
// the card is reset and negotiated with anew, so that earlier sessions go stale.
func (b *Bay) SelectProtocol(ctx context.Context, t int, by Caller) error {
	if err := b.enterToReset(ctx, by); err != nil {
		return err
	}
	return b.holding(func() error { return b.selectProtocol(t, by) })
}

// selectProtocol is SelectProtocol with the turn.
func (b *Bay) selectProtocol(t int, by Caller) error {
	b.mu.Lock()
	err, card, admitted := b.readyErr(), b.card, b.admitted(by)
	inForce := b.params.T
	b.mu.Unlock()
	switch {
	case err != nil:
		return err
	case card == Absent:
		return ErrNoCard
	case card == Powered && inForce == t:
		return nil
	case !admitted:
		return ErrLocked
	case !b.link.speaks(t):
		return fmt.Errorf("protocol T=%d: the reader does not have it: %w", t, ErrUnsupported)
	case card == Powered:
		if err := b.link.selectable(t); err != nil {
			return err
		}
	}
	return b.powerUp(Warm, t, by)
}
