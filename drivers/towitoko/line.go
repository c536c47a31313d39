package towitoko

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

// slow is the line of a reader that has just got power.
var slow = serial.Mode{Baud: slowBaud, Frame: serial.Frame8E2, Check: true}

const (
	// answerWait is OpenCT's and libtowitoko's time-out for a whole answer.
	answerWait = time.Second
	// hushWait is how long nothing comes before the line is quiet. A reader that lacks
	// characters of a command is taken to have given up by then; nobody has measured it.
	hushWait = 250 * time.Millisecond
	// noiseTime is how long a line may take to become quiet.
	noiseTime = 3 * time.Second
	// speedPause is what libtowitoko gives a reader after a change of the speed.
	speedPause = 150 * time.Millisecond
	// mostGarbled is how many answers to an identification, which does nothing, may be damaged.
	mostGarbled = 2
)

var (
	errChecksum = fmt.Errorf("an answer with a wrong checksum: %w", reader.ErrProtocol)
	errNoReader = fmt.Errorf("nothing that answers like a Towitoko reader; is it connected and powered? %w", reader.ErrTimeout)
)

// command sends a command and receives n bytes with their checksum; with 0, the acknowledge.
// What it returns is valid until the next call. Parity is not looked at: there is the checksum,
// and while an inverse card is in use nobody knows which one a real reader has for its answers.
func (s *slot) command(ctx context.Context, n int, cmd ...byte) ([]byte, error) {
	data, _, err := s.ask(ctx, n, cmd...)
	return data, err
}

// ask is command, which also says whether parity was wrong.
func (s *slot) ask(ctx context.Context, n int, cmd ...byte) (data []byte, wrong bool, err error) {
	if err := s.send(ctx, cmd); err != nil {
		return nil, false, err
	}
	answer := s.rx[:n+1]
	got, wrong, err := s.receive(ctx, answer, answerWait, 0)
	ok := false
	if err == nil {
		if data, ok = checked(answer); !ok {
			err = errChecksum
		}
	}
	if err != nil {
		clear(answer)
		s.stray = true
		return nil, wrong, fmt.Errorf("answer, %d of %d bytes: %w", got, n+1, err)
	}
	return data, wrong, nil
}

// send sends a command on a line on which nothing is due.
func (s *slot) send(ctx context.Context, cmd []byte) error {
	if err := s.quiet(ctx); err != nil {
		return err
	}
	frame := appendCommand(s.frame[:0], s.baud, cmd...)
	defer clear(frame)
	err := s.port.Write(ctx, frame)
	s.stray = err != nil // perhaps a part of it has gone
	return err
}

// quiet drops what has come and, after a failure, what may still come.
func (s *slot) quiet(ctx context.Context) error {
	if !s.stray {
		return s.port.Flush()
	}
	for until := time.Now().Add(noiseTime); ; {
		n, err := s.port.Read(ctx, s.rx[:], hushWait)
		clear(s.rx[:n])
		switch {
		case errors.Is(err, serial.ErrTimeout):
			s.stray = false
			return nil
		case err != nil && !errors.Is(err, serial.ErrParity):
			return err
		case time.Now().After(until):
			return fmt.Errorf("the line is never quiet: %w: %w", reader.ErrTransfer, reader.ErrProtocol)
		}
	}
}

// receive fills p. With each, wait is for the first character, and each between any two; else
// it is for all. wrong reports whether one had wrong parity.
func (s *slot) receive(ctx context.Context, p []byte, wait, each time.Duration) (n int, wrong bool, err error) {
	until := time.Now().Add(wait)
	for n < len(p) {
		switch {
		case n == 0:
		case each > 0:
			wait = each
		default:
			wait = max(time.Until(until), 1)
		}
		m, err := s.port.Read(ctx, p[n:], wait)
		n += m
		if errors.Is(err, serial.ErrParity) {
			wrong = true
		} else if err != nil {
			return n, wrong, err
		}
	}
	return n, wrong, nil
}

// find looks for the reader: as it should be, as it is if a change was made whose answer did
// not come, and as it is after it got power; with first, also at the speeds at which a program
// that died may have left it. Unless it is as it should be, its card has lost its power, or
// counts as if it had.
func (s *slot) find(ctx context.Context, first bool) error {
	err := s.look(ctx, first)
	if err != nil {
		s.cardLost()
		s.lost = true
	}
	return err
}

func (s *slot) look(ctx context.Context, first bool) error {
	s.lost, s.lit, s.dark = true, false, false
	was := s.port.Mode()
	modes := []serial.Mode{was}
	if s.next.Baud != 0 && s.next != was {
		modes = append(modes, s.next)
	}
	if was != slow && s.next != slow {
		modes = append(modes, slow)
	}
	known := len(modes)
	if first {
		for _, baud := range fasterBauds {
			modes = append(modes, serial.Mode{Baud: baud, Frame: slow.Frame, Check: true})
		}
	}
	for i, m := range modes {
		s.stray = s.stray || !first || i > 0
		asks := 1
		if i < known {
			asks = 2
		}
		err := s.findAt(ctx, m, asks)
		if errors.Is(err, serial.ErrTimeout) || errors.Is(err, errChecksum) {
			continue
		}
		if err != nil {
			return err
		}
		s.lost, s.next = false, serial.Mode{}
		if i > 0 {
			s.cardLost()
			s.parity = 0
		}
		if first {
			if err := s.setSpeed(ctx, slowBaud); err != nil {
				return err
			}
		}
		if s.model.maybePlain {
			s.parity = 0
			return s.setParity(ctx, evenParity)
		}
		return nil
	}
	return errNoReader
}

// fasterBauds are the likely speeds of a reader that was left with a fast card.
var fasterBauds = []int{countedBaud, 38400, 19200, 57600}

// cardLost notes that the card has lost its power, or is another one.
func (s *slot) cardLost() { s.powered, s.active, s.memory = false, false, false }

// findAt asks a reader at m for its type, so often if nothing comes.
func (s *slot) findAt(ctx context.Context, m serial.Mode, asks int) error {
	if err := s.port.SetMode(ctx, m); err != nil {
		return err
	}
	s.baud = m.Baud
	for garbled := 0; ; {
		id, wrong, err := s.ask(ctx, 2, cmdIdentify...)
		switch {
		case err == nil:
			return s.identified(ctx, id, wrong)
		case errors.Is(err, errChecksum) && garbled < mostGarbled:
			garbled++
		case errors.Is(err, serial.ErrTimeout) && asks > 1:
			asks--
		default:
			return err
		}
	}
}

// identified takes an identification, which came with wrong parity or not.
func (s *slot) identified(ctx context.Context, id []byte, wrong bool) error {
	var known bool
	if s.model, known = models[id[0]]; !known {
		s.model.name = fmt.Sprintf("%s, type %02X", anyModel, id[0])
	}
	s.version = id[1]
	if m := s.port.Mode(); s.model.plain || s.model.maybePlain && wrong {
		m.Frame = serial.Frame8N1
		return s.port.SetMode(ctx, m)
	}
	return nil
}

// ready mends what has gone wrong before.
func (s *slot) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil || !s.lost {
		return err
	}
	return s.find(ctx, false)
}

// setParity sets the parity of reader and port.
func (s *slot) setParity(ctx context.Context, code byte) error {
	if s.parity == code {
		return nil
	}
	m := s.port.Mode()
	if m.Frame = serial.Frame8E2; code == oddParity {
		m.Frame = serial.Frame8O2
	}
	if err := s.change(ctx, m, cmdSet(code)); err != nil {
		return fmt.Errorf("set the parity: %w", err)
	}
	s.parity = code
	return nil
}

// setSpeed sets the speed of reader and port.
func (s *slot) setSpeed(ctx context.Context, baud int) error {
	if s.baud == baud {
		return nil
	}
	m := s.port.Mode()
	m.Baud = baud
	if err := s.change(ctx, m, cmdSpeed(baud)); err != nil {
		return fmt.Errorf("set the speed: %w", err)
	}
	s.baud = baud
	return s.pause(ctx, speedPause)
}

// change has the reader change its line, which it does when it has answered, and then the port.
func (s *slot) change(ctx context.Context, m serial.Mode, cmd []byte) error {
	s.lost, s.next = true, m
	if _, err := s.command(ctx, 0, cmd...); err != nil {
		return err
	}
	if err := s.port.SetMode(ctx, m); err != nil {
		return err
	}
	s.lost, s.next = false, serial.Mode{}
	return nil
}

// setLED sets the colour of the LED. A reader that does not answer to that is not asked again.
func (s *slot) setLED(ctx context.Context, code byte) error {
	if s.dark || s.lit && s.led == code {
		return nil
	}
	s.lit = false
	_, err := s.command(ctx, 0, cmdSet(code)...)
	switch {
	case err == nil:
		s.led, s.lit = code, true
	case errors.Is(err, serial.ErrTimeout):
		s.dark = true
	case !errors.Is(err, reader.ErrProtocol):
		return err
	}
	return nil
}

// pause waits, unless ctx ends or the port leaves.
func (s *slot) pause(ctx context.Context, d time.Duration) error {
	return s.pauser.Pause(ctx, s.port.Gone(), d)
}
