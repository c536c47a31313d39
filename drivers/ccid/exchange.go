package ccid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// bChainParameter and wLevelParameter at extended APDU level (CCID 1.1 §6.1.4, §6.2.1).
const (
	chainWhole  = 0x00
	chainFirst  = 0x01
	chainLast   = 0x02
	chainMiddle = 0x03
	chainEmpty  = 0x10 // no data: the other side shall continue
)

// maxResponse is the longest R-APDU: 65536 bytes and SW1 SW2.
const maxResponse = 65538

// Exchange sends an XfrBlock, or several when chaining.
func (s *slot) Exchange(ctx context.Context, t reader.Transfer, dst []byte) ([]byte, error) {
	s.lane.until, s.lane.extended = t.Until, t.Extended
	rx, halfway, err := s.exchange(ctx, &t, dst)
	s.lane.until, s.lane.extended = time.Time{}, nil
	if err != nil {
		return nil, s.ended(halfway, err)
	}
	return rx, nil
}

func (s *slot) exchange(ctx context.Context, t *reader.Transfer, dst []byte) (rx []byte, halfway bool, err error) {
	limit := exchangeTime(s.pace, s.characterCount(t), t.WTX)
	switch level := s.level(); {
	case level == reader.Character:
		rx, err = s.characters(ctx, t, dst, limit)
		return rx, false, err
	case level == reader.ExtendedAPDU, s.chains:
		room := int(s.MaxMessage) - headerLen
		return chained(ctx, s, room, t.Out, dst, limit)
	}
	if err := s.fits("command", len(t.Out)); err != nil {
		return nil, false, err
	}
	a, err := s.xfr(ctx, t.WTX, chainWhole, t.Out, limit)
	if err != nil {
		return nil, false, err
	}
	if a.param != chainFirst || s.level() != reader.ShortAPDU {
		return a.appendTo(dst, len(dst)), false, nil
	}
	// This reader chains, although its level does not provide for that.
	rx, err = collect(ctx, s, a, dst, limit)
	return rx, true, err
}

// ended makes sure that a failed exchange leaves nothing behind for the next one. After
// one that was given up half-way, the reader waits for the rest of a command or holds the
// rest of a response: powering the card off makes the reader drop it.
func (s *slot) ended(halfway bool, err error) error {
	var failed *Error
	if errors.As(err, &failed) {
		// A reader that was reset answers immediately that the card has no power. If the
		// card is mute and was therefore powered off, the reader has waited for it first.
		failed.waited = halfway || s.pace.Wait > 0 && failed.took >= s.pace.Wait/2
	}
	if halfway && !errors.Is(err, reader.ErrGone) && !errors.Is(err, reader.ErrNoCard) {
		if off := s.PowerOff(s.ctx); off != nil {
			err = fmt.Errorf("%w; power off: %w", err, off)
		}
	}
	return err
}

// characterCount returns the largest number of characters that one XfrBlock may move
// between reader and card. At APDU levels this is one message's worth of the command plus
// the response that it asks for.
func (f *function) characterCount(t *reader.Transfer) int {
	const overhead = 16 // headers, status words, GET RESPONSE, epilogues
	n := len(t.Out)
	switch {
	case f.level() == reader.Character:
		return n + t.Want
	case f.level() == reader.ExtendedAPDU && n >= 7 && t.Out[4] == 0:
		le := int(t.Out[n-2])<<8 | int(t.Out[n-1]) // cases 2 and 4
		if le == 0 {
			le = 65536
		}
		n = min(n, int(f.MaxMessage)) + min(le, int(f.MaxMessage))
	default:
		n += 256
	}
	return n + n/8 + overhead
}

// xfr sends one XfrBlock.
func (s *slot) xfr(ctx context.Context, bwi int, level uint16, data []byte, limit time.Duration) (answer, error) {
	return s.do(ctx, withLevel(cmdXfrBlock, bwi, level), data, limit)
}

// mover sends one part of a command and returns one part of a response.
type mover interface {
	xfr(ctx context.Context, bwi int, level uint16, data []byte, limit time.Duration) (answer, error)
}

// characters sends t.Out and receives t.Want characters. wLevelParameter is the expected
// length of the answer (CCID 1.1 §3.2.4).
func (s *slot) characters(ctx context.Context, t *reader.Transfer, dst []byte, limit time.Duration) ([]byte, error) {
	out, want, start := t.Out, t.Want, len(dst)
	room := int(s.MaxMessage) - headerLen
	if s.long {
		room = max(room, len(out))
	}
	for first := true; first || want > 0; first = false {
		part, n := out, min(want, room)
		if len(part) > room {
			part, n = part[:room], 0
		}
		if s.split64 && n > 1 && (headerLen+n)%64 == 0 {
			n = 1
		}
		a, err := s.xfr(ctx, t.WTX, uint16(n), part, limit)
		if err != nil {
			return nil, err
		}
		if out = out[len(part):]; len(out) > 0 {
			first = true
			continue
		}
		if len(a.data) > want {
			return nil, fmt.Errorf("ccid: XfrBlock: %d characters came, %d were asked for: %w", len(a.data), n, reader.ErrProtocol)
		}
		dst = a.appendTo(dst, start)
		want -= len(a.data)
		if len(a.data) < n {
			break // the card sent no more
		}
	}
	return dst, nil
}

// chained sends a C-APDU of any length in parts that fit the reader, and collects the
// R-APDU (CCID 1.1 §6.1.4):
//
//	> 01 data   < 10      > 03 data   < 10      > 02 data   < 01 data
//	                                            > 10        < 03 data
//	                                            > 10        < 02 data
//
// If it fails, halfway reports whether the exchange had begun: the other side still holds
// a part of the command or of the response.
func chained(ctx context.Context, m mover, room int, capdu, dst []byte, limit time.Duration) (rx []byte, halfway bool, err error) {
	level := uint16(chainWhole)
	for rest, first := capdu, true; ; first = false {
		part := rest
		if len(rest) > room {
			part = rest[:room]
			if level = chainMiddle; first {
				level = chainFirst
			}
		} else if !first {
			level = chainLast
		}
		rest = rest[len(part):]
		a, err := m.xfr(ctx, 0, level, part, limit)
		if err != nil {
			return nil, !first, err
		}
		if len(rest) == 0 {
			rx, err = collect(ctx, m, a, dst, limit)
			return rx, true, err
		}
		if a.param != chainEmpty || len(a.data) > 0 {
			return nil, true, fmt.Errorf("ccid: XfrBlock: %d bytes with bChainParameter %02X where the next part of the command is due; this reader does not take commands of more than %d bytes: %w",
				len(a.data), a.param, room, reader.ErrProtocol)
		}
	}
}

// collect appends the response that a holds or begins.
func collect(ctx context.Context, m mover, a answer, dst []byte, limit time.Duration) ([]byte, error) {
	last := time.Now().Add(exchangeLimit)
	for start, empty := len(dst), 0; ; {
		dst = a.appendTo(dst, start)
		switch a.param {
		case chainWhole, chainLast:
			return dst, nil
		case chainFirst, chainMiddle, chainEmpty:
		default:
			return nil, fmt.Errorf("ccid: XfrBlock: bChainParameter %02X is not defined: %w", a.param, reader.ErrProtocol)
		}
		if len(a.data) == 0 {
			empty++
		} else {
			empty = 0
		}
		if len(dst)-start > maxResponse || empty > noiseLimit {
			return nil, fmt.Errorf("ccid: XfrBlock: %d bytes and no end of the response: %w", len(dst)-start, reader.ErrProtocol)
		}
		if time.Now().After(last) {
			return nil, fmt.Errorf("ccid: XfrBlock: no end of the response in %v: %w", exchangeLimit, reader.ErrTimeout)
		}
		var err error
		if a, err = m.xfr(ctx, 0, chainEmpty, nil, limit); err != nil {
			return nil, err
		}
	}
}
