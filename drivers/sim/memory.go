package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/memcard"
)

// memorySlot adds memory cards to a plain reader, which clocks their chips' commands. A reader
// that was attached without one, and without memory=, has none of it: it would seem to every program that a
// memory card may come.
type memorySlot struct {
	*plainReader
	*memcard.Clocked
	told reader.Chip
}

func newMemorySlot(r *plainReader, say string) *memorySlot {
	s := &memorySlot{plainReader: r}
	s.told, _ = memcard.Told(say) // Attach checked it
	s.Clocked = memcard.NewClocked(s)
	return s
}

var (
	_ reader.Memory = (*memorySlot)(nil)
	_ memcard.Clock = (*memorySlot)(nil)
)

// sizeOf is what a user has to say at attach of a card that does not say it itself; "" of others.
func sizeOf(card icc.Card) string {
	if m, ok := card.(*icc.Memory); ok && m.Kind()[:2] == "at" {
		return fmt.Sprintf("i2c:%d", len(m.Contents()))
	}
	return ""
}

// activate resets the card as a memory card.
func (s *memorySlot) activate(ctx context.Context) ([]byte, error) {
	m, ok := s.contact.Card().(*icc.Memory)
	if !ok {
		return nil, icc.ErrMute
	}
	s.contact.Deactivate() // Activate powered it
	h, err := s.contact.ActivateMemory(ctx)
	if err != nil {
		return nil, err
	}
	told := s.told
	switch m.Kind() {
	case "sle4406", "sle4436": // this reader knows
		told = memcard.Counter(len(m.Contents()))
	}
	return s.Activate(ctx, h, told)
}

func (s *memorySlot) Receive(ctx context.Context, c memcard.Command, n int, dst []byte) ([]byte, error) {
	out := c.Append(make([]byte, 0, 3))
	if c.Bus == reader.TwoWire || c.Bus == reader.ThreeWire {
		out = append(out, 0) // no data
	}
	in, err := s.clock(ctx, out, n)
	return append(dst, in...), err
}

func (s *memorySlot) Send(ctx context.Context, c memcard.Command, p []byte) error {
	out := make([]byte, 0, 3+len(p))
	defer clear(out[:cap(out)])
	if c.Bus == reader.I2C {
		if _, err := s.clock(ctx, append(c.Append(out), p...), 0); err != nil {
			return err
		}
		_, err := s.clock(ctx, c.Append(out)[:1], 0) // until it is done
		return err
	}
	for _, b := range p {
		if _, err := s.clock(ctx, append(c.Append(out), b), 0); err != nil {
			return err
		}
		c.At++
	}
	return nil
}

// An I2C chip that is busy does not acknowledge. It is asked after each poll, and asks times
// at the most: the clock of a busy machine would be over before the chip was asked again.
const (
	poll = 500 * time.Microsecond
	asks = 200
)

func (s *memorySlot) clock(ctx context.Context, out []byte, n int) ([]byte, error) {
	for asked := 1; ; asked++ {
		if in, ok := s.contact.Clock(ctx, out, n); ok {
			return in, nil
		}
		waited := s.contact.Hold(ctx, poll)
		switch {
		case s.left():
			return nil, s.fail("memory card", reader.ErrGone)
		case !s.contact.Present():
			return nil, s.fail("memory card", reader.ErrNoCard)
		case ctx.Err() != nil:
			return nil, s.fail("memory card", ctx.Err())
		case !s.contact.Powered():
			return nil, s.fail("memory card", reader.ErrStale)
		case !waited || asked == asks:
			return nil, s.fail("memory card", fmt.Errorf("no acknowledge within %v: %w", asks*poll, reader.ErrTimeout))
		}
	}
}
