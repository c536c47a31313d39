package reader

import "context"

// transaction is the exclusive right to a slot, as flock(2) gives it.
type transaction struct {
	owner any
	// admit lets other callers pass, by the process that opened; nil: nobody.
	admit func(pid uint32) bool
}

// admits tells whether by may use the slot. A nil transaction admits everybody.
func (t *transaction) admits(by Caller) bool {
	return t == nil || t.owner == by.Owner || t.admit != nil && by.PID != 0 && t.admit(by.PID)
}

// Lock makes by.Owner the holder of the slot's transaction: commands of others
// wait until Unlock, resets by others fail. What the card is doing when Lock
// returns ends before the holder's first command. Locking twice is locking once.
// While another holds it, Lock waits, or says ErrLocked if by does not wait.
func (b *Bay) Lock(ctx context.Context, by Caller, admit func(pid uint32) bool) error {
	for {
		b.mu.Lock()
		if b.phase == gone {
			b.mu.Unlock()
			return ErrGone
		}
		if b.lock == nil || b.lock.owner == by.Owner {
			b.lock = &transaction{owner: by.Owner, admit: admit}
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
