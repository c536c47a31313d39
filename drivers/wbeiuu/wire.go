package wbeiuu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// start makes the device ready. If it does not answer it is reset first: people have
// reported that every second attachment fails.
func (s *slot) start(ctx context.Context) error {
	err := s.begin(ctx)
	if err == nil || ctx.Err() != nil || errors.Is(err, reader.ErrGone) {
		return err
	}
	if e := s.conn.Reset(ctx); e != nil {
		return s.fail("start", fmt.Errorf("%w; reset of the device: %w", err, e))
	}
	return s.begin(ctx)
}

// begin is the kernel's order. In addition the UART is switched off first, in case that a
// program which had the device before left it on, as OpenCT did; and answers that this
// program did not fetch are dropped.
func (s *slot) begin(ctx context.Context) error {
	const what = "start"
	s.trouble, s.powered, s.line = lostState, false, line{}
	if _, err := s.conn.Control(ctx, setupWakeUp, nil, transferWait); err != nil {
		return s.failed(ctx, what, 0, err)
	}
	if err := s.out(ctx, what, uartOff); err != nil {
		return err
	}
	if err := s.drain(ctx, what); err != nil {
		return err
	}
	for _, p := range [][]byte{ledOn, uartOn} {
		if err := s.out(ctx, what, p); err != nil {
			return err
		}
	}
	for range 2 {
		s.forget()
		if _, err := s.receive(ctx, what); err != nil {
			return err
		}
	}
	s.forget()
	if err := s.out(ctx, what, clock); err != nil {
		return err
	}
	if err := s.setLine(ctx, what, defaultLine(s.parity)); err != nil {
		return err
	}
	s.trouble = fine
	return nil
}

// ready mends what has gone wrong before. The card loses its session only if nothing less
// helps.
func (s *slot) ready(ctx context.Context) error {
	switch {
	case s.closing.Load():
		return s.fail("closed", reader.ErrGone)
	case s.trouble == fine:
		return nil
	case s.trouble == lateAnswer && s.powered:
		return s.drain(ctx, "read what is left from before")
	}
	return s.start(ctx)
}

// drain reads until nothing comes.
func (s *slot) drain(ctx context.Context, what string) error {
	s.stray = true
	for range mostLost {
		n, err := s.conn.In(ctx, bulkIn, s.in[s.n:], quietWait)
		clear(s.in[s.n : s.n+max(0, n)])
		switch {
		case errors.Is(err, usb.ErrTimeout):
			return nil
		case err != nil:
			return s.failed(ctx, what, bulkIn, err)
		}
	}
	return s.failed(ctx, what, bulkIn, fmt.Errorf("the reader sends unasked: %w", reader.ErrProtocol))
}

// setLine sets the line unless it is set.
func (s *slot) setLine(ctx context.Context, what string, l line) error {
	if s.line == l {
		return nil
	}
	s.line = line{}
	if err := s.out(ctx, what, l.command()); err != nil {
		return err
	}
	s.line = l
	return nil
}

// receive adds the characters that the reader holds to those in s.in, and returns how many
// they are.
func (s *slot) receive(ctx context.Context, what string) (int, error) {
	var count [1]byte
	if err := s.ask(ctx, what, cmdReceive, count[:]); err != nil {
		return 0, err
	}
	n := int(count[0])
	if n == 0 {
		return 0, nil
	}
	p := s.in[s.n:]
	if n > len(p) {
		return 0, s.failed(ctx, what, bulkIn, fmt.Errorf("more than %d characters: %w", len(s.in), reader.ErrProtocol))
	}
	if err := s.read(ctx, what, p[:n]); err != nil {
		clear(p[:n])
		return 0, err
	}
	if s.inverse {
		convert(p[:n])
	}
	s.n += n
	return n, nil
}

// flush drops what has come from the card.
func (s *slot) flush(ctx context.Context, what string) error {
	s.stray = true
	for range mostLost {
		s.forget()
		n, err := s.receive(ctx, what)
		if err != nil {
			return err
		}
		if n == 0 {
			s.stray = false
			return nil
		}
	}
	s.forget()
	return s.fail(what, fmt.Errorf("characters come without an end: %w", reader.ErrProtocol))
}

// forget drops the characters in s.in.
func (s *slot) forget() {
	clear(s.in[:s.n])
	s.n = 0
}

// ask sends a command of one byte and reads its answer, which fills p.
func (s *slot) ask(ctx context.Context, what string, cmd byte, p []byte) error {
	s.frame[0] = cmd
	if err := s.out(ctx, what, s.frame[:1]); err != nil {
		return err
	}
	return s.read(ctx, what, p)
}

// out sends commands.
func (s *slot) out(ctx context.Context, what string, p []byte) error {
	n, err := s.conn.Out(ctx, bulkOut, p, false, transferWait)
	if err == nil && n != len(p) {
		err = fmt.Errorf("the reader took only a part: %w", reader.ErrProtocol)
	}
	if err != nil {
		return s.failed(ctx, what, bulkOut, err)
	}
	return nil
}

// read reads a transfer of len(p) bytes. One may be ended by an empty packet if it fills its
// last one; whether the reader sends these is not known.
func (s *slot) read(ctx context.Context, what string, p []byte) error {
	n, err := s.conn.In(ctx, bulkIn, p, transferWait)
	if n == 0 && err == nil {
		n, err = s.conn.In(ctx, bulkIn, p, transferWait)
	}
	if err == nil && n != len(p) {
		err = fmt.Errorf("%d bytes came, %d are due: %w", n, len(p), reader.ErrProtocol)
	}
	if err != nil {
		return s.failed(ctx, what, bulkIn, err)
	}
	if s.trouble == lateAnswer {
		s.trouble = fine
	}
	return nil
}

// failed notes that a transfer failed.
func (s *slot) failed(ctx context.Context, what string, ep uint8, err error) error {
	if s.trouble != fine || errors.Is(err, usb.ErrReset) {
		s.trouble, s.powered = lostState, false
	} else {
		s.trouble = lateAnswer
	}
	if ep != 0 {
		err = fmt.Errorf("endpoint %02X: %w", ep, err)
		if errors.Is(err, usb.ErrStall) {
			if e := s.conn.ClearHalt(ctx, ep); e != nil {
				err = fmt.Errorf("%w; end of the halt: %w", err, e)
			}
		}
	}
	if errors.Is(err, usb.ErrReset) {
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	}
	return s.fail(what, err)
}

// fail wraps err with the reader and what was tried.
func (s *slot) fail(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", s.name, what, err)
}

// pause waits for d, or until ctx ends or the device leaves, which is an error.
func (s *slot) pause(ctx context.Context, what string, d time.Duration) error {
	if err := s.pauser.Pause(ctx, s.conn.Gone(), d); err != nil {
		return s.fail(what, err)
	}
	return nil
}
