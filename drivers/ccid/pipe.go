package ccid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// pipe is the pair of bulk endpoints that the slots of one interface share. Each slot has
// at most one command under way (CCID 1.1 §6).
//
// The pipe has no goroutine of its own. A lane that waits for its answer reads the
// endpoint if no other lane does, and hands over messages for other slots. With only one
// slot in use, an exchange needs no wake-up; without a command nothing is read.
type pipe struct {
	ctx     context.Context // ends with the reader
	gone    <-chan struct{} // reader.Reader.Gone
	leave   func()          // closes it
	conn    usb.Conn
	poster  usb.Poster // conn, if it can start the read of the answer with the write
	in, out uint8
	iface   uint8
	most    int // bytes of the longest message, with some room
	packet  int // bytes of a full bulk-IN packet
	log     *slog.Logger

	lanes   []*lane
	busy    chan struct{} // a token for each command under way; nil: as many as slots
	sending chan struct{} // held while a message goes out
	turn    chan struct{} // held by whoever reads

	mu     sync.Mutex
	seq    byte      // bSeq of the next command; one counter for all slots
	owed   [256]bool // bSeq of commands that were given up: their answers may still come
	active int       // lanes that wait for an answer
	why    error     // why the reader is beyond help; nil while it is not
}

// lane is one slot's way through the pipe. Its commands come one at a time.
type lane struct {
	pipe *pipe
	slot byte
	tx   []byte
	rx   []byte // a message that this lane read itself, or took from box

	posted usb.Posted // the read of the answer, started with the write of the command

	dirty    bool // the last command was given up, and recovery is still due
	hardware atomic.Uint32

	// From the reader.Transfer under way.
	until    time.Time
	extended func()

	// Under pipe.mu.
	waiting bool
	seq     byte   // of the command under way
	box     []byte // its answer, read by another lane
	full    bool
	ready   chan struct{}
}

func newPipe(r *ifd, conn usb.Conn, i *Interface) *pipe {
	slots := int(i.MaxSlotIndex) + 1
	p := &pipe{
		ctx: r.ctx, gone: r.gone, leave: r.leave, conn: conn, in: i.In.Address, out: i.Out.Address, iface: i.Number, log: r.log,
		most:    int(i.MaxMessage) + firstRead,
		packet:  max(int(i.In.PacketSize), 1),
		sending: make(chan struct{}, 1),
		turn:    make(chan struct{}, 1),
	}
	if int(i.MaxBusySlots) < slots {
		p.busy = make(chan struct{}, i.MaxBusySlots)
	}
	if slots == 1 || i.MaxBusySlots == 1 {
		// A posted read may receive a message and be cancelled. With one command at a
		// time, no other slot can lose its answer by that.
		p.poster, _ = conn.(usb.Poster)
	}
	for n := range slots {
		p.lanes = append(p.lanes, &lane{pipe: p, slot: byte(n), ready: make(chan struct{}, 1)})
	}
	return p
}

// take puts a token into c, waiting for room.
func (p *pipe) take(ctx context.Context, c chan struct{}) error {
	select {
	case c <- struct{}{}:
		return nil
	default:
	}
	select {
	case c <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.gone:
		return p.left()
	}
}

// do sends a command and returns its answer. The answer's data is valid until the lane's
// next command. limit bounds the wait for the answer; the reader may ask for more time.
// If the reader fails the command, do returns its answer and an *Error. After any other
// error the reader has been recovered and accepts the next command, or it is dead:
// reader.ErrGone.
func (l *lane) do(ctx context.Context, c command, data []byte, limit time.Duration) (answer, error) {
	p := l.pipe
	if p.busy != nil {
		if err := p.take(ctx, p.busy); err != nil {
			return answer{}, err
		}
		defer func() { <-p.busy }()
	}
	if l.dirty {
		if err := l.recover(ctx, true, errors.New("an earlier command was given up")); err != nil {
			return answer{}, err
		}
	}
	a, err := l.roundTrip(ctx, c, data, limit, false)
	if err == nil {
		return a, nil
	}
	var failed *Error
	if errors.As(err, &failed) {
		return a, err
	}
	err = fmt.Errorf("ccid: %s: %w", commandName(c.kind), err)
	if errors.Is(err, reader.ErrGone) || errors.Is(err, errNotSent) {
		return answer{}, err
	}
	if dead := l.recover(ctx, !errors.Is(err, errAnswered), err); dead != nil {
		return answer{}, dead
	}
	return answer{}, err
}

// errAnswered is wrapped by errors after which the reader is idle: it answered, but
// wrongly.
var errAnswered = errors.New("wrong answer")

// errNotSent is wrapped by errors after which the reader knows nothing of the command.
var errNotSent = errors.New("nothing was sent")

// roundTrip sends one command and receives its answer. Recovery sets tolerant: then
// unintelligible messages are skipped.
func (l *lane) roundTrip(ctx context.Context, c command, data []byte, limit time.Duration, tolerant bool) (answer, error) {
	p := l.pipe
	seq, err := l.begin()
	if err != nil {
		return answer{}, err
	}
	defer l.end()
	if c.kind == cmdAbort {
		// CCID 1.1 §5.3.1: the control request stops the slot's command; the bulk
		// message with the same bSeq ends the abort. A reader that does not know the
		// request still gets the message.
		s := usb.Setup{RequestType: toInterface, Request: reqAbort,
			Value: uint16(seq)<<8 | uint16(l.slot), Index: uint16(p.iface)}
		if _, err := p.conn.Control(ctx, s, nil, syncLimit); errors.Is(err, reader.ErrGone) {
			return answer{}, err
		}
	}
	defer l.unpost()
	if err := l.send(ctx, c, seq, data); err != nil {
		if !errors.Is(err, errNotSent) {
			l.owe(seq)
		}
		return answer{}, err
	}
	start := time.Now()
	last := start.Add(longest(c.kind))
	if !tolerant {
		last = earlier(last, l.until)
	}
	deadline := earlier(start.Add(limit), last)
	for extensions, asked := 0, start; ; {
		a, err := l.receive(ctx, seq, deadline, tolerant)
		switch {
		case err != nil:
			if extensions > 0 && errors.Is(err, reader.ErrTimeout) {
				err = fmt.Errorf("%d time extensions in %v: %w", extensions, time.Since(start).Round(time.Second), err)
			}
			l.owe(seq)
			return a, err
		case a.extension():
			// CCID 1.1 §6.2: bError multiplies the time. The reader may ask again until
			// the exchange limit is reached by the clock.
			if l.extended != nil && !tolerant {
				l.extended()
			}
			if extensions++; extensions > extensionBurst && time.Since(asked) < extensionPause {
				if err := sleep(ctx, extensionPause); err != nil {
					l.owe(seq)
					return a, err
				}
			}
			asked = time.Now()
			deadline = earlier(asked.Add(times(limit, max(1, int(a.code)))), last)
			continue
		case a.err != nil:
			return a, fmt.Errorf("%w: %w", errAnswered, a.err)
		case a.failed():
			return a, &Error{Command: c.kind, Status: a.status, Code: a.code, Hardware: byte(l.hardware.Swap(0)), took: time.Since(start)}
		case a.kind != answerOf(c.kind):
			return a, fmt.Errorf("%w: message %02X, %02X is due: %w", errAnswered, a.kind, answerOf(c.kind), reader.ErrProtocol)
		}
		return a, nil
	}
}

// begin takes the next bSeq for the lane's command.
func (l *lane) begin() (byte, error) {
	p := l.pipe
	select {
	case <-p.gone:
		return 0, p.left()
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := 0; p.owed[p.seq] && n < len(p.owed); n++ {
		p.seq++
	}
	l.seq, l.waiting, l.full = p.seq, true, false
	p.seq++
	p.active++
	return l.seq, nil
}

// owe records that a command was given up before its answer came. Its number is not used
// again until that answer has arrived: otherwise the late answer would be taken for that
// of a command 256 numbers later.
func (l *lane) owe(seq byte) {
	p := l.pipe
	p.mu.Lock()
	p.owed[seq] = true
	p.mu.Unlock()
}

// paid records that the late answer to a command given up has arrived.
func (p *pipe) paid(seq byte) {
	p.mu.Lock()
	p.owed[seq] = false
	p.mu.Unlock()
}

func (l *lane) end() {
	p := l.pipe
	p.mu.Lock()
	l.waiting = false
	p.active--
	p.mu.Unlock()
	select { // drop the signal of a message that came too late
	case <-l.ready:
	default:
	}
}

func (l *lane) send(ctx context.Context, c command, seq byte, data []byte) error {
	p := l.pipe
	if err := p.take(ctx, p.sending); err != nil {
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	defer func() { <-p.sending }()
	l.tx = appendCommand(l.tx[:0], c, l.slot, seq, data)
	defer func() { clear(l.tx) }() // it may contain a PIN
	n, err := l.write(ctx)
	switch {
	case errors.Is(err, usb.ErrStall):
		if err := p.conn.ClearHalt(ctx, p.out); err != nil {
			return fmt.Errorf("clear the halt of the bulk-OUT endpoint: %w", err)
		}
		return fmt.Errorf("the reader refused the message: %w: %w", err, reader.ErrProtocol)
	case err != nil:
		return err
	case n < len(l.tx):
		return fmt.Errorf("the message did not go out whole: %w", reader.ErrProtocol)
	}
	return nil
}

// write writes l.tx. If the transport allows, it also starts to read the answer.
func (l *lane) write(ctx context.Context) (n int, err error) {
	p := l.pipe
	if p.poster == nil {
		return p.conn.Out(ctx, p.out, l.tx, false, writeLimit)
	}
	n, l.posted, err = p.poster.OutPost(ctx, p.out, l.tx, p.in, p.whole(firstRead), writeLimit)
	return n, err
}

// unpost cancels the started read of an answer that was not waited for.
func (l *lane) unpost() {
	if l.posted != nil {
		l.posted.Cancel()
		l.posted = nil
	}
}

// receive waits for the next answer to this lane's command.
func (l *lane) receive(ctx context.Context, seq byte, deadline time.Time, tolerant bool) (answer, error) {
	p := l.pipe
	select {
	case p.turn <- struct{}{}:
		a, err := l.read(ctx, seq, deadline, tolerant)
		<-p.turn
		return a, err
	default:
	}
	// Another lane is reading.
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		select {
		case p.turn <- struct{}{}:
			a, err := l.read(ctx, seq, deadline, tolerant)
			<-p.turn
			return a, err
		case <-l.ready:
			if a, ok, err := l.unbox(); ok {
				return a, err
			}
		case <-ctx.Done():
			return answer{}, ctx.Err()
		case <-timer.C:
			return answer{}, reader.ErrTimeout
		case <-p.gone:
			return answer{}, p.left()
		}
	}
}

// unbox takes the message that another lane put into the box.
func (l *lane) unbox() (answer, bool, error) {
	l.pipe.mu.Lock()
	defer l.pipe.mu.Unlock()
	if !l.full {
		return answer{}, false, nil
	}
	l.full = false
	l.rx, l.box = l.box, l.rx
	a, err := parseAnswer(l.rx)
	return a, true, err
}

// read reads messages until this lane's comes. The caller holds the turn.
func (l *lane) read(ctx context.Context, seq byte, deadline time.Time, tolerant bool) (answer, error) {
	p := l.pipe
	most := noiseLimit
	if tolerant {
		most *= 8
	}
	for noise := 0; noise <= most; {
		select {
		case <-l.ready: // delivered just before this lane got the turn
			if a, ok, err := l.unbox(); ok {
				return a, err
			}
		default:
		}
		n, err := l.message(ctx, deadline)
		switch {
		case errors.Is(err, usb.ErrStall):
			if err := p.conn.ClearHalt(ctx, p.in); err != nil {
				return answer{}, fmt.Errorf("clear the halt of the bulk-IN endpoint: %w", err)
			}
			noise += noiseLimit / 4
			continue
		case errors.Is(err, usb.ErrOverflow) && (tolerant || !p.alone()):
			noise++
			continue
		case errors.Is(err, usb.ErrOverflow):
			return answer{}, fmt.Errorf("more than a message may have: %w: %w", err, reader.ErrProtocol)
		case errors.Is(err, usb.ErrReset):
			return answer{}, fmt.Errorf("%w: %w", err, reader.ErrProtocol)
		case err != nil:
			return answer{}, err
		case n == 0:
			// Behind a message of whole packets, some readers on USB 3 host controllers
			// send an empty one.
			noise++
			continue
		}
		a, err := parseAnswer(l.rx[:n])
		switch {
		case err == nil && a.slot == l.slot && a.seq == seq:
			return a, nil
		case err == nil && p.deliver(&a, l.rx[:n]):
			continue
		case err != nil && !tolerant && p.alone():
			return answer{}, fmt.Errorf("%w: %d bytes, %w: %w", errAnswered, n, err, reader.ErrProtocol)
		}
		noise++
		if err == nil && !a.extension() {
			p.paid(a.seq)
		}
		p.log.Debug("answer to no command", "bSlot", a.slot, "seq", a.seq, "bytes", n)
	}
	return answer{}, fmt.Errorf("the reader sends what answers nothing: %w", reader.ErrProtocol)
}

// firstRead is the size of the first read of a message; mostly no second one is needed.
// A reader for extended APDUs has messages of up to 64 KiB. A read of that size costs the
// kernel one contiguous buffer, and some host controllers (UHCI, OHCI) a descriptor for
// each of its thousand packets.
const firstRead = 1024

// message reads one message into l.rx. If it fills the first read, the rest is read by
// the length in its header, rounded up to whole packets. A longer read would hang: after
// a full last packet, not every reader sends an empty one.
func (l *lane) message(ctx context.Context, deadline time.Time) (n int, err error) {
	p := l.pipe
	for due := p.whole(firstRead); n < due; {
		left := time.Until(deadline)
		if left <= 0 {
			return n, reader.ErrTimeout
		}
		if cap(l.rx) < due {
			old := l.rx[:n]
			l.rx = append(make([]byte, 0, due), old...)
			clear(old)
		}
		l.rx = l.rx[:due]
		part, err := l.in(ctx, l.rx[n:due], left)
		n += part
		if err != nil || n < due {
			return n, err
		}
		due = p.whole(min(messageLen(l.rx), p.most))
	}
	return n, nil
}

// in reads one transfer: the posted one, or else a new one.
func (l *lane) in(ctx context.Context, dst []byte, limit time.Duration) (int, error) {
	if r := l.posted; r != nil {
		l.posted = nil
		return r.Wait(ctx, dst, limit)
	}
	return l.pipe.conn.In(ctx, l.pipe.in, dst, limit)
}

// whole rounds n up to whole packets.
func (p *pipe) whole(n int) int { return (n + p.packet - 1) / p.packet * p.packet }

// alone reports whether only one command is under way.
func (p *pipe) alone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.active == 1
}

// deliver hands a message to the lane that waits for it. A later answer to the same
// command replaces an earlier one: the earlier one can only be a time extension, which is
// then obsolete.
func (p *pipe) deliver(a *answer, msg []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(a.slot) >= len(p.lanes) {
		return false
	}
	l := p.lanes[a.slot]
	if !l.waiting || l.seq != a.seq {
		return false
	}
	l.box = append(l.box[:0], msg...)
	l.full = true
	select {
	case l.ready <- struct{}{}:
	default:
	}
	return true
}
