package cardman

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

const (
	// plainWait is OpenCT's time-out of requests without an answer.
	plainWait = 10 * time.Second
	// answerWait is OpenCT's time for a request and its answer.
	answerWait = 2 * time.Second
	// silentWait is the most for a card that is silent. In that time nobody notices that it was taken out: the
	// answer to a question for the status could not be told from the card's.
	silentWait = 10 * time.Second
	// quietWait is how long no packet comes before that counts as silence.
	quietWait = 50 * time.Millisecond
	// mostLeft is how many packets may be left over: those of the longest answer in T=0, and some.
	mostLeft = 64
	// emptyPause follows an empty packet.
	emptyPause = 10 * time.Millisecond
)

// trouble is what is not known since a request failed.
type trouble int

const (
	fine  trouble = iota
	late          // an answer may still come
	power         // and the card's state is unknown: it is switched off
)

// wire is the way to the reader.
type wire struct {
	conn    usb.Conn
	name    string
	trouble trouble
	pauser  reader.Pauser
	in      [(mostLeft + 1) * packet]byte // in[:n] came and was not taken
	n       int
}

// fail wraps err with the reader and what was tried.
func (w *wire) fail(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", w.name, what, err)
}

// lost notes that a request failed.
func (w *wire) lost(t trouble) {
	w.drop()
	w.trouble = max(w.trouble, t)
}

// request sends a request, all of whose data the reader must take.
func (w *wire) request(ctx context.Context, what string, s usb.Setup, data []byte, wait time.Duration) error {
	n, err := w.conn.Control(ctx, s, data, wait)
	if err == nil && n != len(data) {
		err = fmt.Errorf("the reader took only a part: %w", reader.ErrProtocol)
	}
	if err != nil {
		return w.failed(ctx, what, fmt.Sprintf("request %02X", s.Request), 0, err)
	}
	return nil
}

// ask sends a request and returns its answer, of n bytes at least.
func (w *wire) ask(ctx context.Context, what string, s usb.Setup, data []byte, n int) ([]byte, error) {
	if err := w.clean(ctx, what); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := w.request(ctx, what, s, data, answerWait); err != nil {
		return nil, err
	}
	p, err := w.collect(ctx, what, n, max(answerWait-time.Since(start), 1))
	if err != nil {
		w.lost(late)
		return nil, err
	}
	return p, nil
}

// collect takes packets until there are n bytes, and returns all that came. Each packet has wait.
func (w *wire) collect(ctx context.Context, what string, n int, wait time.Duration) ([]byte, error) {
	until := time.Now().Add(wait)
	for left := wait; w.n < n; {
		if w.n+packet > len(w.in) {
			return nil, w.fail(what, fmt.Errorf("an answer of more than %d bytes: %w", len(w.in)-packet, reader.ErrProtocol))
		}
		m, err := w.conn.In(ctx, answers, w.in[w.n:w.n+packet], left)
		if err == nil && (m < 0 || m > packet) {
			m, err = 0, fmt.Errorf("a packet of %d bytes: %w", m, reader.ErrProtocol)
		}
		if err != nil {
			return w.in[:w.n], w.failed(ctx, what, fmt.Sprintf("endpoint %02X", answers), answers, err)
		}
		if w.n += m; m > 0 {
			until = time.Now().Add(wait)
			left = wait
			continue
		}
		if err := w.pause(ctx, what, emptyPause); err != nil {
			return w.in[:w.n], err
		}
		if left = time.Until(until); left <= 0 {
			return w.in[:w.n], w.fail(what, fmt.Errorf("only empty packets came: %w", reader.ErrTimeout))
		}
	}
	return w.in[:w.n], nil
}

// take drops the first n bytes of what came.
func (w *wire) take(n int) {
	left := copy(w.in[:], w.in[n:w.n])
	clear(w.in[left:w.n])
	w.n = left
}

// drop drops all that came.
func (w *wire) drop() { w.take(w.n) }

// forget is drop behind an answer. What a packet has behind it is padding.
func (w *wire) forget() { w.drop() }

// failed notes that a transfer failed. A device that was reset has lost all.
func (w *wire) failed(ctx context.Context, what, where string, ep uint8, err error) error {
	w.trouble = max(w.trouble, late)
	err = fmt.Errorf("%s: %w", where, err)
	if errors.Is(err, usb.ErrStall) && ep != 0 {
		if e := w.conn.ClearHalt(ctx, ep); e != nil {
			err = fmt.Errorf("%w; end of the halt: %w", err, e)
		}
	}
	if errors.Is(err, usb.ErrReset) {
		w.trouble = power
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	}
	return w.fail(what, err)
}

// ready passes over what is left of a request that failed.
func (s *slot) ready(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return s.fail(what, err)
	}
	if s.trouble == fine {
		return nil
	}
	if s.trouble == power {
		s.powered = false
		if err := s.request(ctx, what, setupOff, nil, plainWait); err != nil {
			return err
		}
	}
	if err := s.drain(ctx, what); err != nil {
		return err
	}
	s.trouble = fine
	return nil
}

// clean drops what came and nobody asked for. If it is not what fills a packet up, it is of an answer that was given
// up, and more of that may come.
func (w *wire) clean(ctx context.Context, what string) error {
	if padding(w.in[:w.n]) {
		w.drop()
		return nil
	}
	return w.drain(ctx, what)
}

func padding(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// drain takes packets until none comes.
func (w *wire) drain(ctx context.Context, what string) error {
	w.drop()
	for range mostLeft {
		n, err := w.conn.In(ctx, answers, w.in[:packet], quietWait)
		clear(w.in[:packet])
		switch {
		case errors.Is(err, usb.ErrTimeout):
			return nil
		case err != nil:
			return w.failed(ctx, what, fmt.Sprintf("endpoint %02X", answers), answers, err)
		case n == 0:
			if err := w.pause(ctx, what, emptyPause); err != nil {
				return err
			}
		}
	}
	return w.fail(what, fmt.Errorf("packets come without an end: %w", reader.ErrProtocol))
}

// pause waits for d, or until ctx ends or the device leaves, which is an error.
func (w *wire) pause(ctx context.Context, what string, d time.Duration) error {
	if err := w.pauser.Pause(ctx, w.conn.Gone(), d); err != nil {
		return w.fail(what, err)
	}
	return nil
}
