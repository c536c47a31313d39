package link

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/memcard"
)

// errSynchronous: a synchronous card was to get what it does not understand.
var errSynchronous = fmt.Errorf("this is a memory card, which has no protocol: %w", reader.ErrUnsupported)

// synchronous ends the power-up of a synchronous card, with which there is nothing to
// agree on.
func (l *Link) synchronous(ctx context.Context, raw []byte, want int) (err error) {
	l.params = iso7816.Params{T: iso7816.NoProtocol}
	l.secrecy, l.late = false, false
	if l.atr, err = iso7816.ParseSynchronousATR(raw); err != nil {
		return fmt.Errorf("answer of a synchronous card, %d bytes: %w", len(raw), err)
	}
	if want >= 0 {
		return fmt.Errorf("protocol T=%d: %w", want, errSynchronous)
	}
	if m := l.Features.Memory; m != nil {
		if l.card, err = memcard.Open(ctx, m); err != nil {
			return fmt.Errorf("memory card: %w", err)
		}
	}
	return nil
}

// Card is the memory card in the slot; nil for another card, and where the reader only knows
// that it is one.
func (l *Link) Card() *memcard.Card { return l.card }

// ReadMemory reads from a memory card, as memcard.Card.Read does.
func (l *Link) ReadMemory(ctx context.Context, at, n int, dst []byte) ([]byte, error) {
	if l.card == nil {
		return dst, errSynchronous
	}
	l.secrecy = false
	l.Trace.Printf("memory: read %d bytes at %d", n, at)
	got, err := l.card.Read(ctx, at, n, dst)
	if err != nil {
		l.traceError(err)
	}
	return got, err
}

// WriteMemory writes to a memory card, as memcard.Card.Write does.
func (l *Link) WriteMemory(ctx context.Context, at int, p []byte, limit time.Duration) (int, error) {
	if l.card == nil {
		return 0, errSynchronous
	}
	l.secrecy = false
	l.Trace.Printf("memory: write %d bytes at %d", len(p), at)
	n, err := l.card.Write(ctx, at, p, limit)
	if err != nil {
		l.traceError(err)
	}
	return n, err
}

// Relock ends the verification of a memory card's PSC, which only power does. What is selected
// stays. The card must be the same afterwards.
func (l *Link) Relock(ctx context.Context) error {
	if l.card == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, PowerLimit)
	defer cancel()
	l.Trace.Printf("memory: power off and on, which ends the verification")
	if err := l.Slot.PowerOff(ctx); err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	raw, err := l.Slot.PowerOn(ctx, reader.Cold)
	switch {
	case err != nil:
		return fmt.Errorf("power up: %w", err)
	case !bytes.Equal(raw, l.atr.Bytes()) || l.Slot.Traits().Level != reader.Synchronous:
		return fmt.Errorf("another card answered: %w", reader.ErrStale)
	}
	l.card.Forget()
	return nil
}
