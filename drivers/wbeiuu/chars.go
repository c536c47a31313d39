package wbeiuu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const (
	// atrWait is how long the card may take until its ATR begins, after a reset of 12 ms,
	// and between two characters of it: 9600 etu (ISO/IEC 7816-3:2006 §8.1).
	atrWait = 9600*372*time.Second/clockHz + slack
	// mostZeros bounds the 00 before an ATR. OpenCT's author saw some, which vary with the
	// moment at which the card is put in.
	mostZeros = 32
	// mostHeld is how many characters the reader may have to hold between two looks. How
	// many it can hold is not known. It counts to mostCounted.
	mostHeld    = 64
	mostCounted = 255
	// cardLook is how often an exchange looks whether the card is still in.
	cardLook = 250 * time.Millisecond
)

// times sets the times of characters for a card with these parameters.
func (s *slot) times(p iso7816.Params) {
	s.guard = 0
	if p.N != 0 && p.N != 0xFF {
		s.guard = p.GT(clockHz)
	}
	p.N = 0
	s.char = p.GT(clockHz)
}

// answerToReset collects the ATR.
func (s *slot) answerToReset(ctx context.Context) ([]byte, error) {
	const what = "ATR"
	for zeros, begun := 0, false; ; {
		if !begun {
			for s.n > 0 && s.in[0] == 0 {
				s.n = copy(s.in[:], s.in[1:s.n])
				zeros++
			}
		}
		if !begun && s.n > 0 {
			switch s.in[0] {
			case 0x3B:
			case 0x03:
				s.inverse = true
				convert(s.in[:s.n])
			default:
				return nil, s.fail(what, fmt.Errorf("it begins with neither 3B nor 03: %w", reader.ErrProtocol))
			}
			begun = true
		}
		whole := iso7816.ATRLength(s.in[:s.n])
		switch {
		case zeros > mostZeros:
			return nil, s.fail(what, fmt.Errorf("more than %d zeros: %w: %w", mostZeros, reader.ErrMute, reader.ErrProtocol))
		case whole > iso7816.MaxATR:
			return nil, s.fail(what, fmt.Errorf("%d bytes or more are announced, %d are the most: %w", whole, iso7816.MaxATR, reader.ErrProtocol))
		case s.n >= whole:
			s.stray = true // zeros may also follow
			return s.take(whole, nil), nil
		}
		need := whole
		if !begun {
			need = 1 // any of them may be a zero
		}
		switch err := s.collect(ctx, what, need, 0, atrWait, atrWait); {
		case errors.Is(err, errSilent) && s.n == 0:
			return nil, fmt.Errorf("%w: %w", err, reader.ErrMute)
		case errors.Is(err, errSilent):
			return nil, fmt.Errorf("%w: %d bytes came, %d or more are announced: %w", err, s.n, whole, reader.ErrProtocol)
		case err != nil:
			return nil, err
		}
	}
}

// Exchange sends characters to the card and receives some from it. Those that came and were
// not asked for yet are kept until something is sent.
func (s *slot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if err := s.awake(ctx, x.Out); err != nil {
		return dst, err
	}
	s.stray = true // until all has come
	if err := s.send(ctx, x.Out); err != nil {
		return dst, err
	}
	err := s.collect(ctx, "receive", x.Want, len(x.Out), x.Wait, x.CharWait)
	if err != nil && (s.n == 0 || !errors.Is(err, errSilent)) {
		s.forget()
		return dst, err
	}
	s.stray = err != nil // the card stopped
	return s.take(x.Want, dst), nil
}

// awake checks that the card was reset, and drops what belongs to something before.
func (s *slot) awake(ctx context.Context, out []byte) error {
	const what = "exchange"
	if err := ctx.Err(); err != nil {
		return s.fail(what, err)
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	if !s.powered {
		in, err := s.present(ctx, what)
		switch {
		case err != nil:
			return err
		case !in:
			return s.fail(what, reader.ErrNoCard)
		}
		return s.fail(what, reader.ErrStale)
	}
	if len(out) > 0 && (s.stray || s.n > 0) {
		return s.flush(ctx, what)
	}
	return nil
}

// send sends characters to the card.
func (s *slot) send(ctx context.Context, p []byte) error {
	const what = "send"
	most := mostSent
	if s.guard > 0 {
		most = 1
	}
	for len(p) > 0 {
		n := min(len(p), most)
		frame := appendSend(s.frame[:0], p[:n], s.inverse)
		err := s.out(ctx, what, frame)
		clear(frame)
		if err != nil {
			return err
		}
		if p = p[n:]; s.guard > 0 && len(p) > 0 {
			if err := s.pause(ctx, what, s.guard); err != nil {
				return err
			}
		}
	}
	return nil
}

// errSilent: the card sent no more in its time.
var errSilent = fmt.Errorf("no more came: %w", reader.ErrTimeout)

// collect receives until n characters are there. The card may take wait until the first one
// comes, once it has been sent what was sent before, and gap until the next.
//
// The first look is a character and a half after all can have come: a card lets some etu pass before it
// answers (ISO/IEC 7816-3:2006 §10.2, §11.4.3), and SW2 comes with SW1. While nothing comes, pauses grow to an eighth of
// the time since something was sent: a card that takes long is answered late by no more than that, and
// costs few looks.
func (s *slot) collect(ctx context.Context, what string, n, sent int, wait, gap time.Duration) error {
	if s.n >= n {
		return nil
	}
	begin := time.Now()
	if sent > 0 {
		s.since = begin
	}
	busy := time.Duration(sent) * s.char
	if s.guard > 0 {
		busy = s.char // all but the last have gone
	}
	until, looked := begin.Add(busy+wait), begin
	pause := busy + s.expected(n) + s.char*3/2
	for {
		if err := s.pause(ctx, what, pause); err != nil {
			return err
		}
		over := !time.Now().Before(until)
		got, err := s.receive(ctx, what)
		if err != nil || s.n >= n {
			return err
		}
		now := time.Now()
		if got > 0 {
			until = now.Add(gap)
		} else if over || now.Sub(looked) >= cardLook {
			looked = now
			in, err := s.present(ctx, what)
			switch {
			case err != nil:
				return err
			case !in:
				return s.fail(what, reader.ErrNoCard)
			case over:
				return s.fail(what, errSilent)
			}
		}
		pause = min(max(s.expected(n), now.Sub(s.since)/8), mostHeld*s.char, max(0, until.Sub(now)))
	}
}

// expected is the time that the characters up to the n-th take.
func (s *slot) expected(n int) time.Duration {
	return time.Duration(min(n-s.n, mostHeld)) * s.char
}

// take moves the first n characters, or as many as there are, to dst.
func (s *slot) take(n int, dst []byte) []byte {
	n = min(n, s.n)
	dst = append(dst, s.in[:n]...)
	left := copy(s.in[:], s.in[n:s.n])
	clear(s.in[left:s.n])
	s.n = left
	return dst
}
