package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// setCard records the card status that the reader reports. s.mu is held.
func (s *Slot) setCard(now reader.Status) {
	if s.phase != ready {
		return
	}
	switch {
	case now == reader.Absent && s.card != reader.Absent:
		s.card, s.atr, s.lastErr = reader.Absent, nil, nil
		s.newEpoch()
		s.swaps++
		s.publish(Removed)
		s.look()
	case now != reader.Absent && s.card == reader.Absent:
		// A reader that activates on insertion says Powered here; its ATR is
		// still to be fetched, so that to us the card is not powered yet.
		s.card, s.lastErr = reader.Present, nil
		s.newEpoch()
		s.inserted = s.epoch
		s.swaps++
		s.publish(Inserted)
	case now == reader.Present && s.card == reader.Powered:
		// It was powered and is not: it was out and in again between two
		// looks, or the reader took the power away.
		s.card, s.atr = reader.Present, nil
		s.newEpoch()
		s.inserted = s.epoch
		s.swaps += 2
		s.publish(Removed)
		s.publish(Inserted)
	default:
		return
	}
	s.touch()
}

// setUnpowered records that the card has no power any more. s.mu is held.
func (s *Slot) setUnpowered() {
	if s.card == reader.Powered {
		s.card, s.atr = reader.Present, nil
		s.newEpoch()
		s.publish(PowerSet, "power", "off")
		s.touch()
	}
}

// refresh asks the reader for the card. The caller holds the turn.
func (s *Slot) refresh() {
	if s.link == nil {
		return
	}
	now, err := s.link.Slot.Status(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ctx.Err() != nil:
	case errors.Is(err, reader.ErrGone):
		s.opening.lost(err)
	case errors.Is(err, reader.ErrStale) && now == reader.Powered && s.card == reader.Powered:
		s.unknown = false
		s.mu.Unlock()
		_ = s.powerUp(s.ctx, reader.Warm, -1, Caller{}) // it keeps its error
		s.mu.Lock()
	case errors.Is(err, reader.ErrStale):
		s.unknown = false
		s.setUnpowered()
	case err != nil:
		s.unknown = true
		s.look()
		err = fmt.Errorf("status: %w", err)
		if s.lastErr == nil || s.lastErr.Error() != err.Error() { // it may be asked for ever
			s.noteError(err)
		}
	default:
		s.unknown = false
		s.setCard(now)
	}
}

// catchUp asks the reader for the card, so that whoever comes after a command of the driver
// finds it as the command left it. An exchange under way is not waited for: it notices by itself.
func (s *Slot) catchUp() {
	ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
	defer cancel()
	_ = s.inTurn(ctx, func() error { s.refresh(); return nil })
}

// look has the monitor poll if that is needed now. s.mu is held.
func (s *Slot) look() {
	select {
	case s.looks <- struct{}{}:
	default:
	}
}

// monitor follows the contacts by the reader's notifications. Without them, and as long as
// the state is not known, it polls; a card that cannot be taken out only while it is said not
// to be there. It also powers an idle card off.
func (s *Slot) monitor() {
	var changes <-chan struct{}
	var fixed, shared bool
	if s.inTurn(s.ctx, func() error {
		if n := s.link.Features.Notifier; n != nil {
			changes = n.Changes()
		}
		t := s.link.Slot.Traits()
		fixed, shared = t.Fixed, t.Shared
		return nil
	}) != nil {
		return
	}
	notified := changes != nil
	idleOff := s.manager.options.IdleOff
	if shared {
		idleOff = 0 // that is for whoever has the card
	}
	var idle <-chan time.Time
	if idleOff > 0 {
		t := time.NewTicker(max(idleOff/4, 10*time.Millisecond))
		defer t.Stop()
		idle = t.C
	}
	var poll *time.Ticker // nil: not needed
	stop := func() {
		if poll != nil {
			poll.Stop()
			poll = nil
		}
	}
	defer stop()
	for {
		s.mu.Lock()
		blind := s.unknown || !notified && (!fixed || s.card == reader.Absent)
		s.mu.Unlock()
		var ticks <-chan time.Time
		if !blind {
			stop()
		} else {
			if poll == nil {
				poll = time.NewTicker(s.manager.options.Poll)
			}
			ticks = poll.C
		}
		select {
		case <-s.looks:
			continue
		case _, open := <-changes:
			if !open { // nil: there will be no further notification
				changes = nil
				continue
			}
		case <-ticks:
		case <-idle:
			s.powerOffIdle(idleOff)
			continue
		case <-s.opening.over():
			return
		case <-s.ctx.Done():
			return
		}
		if s.inTurn(s.ctx, func() error { s.refresh(); return nil }) != nil {
			return
		}
	}
}
