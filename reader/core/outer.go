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
// Lock waits for the second step unless its caller cannot wait. Then the holder's first
// command does.

// followHeld locks the others out if there is a transaction, and lets them in if there is
// none. It has to be called after each change. s.mu is held.
func (s *Slot) followHeld() {
	if s.phase != ready || s.link.Features.Locker == nil {
		return
	}
	s.manager.spawn(func() {
		_ = s.inTurn(s.ctx, func() error { return s.lockOut(s.ctx) })
	})
}

// lockOut does what followHeld promises. If ctx ends before others are locked out, it returns
// ErrInterrupted. The caller holds the turn.
func (s *Slot) lockOut(ctx context.Context) error {
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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.opening.ctx, cancel)()
	err := l.Lock(ctx)
	if err == nil {
		s.lockedOut = true
	} else if ctx.Err() != nil {
		err = s.interrupted()
	}
	return err
}

// awaitOthers is the second step of Lock for owner, which has just got the transaction. If it
// fails, owner has no transaction. A caller with a deadline cannot wait.
func (s *Slot) awaitOthers(ctx context.Context, owner any) error {
	if s.Features().Locker == nil {
		return nil
	}
	if _, soon := ctx.Deadline(); soon {
		s.mu.Lock()
		s.followHeld()
		s.mu.Unlock()
		return nil
	}
	err := s.inTurn(ctx, func() error { return s.lockOut(ctx) })
	if errors.Is(err, reader.ErrInterrupted) || errors.Is(err, reader.ErrGone) {
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
		if err := s.lockOut(ctx); err != nil {
			return nil, err
		}
		return do(l)
	}
}
