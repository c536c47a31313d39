package core

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// transaction is the exclusive right to a slot, as flock(2) gives it.
type transaction struct {
	slot  *Slot
	owner any
	// admit reports whether another caller may pass; nil: nobody may. It looks at
	// the process table, so it is called with no lock held.
	admit func(Caller) bool
}

// Pass remembers for one open whether another's transaction admits it. The core finds this
// out once: when the open is made or, if the transaction is younger, when it first matters. The zero value is ready.
type Pass struct {
	mu       sync.Mutex // a leaf
	verdicts map[*Slot]verdict
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

type verdict struct {
	of       *transaction
	admitted bool
}

// find returns what is known of t.
func (p *Pass) find(t *transaction) (admitted, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.verdicts[t.slot]
	return v.admitted, v.of == t
}

// keep remembers the first verdict about t.
func (p *Pass) keep(t *transaction, admitted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verdicts[t.slot].of == t {
		return
	}
	if p.verdicts == nil {
		p.verdicts = make(map[*Slot]verdict)
	}
	p.verdicts[t.slot] = verdict{t, admitted}
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

// Introduce finds out whether the present transaction admits by. It is called at open, while
// the opening process is sure to exist.
func (s *Slot) Introduce(by Caller) {
	s.mu.Lock()
	t := s.lock
	_, known := t.admits(by)
	s.mu.Unlock()
	if !known {
		t.judge(by)
	}
}

// admitted reports whether the transaction admits by. s.mu is held, and Introduce was
// called before: a transaction that began since admits nobody yet.
func (s *Slot) admitted(by Caller) bool {
	admitted, known := s.lock.admits(by)
	return admitted && known
}

// Lock makes by.Owner the holder of the slot's transaction: commands of others
// wait until Unlock, resets by others fail. What the card is doing when Lock
// returns ends before the holder's first command. Locking twice is locking once.
// While another holds it, Lock waits, or returns ErrLocked if by does not wait. admit
// reports who else may pass; it is called with no lock held, once for each open.
func (s *Slot) Lock(ctx context.Context, by Caller, admit func(Caller) bool) error {
	for {
		s.mu.Lock()
		if s.phase == gone {
			s.mu.Unlock()
			return reader.ErrGone
		}
		if s.lock == nil {
			s.lock = &transaction{slot: s, owner: by.Owner, admit: admit}
		}
		if s.lock.owner == by.Owner {
			s.mu.Unlock()
			return nil
		}
		changed := s.changed
		s.mu.Unlock()
		if !by.Wait {
			return reader.ErrLocked
		}
		if err := s.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// Unlock ends owner's transaction, if it has one.
func (s *Slot) Unlock(owner any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil && s.lock.owner == owner {
		s.lock = nil
		s.touch()
	}
}

// enter is acquire for by. After it, whether the transaction admits by is known.
func (s *Slot) enter(ctx context.Context, by Caller) error {
	for {
		if err := s.acquireAs(ctx, by); err != nil {
			return err
		}
		s.mu.Lock()
		t := s.lock
		_, known := t.admits(by)
		s.mu.Unlock()
		if known {
			return nil
		}
		s.release()
		t.judge(by)
	}
}

// enterToReset is enter for a caller that may reset the card. If it holds the transaction,
// the sessions that the transaction admits survive the reset; after enterToReset they are known.
func (slot *Slot) enterToReset(ctx context.Context, by Caller) error {
	slot.Introduce(by)
	var callers []Caller
	slot.mu.Lock()
	if slot.lock != nil && slot.admitted(by) {
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

// renewEpoch is newEpoch for a reset that by asked for. One by the transaction's holder
// leaves the holder's own sessions valid. before is the epoch in which the reset began.
// slot.mu is held.
func (slot *Slot) renewEpoch(by Caller, before Moment) {
	var kept []*Session
	if slot.lock != nil && slot.admitted(by) {
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
