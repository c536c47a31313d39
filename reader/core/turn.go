package core

import (
	"context"
	"fmt"

	"github.com/cardfs/cardfs/reader"
)

// acquire takes the turn. ctx bounds only the wait for it. After the reader left or failed,
// or while the manager is closing, nobody gets it.
func (s *Slot) acquire(ctx context.Context) error {
	if !s.tryAcquire() {
		select {
		case s.turn <- struct{}{}:
		case <-ctx.Done():
			return s.interrupted()
		case <-s.opening.over():
			return s.opening.err()
		case <-s.manager.leaving.Done():
			return reader.ErrGone
		}
	}
	return s.acquired()
}

func (s *Slot) tryAcquire() bool {
	select {
	case s.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

// acquired gives the turn back if the slot can no longer be used.
func (s *Slot) acquired() error {
	if err := s.over(); err != nil {
		s.release()
		return err
	}
	return nil
}

func (s *Slot) release() { <-s.turn }

// inTurn runs do with the turn and always gives the turn back. A panic in do fails the
// reader.
func (s *Slot) inTurn(ctx context.Context, do func() error) (err error) {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	return s.holding(do)
}

// holding is inTurn for a caller that has the turn already.
func (s *Slot) holding(do func() error) (err error) {
	defer s.release()
	defer s.opening.recovered("slot", &err)
	return do()
}

// over returns why the slot can no longer be used, or nil while it can.
func (s *Slot) over() error {
	switch {
	case s.manager.leaving.Err() != nil:
		return reader.ErrGone
	case !s.opening.present():
		return s.opening.err()
	}
	return nil
}

// interrupted is the error for a caller whose ctx ended while it waited. The departure of
// the reader takes precedence, because select has no order.
func (s *Slot) interrupted() error {
	if err := s.over(); err != nil {
		return err
	}
	return reader.ErrInterrupted
}

// wait waits for the next change; the caller passes the channel it saw.
func (s *Slot) wait(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		if closed(changed) {
			return nil // the caller looks at what changed first
		}
		return s.interrupted()
	case <-s.opening.over():
		return s.opening.err()
	case <-s.manager.leaving.Done():
		return reader.ErrGone
	}
}

// begin marks that something is under way which Abort may end: what holds to
// underWay. s.mu is held, and the turn; who holds it clears under.
func (s *Slot) begin() {
	if s.underWay == nil || s.underWay.Err() != nil {
		s.underWay, s.cut = context.WithCancelCause(s.ctx)
	}
	s.under.Store(true)
}

// Abort ends what is under way in the slot: its caller gets ErrAborted, and the card
// is powered off. If nothing is under way, it returns ErrInvalid.
func (s *Slot) Abort() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == gone {
		return reader.ErrGone
	}
	if !s.under.Load() {
		return fmt.Errorf("nothing is under way in slot %d: %w", s.number, reader.ErrInvalid)
	}
	s.log.Info("ended by abort")
	s.cut(reader.ErrAborted)
	return nil
}
