package gempc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

// The speeds: a reader has the slow one when it gets power, the fast one by cmdFast.
var (
	slow = serial.Mode{Baud: 9600, Frame: serial.Frame8N1}
	fast = serial.Mode{Baud: 38400, Frame: serial.Frame8N1}

	cmdFast = []byte{opLine, 0x02}
	cmdSlow = []byte{opLine, 0x04}
)

const (
	// charWait is how long the reader may pause within a block. libgcr410 gives it 200 ms,
	// and the line may have an adapter in it.
	charWait = 500 * time.Millisecond
	// hushWait is how long nothing comes before the line is quiet. It is longer than the
	// 200 ms after which the reader is thought to give up a block that lacks characters.
	hushWait = 250 * time.Millisecond
	// noiseTime is how long a line may take to become quiet.
	noiseTime = 3 * time.Second
	// helloWait is for the answer to a RESYNCH and to a change of speed. libgcr410 gives a
	// command 500 ms.
	helloWait = 700 * time.Millisecond
	// tries is how many blocks are looked at for the answer to a RESYNCH.
	tries = 3
	// turns is how often a command is sent or its answer asked for. A command that was
	// refused takes two turns to be mended.
	turns = 5
	// hellos is how often a RESYNCH is sent to a reader that may not be there.
	hellos = 2
)

var (
	errLRC   = errors.New("wrong LRC")
	errDoubt = errors.New("no answer came through; whether the command was carried out is not known")
)

// gbpLine is the framing of the serial models.
//
// A command whose answer does not come through is not sent again, except where the reader
// shows that it has not taken it (see converse), and where it can do no harm to do it twice.
type gbpLine struct {
	serial.Port
	send byte // number of our next I-block
	recv byte // number of the reader's next I-block
	lost bool // the reader may have other numbers, or another speed

	use sync.Mutex // held by who uses the line; Close does not wait for it
	out [longestBlock]byte
	ask [blockOverhead]byte
	in  [longestBlock]byte
}

// openGBP opens the port and looks for the reader.
func openGBP(ctx context.Context, dev reader.Device) (*gbpLine, error) {
	port, err := serial.Open(ctx, dev, slow)
	if err != nil {
		return nil, err
	}
	l := &gbpLine{Port: port, lost: true}
	l.use.Lock()
	err = l.find(ctx)
	l.use.Unlock()
	if err != nil {
		_ = port.Close()
		return nil, err
	}
	return l, nil
}

// find makes the connection to a reader that may be at either speed, as it may have been
// left by a program that died.
func (l *gbpLine) find(ctx context.Context) error {
	for try := 1; ; try++ {
		atSlow, err := l.hello(ctx, slow)
		if err != nil {
			return err
		}
		if atSlow {
			if err := l.speedUp(ctx); err != nil {
				return err
			}
		}
		if atFast, err := l.hello(ctx, fast); err != nil || atFast {
			return err
		}
		switch {
		case !atSlow:
			return fmt.Errorf("nothing that answers like a GemPC410, at 9600 and 38400 bit/s; is it connected and powered? %w", reader.ErrTimeout)
		case try == hellos: // it does not become faster
			if atSlow, err = l.hello(ctx, slow); err == nil && !atSlow {
				err = fmt.Errorf("the reader answers no more: %w", reader.ErrTimeout)
			}
			return err
		}
	}
}

// hello reports whether the reader answers at that speed.
func (l *gbpLine) hello(ctx context.Context, m serial.Mode) (bool, error) {
	if l.Mode() != m {
		if err := l.SetMode(ctx, m); err != nil {
			return false, err
		}
		if err := l.hush(ctx); err != nil {
			return false, err
		}
	}
	err := l.synchronise(ctx)
	if errors.Is(err, errNoReader) {
		return false, nil
	}
	return err == nil, err
}

// errNoReader: no answer to a RESYNCH, however often.
var errNoReader = fmt.Errorf("the reader does not answer: %w", reader.ErrTimeout)

// speedUp tells a reader at the slow speed to be fast. It switches at once: its answer
// comes at one speed or the other and is not looked at.
func (l *gbpLine) speedUp(ctx context.Context) error {
	if err := l.write(ctx, appendBlock(l.out[:0], iBlock(l.send), cmdFast)); err != nil {
		return err
	}
	if err := l.Drain(ctx); err != nil {
		return err
	}
	_, err := l.Port.Read(ctx, l.in[:], helloWait)
	if errors.Is(err, serial.ErrTimeout) {
		err = nil
	}
	return err
}

// synchronise sends RESYNCH until the reader answers it: then the numbers are 0 on both
// sides, and no earlier answer is due. errNoReader: it does not.
func (l *gbpLine) synchronise(ctx context.Context) error {
	l.lost = true
	for try := range hellos {
		if try > 0 {
			if err := l.hush(ctx); err != nil {
				return err
			}
		}
		if err := l.write(ctx, appendBlock(l.out[:0], askResync, nil)); err != nil {
			return err
		}
		for late := 0; late < tries; late++ { // late answers may come first
			b, err := l.read(ctx, helloWait+l.Mode().Time(2*longestBlock))
			switch {
			case err == nil && b.pcb == resynced:
				if try > 0 { // the answer to an earlier RESYNCH may have been late
					if err := l.hush(ctx); err != nil {
						return err
					}
				}
				l.send, l.recv, l.lost = 0, 0, false
				return nil
			case errors.Is(err, serial.ErrTimeout):
				late = tries
			case err != nil && !errors.Is(err, reader.ErrProtocol):
				return err
			}
		}
	}
	return errNoReader
}

func (l *gbpLine) command(ctx context.Context, cmd []byte, wait time.Duration) ([]byte, error) {
	if len(cmd) > 255 {
		return nil, fmt.Errorf("send: a command of %d bytes; 255 are the most: %w", len(cmd), reader.ErrInvalid)
	}
	l.use.Lock()
	defer l.use.Unlock()
	defer clear(l.out[:blockOverhead+len(cmd)])
	answer, err := l.converse(ctx, cmd, wait)
	if errors.Is(err, errDoubt) {
		if e := l.synchronise(ctx); e != nil {
			return nil, fmt.Errorf("%w; RESYNCH: %w", err, e)
		}
		if mayRepeat(cmd) {
			answer, err = l.converse(ctx, cmd, wait)
		}
	}
	if err != nil {
		l.lost = true
	}
	return answer, err
}

// converse sends a command and receives the answer. errDoubt: in all its turns neither
// the one nor the other came through.
//
// What has gone wrong is mended only when the line has become quiet. So the rest of a
// damaged block is not taken for another one, the reader has given up what it took for the
// begin of one, and a refusal that was of noise before the command is followed by the
// answer, if the card is fast.
//
// If it is slow such a refusal stands alone, and a reader that does not look at numbers would
// give the card a second command. So the reader is asked by an R-block before a command goes
// out again. It takes blocks in their order: if it now sends the block before the answer, or
// refuses again, it has not taken the command.
func (l *gbpLine) converse(ctx context.Context, cmd []byte, wait time.Duration) ([]byte, error) {
	command := appendBlock(l.out[:0], iBlock(l.send), cmd)
	until := time.Now().Add(wait + l.Mode().Time(len(command)))
	if err := l.write(ctx, command); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	var mend []byte     // what to send when the line is quiet
	var why error       // and why
	var since time.Time // it is not
	var asked bool      // an R-block was the last that was sent, and nothing has come since
	var refused bool    // the reader has refused the command at least once
	for try := 1; ; {
		left := max(1, time.Until(until))
		if mend != nil {
			left = hushWait
		}
		b, err := l.read(ctx, left)
		switch {
		case err == nil && b.pcb == iBlock(l.recv):
			l.send, l.recv = l.send^1, l.recv^1
			if why != nil { // the answer may come again, having been asked for
				_ = l.hush(ctx)
			}
			if len(b.data) == 0 {
				return nil, fmt.Errorf("answer: no status byte: %w", reader.ErrProtocol)
			}
			return b.data, nil
		case mend != nil && errors.Is(err, serial.ErrTimeout):
			if try == turns {
				return nil, fmt.Errorf("answer: %w; %w", why, errDoubt)
			}
			if err := l.write(ctx, mend); err != nil {
				return nil, fmt.Errorf("send again: %w", err)
			}
			try++
			asked = mend[1] != command[1]
			refused = refused && asked
			mend = nil
			continue
		case err == nil && asked && (b.precedes(l.recv) || refused && b.refuses(l.send)):
			why, mend = fmt.Errorf("the reader has not taken the command: %w", reader.ErrProtocol), command
		case err == nil && b.refuses(l.send):
			refused = true
			why, mend = fmt.Errorf("the reader refuses the command: %w", reader.ErrProtocol), l.askAgain(otherError)
		case err == nil:
			why, mend = fmt.Errorf("a block with PCB %02X: %w", b.pcb, reader.ErrProtocol), l.askAgain(otherError)
		case errors.Is(err, errLRC):
			why, mend = err, l.askAgain(wrongLRC)
		case errors.Is(err, reader.ErrProtocol):
			why, mend = err, l.askAgain(otherError)
		default:
			return nil, fmt.Errorf("answer: %w", err)
		}
		asked = false
		switch now := time.Now(); {
		case since.IsZero():
			since = now
		case now.Sub(since) > tries*noiseTime:
			return nil, fmt.Errorf("answer: %w; %w", why, errDoubt)
		}
	}
}

// askAgain makes an R-block for the answer.
func (l *gbpLine) askAgain(reason byte) []byte {
	return appendBlock(l.ask[:0], rBlock(l.recv, reason), nil)
}

// write sends a block. What has come before is no answer to it.
func (l *gbpLine) write(ctx context.Context, p []byte) error {
	if err := l.Flush(); err != nil {
		return err
	}
	return l.Port.Write(ctx, p)
}

// read reads a block, which may begin until first is over: else serial.ErrTimeout. What is
// no block is an ErrProtocol.
func (l *gbpLine) read(ctx context.Context, first time.Duration) (block, error) {
	n, wait := 0, first
	for {
		m, err := l.Port.Read(ctx, l.in[n:], wait)
		n += m
		if err != nil && (n == 0 || !errors.Is(err, serial.ErrTimeout)) {
			return block{}, err
		}
		if err != nil || l.in[0] != fromReader || missing(l.in[:n]) == 0 {
			return parseBlock(l.in[:n])
		}
		wait = charWait
	}
}

// hush reads until the line is quiet.
func (l *gbpLine) hush(ctx context.Context) error {
	var noise [64]byte
	for until := time.Now().Add(noiseTime); time.Now().Before(until); {
		_, err := l.Port.Read(ctx, noise[:], hushWait)
		if errors.Is(err, serial.ErrTimeout) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("the line is never quiet: %w", reader.ErrProtocol)
}

// resync is line. A reader that was switched off and on is at the slow speed again.
func (l *gbpLine) resync(ctx context.Context) ([]byte, error) {
	if err := l.reconnect(ctx); err != nil {
		return nil, err
	}
	return l.command(ctx, cmdVersion, shortWait)
}

func (l *gbpLine) reconnect(ctx context.Context) error {
	if !l.lost {
		return nil
	}
	l.use.Lock()
	defer l.use.Unlock()
	err := l.synchronise(ctx)
	if errors.Is(err, errNoReader) {
		err = l.find(ctx)
	}
	return err
}

// closeTime is how long the last block may take to leave.
const closeTime = time.Second

// Close leaves the reader as it is when it gets power, at the slow speed, which every
// program tries. One that has a command under way, or that no longer answers, stays as it
// is: who comes next has to look for it, as after a crash.
func (l *gbpLine) Close() error {
	if l.use.TryLock() {
		defer l.use.Unlock()
		if !l.lost && l.Mode() == fast {
			l.lost = true
			ctx, cancel := context.WithTimeout(context.Background(), closeTime)
			defer cancel()
			if l.write(ctx, appendBlock(l.out[:0], iBlock(l.send), cmdSlow)) == nil {
				_ = l.Drain(ctx)
			}
		}
	}
	return l.Port.Close()
}
