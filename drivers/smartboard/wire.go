package smartboard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

const (
	// answerWait is OpenCT's time for the begin of an answer, and for the rest of it.
	answerWait = time.Second
	// resetWait is for an ATR, each character of which may come 9600 etu after the one before
	// (ISO/IEC 7816-3:2006 §8.1). OpenCT waited no longer than for others.
	resetWait = 3 * time.Second
	// silentWait is for the begin of a card's answer, or for an ansWait, of which OpenCT expected one each second. In
	// T=0 the core would wait for minutes (reader.Transfer.Wait).
	silentWait = 10 * time.Second
	// settleTime is how long the reader may be occupied with a command that was given up.
	settleTime = 15 * time.Second
	// quietWait is how long nothing comes before that counts as silence.
	quietWait = 50 * time.Millisecond
	// mostTries is how often a command is sent to a reader that says ansAgain.
	mostTries = 1 + 3
	// settleTries is how often it is asked for a status: those in between may tell that a card came and left.
	settleTries = 3
)

// The pauses of the attachment, as OpenCT makes them.
const (
	linePause  = 230 * time.Millisecond
	breakPause = 100 * time.Millisecond
	breakTime  = 500 * time.Millisecond
)

// trouble is what is not known of the reader since a command failed.
type trouble int

const (
	fine trouble = iota
	// late: the answer to something before may still come.
	late
	// lost: the reader may be waiting for the rest of a command. What is sent now would become a part of it.
	lost
)

// wire carries frames.
type wire struct {
	serial.Port
	trouble trouble
	pauser  reader.Pauser
	out     [longestFrame]byte
	in      [2 * longestFrame]byte // in[:n] has come, and in[:taken] was returned
	n       int
	taken   int
}

// send sends a command. What has come before is no answer to it.
func (w *wire) send(ctx context.Context, c code, data []byte) error {
	w.drop()
	if err := w.Flush(); err != nil {
		return err
	}
	p := appendFrame(w.out[:0], c, data)
	err := w.Write(ctx, p)
	clear(p)
	return err
}

// receive returns the next frame, which is valid until the next call or forget. After an error nothing more can be
// received before the next send. It may begin within wait, and has
// answerWait for the rest.
func (w *wire) receive(ctx context.Context, wait time.Duration) (frame, error) {
	w.forget()
	var until time.Time
	for {
		size, err := frameSize(w.in[:w.n])
		switch {
		case err != nil:
			return frame{}, err
		case w.n > size && w.in[size] != 0: // no frame follows: one character came twice, or from nobody
			return frame{}, fmt.Errorf("characters behind a frame of %d bytes: %w", size, reader.ErrProtocol)
		case w.n >= size:
			w.taken = size
			return splitFrame(w.in[:size]), nil
		case w.n > 0 && until.IsZero():
			wait, until = answerWait, time.Now().Add(answerWait)
		case w.n > 0:
			wait = max(time.Until(until), 1)
		}
		n, err := w.Read(ctx, w.in[w.n:], wait)
		w.n += n
		if err != nil {
			if w.n > 0 && errors.Is(err, serial.ErrTimeout) {
				err = fmt.Errorf("%d of %d bytes came: %w: %w", w.n, size, err, reader.ErrProtocol)
			}
			return frame{}, err
		}
	}
}

// forget drops the frame that was returned.
func (w *wire) forget() {
	left := copy(w.in[:], w.in[w.taken:w.n])
	clear(w.in[left:w.n])
	w.n, w.taken = left, 0
}

// drop drops all that has been read.
func (w *wire) drop() {
	clear(w.in[:w.n])
	w.n, w.taken = 0, 0
}

func is(want code) func(code) bool { return func(c code) bool { return c == want } }

func isStatus(c code) bool { return c == ansStatus || c == ansIn || c == ansOut }

// ask sends a command that is not for the card, as often as the reader asks for it, and returns the answer. Other
// frames come before it where a card was put in or taken out, and where the answer to a status was late.
func (w *wire) ask(ctx context.Context, c code, data []byte, wait time.Duration, wanted func(code) bool) (frame, error) {
	f, err := w.trying(ctx, c, data, wait, wanted)
	if err != nil {
		w.trouble = max(w.trouble, late)
	}
	return f, err
}

func (w *wire) trying(ctx context.Context, c code, data []byte, wait time.Duration, wanted func(code) bool) (frame, error) {
	for range mostTries {
		if err := w.send(ctx, c, data); err != nil {
			return frame{}, err
		}
		f, err := w.await(ctx, c, wait, wanted)
		if err != nil || wanted(f.code) {
			return f, err
		}
	}
	return frame{}, fmt.Errorf("the reader asks for the command again and again: %w", reader.ErrProtocol)
}

// await returns the answer to c, or ansAgain.
func (w *wire) await(ctx context.Context, c code, wait time.Duration, wanted func(code) bool) (frame, error) {
	for until := time.Now().Add(wait); ; {
		f, err := w.receive(ctx, wait)
		switch {
		case err != nil || wanted(f.code) || f.code == ansAgain:
			return f, err
		case c == cmdStart: // of what was given up, or the answer to cmdStop, for which something late was taken
		case c == cmdStop && (f.code == ansWait || f.code == ansData): // of what was given up
		case !isStatus(f.code):
			return f, fmt.Errorf("answer: code %02X: %w", byte(f.code), reader.ErrProtocol)
		case f.code == ansOut && (c == cmdReset || c == cmdProtocol):
			return f, reader.ErrNoCard
		}
		if wait = time.Until(until); wait <= 0 {
			return f, fmt.Errorf("only answers to something else came: %w", serial.ErrTimeout)
		}
	}
}

// transfer sends data to the card and returns its answer.
//
// Until something comes the reader is lost: whether it has the whole command, nobody knows.
func (w *wire) transfer(ctx context.Context, x reader.Transfer) (frame, error) {
	w.trouble = lost
	if err := w.send(ctx, cmdData, x.Out); err != nil {
		return frame{}, err
	}
	f, err := w.answer(ctx, x)
	if err != nil {
		w.drop()
	}
	return f, err
}

// answer waits for the card's answer. The reader says ansWait as long as there is none.
func (w *wire) answer(ctx context.Context, x reader.Transfer) (frame, error) {
	most := min(max(answerWait, x.Wait), silentWait)
	until := time.Now().Add(most)
	for wait := within(most, x.Until); ; wait = min(most, time.Until(until)) {
		if wait <= 0 {
			return frame{}, fmt.Errorf("answer: %w", serial.ErrTimeout)
		}
		f, err := w.receive(ctx, wait)
		switch {
		case errors.Is(err, reader.ErrProtocol): // it answers
			w.trouble = late
			return f, fmt.Errorf("answer: %w", err)
		case err != nil:
			return f, fmt.Errorf("answer: %w", err)
		}
		switch f.code {
		case ansData:
			w.trouble = fine
			return f, nil
		case ansWait:
			w.trouble = late
			if !x.Until.IsZero() { // the time that the reader may ask for
				until = x.Until
			}
			if x.Extended != nil {
				x.Extended()
			}
		case ansOut:
			w.trouble = late
			return f, reader.ErrNoCard
		case ansStatus, ansIn: // late
		default:
			w.trouble = late
			return f, fmt.Errorf("answer: code %02X: %w", byte(f.code), reader.ErrProtocol)
		}
	}
}

// within is wait, but not beyond until, if there is one.
func within(wait time.Duration, until time.Time) time.Duration {
	if until.IsZero() {
		return wait
	}
	return min(wait, time.Until(until))
}

// ready mends what is left of a command that failed.
func (s *slot) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.trouble == late {
		if err := s.settle(ctx); !errors.Is(err, errUnsettled) {
			return err
		}
	}
	if s.trouble != fine {
		return s.start(ctx)
	}
	return nil
}

// errUnsettled: the reader gives no status.
var errUnsettled = errors.New("no status")

// settle asks for a status. The reader answers one command after the other, so behind ansStatus nothing is still
// to come. The other answers to a status may also come without one.
func (s *slot) settle(ctx context.Context) error {
	until := time.Now().Add(settleTime)
	for range settleTries {
		if err := s.send(ctx, cmdStatus, nil); err != nil {
			return err
		}
		err := s.settled(ctx, until)
		if err == nil {
			s.trouble = fine
		}
		if !errors.Is(err, errUnsettled) {
			return err
		}
	}
	return errUnsettled
}

// settled passes over frames up to ansStatus.
func (s *slot) settled(ctx context.Context, until time.Time) error {
	for time.Now().Before(until) {
		f, err := s.receive(ctx, answerWait)
		switch {
		case errors.Is(err, serial.ErrTimeout):
			return errUnsettled
		case errors.Is(err, reader.ErrProtocol):
			if err := s.hush(ctx, until); err != nil {
				return err
			}
			return errUnsettled
		case err != nil:
			return err
		case isStatus(f.code):
			if _, err := s.judge("status", f); err == nil && f.code == ansStatus {
				return nil
			}
			return errUnsettled
		case f.code == ansAgain:
			return errUnsettled
		}
	}
	return errUnsettled
}

// hush reads until the line is quiet.
func (s *slot) hush(ctx context.Context, until time.Time) error {
	for time.Now().Before(until) {
		n, err := s.Read(ctx, s.in[:], quietWait)
		clear(s.in[:n])
		switch {
		case errors.Is(err, serial.ErrTimeout):
			return nil
		case err != nil && !errors.Is(err, serial.ErrParity):
			return err
		}
	}
	return nil
}

// start starts the reader, as OpenCT does. A card that had power has none, or may have none.
func (s *slot) start(ctx context.Context) error {
	s.powered, s.trouble = false, lost
	if err := s.wake(ctx); err != nil {
		return fmt.Errorf("wake the reader: %w", err)
	}
	if _, err := s.ask(ctx, cmdStop, nil, answerWait, func(c code) bool { return c != ansAgain && c != ansWait && c != ansData }); err != nil {
		return fmt.Errorf("stop the reader: %w", err)
	}
	f, err := s.ask(ctx, cmdStart, nil, answerWait, is(ansStarted))
	if err != nil {
		return fmt.Errorf("start the reader: %w", err)
	}
	if len(f.data) == 0 { // the code alone may be an echo
		return fmt.Errorf("start the reader: it says nothing about itself: %w", reader.ErrProtocol)
	}
	s.text = identification(f.data)
	s.trouble = fine
	return nil
}

// wake switches the lines and sends a break. A port without modem lines cannot do the first.
func (s *slot) wake(ctx context.Context) error {
	for _, x := range []struct{ on, off serial.Lines }{
		{off: serial.DTR | serial.RTS}, {on: serial.DTR}, {on: serial.RTS},
	} {
		if err := s.pause(ctx, linePause); err != nil {
			return err
		}
		if err := s.SetLines(ctx, x.on, x.off); err != nil && !errors.Is(err, serial.ErrNoLines) {
			return err
		}
	}
	if err := s.pause(ctx, breakPause); err != nil {
		return err
	}
	return s.Break(ctx, breakTime)
}

// pause waits for d, or until ctx ends or the port leaves, which is an error.
func (w *wire) pause(ctx context.Context, d time.Duration) error {
	return w.pauser.Pause(ctx, w.Gone(), d)
}
