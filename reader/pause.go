package reader

import (
	"context"
	"time"
)

// Pauser makes the pauses that a device's protocol prescribes. Its zero value is ready. It
// keeps its timer, so that a pause allocates nothing, and is used by one goroutine at a time.
type Pauser struct{ timer *time.Timer }

// Pause waits for d. If gone is closed before, it returns ErrGone, and if ctx ends, its error.
// Without a time to wait for, it returns nil.
func (p *Pauser) Pause(ctx context.Context, gone <-chan struct{}, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	if p.timer == nil {
		p.timer = time.NewTimer(d)
	} else {
		p.timer.Reset(d)
	}
	defer p.timer.Stop()
	select {
	case <-p.timer.C:
		return nil
	case <-gone:
		return ErrGone
	case <-ctx.Done():
		return ctx.Err()
	}
}
