package ccid

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// serialConn carries the messages of a reader over a serial line. Its bulk endpoints have
// the messages, its interrupt endpoint the notices of cards.
//
// A line loses and changes characters. A command goes to the reader again only if it is
// sure that the card has not seen it: the reader refused the frame, nothing but its echo
// was damaged, and then it answered a GetSlotStatus and not the command. A reader works on
// one frame after the other, so it was not under way either. A damaged answer is asked for
// again, without its command.
//
//	command ---> refused ---> GetSlotStatus ---> answered ---> command again
//	        \--> answer damaged, silence ---> 03 15 16 ---> answer again
//
// Whoever waits for an answer reads the port, so that nobody else has to be woken for it.
// When nobody has for a while, the listener does, for notices; a command makes it stop.
type serialConn struct {
	noUSB
	port     serial.Port
	firmware string // as the reader calls it
	ctx      context.Context
	cancel   context.CancelFunc

	turn      chan struct{} // full while nobody reads the port
	wanted    atomic.Bool   // the listener is to give up its turn
	interrupt atomic.Pointer[context.CancelFunc]
	used      atomic.Bool // there was a command since the listener looked last
	ended     sync.Once
	framer    framer // used in turn, as in
	in        [512]byte

	events  chan event  // for the command under way
	free    chan []byte // buffers of events
	notices chan byte
	over    chan struct{} // closed when nothing more comes
	err     error         // why, then

	sending sync.Mutex // held while frame is written; before mu

	mu      sync.Mutex
	frame   []byte   // of the command under way; none: nobody waits for an answer
	query   [13]byte // of the GetSlotStatus behind a refusal
	asked   bool     // the query was sent
	stray   int      // characters that were neither an item nor the echo, damaged
	foreign bool     // the reader repeated what was not sent
	tries   int      // how often something was sent again
}

var _ usb.Conn = (*serialConn)(nil)

// eventKind is the kind of an event.
type eventKind int

const (
	eventAnswer eventKind = iota
	eventMoreTime
	eventRefused
	eventDamaged // and silence since
)

// event is something that concerns the command under way.
type event struct {
	kind    eventKind
	message []byte
}

const (
	// gapLimit is how long the next character of a frame may take. Adapters hold
	// characters back for up to 16 ms, and a busy machine for longer.
	gapLimit = 300 * time.Millisecond
	// strayLimit is how many stray characters cannot have been an answer, which has 13 at
	// least and may have lost some.
	strayLimit = 3
	// serialTries is how often a command or an answer is repeated.
	serialTries = 3
	// maxEvents are kept. More is noise.
	maxEvents = 64
)

// calm is how long there was no command before the listener reads the port again. Notices
// are as late, behind a command.
const calm = 5 * time.Millisecond

// listen takes what comes while there is no command, until the port leaves.
func (c *serialConn) listen() {
	defer c.end(reader.ErrGone)
	pause := time.NewTimer(calm)
	defer pause.Stop()
	for {
		select {
		case <-c.turn:
		case <-c.over:
			return
		}
		ctx, cancel := context.WithCancel(c.ctx)
		c.interrupt.Store(&cancel)
		var err error
		for err == nil && !c.wanted.Load() {
			err = c.receive(ctx, 0)
		}
		cancel()
		if c.ctx.Err() != nil {
			c.end(c.ctx.Err())
		}
		c.turn <- struct{}{}
		for used := true; used; used = c.used.Swap(false) {
			pause.Reset(calm)
			select {
			case <-pause.C:
			case <-c.over:
				return
			}
		}
	}
}

// end says that nothing more comes, and why. The caller has the turn, or nobody will.
func (c *serialConn) end(err error) {
	c.ended.Do(func() {
		c.framer.add(nil)
		clear(c.framer.buf)
		c.err = err
		if !errors.Is(err, reader.ErrGone) {
			c.err = fmt.Errorf("%w: %w", err, reader.ErrGone)
		}
		close(c.over)
	})
}

// receive takes what comes next, within limit (0: as long as ctx lasts). The caller has the
// turn. An error says that ctx has ended, or that nothing more comes.
func (c *serialConn) receive(ctx context.Context, limit time.Duration) error {
	wait, gap := limit, false
	if c.framer.pending() && (limit == 0 || limit > gapLimit) {
		wait, gap = gapLimit, true
	}
	n, err := c.port.Read(ctx, c.in[:], wait)
	late := errors.Is(err, serial.ErrTimeout)
	switch {
	case err == nil, late:
	case ctx.Err() != nil && c.ctx.Err() == nil && !errors.Is(err, reader.ErrGone):
		return ctx.Err()
	default:
		c.end(err)
		return c.err
	}
	quiet := late && gap
	c.framer.add(c.in[:n])
	clear(c.in[:n])
	for {
		it, ok := c.framer.next(quiet)
		if !ok {
			return nil
		}
		c.take(it, quiet)
	}
}

// take hands on an item.
func (c *serialConn) take(it item, quiet bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := len(c.frame) > 0
	switch {
	case it.kind == itemFrame && inner(it.data)[0] < ansDataBlock:
		// An echo with another bSeq is late: it is of a command before. What comes behind
		// an echo with a lost character may complete it by chance.
		if waiting && inner(it.data)[6] == inner(c.frame)[6] && !almost(it.data, c.frame) {
			c.foreign = true
		}
	case it.kind == itemFrame:
		c.post(event{eventAnswer, c.copyOf(inner(it.data))})
	case it.kind == itemNotice:
		c.tell(it.data[1])
	case it.kind == itemMoreTime && waiting:
		c.post(event{kind: eventMoreTime})
	case it.kind == itemRefusal && waiting && c.stray <= strayLimit:
		c.post(event{kind: eventRefused})
	case it.kind == itemDamage:
		c.tell(cardIn) // it may have been a notice
		if waiting && !almost(it.data, c.frame) {
			c.stray += len(it.data)
			if quiet && c.stray > strayLimit {
				c.post(event{kind: eventDamaged})
			}
		}
	}
}

func (c *serialConn) copyOf(b []byte) []byte {
	select {
	case m := <-c.free:
		return append(m[:0], b...)
	default:
		return append(make([]byte, 0, serialMost), b...)
	}
}

// done gives the buffer of an event back.
func (c *serialConn) done(e event) {
	if e.message == nil {
		return
	}
	clear(e.message)
	select {
	case c.free <- e.message:
	default:
	}
}

func (c *serialConn) post(e event) {
	select {
	case c.events <- e:
	default:
		c.done(e)
	}
}

// tell tells of a card that may have come or gone.
func (c *serialConn) tell(change byte) {
	select {
	case c.notices <- change:
	default: // who reads the one before will ask for the status as it is then
	}
}

// Out sends a command. A timer for each would wake a thread; the port has a limit of its own.
func (c *serialConn) Out(ctx context.Context, _ uint8, p []byte, _ bool, _ time.Duration) (int, error) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.forget()
	c.mu.Lock()
	c.frame = appendFrame(c.frame, p)
	c.asked, c.stray, c.foreign, c.tries = false, 0, false, 0
	c.mu.Unlock()
	if err := c.port.Write(ctx, c.frame); err != nil {
		c.forget()
		return 0, err
	}
	return len(p), nil
}

// forget ends a command: nobody waits for its answer any more.
func (c *serialConn) forget() {
	c.mu.Lock()
	clear(c.frame) // it may contain a PIN
	c.frame = c.frame[:0]
	c.mu.Unlock()
}

// In returns the next message, or the next notice.
func (c *serialConn) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	if ep == serialIntr {
		select {
		case change := <-c.notices:
			return copy(p, []byte{notice, change}), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-c.over:
			return 0, c.err
		}
	}
	err := c.takeTurn(ctx)
	if err == nil {
		var n int
		n, err = c.await(ctx, p, time.Now().Add(timeout))
		c.used.Store(true)
		c.turn <- struct{}{}
		if err == nil {
			return n, nil
		}
	}
	c.forget()
	return 0, err
}

// takeTurn waits until nobody else reads the port.
func (c *serialConn) takeTurn(ctx context.Context) error {
	select {
	case <-c.turn:
		return nil
	default:
	}
	c.wanted.Store(true)
	defer c.wanted.Store(false)
	if stop := c.interrupt.Load(); stop != nil {
		(*stop)()
	}
	select {
	case <-c.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.over:
		return c.err
	}
}

// await reads until there is a message.
func (c *serialConn) await(ctx context.Context, p []byte, until time.Time) (int, error) {
	for {
		select {
		case e := <-c.events:
			n, err := c.handle(ctx, e, p)
			c.done(e)
			if n > 0 || err != nil {
				return n, err
			}
			continue
		case <-c.over:
			return 0, c.err
		default:
		}
		left := time.Until(until)
		if left <= 0 {
			return 0, fmt.Errorf("no answer: %w", reader.ErrTimeout)
		}
		if err := c.receive(ctx, left); err != nil {
			return 0, err
		}
	}
}

// handle returns the length of the message for In in p, if there is one.
func (c *serialConn) handle(ctx context.Context, e event, p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := len(c.frame) > 0
	switch {
	case e.kind == eventAnswer:
		return c.answer(ctx, e.message, p)
	case !waiting:
		return 0, nil // it was of a command before
	case e.kind == eventMoreTime:
		m := inner(c.frame)
		return copy(p, []byte{ansDataBlock, 0, 0, 0, 0, m[5], m[6], statusExtension, 1, 0}), nil
	}
	if c.tries++; c.tries > serialTries {
		return 0, fmt.Errorf("the line is bad: %d repetitions were in vain: %w", serialTries, reader.ErrProtocol)
	}
	if e.kind == eventDamaged {
		return 0, c.port.Write(ctx, []byte{soh, nak, nakSum})
	}
	m := inner(c.frame)
	appendFrame(c.query[:0], []byte{cmdSlotStatus, 0, 0, 0, 0, m[5], ^m[6], 0, 0, 0})
	c.asked = true
	return 0, c.port.Write(ctx, c.query[:])
}

// answer handles the message of a reader. c.mu is held.
func (c *serialConn) answer(ctx context.Context, m, p []byte) (int, error) {
	ours := len(c.frame) > 0 && m[5] == inner(c.frame)[5]
	switch {
	case ours && c.asked && m[6] == c.query[frameHead+6]:
		c.asked = false
		if m[7]&statusMask != statusOK {
			return 0, nil // it is at work on the command after all
		}
		if c.stray > strayLimit || c.foreign {
			return 0, fmt.Errorf("the reader refused the command, and damage came: %w", reader.ErrProtocol)
		}
		return 0, c.port.Write(ctx, c.frame)
	case ours && m[6] == inner(c.frame)[6] && m[7]&statusMask != statusExtension:
		if c.foreign {
			return 0, fmt.Errorf("the reader repeated another command than it was sent: %w", reader.ErrProtocol)
		}
		clear(c.frame)
		c.frame = c.frame[:0]
	}
	return copy(p, m), nil
}

// Gone is usb.Conn.
func (c *serialConn) Gone() <-chan struct{} { return c.over }

// Close is usb.Conn.
func (c *serialConn) Close() error {
	c.cancel()
	err := c.port.Close()
	<-c.over
	c.sending.Lock() // a command may still be under way
	defer c.sending.Unlock()
	c.forget()
	return err
}
