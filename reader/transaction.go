package reader

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// transaction is the exclusive right to a slot, as flock(2) gives it.
type transaction struct {
	bay   *Bay
	owner any
	// admit reports whether another caller may pass; nil: nobody may. It looks at
	// the process table, so it is called with no lock held.
	admit func(Caller) bool
}

// Pass is what the core remembers of one open: whether the transaction of another
// admits it. That is found out once, when the open is made or, where the transaction
// is younger, when it first matters. The zero value is ready.
type Pass struct {
	mu       sync.Mutex // a leaf
	verdicts map[*Bay]verdict
	left     atomic.Pointer[Queue]
}

// Queue is where commands wait for each other that opens left behind when they were
// closed: all that one user left behind are one among those who wait for a slot's turn.
type Queue chan struct{}

// NewQueue returns an empty queue.
func NewQueue() Queue { return make(Queue, 1) }

// Leave says that the open was closed: what it still has to send waits in q.
func (p *Pass) Leave(q Queue) { p.left.Store(&q) }

// acquireAs is acquire for by.
func (b *Bay) acquireAs(ctx context.Context, by Caller) error {
	var q *Queue
	if by.Pass != nil {
		q = by.Pass.left.Load()
	}
	if q == nil && b.tryAcquire() {
		return b.acquired()
	}
	defer b.stats.waited(time.Now())
	if q != nil {
		select {
		case *q <- struct{}{}:
			defer func() { <-*q }()
		case <-b.ctx.Done():
			return ErrGone
		case <-b.manager.leaving.Done():
			return ErrGone
		}
	}
	return b.acquire(ctx)
}

type verdict struct {
	of       *transaction
	admitted bool
}

// find returns what is known of t.
func (p *Pass) find(t *transaction) (admitted, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.verdicts[t.bay]
	return v.admitted, v.of == t
}

// keep remembers the first verdict about t.
func (p *Pass) keep(t *transaction, admitted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verdicts[t.bay].of == t {
		return
	}
	if p.verdicts == nil {
		p.verdicts = make(map[*Bay]verdict)
	}
	p.verdicts[t.bay] = verdict{t, admitted}
}

// admits reports whether by may use the slot. Where that is not known, judge finds
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

// judge finds out whether t admits by. It takes its time, so the caller holds no lock.
func (t *transaction) judge(by Caller) { by.Pass.keep(t, t.admit(by)) }

// Introduce finds out, while the process that opens is there to be looked at, whether
// a transaction that is held admits by.
func (b *Bay) Introduce(by Caller) {
	b.mu.Lock()
	t := b.lock
	_, known := t.admits(by)
	b.mu.Unlock()
	if !known {
		t.judge(by)
	}
}

// admitted reports whether the transaction admits by. b.mu is held, and Introduce was
// called before: a transaction that began since admits nobody yet.
func (b *Bay) admitted(by Caller) bool {
	admitted, known := b.lock.admits(by)
	return admitted && known
}

// Lock makes by.Owner the holder of the slot's transaction: commands of others
// wait until Unlock, resets by others fail. What the card is doing when Lock
// returns ends before the holder's first command. Locking twice is locking once.
// While another holds it, Lock waits, or says ErrLocked if by does not wait. admit
// says who else passes; it is called with no lock held, once for each open.
func (b *Bay) Lock(ctx context.Context, by Caller, admit func(Caller) bool) error {
	for {
		b.mu.Lock()
		if b.phase == gone {
			b.mu.Unlock()
			return ErrGone
		}
		if b.lock == nil {
			b.lock = &transaction{bay: b, owner: by.Owner, admit: admit}
		}
		if b.lock.owner == by.Owner {
			b.mu.Unlock()
			return nil
		}
		changed := b.changed
		b.mu.Unlock()
		if !by.Wait {
			return ErrLocked
		}
		if err := b.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// Unlock ends owner's transaction, if it has one.
func (b *Bay) Unlock(owner any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lock != nil && b.lock.owner == owner {
		b.lock = nil
		b.touch()
	}
}

// enter is acquire for by, of whom it is then known whether the transaction admits it.
func (b *Bay) enter(ctx context.Context, by Caller) error {
	for {
		if err := b.acquireAs(ctx, by); err != nil {
			return err
		}
		b.mu.Lock()
		t := b.lock
		_, known := t.admits(by)
		b.mu.Unlock()
		if known {
			return nil
		}
		b.release()
		t.judge(by)
	}
}

// enterToReset is enter for who may reset the card: where it is the transaction's holder,
// it is then known which sessions the transaction admits, as they survive.
func (b *Bay) enterToReset(ctx context.Context, by Caller) error {
	b.Introduce(by)
	var callers []Caller
	b.mu.Lock()
	if b.lock != nil && b.admitted(by) {
		for s := range b.sessions {
			callers = append(callers, s.caller)
		}
	}
	b.mu.Unlock()
	for _, c := range callers {
		b.Introduce(c)
	}
	return b.enter(ctx, by)
}

// renewEpoch is newEpoch for a reset that by asked for. One by the transaction's holder
// leaves the holder's own sessions valid. before is the epoch in which the reset began.
// b.mu is held.
func (b *Bay) renewEpoch(by Caller, before Moment) {
	var kept []*Session
	if b.lock != nil && b.admitted(by) {
		for s := range b.sessions {
			if s.epoch == before && b.admitted(s.caller) {
				kept = append(kept, s)
			}
		}
	}
	b.newEpoch()
	for _, s := range kept {
		s.epoch = b.epoch
		b.sessions[s] = struct{}{}
	}
}
