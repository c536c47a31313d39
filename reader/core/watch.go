package core

import "context"

// AfterLeft makes f run, in a goroutine of its own, once the reader has left.
func (s *Slot) AfterLeft(f func()) (stop func()) {
	cancel := context.AfterFunc(s.ctx, f)
	return func() { cancel() }
}

// Watch makes the slot call wake whenever its Info may have changed and when the reader
// leaves, until stop is called. wake runs with locks held: it must not block or use the
// Slot.
func (s *Slot) Watch(wake func()) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == nil {
		s.watchers = make(map[*func()]struct{})
	}
	key := &wake
	s.watchers[key] = struct{}{}
	stopLeft := s.AfterLeft(wake)
	return func() {
		stopLeft()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, key)
	}
}

// Changes is how many events there were. Where a card went and came again, Info is as
// before, and this is not.
func (s *Slot) Changes() uint64 { return s.changes.Load() }

// tell calls the watchers. s.mu is held.
func (s *Slot) tell() {
	for wake := range s.watchers {
		(*wake)()
	}
}
