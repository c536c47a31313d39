package fs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/reader"
)

// maxAnswers is how many answers, had and to come, a channel holds unread.
const maxAnswers = 64

// piece is the size of the WRITEs into which the kernel cuts a longer write(2).
const piece = 128 << 10

// maxOrphans is how many commands may be under way in one file whose opens
// were closed before the answer: `echo 00A40000 >apdu` without a read.
const maxOrphans = 256

// exchanger is what stands behind an exchange file.
type exchanger interface {
	// check tells whether command can be sent, before anything is.
	check(command []byte) error
	// exchange sends it and appends the answer to dst. ctx ends only what
	// comes before the sending, with reader.ErrInterrupted.
	exchange(ctx context.Context, command, dst []byte) ([]byte, error)
}

// textChecker is an exchanger that takes less as a line of text than as bytes: a
// line is often typed.
type textChecker interface {
	checkText(command []byte) error
}

// channel is one open of an exchange file: commands in, answers out, in order,
// and nobody else's. A write hands its commands over and returns; a goroutine
// that lives while there is work sends them.
type channel struct {
	to       exchanger
	later    func(*channel)  // calls send once the write under way has returned
	panicked func(any)       // logs a panic
	gone     <-chan struct{} // closed when the reader left
	nonblock bool
	append   bool // O_APPEND: the offset of a write means nothing
	readable bool
	writable bool
	orphans  *atomic.Int32 // of the file
	onIdle   func()        // after Release, once nothing is under way any more

	mu      sync.Mutex
	binary  bool
	line    []byte   // a line whose newline has not come yet
	refused bool     // the rest of a line, of which a piece was refused, is still to come
	queue   [][]byte // commands not begun
	busy    bool     // send or an ioctl has the exchanger
	sending bool     // send has taken a command off the queue
	answers []answer // had and not yet in out
	out     stream
	changed chan struct{} // non-nil while somebody waits: closed at the next change
	closed  bool
}

type answer struct {
	data []byte
	err  error
}

func newChannel(to exchanger, f *file, flags uint32, onIdle func()) *channel {
	mode := flags & syscall.O_ACCMODE
	return &channel{
		to: to, later: f.mount.server.later, panicked: f.mount.server.panicked, gone: f.bay.Done(), orphans: &f.orphans, onIdle: onIdle,
		nonblock: flags&syscall.O_NONBLOCK != 0,
		append:   flags&syscall.O_APPEND != 0,
		readable: mode != syscall.O_WRONLY,
		writable: mode != syscall.O_RDONLY,
	}
}

// left tells whether the reader is gone.
func (c *channel) left() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// unread is how many answers are to be read or to come. c.mu is held.
func (c *channel) unread() int {
	n := len(c.queue) + len(c.answers)
	if c.sending {
		n++
	}
	return n
}

// touch wakes who waits. c.mu is held.
func (c *channel) touch() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// wait waits, without c.mu, for the next change.
func (c *channel) wait(ctx context.Context) error {
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	changed := c.changed
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return reader.ErrInterrupted
	}
}

// Write takes commands: in text whole lines, and the start of one more; in
// binary one command. Either all commands of the write are taken or none.
func (c *channel) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left() {
		return 0, syscall.ENODEV
	}
	if c.orphans.Load() >= maxOrphans {
		return 0, syscall.ENOBUFS
	}
	var commands [][]byte
	var rest []byte
	if c.binary {
		commands = [][]byte{bytes.Clone(data)}
		if err := c.to.check(data); err != nil {
			return 0, toErrno(err)
		}
	} else {
		var err error
		if commands, rest, err = c.parse(data); err != nil {
			// What follows a piece of a write that the kernel cut, or of a line
			// that is too long, is no command up to its newline, though a
			// program may write it again.
			cut := len(data) >= piece && data[len(data)-1] != '\n'
			more := bytes.IndexByte(data, '\n') < 0
			c.refused = cut || more && (c.refused || len(c.line)+len(data) > maxLine)
			c.line = nil
			return 0, toErrno(err)
		}
	}
	if c.unread()+len(commands) > maxAnswers {
		return 0, syscall.ENOBUFS
	}
	if c.append {
		c.out.move(off + int64(len(data)))
	} else {
		c.out.wrote(off, len(data))
	}
	c.line = rest
	if c.submit(commands...) {
		c.later(c)
	}
	return uint32(len(data)), 0
}

// parse cuts what came so far into commands and the start of another line. It
// changes nothing but what lies behind c.line in its array.
func (c *channel) parse(data []byte) (commands [][]byte, rest []byte, err error) {
	first := c.line
	if c.refused {
		return nil, nil, reader.ErrInvalid
	}
	for {
		line, after, whole := bytes.Cut(data, []byte{'\n'})
		if !whole {
			if len(first)+len(line) > maxLine {
				return nil, nil, reader.ErrInvalid
			}
			// What can be no hex is refused now, not when the line is complete.
			if bytes.IndexByte(first, '#') < 0 {
				if _, err := parseHex(nil, line); err != nil && !errors.Is(err, errOdd) {
					return nil, nil, err
				}
			}
			return commands, append(first, line...), nil
		}
		if first != nil {
			line, first = append(first, line...), nil
		}
		command, err := c.parseLine(line)
		if err != nil {
			return nil, nil, err
		}
		if len(command) > 0 {
			commands = append(commands, command)
		}
		data = after
	}
}

func (c *channel) parseLine(line []byte) ([]byte, error) {
	command, err := parseHex(make([]byte, 0, (len(line)+1)/2), line)
	if err == nil && len(command) > 0 {
		err = c.to.check(command)
		if t, ok := c.to.(textChecker); ok && err == nil {
			err = t.checkText(command)
		}
	}
	return command, err
}

// submit queues commands and tells whether nobody is there to send them: then the caller
// has to call send, which may take as long as the card does. c.mu is held.
func (c *channel) submit(commands ...[]byte) (send bool) {
	c.queue = append(c.queue, commands...)
	send = !c.busy && len(c.queue) > 0
	c.busy = c.busy || send
	return send
}

// exchange is the exchanger's. Its panic is an error of this exchange alone.
func (c *channel) exchange(ctx context.Context, command, dst []byte) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked(p)
			answer, err = nil, errPanic
		}
	}()
	return c.to.exchange(ctx, command, dst)
}

var errPanic = errors.New("internal error; the log has more")

// send sends what is queued, a command after the other. It goes on after the
// open was closed: what was written is not lost.
func (c *channel) send() {
	c.mu.Lock()
	for len(c.queue) > 0 {
		command := c.queue[0]
		c.queue = c.queue[1:]
		c.sending = true
		c.mu.Unlock()
		data, err := c.exchange(context.Background(), command, nil)
		c.mu.Lock()
		c.sending = false
		if c.closed {
			c.orphans.Add(-1)
			continue
		}
		c.answers = append(c.answers, answer{data, err})
		c.touch()
	}
	c.queue = nil
	c.finish()
	c.mu.Unlock()
}

// finish ends being busy. c.mu is held.
func (c *channel) finish() {
	c.busy = false
	c.touch()
	if c.closed && c.onIdle != nil {
		c.onIdle()
	}
}

// Read gives the answers in order; it waits for the first that is outstanding,
// and is the end of file when none is.
func (c *channel) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.out.seek(off) {
		return fuse.ReadResultData(nil), 0
	}
	for c.out.ready() == 0 {
		switch {
		case len(c.answers) > 0:
			if err := c.answers[0].err; err != nil {
				c.answers = c.answers[1:]
				return nil, toErrno(err)
			}
			c.fill(len(dest))
		case c.busy && c.nonblock:
			return nil, syscall.EAGAIN
		case c.busy:
			if err := c.wait(ctx); err != nil && len(c.answers) == 0 && c.out.ready() == 0 {
				return nil, waitErrno(ctx, err)
			}
		case len(c.line) > 0:
			// The line that no newline ended counts now.
			command, err := c.parseLine(c.line)
			c.line = nil
			if err != nil {
				return nil, toErrno(err)
			}
			if len(command) > 0 && c.submit(command) {
				go c.send()
			}
		case c.left():
			return nil, syscall.ENODEV
		default:
			return fuse.ReadResultData(nil), 0
		}
	}
	return fuse.ReadResultData(c.out.read(dest)), 0
}

// fill moves answers to the stream: in text as many as fit a read, in binary
// one, as each read gives one.
func (c *channel) fill(size int) {
	c.out.grow()
	for len(c.answers) > 0 && c.answers[0].err == nil {
		a := c.answers[0]
		c.answers[0] = answer{}
		c.answers = c.answers[1:]
		if c.binary {
			c.out.buf = append(c.out.buf, a.data...)
			break
		}
		c.out.buf = appendHex(c.out.buf, a.data)
		if c.out.ready() >= size {
			break
		}
	}
	if len(c.answers) == 0 {
		c.answers = nil
	}
}

// The requests of cardfs.h. The size field of EXCHANGE is the caller's choice.
const (
	iocMagic    = 0xCF
	iocExchange = 3<<30 | iocMagic<<8 | 1 // _IOC_READ|_IOC_WRITE
	iocBinary   = iocMagic<<8 | 2         // _IOC_NONE
	iocSizeMask = 0x3FFF << 16
)

// Ioctl does CARDFS_EXCHANGE and CARDFS_BINARY (cardfs.h).
func (c *channel) Ioctl(ctx context.Context, cmd uint32, arg uint64, input, output []byte) (int32, syscall.Errno) {
	switch {
	case cmd&^iocSizeMask == iocExchange:
	case cmd == iocBinary:
	default:
		return 0, syscall.ENOTTY
	}
	if !c.readable || !c.writable {
		return 0, syscall.EBADF
	}
	if cmd == iocBinary {
		c.mu.Lock()
		c.binary = true
		c.mu.Unlock()
		return 0, 0
	}
	return c.exchangeIoctl(ctx, input, output)
}

const exchangeHeader = 4 // struct cardfs_exchange: uint32_t length

// exchangeSize is how much of a CARDFS_EXCHANGE's room is to be copied back: the answer
// of n bytes, or only its length where it does not fit.
func exchangeSize(n, room int) int {
	if exchangeHeader+n > room {
		return min(exchangeHeader, room)
	}
	return exchangeHeader + n
}

func (c *channel) exchangeIoctl(ctx context.Context, input, output []byte) (int32, syscall.Errno) {
	if len(input) < exchangeHeader || len(output) < exchangeHeader {
		return 0, syscall.EINVAL
	}
	n := binary.NativeEndian.Uint32(input)
	if int64(n) > int64(len(input)-exchangeHeader) {
		return 0, syscall.EINVAL
	}
	command := input[exchangeHeader : exchangeHeader+int(n)]
	if err := c.to.check(command); err != nil {
		return 0, toErrno(err)
	}

	// It comes after what was written before.
	c.mu.Lock()
	for c.busy {
		if c.nonblock {
			c.mu.Unlock()
			return 0, syscall.EAGAIN
		}
		if err := c.wait(ctx); err != nil {
			c.mu.Unlock()
			return 0, toErrno(err)
		}
	}
	if c.unread() >= maxAnswers { // this one may not fit and have to wait, too
		c.mu.Unlock()
		return 0, syscall.ENOBUFS
	}
	c.busy = true
	c.mu.Unlock()

	// The answer goes straight to where the kernel takes it from.
	dst := output[exchangeHeader:exchangeHeader:len(output)]
	data, err := c.exchange(ctx, command, dst)

	c.mu.Lock()
	defer c.mu.Unlock()
	fits := len(data) <= cap(dst)
	if err == nil && !fits {
		// The command is done: its answer waits for read(2).
		c.answers = append(c.answers, answer{data: data})
		c.touch()
	}
	if len(c.queue) > 0 {
		go c.send()
	} else {
		c.finish()
	}
	if err != nil {
		return 0, toErrno(err)
	}
	binary.NativeEndian.PutUint32(output, uint32(len(data)))
	// Where go-fuse answers (with -vv) the buffer, which others had, goes back whole: it
	// must hold nobody else's bytes.
	if fits {
		clear(output[exchangeHeader+len(data):])
	} else {
		clear(output[exchangeHeader:])
	}
	return int32(len(data)), 0
}

// Release ends the open. What was handed over still reaches the card.
func (c *channel) Release(ctx context.Context) syscall.Errno {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.answers = nil
	c.orphans.Add(int32(c.unread()))
	if !c.busy && c.onIdle != nil {
		c.onIdle()
	}
	return 0
}
