package reader

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Caller is who asks: one open of one file.
type Caller struct {
	// Owner is the identity of the open; any comparable value, usually a pointer.
	Owner any
	// Pass is where the core remembers which transactions of others admit this
	// open; nil: none does.
	Pass *Pass
	// Escape: it may send escape commands.
	Escape bool
	// At is when the command was handed over that is sent now: a command with a PIN, and
	// a session, is only for a card that was there then. None: now.
	At Moment
	// Wait: the caller waits for what is not ready, for a card, for the
	// transaction of another. Without, it gets ErrNotReady, ErrNoCard, ErrLocked.
	Wait bool
}

// Session is a program's hold on a powered card from one open to its close. It
// ends with the card's security state: from then on it says ErrStale.
type Session struct {
	bay    *Bay
	caller Caller
	atr    []byte
	epoch  Moment // under the bay's mu: a reset by the holder of the transaction moves it
}

// Open waits for the reader to be ready, for a card, and for its power-up, which
// it starts where nobody did. All who wait for one power-up share its outcome. A card that
// was put in after by.At is another one: ErrStale.
func (b *Bay) Open(ctx context.Context, by Caller) (*Session, error) {
	b.Introduce(by)
	for waited := false; ; {
		if err := b.over(); err != nil {
			return nil, err
		}
		b.mu.Lock()
		if err := b.readyErr(); err != nil && !(by.Wait && errors.Is(err, ErrNotReady)) {
			b.mu.Unlock()
			return nil, err
		}
		changed := b.changed
		switch {
		case b.card != Absent && !b.inserted.before(by.At):
			b.mu.Unlock()
			return nil, ErrStale
		case b.card == Powered:
			s := &Session{bay: b, caller: by, epoch: b.epoch, atr: b.atr}
			if b.sessions == nil {
				b.sessions = make(map[*Session]struct{})
			}
			b.sessions[s] = struct{}{}
			b.tell()
			b.stamp()
			b.mu.Unlock()
			return s, nil
		case b.card == Present:
			a := b.powering
			if a == nil {
				a = &attempt{done: make(chan struct{})}
				b.powering = a
				b.manager.spawn(func() { b.powerOnDemand(a) })
			}
			b.mu.Unlock()
			b.noteWait(&waited)
			if err := b.wait(ctx, a.done); err != nil {
				return nil, err
			}
			// A card that was taken out meanwhile is waited for again.
			if a.err != nil && !(by.Wait && errors.Is(a.err, ErrNoCard)) {
				return nil, a.err
			}
			continue
		case !by.Wait:
			b.mu.Unlock()
			return nil, ErrNoCard
		}
		b.mu.Unlock()
		b.noteWait(&waited)
		if err := b.wait(ctx, changed); err != nil {
			return nil, err
		}
	}
}

// noteWait counts an open that waits, once.
func (b *Bay) noteWait(waited *bool) {
	if !*waited {
		*waited = true
		b.stats.count(&b.stats.opensWaited)
	}
}

// powerOnDemand runs apart from who asked for it, so that one who gives up
// does not take it from the others.
func (b *Bay) powerOnDemand(a *attempt) {
	err := b.inTurn(b.ctx, func() error {
		b.mu.Lock()
		card := b.card
		b.mu.Unlock()
		switch card {
		case Present:
			return b.powerUp(Cold, -1, Caller{})
		case Absent:
			return ErrNoCard
		}
		return nil
	})
	b.mu.Lock()
	a.err = err
	b.powering = nil
	b.mu.Unlock()
	close(a.done)
}

// Close ends the session; the card keeps its power.
func (s *Session) Close() {
	s.bay.mu.Lock()
	defer s.bay.mu.Unlock()
	delete(s.bay.sessions, s)
	s.bay.tell()
}

// Err says why the session cannot go on; nil if it can.
func (s *Session) Err() error {
	s.bay.mu.Lock()
	defer s.bay.mu.Unlock()
	return s.bay.usable(s)
}

// Bay is the slot of the session.
func (s *Session) Bay() *Bay { return s.bay }

// ATR is the card's answer to the reset that began the session.
func (s *Session) ATR() []byte { return s.atr }

// Transmit sends a C-APDU and appends the R-APDU to dst. It waits for its turn,
// and while another holds the transaction; ctx ends that waiting with
// ErrInterrupted, and nothing was sent. Once the command is under way it
// goes to its end, whatever happens to ctx: it is never sent twice and its answer never lost.
func (s *Session) Transmit(ctx context.Context, capdu, dst []byte) ([]byte, error) {
	return s.bay.use(ctx, s.caller, s, func(l *link) ([]byte, error) {
		return l.transmit(capdu, dst)
	})
}

// use runs do with the turn, for a caller that the transaction admits and, if s is
// not nil, while the card is still what it was when the session began.
func (b *Bay) use(ctx context.Context, by Caller, s *Session, do func(*link) ([]byte, error)) ([]byte, error) {
	for {
		if err := b.acquireAs(ctx, by); err != nil {
			return nil, err
		}
		b.mu.Lock()
		err := b.usable(s)
		t := b.lock
		if admitted, known := t.admits(by); err == nil && !admitted {
			changed := b.changed
			b.mu.Unlock()
			b.release()
			if !known {
				t.judge(by)
				continue
			}
			if !by.Wait {
				return nil, ErrLocked
			}
			began := time.Now()
			err := b.wait(ctx, changed)
			b.stats.waited(began)
			if err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			b.mu.Unlock()
			b.release()
			return nil, err
		}
		b.begin()
		b.mu.Unlock()
		return b.work(do)
	}
}

// work runs do and gives the turn back, whatever happens in do.
func (b *Bay) work(do func(*link) ([]byte, error)) (answer []byte, err error) {
	defer b.release()
	defer b.life.recovered("slot", &err)
	answer, err = do(&b.link)
	b.under.Store(false)
	err = b.outcome(err)
	b.settle(err)
	return answer, err
}

// outcome is err, but where the reader left, the manager closed, or Abort came
// meanwhile, it says so.
func (b *Bay) outcome(err error) error {
	if err == nil || errors.Is(err, ErrGone) {
		return err
	}
	if err := b.orGone(err); errors.Is(err, ErrGone) || errors.Is(err, ErrFailed) {
		return err
	}
	if b.link.ctx.Err() != nil {
		// What the driver says of its ctx, time-out or other, is no finding.
		b.link.dead = true
		return fmt.Errorf("%w (%v)", context.Cause(b.link.ctx), err)
	}
	return err
}

// orGone is err, and ErrGone or ErrFailed too if the reader left or failed meanwhile.
func (b *Bay) orGone(err error) error {
	if err == nil || b.ctx.Err() == nil && !closed(b.life.over) {
		return err
	}
	if why := b.life.err(); !errors.Is(err, why) {
		return fmt.Errorf("%w: %w", why, err)
	}
	return err
}

// usable says why s, or without one the reader, cannot be used. b.mu is held.
func (b *Bay) usable(s *Session) error {
	if err := b.readyErr(); err != nil {
		return err
	}
	if s != nil {
		switch {
		case b.card == Absent:
			return ErrNoCard
		case b.epoch != s.epoch:
			return ErrStale
		}
	}
	return nil
}

// settle draws the consequences of an exchange. The caller holds the turn.
func (b *Bay) settle(err error) {
	dead := b.link.dead || errors.Is(err, ErrStale) // outcome may have seen it dead
	if err == nil && !dead {
		if b.manager.options.IdleOff > 0 {
			b.mu.Lock()
			b.stamp()
			b.mu.Unlock()
		}
		return
	}
	switch {
	case b.manager.leaving.Err() != nil, closed(b.life.over):
		return // quiesce takes the power off, or the reader is gone
	case errors.Is(err, ErrGone):
		// Who comes next must hear that too, and not that the card was reset.
		b.life.lost(err)
		return
	}
	b.mu.Lock()
	b.stamp()
	switch {
	case errors.Is(err, errUnpowered):
	case errors.Is(err, ErrNoCard):
		b.setCard(Absent)
	case errors.Is(err, ErrStale): // setUnpowered below
	case errors.Is(err, ErrInvalid), errors.Is(err, ErrUnsupported):
	case err != nil && b.link.fetched:
		// The words may tell a length, and that of VERIFY tells the PIN's.
		b.keepError(err)
		b.log.Warn("slot error", "error", kind(err))
	case err != nil:
		b.noteError(err)
	}
	if dead {
		b.setUnpowered()
	}
	b.mu.Unlock()
	if dead {
		// The protocol could not be brought back, or was left in the middle: the card
		// must be reset (ISO/IEC 7816-3:2006 rule 6.4), which only a new open may ask for.
		b.link.powerOff(b.ctx)
	} else if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnsupported) {
		b.refresh()
	}
}
