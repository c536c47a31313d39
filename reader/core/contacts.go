package core

import (
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
		s.publish(Removed)
	case now != reader.Absent && s.card == reader.Absent:
		// A reader that activates on insertion says Powered here; its ATR is
		// still to be fetched, so that to us the card is not powered yet.
		s.card, s.lastErr = reader.Present, nil
		s.newEpoch()
		s.inserted = s.epoch
		s.publish(Inserted)
	case now == reader.Present && s.card == reader.Powered:
		// It was powered and is not: it was out and in again between two
		// looks, or the reader took the power away.
		s.card, s.atr = reader.Present, nil
		s.newEpoch()
		s.inserted = s.epoch
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
	case err != nil:
		err = fmt.Errorf("status: %w", err)
		if s.lastErr == nil || s.lastErr.Error() != err.Error() { // it may be asked for ever
			s.noteError(err)
		}
	default:
		s.setCard(now)
	}
}

// monitor follows the contacts, by the reader's notifications or, without them, by polling.
// It also powers an idle card off.
func (s *Slot) monitor() {
	var changes <-chan struct{}
	var fixed bool
	if s.inTurn(s.ctx, func() error {
		if n := s.link.Features.Notifier; n != nil {
			changes = n.Changes()
		}
		fixed = s.link.Slot.Traits().Fixed
		return nil
	}) != nil {
		return
	}
	idleOff := s.manager.options.IdleOff
	if fixed && idleOff == 0 {
		return
	}
	var poll, idle <-chan time.Time
	if changes == nil && !fixed {
		t := time.NewTicker(s.manager.options.Poll)
		defer t.Stop()
		poll = t.C
	}
	if idleOff > 0 {
		t := time.NewTicker(max(idleOff/4, 10*time.Millisecond))
		defer t.Stop()
		idle = t.C
	}
	for {
		select {
		case _, open := <-changes:
			if !open { // nil: there will be no further notification
				changes = nil
				continue
			}
		case <-poll:
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
