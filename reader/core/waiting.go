package core

import "time"

// extended notes that the card, or the reader for it, asked for more time.
func (s *Slot) extended() {
	s.stats.count(&s.stats.extensions)
	if s.waiting.CompareAndSwap(0, time.Now().UnixNano()) {
		s.mu.Lock()
		s.touch()
		s.mu.Unlock()
	}
}

// answered notes that an exchange is over.
func (s *Slot) answered() {
	if s.waiting.Load() != 0 {
		s.waiting.Store(0)
		s.mu.Lock()
		s.touch()
		s.mu.Unlock()
	}
}
