package reader

import (
	"context"
	"time"
)

// How long a card may take is bounded by the clock, not by the sum of what it
// was granted: a card that asks for time much earlier than it must would lose
// the larger part of it.

// limit is when an exchange that begins now must be over.
func (l *link) limit(ctx context.Context) time.Time {
	until := time.Now().Add(l.bay.manager.options.ExchangeLimit)
	if end, ok := ctx.Deadline(); ok && end.Before(until) {
		return end
	}
	return until
}

// extended notes that the card, or the reader for it, asked for more time.
func (b *Bay) extended() {
	b.stats.count(&b.stats.extensions)
	if b.waiting.CompareAndSwap(0, time.Now().UnixNano()) {
		b.mu.Lock()
		b.touch()
		b.mu.Unlock()
	}
}

// answered notes that an exchange is over.
func (b *Bay) answered() {
	if b.waiting.Load() != 0 {
		b.waiting.Store(0)
		b.mu.Lock()
		b.touch()
		b.mu.Unlock()
	}
}
