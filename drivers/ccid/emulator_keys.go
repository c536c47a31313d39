package ccid

import (
	"context"

	"github.com/cardfs/cardfs/reader"
)

// Key waits for the next key pressed at slot n, for entries that CCID has no
// message for. It is one of those that Press takes.
func (e *Emulator) Key(ctx context.Context, n int) (byte, error) {
	select {
	case k := <-e.slots[n].keys:
		return k, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-e.ctx.Done():
		return 0, reader.ErrGone
	}
}
