package core

import "context"

// AfterLeft has f called, in a goroutine of its own, once the reader left.
func (s *Slot) AfterLeft(f func()) (stop func()) {
	cancel := context.AfterFunc(s.ctx, f)
	return func() { cancel() }
}

// Watch has wake called whenever what Info tells may have changed, and when the reader
// left, until stop is called. It is called with locks held: it must not wait, and not use
// the Slot.
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

// tell calls who watches. s.mu is held.
func (s *Slot) tell() {
	for wake := range s.watchers {
		(*wake)()
	}
}
