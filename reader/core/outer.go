package core

import (
	"context"
	"errors"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/link"
)

// A card that is used by other ways than this program (reader.Locker) is kept from those as
// well while there is a transaction here:
//
//	Lock ──▶ held here ──▶ others locked out ──▶ the holder's commands
//	Unlock ──▶ free here ──▶ others let in
//
// Lock waits for the second step, and TryLock asks for it. Where neither was possible, such as
// while an exchange is under way, the holder's first command waits.

// followHeld locks the others out if there is a transaction now, and lets them in if there is
// none. It has to be called after each change. s.mu is held.
func (s *Slot) followHeld() {
	if s.phase != ready || s.link.Features.Locker == nil {
		return
	}
	begun := s.held()
	s.manager.spawn(func() {
		_ = s.inTurn(s.ctx, func() error {
			s.mu.Lock()
			held := s.held()
			s.mu.Unlock()
			if held && !begun { // by one who asks for himself
				return nil
			}
			return s.lockOut(s.ctx, true)
		})
	})
}

// lockOut does what followHeld promises. If ctx ends before others are locked out, it returns
// ErrInterrupted; without wait, ErrLocked where they cannot be at once. The caller holds the turn.
func (s *Slot) lockOut(ctx context.Context, wait bool) error {
	l := s.link.Features.Locker
	if l == nil {
		return nil
	}
	s.mu.Lock()
	held := s.held()
	s.mu.Unlock()
	switch {
	case held == s.lockedOut:
		return nil
	case !held:
		s.lockedOut = false
		return l.Unlock(s.ctx)
	}
	ctx, cancel := s.whileHeld(ctx)
	defer cancel()
	defer context.AfterFunc(s.opening.ctx, cancel)()
	err := l.Lock(ctx, wait)
	if err == nil {
		s.lockedOut = true
	} else if ctx.Err() != nil {
		err = s.interrupted()
	}
	return err
}

// whileHeld returns a context that ends with the transactions, too: nobody waits for others in
// favour of one that is over.
func (s *Slot) whileHeld(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	s.manager.spawn(func() {
		for {
			s.mu.Lock()
			held, changed := s.held(), s.changed
			s.mu.Unlock()
			if !held {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, cancel
}

// awaitOthers is the second step of Lock for owner, which has just got the transaction. If it
// fails, owner has no transaction.
func (s *Slot) awaitOthers(ctx context.Context, owner any) error {
	if s.Features().Locker == nil {
		return nil
	}
	return s.orUnlock(owner, s.inTurn(ctx, func() error { return s.lockOut(ctx, true) }))
}

// tryOthers is awaitOthers for TryLock. It waits for the turn until soon ends, and then for the
// answer as long as that takes.
func (s *Slot) tryOthers(ctx, soon context.Context, owner any) error {
	if s.Features().Locker == nil {
		return nil
	}
	asked := false
	err := s.inTurn(soon, func() error { asked = true; return s.lockOut(ctx, false) })
	if !asked && ctx.Err() == nil {
		s.mu.Lock()
		s.followHeld()
		s.mu.Unlock()
		return nil
	}
	return s.orUnlock(owner, err)
}

// orUnlock ends owner's transaction if err says that others have the card.
func (s *Slot) orUnlock(owner any, err error) error {
	if errors.Is(err, reader.ErrInterrupted) || errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrLocked) {
		s.Unlock(owner)
		return err
	}
	return nil // the way to the others is lost, and the next command says so
}

// alone is do, after the others have been locked out: Lock may not have waited for that.
func (s *Slot) alone(ctx context.Context, do func(*link.Link) ([]byte, error)) func(*link.Link) ([]byte, error) {
	return func(l *link.Link) ([]byte, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.underWay, cancel)()
		if err := s.lockOut(ctx, true); err != nil {
			return nil, err
		}
		return do(l)
	}
}
