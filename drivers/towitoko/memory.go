package towitoko

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/memcard"
)

// resetMemory resets the card as a memory card, and finds out by reading what it is. OpenCT
// has no such reset, and writes to the card instead.
func (s *slot) resetMemory(ctx context.Context) ([]byte, error) {
	switch _, err := s.command(ctx, 0, cmdResetSync...); {
	case errors.Is(err, serial.ErrTimeout): // the reader does not know it
		return nil, fmt.Errorf("synchronous reset: %w: %w", err, reader.ErrMute)
	case err != nil:
		return nil, fmt.Errorf("synchronous reset: %w", err)
	}
	h, err := s.command(ctx, headerLength, cmdRead(headerLength))
	if err != nil {
		return nil, fmt.Errorf("read after a synchronous reset: %w", err)
	}
	h = slices.Clone(h)
	if h[0] == 0xFF && (s.told.Size == 0 || s.told.Bus == reader.I2C) {
		if err := s.acknowledges(ctx); err != nil {
			return nil, err
		}
	}
	atr, err := s.Activate(ctx, h, s.told)
	s.memory = err == nil
	return atr, err
}

// acknowledges returns ErrMute unless an I2C chip hears its address, which libtowitoko reads
// from a bit of the status.
func (s *slot) acknowledges(ctx context.Context) error {
	if err := (clock{s}).address(ctx, appendReadAddress(s.room(), memcard.Command{Bus: reader.I2C})); err != nil {
		return err
	}
	state, err := s.state(ctx)
	switch {
	case err != nil:
		return err
	case state&cardIn == 0:
		return reader.ErrNoCard
	case state&notAcknowledged != 0:
		return fmt.Errorf("nor is it an I2C memory card: %w", reader.ErrMute)
	}
	return nil
}

// room is for a command without its checksum.
func (s *slot) room() []byte { return s.body[:0] }

// headerLength is as much as libtowitoko reads after a synchronous reset. The ATR has 4 bytes.
const headerLength = 8

const (
	// cycleTime is the longest write cycle of an I2C chip, in which it hears nothing (Atmel's
	// AT24C01A to AT24C512: 10 ms). Others are clocked by the reader until they are done.
	cycleTime = 10 * time.Millisecond
	// guardedAt is where the PSC of a 3-wire chip is, or its counter, whose bytes libtowitoko
	// writes one by one.
	guardedAt = 1021
	// packedBits is the 3-wire chips' command whose answer has nine bits a byte, which the
	// reader is not known to read.
	packedBits = 0x0C
)

// ReadMemory and the others are the promoted methods of memcard.Clocked, with the line in use and the
// reader's name in their errors.
func (s *slot) ReadMemory(ctx context.Context, at, n int, dst []byte) (got []byte, err error) {
	err = s.withMemory(ctx, func() error { got, err = s.Clocked.ReadMemory(ctx, at, n, dst); return err })
	if err != nil {
		return dst, err
	}
	return got, nil
}

// WriteMemory is reader.Memory.
func (s *slot) WriteMemory(ctx context.Context, at int, p []byte) error {
	return s.withMemory(ctx, func() error { return s.Clocked.WriteMemory(ctx, at, p) })
}

// ReadProtection is reader.Memory.
func (s *slot) ReadProtection(ctx context.Context, at, n int, dst []bool) (got []bool, err error) {
	err = s.withMemory(ctx, func() error { got, err = s.Clocked.ReadProtection(ctx, at, n, dst); return err })
	return got, err
}

// PSCTries is reader.Memory.
func (s *slot) PSCTries(ctx context.Context) (tries int, err error) {
	err = s.withMemory(ctx, func() error { tries, err = s.Clocked.PSCTries(ctx); return err })
	return tries, err
}

// VerifyPSC is reader.Memory.
func (s *slot) VerifyPSC(ctx context.Context, psc []byte) (ok bool, left int, err error) {
	err = s.withMemory(ctx, func() error { ok, left, err = s.Clocked.VerifyPSC(ctx, psc); return err })
	return ok, left, err
}

// ChangePSC is reader.Memory.
func (s *slot) ChangePSC(ctx context.Context, psc []byte) error {
	return s.withMemory(ctx, func() error { return s.Clocked.ChangePSC(ctx, psc) })
}

func (s *slot) withMemory(ctx context.Context, do func() error) error {
	err := s.begin(ctx)
	if err == nil {
		defer s.end()
	}
	if err == nil && (!s.powered || s.lost) {
		if err = s.same(ctx); err == nil && !s.powered {
			err = reader.ErrStale
		}
	}
	if err == nil && !s.memory {
		err = fmt.Errorf("not a memory card: %w", reader.ErrUnsupported)
	}
	if err == nil {
		err = do()
	}
	return s.fail("memory card", err)
}

// clock clocks a chip's commands, for memcard.Clocked. The line is in use.
//
// A reader without a card reads the line, which is high, as FF. So the status is asked for
// behind what was read, and nothing counts if the card was taken out meanwhile. What was written
// is read back by who wrote it, and nothing comes between the commands about a PSC.
type clock struct{ *slot }

var _ memcard.Clock = clock{}

// Receive is memcard.Clock.
func (s clock) Receive(ctx context.Context, c memcard.Command, n int, dst []byte) ([]byte, error) {
	if c.Bus == reader.ThreeWire && c.Control == packedBits {
		return dst, fmt.Errorf("protect bits of a 3-wire card: %w", reader.ErrUnsupported)
	}
	if c.Bus == reader.CounterCard {
		return dst, fmt.Errorf("a counter card: %w", reader.ErrUnsupported)
	}
	if err := s.address(ctx, appendReadAddress(s.room(), c)); err != nil {
		return dst, err
	}
	base := len(dst)
	dst = slices.Grow(dst, n)
	for n > 0 {
		k := min(n, mostRead)
		data, err := s.command(ctx, k, cmdRead(k))
		if err != nil {
			clear(dst[base:])
			return dst[:base], fmt.Errorf("byte %d: %w", c.At+len(dst)-base, s.because(ctx, err))
		}
		dst = append(dst, data...)
		clear(data)
		n -= k
	}
	if err := s.same(ctx); err != nil {
		clear(dst[base:])
		return dst[:base], err
	}
	return dst, nil
}

// Send is memcard.Clock.
func (s clock) Send(ctx context.Context, c memcard.Command, p []byte) error {
	for first := true; len(p) > 0; first = false {
		k, apart := min(len(p), mostWritten), c.Bus == reader.I2C
		if c.Bus == reader.ThreeWire && c.At+k > guardedAt {
			k, apart = max(1, guardedAt-c.At), c.At >= guardedAt
		}
		if first || apart {
			if err := s.writeAddress(ctx, c); err != nil {
				return s.because(ctx, err)
			}
		}
		frame := appendWrite(s.room(), p[:k])
		_, err := s.command(ctx, 0, frame...)
		clear(frame)
		if err != nil {
			return fmt.Errorf("byte %d: %w", c.At, s.because(ctx, err))
		}
		pause := s.model.writePause
		if c.Bus == reader.I2C {
			pause = max(pause, cycleTime)
		}
		if pause > 0 {
			if err := s.pause(ctx, pause); err != nil {
				return err
			}
		}
		p, c.At = p[k:], c.At+k
	}
	return nil
}

// writeAddress sets the address for the next writes.
func (s clock) writeAddress(ctx context.Context, c memcard.Command) error {
	if c.Bus == reader.I2C {
		if err := s.address(ctx, appendReadAddress(s.room(), memcard.Command{Bus: c.Bus, Long: c.Long})); err != nil {
			return err
		}
		if _, err := s.command(ctx, 1, cmdStop...); err != nil {
			return err
		}
	}
	return s.address(ctx, appendWriteAddress(s.room(), c))
}

func (s clock) address(ctx context.Context, cmd []byte) error {
	if _, err := s.command(ctx, 0, cmd...); err != nil {
		return fmt.Errorf("set the address: %w", err)
	}
	return nil
}

// because is why a command failed: the card may have been taken out.
func (s clock) because(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, reader.ErrGone) {
		return err
	}
	if why := s.same(ctx); why != nil {
		return why
	}
	return err
}
