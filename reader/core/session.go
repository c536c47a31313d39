package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/link"
)

// Caller identifies the origin of a request: one open of one file.
type Caller struct {
	// Owner is the identity of the open; any comparable value, usually a pointer.
	Owner any
	// Process is the identity of the process that made it, any comparable value; nil: not known.
	Process any
	// Pass remembers which transactions of others admit this open; nil: none does.
	Pass *Pass
	// Escape: it may send escape commands.
	Escape bool
	// At is when the command was handed over. A command with a PIN, and a session, is only
	// for a card that was there then. None: now.
	At Moment
	// Wait: the caller waits for the reader, for a card, and for the end of another's
	// transaction. Without it the caller gets ErrNotReady, ErrNoCard or ErrLocked.
	Wait bool
}

// Session is a program's hold on a powered card from one open to its close. It
// ends with the card's security state; after that its methods return ErrStale.
type Session struct {
	slot   *Slot
	caller Caller
	atr    []byte
	epoch  Moment // under the slot's mu: a reset by the holder of the transaction moves it
}

// Open waits for the reader to be ready, for a card, and for its power-up, which it starts
// if nobody else did. All callers that wait for one power-up share its outcome. A card that
// was inserted after by.At counts as another card: ErrStale.
func (slot *Slot) Open(ctx context.Context, by Caller) (*Session, error) {
	slot.Introduce(by)
	for waited := false; ; {
		if err := slot.over(); err != nil {
			return nil, err
		}
		barred := slot.barred(by)
		slot.mu.Lock()
		if err := slot.readyErr(); err != nil && !(by.Wait && errors.Is(err, reader.ErrNotReady)) {
			slot.mu.Unlock()
			return nil, err
		}
		changed := slot.changed
		switch {
		case slot.card != reader.Absent && !slot.inserted.before(by.At):
			slot.mu.Unlock()
			return nil, reader.ErrStale
		case slot.card == reader.Powered:
			s := &Session{slot: slot, caller: by, epoch: slot.epoch, atr: slot.atr}
			if slot.sessions == nil {
				slot.sessions = make(map[*Session]struct{})
			}
			slot.sessions[s] = struct{}{}
			slot.tell()
			slot.stamp()
			slot.mu.Unlock()
			return s, nil
		case slot.card == reader.Present:
			if barred != nil {
				slot.mu.Unlock()
				return nil, barred
			}
			a := slot.powering
			if a == nil {
				a = &attempt{done: make(chan struct{})}
				slot.powering = a
				slot.manager.spawn(func() { slot.powerOnDemand(a, by) })
			}
			slot.mu.Unlock()
			slot.noteWait(&waited)
			if err := slot.wait(ctx, a.done); err != nil {
				return nil, err
			}
			switch {
			case errors.Is(a.err, errExclusive): // another opened first, who may not
			case by.Wait && errors.Is(a.err, reader.ErrNoCard): // taken out meanwhile; wait for the next
			case a.err != nil:
				return nil, a.err
			}
			continue
		case !by.Wait:
			slot.mu.Unlock()
			return nil, reader.ErrNoCard
		}
		slot.mu.Unlock()
		slot.noteWait(&waited)
		if err := slot.wait(ctx, changed); err != nil {
			return nil, err
		}
	}
}

// noteWait counts an open that waits, once.
func (s *Slot) noteWait(waited *bool) {
	if !*waited {
		*waited = true
		s.stats.count(&s.stats.opensWaited)
	}
}

// powerOnDemand runs apart from its callers, so that one that gives up does not end the
// power-up for the others. by is the first of them.
func (s *Slot) powerOnDemand(a *attempt, by Caller) {
	err := s.inTurn(s.ctx, func() error {
		s.mu.Lock()
		card := s.card
		s.mu.Unlock()
		switch card {
		case reader.Present:
			if err := s.barred(by); err != nil {
				return err // the connection is younger than the attempt
			}
			return s.powerUp(s.ctx, reader.Cold, -1, Caller{})
		case reader.Absent:
			return reader.ErrNoCard
		}
		return nil
	})
	s.mu.Lock()
	a.err = err
	s.powering = nil
	s.mu.Unlock()
	close(a.done)
}

// Close ends the session; the card keeps its power.
func (s *Session) Close() {
	s.slot.mu.Lock()
	defer s.slot.mu.Unlock()
	delete(s.slot.sessions, s)
	s.slot.endVerification(s.caller)
	s.slot.tell()
}

// Err says why the session cannot go on; nil if it can.
func (s *Session) Err() error {
	s.slot.mu.Lock()
	defer s.slot.mu.Unlock()
	return s.slot.usable(s)
}

// Slot is the slot of the session.
func (s *Session) Slot() *Slot { return s.slot }

// ATR is the card's answer to the reset that began the session.
func (s *Session) ATR() []byte { return s.atr }

// Transmit sends a C-APDU and appends the R-APDU to dst. It waits for its turn, and for the
// end of another's transaction. If ctx ends while it waits, it returns ErrInterrupted, and
// nothing was sent. A command that is under way is completed whatever happens to ctx: it is
// never sent twice, and its answer is never lost.
func (s *Session) Transmit(ctx context.Context, capdu, dst []byte) ([]byte, error) {
	return s.slot.use(ctx, s.caller, s, func(l *link.Link) ([]byte, error) {
		answer, err := s.slot.transmit(l, capdu, dst)
		if c := l.Card(); c != nil {
			s.slot.noteVerification(c, s.caller)
		}
		return answer, err
	})
}

// transmit is Transmit with the turn. It counts the exchange.
func (s *Slot) transmit(l *link.Link, capdu, dst []byte) ([]byte, error) {
	began := time.Now()
	answer, err := l.Transmit(s.underWay, capdu, dst)
	took := time.Since(began)
	s.logExchange("exchange", took, err)
	if err == nil || !unheard(err) {
		s.stats.exchanged(took, len(capdu), max(0, len(answer)-len(dst)), l.Secret())
	}
	return answer, err
}

// logExchange logs the outcome of a command, but no byte of the command or its answer.
func (s *Slot) logExchange(what string, took time.Duration, err error) {
	if !s.every.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	outcome := "answered"
	if err != nil {
		outcome = kind(err)
	}
	s.every.Debug(what, "took", took.Round(time.Microsecond), "outcome", outcome)
}

// unheard reports whether err says that no card saw the command.
func unheard(err error) bool {
	return errors.Is(err, reader.ErrInvalid) || errors.Is(err, reader.ErrUnsupported) || errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrStale)
}

// use runs do with the turn, for a caller that the transactions admit and, if s is
// not nil, while the card is still what it was when the session began.
func (slot *Slot) use(ctx context.Context, by Caller, s *Session, do func(*link.Link) ([]byte, error)) ([]byte, error) {
	for {
		if err := slot.barred(by); err != nil {
			return nil, err
		}
		if err := slot.acquireAs(ctx, by); err != nil {
			return nil, err
		}
		slot.mu.Lock()
		err := slot.usable(s)
		if t, known := slot.against(by); err == nil && t != nil {
			changed, ending := slot.changed, t.ending
			slot.mu.Unlock()
			slot.release()
			switch {
			case !known:
				t.judge(by)
				continue
			case t.connection:
				return nil, errExclusive
			case !by.Wait && !ending: // the end of a reset is waited for as the turn is
				return nil, reader.ErrLocked
			}
			began := time.Now()
			err := slot.wait(ctx, changed)
			slot.stats.waited(began)
			if err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			slot.mu.Unlock()
			slot.release()
			return nil, err
		}
		slot.begin()
		if slot.memory.expired {
			do = relocked(slot, do)
		}
		if slot.held() && slot.link.Features.Locker != nil {
			do = slot.alone(ctx, do)
		}
		slot.mu.Unlock()
		return slot.work(do)
	}
}

// work runs do and gives the turn back, whatever happens in do.
func (s *Slot) work(do func(*link.Link) ([]byte, error)) (answer []byte, err error) {
	defer s.release()
	defer s.opening.recovered("slot", &err)
	answer, err = do(s.link)
	s.answered()
	s.under.Store(false)
	err = s.outcome(err)
	s.settle(err)
	return answer, err
}

// outcome returns err, or the reason why the command was cut short: the reader left, the
// manager closed, or Abort was called.
func (s *Slot) outcome(err error) error {
	if err == nil || errors.Is(err, reader.ErrGone) {
		return err
	}
	if err := s.orGone(err); errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrFailed) {
		return err
	}
	if s.underWay.Err() != nil {
		// The driver's error, a time-out or another, may only reflect the end of its ctx.
		s.link.Abandon()
		return fmt.Errorf("%w (%v)", context.Cause(s.underWay), err)
	}
	return err
}

// orGone is err, and ErrGone or ErrFailed too if the reader left or failed meanwhile.
func (s *Slot) orGone(err error) error {
	if err == nil || s.ctx.Err() == nil && !closed(s.opening.over()) {
		return err
	}
	if why := s.opening.err(); !errors.Is(err, why) {
		return fmt.Errorf("%w: %w", why, err)
	}
	return err
}

// usable returns why s cannot be used, or the reader if s is nil. slot.mu is held.
func (slot *Slot) usable(s *Session) error {
	if err := slot.readyErr(); err != nil {
		return err
	}
	if s != nil {
		switch {
		case slot.card == reader.Absent:
			return reader.ErrNoCard
		case slot.epoch != s.epoch:
			return reader.ErrStale
		}
	}
	return nil
}

// settle updates the slot after an exchange. The caller holds the turn.
func (s *Slot) settle(err error) {
	dead := s.link.Dead() || errors.Is(err, reader.ErrStale) // outcome may have seen it dead
	if err == nil && !dead {
		if s.manager.options.IdleOff > 0 {
			s.mu.Lock()
			s.stamp()
			s.mu.Unlock()
		}
		return
	}
	switch {
	case s.manager.leaving.Err() != nil, closed(s.opening.over()):
		return // quiesce takes the power off, or the reader is gone
	case errors.Is(err, reader.ErrGone):
		// The next caller must get this error too, and not that the card was reset.
		s.opening.lost(err)
		return
	}
	s.mu.Lock()
	s.stamp()
	switch {
	case errors.Is(err, errUnpowered):
	case errors.Is(err, reader.ErrNoCard):
		s.setCard(reader.Absent)
	case errors.Is(err, reader.ErrStale): // setUnpowered below
	case errors.Is(err, reader.ErrInvalid), errors.Is(err, reader.ErrUnsupported):
	case err != nil && s.link.Secret():
		s.keepError(link.Conceal(err))
		s.log.Warn("slot error", "error", kind(err))
	case err != nil:
		s.noteError(err)
	}
	there := errors.Is(err, reader.ErrStale) && s.link.Slot.Traits().Shared
	if dead && !there {
		s.setUnpowered()
	}
	s.mu.Unlock()
	if there {
		s.refresh() // knows whether somebody there has reset the card or powered it off
		if dead = s.link.Dead(); dead {
			s.mu.Lock()
			s.setUnpowered()
			s.mu.Unlock()
		}
	}
	if dead {
		// The protocol could not be brought back, or was left in the middle: the card
		// must be reset (ISO/IEC 7816-3:2006 rule 6.4), which only a new open may ask for.
		s.link.PowerOff(s.ctx)
	} else if !there && !errors.Is(err, reader.ErrInvalid) && !errors.Is(err, reader.ErrUnsupported) {
		s.refresh()
	}
}
