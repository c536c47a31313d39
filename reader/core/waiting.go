package core

import (
	"context"
	"time"
)

// How long a card may take is bounded by the clock, not by the sum of what it
// was granted: a card that asks for time much earlier than it must would lose
// the larger part of it.

// limit is when an exchange that begins now must be over.
func (l *link) limit(ctx context.Context) time.Time {
	until := time.Now().Add(l.owner.manager.options.ExchangeLimit)
	if end, ok := ctx.Deadline(); ok && end.Before(until) {
		return end
	}
	return until
}

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
