package towitoko

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const (
	// atrWait is OpenCT's time for TS, which a card has to send within 40,000 clocks, 11 ms (ISO/IEC
	// 7816-3:2006 §6.2.2). OpenCT gives each other character as much, which is just what a card
	// may take, 9600 etu (§8.1); here it is atrGap.
	atrWait = time.Second
	atrGap  = time.Second + slack
	// slack is added to the card's waiting times for the way through reader and adapter.
	slack = 300 * time.Millisecond
)

// times sets the times of characters for a card with these parameters. The frame has 12 etu.
func (s *slot) times(p iso7816.Params) {
	s.guard = 0
	if p.N != 0 && p.N != 0xFF {
		s.guard = p.GT(clockHz)
	}
}

// answerToReset receives the ATR. Of a card of the inverse convention, which is heard at even
// parity too, each character has the other parity; reader and port are switched over behind it.
//
// 3F, which no card sends so, is taken as OpenCT takes it: a reader that converts by itself.
func (s *slot) answerToReset(ctx context.Context) ([]byte, error) {
	s.stray = true // until all has come
	var buf [iso7816.MaxATR]byte
	n, wrong, err := s.receive(ctx, buf[:1], atrWait, 0)
	switch {
	case errors.Is(err, serial.ErrTimeout):
		s.stray = false
		return nil, fmt.Errorf("ATR: %w: %w", err, reader.ErrMute)
	case err != nil:
		return nil, err
	}
	parity := byte(evenParity)
	switch buf[0] {
	case 0x3B:
	case 0x03:
		s.inverse = true
		fallthrough
	case 0x3F:
		parity = oddParity
	default:
		return nil, fmt.Errorf("ATR: it begins with neither 3B nor 03: %w", reader.ErrMute)
	}
	raw := buf
	for whole := 2; n < whole; {
		if whole > iso7816.MaxATR {
			return nil, fmt.Errorf("ATR: %d bytes or more are announced, %d are the most: %w", whole, iso7816.MaxATR, reader.ErrProtocol)
		}
		got, bad, err := s.receive(ctx, raw[n:whole], atrGap, atrGap)
		n, wrong = n+got, wrong || bad
		switch {
		case errors.Is(err, serial.ErrTimeout):
			return nil, fmt.Errorf("ATR: %d bytes came, %d or more are announced: %w: %w", n, whole, err, reader.ErrProtocol)
		case err != nil:
			return nil, err
		}
		buf = raw
		if s.inverse {
			convert(buf[:n])
		}
		whole = iso7816.ATRLength(buf[:n])
	}
	s.stray = false
	if wrong && parity == s.parity {
		s.stray = true
		return nil, fmt.Errorf("ATR: a character with wrong parity: %w", reader.ErrProtocol)
	}
	if err := s.setParity(ctx, parity); err != nil {
		return nil, err
	}
	return slices.Clone(buf[:n]), nil
}

// Exchange sends characters to the card and receives some from it.
func (s *slot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if err := s.begin(ctx); err != nil {
		return dst, s.fail("exchange", err)
	}
	defer s.end()
	dst, err := s.exchange(ctx, x, dst)
	return dst, s.fail("exchange", err)
}

func (s *slot) exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if err := s.awake(ctx); err != nil {
		return dst, err
	}
	wait := x.Wait
	if len(x.Out) > 0 {
		if err := s.sendChars(ctx, x.Out); err != nil {
			s.stray = true
			return dst, err
		}
		if s.guard == 0 {
			wait += s.port.Mode().Time(len(x.Out) + sendOverhead) // it has not left yet
		}
	}
	dst = slices.Grow(dst, x.Want)
	p := dst[len(dst) : len(dst)+x.Want]
	n, wrong, err := s.receive(ctx, p, wait, x.CharWait)
	s.stray = err != nil || wrong // the rest of it may follow
	switch {
	case wrong:
		clear(p)
		return dst, fmt.Errorf("%d of %d characters came, some with wrong parity: %w", n, x.Want, reader.ErrProtocol)
	case errors.Is(err, serial.ErrTimeout) && n == 0:
		if why := s.same(ctx); why != nil {
			err = why
		}
		return dst, err
	case err != nil && !errors.Is(err, serial.ErrTimeout):
		clear(p)
		return dst, err
	}
	if p = p[:n]; s.inverse { // perhaps the card stopped
		convert(p)
	}
	return dst[:len(dst)+n], nil
}

// awake checks that the card was reset.
func (s *slot) awake(ctx context.Context) error {
	switch {
	case s.powered && s.memory:
		return fmt.Errorf("a memory card takes no characters: %w", reader.ErrUnsupported)
	case s.powered && !s.lost:
		return nil
	}
	err := s.same(ctx)
	if err == nil && !s.powered {
		err = reader.ErrStale
	}
	return err
}

// sendChars sends characters to the card.
func (s *slot) sendChars(ctx context.Context, p []byte) error {
	if err := s.quiet(ctx); err != nil {
		return err
	}
	for len(p) > 0 {
		n := min(len(p), mostSent)
		if err := s.sendPiece(ctx, p[:n], n == len(p)); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// sendPiece sends what one header announces: at once, or, to a card with an extra guard time,
// character by character. Behind the last piece the line is turned around.
func (s *slot) sendPiece(ctx context.Context, p []byte, last bool) error {
	frame := appendSend(s.frame[:0], s.baud, p, s.inverse)
	head := len(frame) - len(p)
	if last && s.baud > slowBaud {
		frame = append(frame, turnByte)
	}
	defer clear(frame)
	if s.guard == 0 {
		return s.port.Write(ctx, frame)
	}
	if err := s.port.Write(ctx, frame[:head]); err != nil {
		return err
	}
	if err := s.port.Drain(ctx); err != nil {
		return err
	}
	for i := head; i < len(frame); i++ {
		if err := s.port.Write(ctx, frame[i:i+1]); err != nil {
			return err
		}
		if err := s.pause(ctx, s.guard); err != nil {
			return err
		}
	}
	return nil
}
