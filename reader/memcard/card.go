package memcard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// ErrNotTaken: what was written is not what is read back.
var ErrNotTaken = errors.New("the card did not take it")

var errReadOnly = fmt.Errorf("a counter card is only read: %w", reader.ErrReadOnly)

// Card is a memory card that has power. It has one user at a time.
type Card struct {
	memory    reader.Memory
	chip      reader.Chip
	verified  bool
	presented int // how often the PSC was right
	tries     int
	selected  section
	back      []byte // for what is read back
}

// Open makes a Card of the card that m has. It reads the counter of tries.
func Open(ctx context.Context, m reader.Memory) (*Card, error) {
	c := &Card{memory: m, chip: m.Chip(), back: make([]byte, 0, longestPage)}
	c.selected = c.whole()
	if c.chip.PSC == 0 {
		return c, nil
	}
	var err error
	if c.tries, err = m.PSCTries(ctx); errors.Is(err, reader.ErrUnsupported) {
		err = nil // the reader keeps it to itself
	}
	return c, err
}

// longestPage bounds what is read back at once: it may be a PSC, of which no copy is left.
const longestPage = 128

// Chip is what the card is.
func (c *Card) Chip() reader.Chip { return c.chip }

// PSC is what is known of the PSC: the tries left as of the last look, and whether it was verified
// since the card got power. presented counts how often it was.
func (c *Card) PSC() (tries int, verified bool, presented int) {
	return c.tries, c.verified, c.presented
}

// Read appends up to n bytes from address at on to dst, fewer at the end of the card.
func (c *Card) Read(ctx context.Context, at, n int, dst []byte) ([]byte, error) {
	if n = min(n, c.chip.Size-at); n <= 0 {
		return dst, nil
	}
	return c.memory.ReadMemory(ctx, at, n, dst)
}

// Write writes p from address at on, page by page, and reads each page back. It returns how many
// bytes are on the card; with fewer than len(p) it returns why, or that limit was over (nil). A
// limit of 0 is none.
func (c *Card) Write(ctx context.Context, at int, p []byte, limit time.Duration) (done int, err error) {
	switch {
	case c.chip.Bus == reader.CounterCard:
		return 0, errReadOnly
	case c.chip.PSC > 0 && !c.verified && at < c.chip.Size-c.chip.Reserved:
		return 0, fmt.Errorf("the PSC must be presented first: %w", reader.ErrNoPermission)
	}
	for start := time.Now(); done < len(p); {
		if limit > 0 && done > 0 && time.Since(start) >= limit {
			return done, nil
		}
		n := min(len(p)-done, c.room(at+done))
		if n == 0 {
			return done, fmt.Errorf("byte %d: %w", at+done, reader.ErrNoSpace)
		}
		k, err := c.writePage(ctx, at+done, p[done:done+n])
		if done += k; err != nil {
			return done, err
		}
	}
	return done, nil
}

// room is how many bytes one write from address at on may have.
func (c *Card) room(at int) int {
	end := c.chip.Size
	if free := end - c.chip.Reserved; at < free {
		end = free
	}
	return max(0, min(c.chip.Page-at%c.chip.Page, end-at, longestPage))
}

// writePage writes part of a page. It returns how many bytes, from the first on, are as they should be.
func (c *Card) writePage(ctx context.Context, at int, p []byte) (same int, err error) {
	reserved := at >= c.chip.Size-c.chip.Reserved
	if !reserved {
		if err := c.memory.WriteMemory(ctx, at, p); err != nil {
			return 0, fmt.Errorf("write at byte %d: %w", at, err)
		}
	}
	c.back, err = c.memory.ReadMemory(ctx, at, len(p), c.back[:0])
	defer func() { clear(c.back) }()
	if err != nil {
		return 0, fmt.Errorf("read back at byte %d: %w", at, err)
	}
	for same < len(p) && c.back[same] == p[same] {
		same++
	}
	if same == len(p) {
		return same, nil
	}
	if at += same; reserved {
		return same, fmt.Errorf("byte %d is of the PSC or its counter: %w", at, reader.ErrReadOnly)
	}
	if at < c.chip.Protected {
		locked, err := c.memory.ReadProtection(ctx, at, 1, nil)
		switch {
		case err != nil && !errors.Is(err, reader.ErrUnsupported):
			return same, fmt.Errorf("protect bit of byte %d: %w", at, err)
		case err == nil && locked[0]:
			return same, fmt.Errorf("byte %d is locked for ever: %w", at, reader.ErrReadOnly)
		}
	}
	return same, fmt.Errorf("byte %d (0x%X): %w", at, at, ErrNotTaken)
}

// Verify presents the PSC, once.
func (c *Card) Verify(ctx context.Context, psc []byte) (ok bool, err error) {
	c.verified = false // a wrong PSC, or half of a verification, ends what there was
	ok, left, err := c.memory.VerifyPSC(ctx, psc)
	if err != nil {
		return false, fmt.Errorf("PSC: %w", err)
	}
	if c.tries = left; ok {
		c.verified = true
		c.presented++
	}
	return ok, nil
}

// Change sets another PSC.
func (c *Card) Change(ctx context.Context, psc []byte) error {
	if !c.verified {
		return fmt.Errorf("the PSC must be presented first: %w", reader.ErrNoPermission)
	}
	return c.memory.ChangePSC(ctx, psc)
}

// Forget notes that the card lost its power and got it again.
func (c *Card) Forget() { c.verified = false }
