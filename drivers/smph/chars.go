package smph

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const (
	// mostOut is the most that is sent or received at once: more than a block, and less than
	// what the kernel holds for a port, echo included.
	mostOut = 512
	// echoWait is how long an echo may take, or pause.
	echoWait = time.Second
	// cardLook is how often the card switch is looked at while nothing comes.
	cardLook = 250 * time.Millisecond
)

// times sets the times of characters for a card with these parameters.
//
// A character arrives 10 etu after its leading edge, from which the standard counts: 22 etu
// until the first to the card in T=1, 16 etu in T=0, 12 etu and N from one to the card to
// the next (ISO/IEC 7816-3:2006 §11.4.3, §10.2, §8.3).
func (s *slot) times(p iso7816.Params) {
	etu := p.ETU(s.clockHz)
	s.turn = 6 * etu
	if p.T == 1 {
		s.turn = 12 * etu
	}
	s.guard = 0
	if p.N != 0 && p.N != 0xFF {
		s.guard = time.Duration(2+int(p.N)) * etu
	}
}

// Exchange sends characters to the card and receives as many as are wanted. More that come stay
// in the port, until the next Exchange asks for them, or sends something.
func (s *slot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	const what = "exchange"
	if err := ctx.Err(); err != nil {
		return dst, s.fail(what, err)
	}
	if !s.powered {
		in, err := s.look(ctx, what)
		switch {
		case err != nil:
			return dst, err
		case !in:
			return dst, s.fail(what, reader.ErrNoCard)
		}
		return dst, s.fail(what, reader.ErrStale)
	}
	if len(x.Out) > 0 {
		if err := s.send(ctx, x.Out); err != nil {
			return dst, err
		}
	}
	return s.collect(ctx, x, dst)
}

// send sends characters to the card, and removes their echo. What has come before is not an
// answer to them.
func (s *slot) send(ctx context.Context, p []byte) error {
	const what = "send"
	if err := s.pause(ctx, time.Until(s.heard.Add(s.turn))); err != nil {
		return s.fail(what, err)
	}
	if err := s.port.Flush(); err != nil {
		return s.fail(what, err)
	}
	most := mostOut
	if s.guard > 0 {
		most = 1
	}
	for len(p) > 0 {
		n := min(len(p), most)
		if err := s.write(ctx, p[:n]); err != nil {
			return s.fail(what, err)
		}
		if err := s.echo(ctx, p[:n]); err != nil {
			return err
		}
		if p = p[n:]; len(p) > 0 {
			if err := s.pause(ctx, s.guard); err != nil {
				return s.fail(what, err)
			}
		}
	}
	return nil
}

// write writes characters in the card's convention.
func (s *slot) write(ctx context.Context, p []byte) error {
	if !s.inverse {
		return s.port.Write(ctx, p)
	}
	out := append(s.out[:0], p...)
	convert(out)
	defer clear(out)
	return s.port.Write(ctx, out)
}

// echo receives what was sent. Wrong parity in it is also how a card with T=0 asks for a
// character to be sent again (ISO/IEC 7816-3:2006 §7.3). A UART cannot tell this from noise, and
// the character is not sent again.
func (s *slot) echo(ctx context.Context, want []byte) error {
	const what = "echo"
	in := s.in[:len(want)]
	defer clear(in)
	for got := 0; got < len(in); {
		n, err := s.receive(ctx, what, in[got:], echoWait)
		if s.inverse {
			convert(in[got : got+n])
		}
		if string(in[got:got+n]) != string(want[got:got+n]) {
			return s.fail(what, fmt.Errorf("it is not what was sent: %w", reader.ErrProtocol))
		}
		if got += n; err != nil {
			return err
		}
	}
	return nil
}

// collect receives the characters that are wanted. If one has wrong parity, so has what is
// returned, but not before the card has sent all of it.
func (s *slot) collect(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	const what = "receive"
	in := s.in[:min(x.Want, len(s.in))]
	defer clear(in)
	var parity error
	wait := x.Wait
	for got := 0; got < len(in); wait = x.CharWait {
		n, err := s.receive(ctx, what, in[got:], max(wait, slack))
		got += n
		switch {
		case errors.Is(err, serial.ErrParity):
			parity = err
		case errors.Is(err, errSilent):
			return dst, fmt.Errorf("%w, %d of %d characters came", err, got, len(in))
		case err != nil:
			return dst, err
		}
	}
	if len(in) > 0 {
		s.heard = time.Now()
	}
	if parity != nil {
		return dst, parity
	}
	if s.inverse {
		convert(in)
	}
	return append(dst, in...), nil
}

// errSilent: the card sent no more in its time.
var errSilent = fmt.Errorf("no more came: %w", reader.ErrTimeout)

// receive receives at least one character, for which it waits.
func (s *slot) receive(ctx context.Context, what string, p []byte, wait time.Duration) (int, error) {
	until := time.Now().Add(wait)
	for {
		n, err := s.port.Read(ctx, p, max(1, min(time.Until(until), cardLook)))
		if err == nil {
			return n, nil
		}
		if n > 0 || !errors.Is(err, serial.ErrTimeout) {
			return n, s.fail(what, err)
		}
		in, err := s.look(ctx, what)
		switch {
		case err != nil:
			return 0, err
		case !in:
			return 0, s.fail(what, reader.ErrNoCard)
		case !time.Now().Before(until):
			return 0, s.fail(what, errSilent)
		}
	}
}
