package core

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// transaction is an exclusive right to a slot, as flock(2) or an exclusive connection gives it.
type transaction struct {
	slot    *Slot
	owner   any
	process any // that made the owner's open; nil: not known
	// admit reports whether another caller may pass; nil: nobody may. It looks at
	// the process table, so it is called with no lock held.
	admit func(Caller) bool
	// connection: it is that of an exclusive connection.
	connection bool

	// Of flock's alone, and under the slot's mu:
	widowed bool // a connection of the same process ended with its open
	ending  bool // the card is being reset, then it ends
}

// errExclusive is for callers whom an exclusive connection keeps out.
var errExclusive = fmt.Errorf("another program has an exclusive connection: %w", reader.ErrLocked)

// Pass remembers for one open whether another's transaction admits it. The core finds this
// out once: when the open is made or, if the transaction is younger, when it first matters. The zero value is ready.
type Pass struct {
	mu       sync.Mutex // a leaf
	verdicts map[right]verdict
	left     atomic.Pointer[Queue]
}

// Queue serialises the commands that opens left behind when they were closed. All commands
// that one user left behind count as one among the waiters for a slot's turn.
type Queue chan struct{}

// NewQueue returns an empty queue.
func NewQueue() Queue { return make(Queue, 1) }

// Leave records that the open was closed. The commands that it still has to send wait in q.
func (p *Pass) Leave(q Queue) { p.left.Store(&q) }

// acquireAs is acquire for by.
func (s *Slot) acquireAs(ctx context.Context, by Caller) error {
	var q *Queue
	if by.Pass != nil {
		q = by.Pass.left.Load()
	}
	if q == nil && s.tryAcquire() {
		return s.acquired()
	}
	defer s.stats.waited(time.Now())
	if q != nil {
		select {
		case *q <- struct{}{}:
			defer func() { <-*q }()
		case <-s.opening.over():
			return s.opening.err()
		case <-s.manager.leaving.Done():
			return reader.ErrGone
		}
	}
	return s.acquire(ctx)
}

// right is what one transaction at a time can be.
type right struct {
	slot       *Slot
	connection bool
}

func (t *transaction) right() right { return right{t.slot, t.connection} }

type verdict struct {
	of       *transaction
	admitted bool
}

// find returns what is known of t.
func (p *Pass) find(t *transaction) (admitted, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.verdicts[t.right()]
	known = v.of == t
	return known && v.admitted, known
}

// keep remembers the first verdict about t.
func (p *Pass) keep(t *transaction, admitted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verdicts[t.right()].of == t {
		return
	}
	if p.verdicts == nil {
		p.verdicts = make(map[right]verdict)
	}
	p.verdicts[t.right()] = verdict{t, admitted}
}

// admits reports whether by may use the slot. If that is not known yet, judge finds
// it out. A nil transaction admits everybody.
func (t *transaction) admits(by Caller) (admitted, known bool) {
	switch {
	case t == nil, t.owner == by.Owner:
		return true, true
	case t.admit == nil, by.Pass == nil:
		return false, true
	}
	return by.Pass.find(t)
}

// judge finds out whether t admits by. This may take long, so the caller holds no lock.
func (t *transaction) judge(by Caller) { by.Pass.keep(t, t.admit(by)) }

// Introduce finds out whether the present transactions admit by. It is called at open, while
// the opening process is sure to exist.
func (s *Slot) Introduce(by Caller) {
	s.mu.Lock()
	present := s.transactions()
	s.mu.Unlock()
	for _, t := range present {
		if _, known := t.admits(by); !known {
			t.judge(by)
		}
	}
}

// transactions returns the two that there may be. s.mu is held.
func (s *Slot) transactions() [2]*transaction {
	return [...]*transaction{s.exclusive.Load(), s.lock}
}

// against returns the first transaction that does not admit by, or not as far as is known;
// nil if there is none. s.mu is held.
func (s *Slot) against(by Caller) (t *transaction, known bool) {
	for _, t := range s.transactions() {
		if admitted, known := t.admits(by); !admitted {
			return t, known
		}
	}
	return nil, true
}

// admitted reports whether the transactions admit by. s.mu is held, and Introduce was
// called before: a transaction that began since admits nobody yet.
func (s *Slot) admitted(by Caller) bool {
	t, _ := s.against(by)
	return t == nil
}

// barred returns errExclusive if another's exclusive connection keeps by out. It is asked
// before the turn is waited for, so that the refusal comes at once.
func (s *Slot) barred(by Caller) error {
	for {
		t := s.exclusive.Load()
		admitted, known := t.admits(by)
		switch {
		case admitted:
			return nil
		case known:
			return errExclusive
		}
		t.judge(by)
	}
}

// Lock makes by.Owner the holder of the slot's transaction: commands of others
// wait until Unlock, resets by others fail. What the card is doing when Lock
// returns ends before the holder's first command. Locking twice is locking once.
// While another holds it, or has an exclusive connection, Lock waits. admit reports who else may
// pass; it is called with no lock held, once for each open.
func (s *Slot) Lock(ctx context.Context, by Caller, admit func(Caller) bool) error {
	if err := s.takeLock(ctx, by, admit); err != nil {
		return err
	}
	return s.awaitOthers(ctx, by.Owner)
}

// TryLock is Lock for a caller that does not wait, but for lag if another holds the transaction
// here: it returns ErrLocked.
func (s *Slot) TryLock(ctx context.Context, by Caller, lag time.Duration, admit func(Caller) bool) error {
	soon, cancel := context.WithTimeout(ctx, lag)
	defer cancel()
	err := s.takeLock(soon, by, admit)
	if err == nil {
		err = s.tryOthers(ctx, soon, by.Owner)
	}
	if errors.Is(err, reader.ErrInterrupted) && ctx.Err() == nil {
		return reader.ErrLocked
	}
	return err
}

// takeLock is the first step of Lock.
func (s *Slot) takeLock(ctx context.Context, by Caller, admit func(Caller) bool) error {
	for {
		s.mu.Lock()
		if s.phase == gone {
			s.mu.Unlock()
			return reader.ErrGone
		}
		exclusive := s.exclusive.Load()
		admitted, known := exclusive.admits(by)
		if s.lock == nil && admitted {
			s.lock = &transaction{slot: s, owner: by.Owner, process: by.Process, admit: admit}
			s.mu.Unlock()
			return nil
		}
		if s.lock != nil && s.lock.owner == by.Owner {
			s.mu.Unlock()
			return nil
		}
		changed := s.changed
		s.mu.Unlock()
		if !known {
			exclusive.judge(by)
			continue
		}
		if err := s.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// Begin is Lock for a PC/SC client, in one call with the question whether its card is still that
// of the epoch that its connection was told: if not, it returns ErrStale. It does not wait:
// while another has the slot, it returns ErrLocked. After an error nothing has changed.
func (s *Slot) Begin(by Caller, epoch uint32, admit func(Caller) bool) error {
	for {
		s.mu.Lock()
		err := s.sameCard(epoch)
		exclusive := s.exclusive.Load()
		admitted, known := exclusive.admits(by)
		switch {
		case err != nil || !known:
		case !admitted, s.lock != nil && s.lock.owner != by.Owner:
			err = reader.ErrLocked
		case s.lock == nil:
			s.lock = &transaction{slot: s, owner: by.Owner, process: by.Process, admit: admit}
			s.followHeld()
		}
		s.mu.Unlock()
		if err != nil || known {
			return err
		}
		exclusive.judge(by)
	}
}

// End is Unlock, in one call with the same question: if the card is another, or was reset, the
// transaction goes on.
func (s *Slot) End(owner any, epoch uint32) error {
	s.mu.Lock()
	err := s.sameCard(epoch)
	s.mu.Unlock()
	if err == nil {
		s.Unlock(owner)
	}
	return err
}

// sameCard returns ErrStale if Connected.Epoch is not epoch any more. s.mu is held.
func (s *Slot) sameCard(epoch uint32) error {
	if err := s.readyErr(); err != nil {
		return err
	}
	if uint32(s.epoch) != epoch {
		return reader.ErrStale
	}
	return nil
}

// Unlock ends owner's transaction, if it has one.
func (s *Slot) Unlock(owner any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil && s.lock.owner == owner {
		s.unlock()
	}
}

// unlock ends the transaction. s.mu is held.
func (s *Slot) unlock() {
	s.lock = nil
	s.followHeld()
	s.touch()
}

// Abandon ends owner's transaction, if it has one, because its open has ended without Unlock.
// If a PC/SC client did that, it died:
//
// "When such a client dies holding the transaction the card is reset, as pcscd does it;
// without it the card is left as it is."
func (s *Slot) Abandon(owner any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.lock
	switch {
	case t == nil || t.owner != owner:
		return
	case s.card == reader.Powered && (t.widowed || s.connects(t.process)):
		// Until the reset nobody else gets the card, which may have seen a PIN.
		t.ending = true
		s.manager.spawn(func() {
			s.inTurn(s.ctx, s.resetOfTheDead)
			s.Unlock(owner)
		})
	default:
		s.unlock()
	}
}

// resetOfTheDead resets the card for a client that died. The caller holds the turn.
func (s *Slot) resetOfTheDead() error {
	s.mu.Lock()
	powered := s.card == reader.Powered
	s.mu.Unlock()
	if !powered {
		return nil
	}
	s.log.Info("a PC/SC client died with the transaction; the card is reset")
	return s.reset(s.ctx, reader.Warm, Caller{})
}

// enter is acquire for by. After it, whether the transactions admit by is known.
func (s *Slot) enter(ctx context.Context, by Caller) error {
	for {
		if err := s.barred(by); err != nil {
			return err
		}
		if err := s.acquireAs(ctx, by); err != nil {
			return err
		}
		s.mu.Lock()
		t, known := s.against(by)
		s.mu.Unlock()
		if known {
			return nil
		}
		s.release()
		t.judge(by)
	}
}

// held reports whether there is a transaction. s.mu is held.
func (s *Slot) held() bool { return s.lock != nil || s.exclusive.Load() != nil }

// enterToReset is enter for a caller that may reset the card. If it holds a transaction,
// the sessions that all transactions admit survive the reset; after enterToReset they are known.
func (slot *Slot) enterToReset(ctx context.Context, by Caller) error {
	slot.Introduce(by)
	var callers []Caller
	slot.mu.Lock()
	if slot.held() && slot.admitted(by) {
		for s := range slot.sessions {
			callers = append(callers, s.caller)
		}
	}
	slot.mu.Unlock()
	for _, c := range callers {
		slot.Introduce(c)
	}
	return slot.enter(ctx, by)
}

// renewEpoch is newEpoch for a reset that by asked for. One by a transaction's holder
// leaves the holder's own sessions valid. before is the epoch in which the reset began.
// slot.mu is held.
func (slot *Slot) renewEpoch(by Caller, before Moment) {
	var kept []*Session
	if slot.held() && slot.admitted(by) {
		for s := range slot.sessions {
			if s.epoch == before && slot.admitted(s.caller) {
				kept = append(kept, s)
			}
		}
	}
	slot.newEpoch()
	for _, s := range kept {
		s.epoch = slot.epoch
		slot.sessions[s] = struct{}{}
	}
}
