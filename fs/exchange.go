package fs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/reader"
)

// maxAnswers is how many answers, had and to come, a channel holds unread.
const maxAnswers = 64

// piece is the size of the WRITEs into which the kernel cuts a longer write(2).
const piece = 128 << 10

// shortAnswer is the room that most answers need at most: 256 bytes and SW1 SW2.
const shortAnswer = 256 + 2

// leftBehind is what an open costs that was closed with commands under way, besides them:
// its handle and a goroutine.
const leftBehind = 4096

// exchanger is what stands behind an exchange file.
type exchanger interface {
	// check tells whether command can be sent, before anything is, and how long the
	// answer may be.
	check(command []byte) (answer int, err error)
	// exchange sends it and appends the answer to dst. ctx ends only what
	// comes before the sending, with reader.ErrInterrupted. at is when the command was
	// handed over: what is for a card is for the one that was there then.
	exchange(ctx context.Context, command []byte, at reader.Moment, dst []byte) ([]byte, error)
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
	to        exchanger
	later     func(*channel)      // calls send once the write under way has returned
	panicked  func(any)           // logs a panic
	failed    func(syscall.Errno) // nil, or counts an error that is no errno of a call
	now       func() reader.Moment
	gone      <-chan struct{}            // closed when the reader left
	leaving   func(func()) (stop func()) // has something called when it leaves
	nonblock  bool
	append    bool // O_APPEND: the offset of a write means nothing
	readable  bool
	writable  bool
	lockLines bool   // lock and unlock are lines
	share     *share // of the slot's room
	pass      *reader.Pass
	onIdle    func() // after Release, once nothing is under way any more

	mu      sync.Mutex
	binary  bool
	line    []byte        // a line whose newline has not come yet
	written reader.Moment // when its last piece came
	refused bool          // the rest of a line, of which a piece was refused, is still to come
	queue   []command     // commands not begun
	busy    bool          // send or an ioctl has the exchanger
	sending bool          // send has taken a command off the queue
	answers []answer      // had and not yet in out, or not all of it
	errors  bool          // an error is a line of text (wordErrors)
	giveUp  func()        // ends the waiting of wordLock
	out     stream
	held    int           // bytes of line, commands with the room for their answers, and answers
	beyond  bool          // one of answers is
	kept    int           // bytes of out, where they count
	changed chan struct{} // non-nil while somebody waits: closed at the next change
	wake    func()        // non-nil while somebody polls: called at every change
	closed  bool
}

type command struct {
	data []byte
	word string // instead of data: one of these
	room int    // for the answer
	at   reader.Moment
}

// The lines that are no commands for what stands behind the file.
const (
	wordErrors = "errors" // an error is a line "error ESTALE WORDS" from now on, for whoever is behind SFTP
	wordLock   = "lock"   // flock(2) for whoever has none
	wordUnlock = "unlock"
	wordOK     = "ok\n" // answers them
)

// words are those of a channel.
func (c *channel) words() []string {
	if c.lockLines {
		return []string{wordErrors, wordLock, wordUnlock}
	}
	return []string{wordErrors}
}

// word is the word that a line is, or of which, unless it is whole, it is the beginning.
func (c *channel) word(line []byte, whole bool) string {
	line = bytes.TrimLeft(line, blanks)
	if len(line) == 0 || bytes.IndexByte([]byte("elu"), line[0]) < 0 {
		return ""
	}
	if i := bytes.IndexByte(line, '#'); i >= 0 {
		line, whole = line[:i], true
	}
	text := bytes.TrimRight(line[:min(len(line), 100)], blanks)
	for _, w := range c.words() {
		if string(text) == w || !whole && len(text) < len(w) && string(text) == w[:len(text)] {
			return w
		}
	}
	return ""
}

func (c command) none() bool { return len(c.data) == 0 && c.word == "" }

func (c command) size() int { return len(c.data) + c.room }

type answer struct {
	data []byte // what is not in out yet
	text bool   // data is the line itself
	err  error
	size int // of all data
	// beyond: it took more than there was room for.
	beyond bool
}

// line has an error be a line of text.
func (a *answer) line() {
	words := strings.Join(strings.Fields(a.err.Error()), " ")
	*a = answer{data: fmt.Appendf(nil, "error %s %s\n", errnoName(toErrno(a.err)), words), text: true, size: a.size}
}

// take takes n bytes of the channel's room and its user's. c.mu is held.
func (c *channel) take(n int) bool {
	if n > 0 && (c.held+n > channelRoom || !c.share.take(n)) {
		return false
	}
	c.held += n
	if n < 0 {
		c.share.give(-n)
	}
	return true
}

// give gives n bytes back. c.mu is held.
func (c *channel) give(n int) { c.take(-n) }

// swap takes the room of an answer in place of its command's. An answer that is longer
// than the command let expect may exceed what there is: it is there, and must not be lost.
// Until it was read nothing more is sent, so that there is one such answer at most.
// c.mu is held.
func (c *channel) swap(command, answer int) (beyond bool) {
	n := answer - command
	if c.take(n) {
		return false
	}
	c.held += n
	c.share.force(n)
	c.beyond = true
	return true
}

func newChannel(to exchanger, f *file, o *opening, flags uint32, onIdle func()) *channel {
	mode := flags & syscall.O_ACCMODE
	return &channel{
		to: to, later: f.mount.server.later, panicked: f.mount.server.panicked, failed: func(e syscall.Errno) { f.failed("read", e) }, now: f.bay.Now, gone: f.bay.Done(), leaving: f.bay.AfterLeft,
		share: f.mount.rooms.of(f.bay).share(o.uid), pass: o.by.Pass, onIdle: onIdle,
		nonblock: flags&syscall.O_NONBLOCK != 0,
		append:   flags&syscall.O_APPEND != 0,
		readable: mode != syscall.O_WRONLY,
		writable: mode != syscall.O_RDONLY,
	}
}

// left tells whether the reader is gone.
func (c *channel) left() bool { return closed(c.gone) }

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
	if c.wake != nil {
		c.wake()
	}
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
		switch { // select has no order
		case c.left():
			return reader.ErrGone
		case closed(changed):
			return nil // who waits looks first at what changed
		}
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
	var commands []command
	var rest, joined []byte
	taken := false
	defer func() {
		if !taken {
			c.setLine(c.line, joined)
			wipe(commands)
		}
	}()
	if c.binary {
		room, err := c.to.check(data)
		if err != nil {
			return 0, toErrno(err)
		}
		commands = []command{{data: data, room: room}}
		rest = c.line
	} else {
		var err error
		if commands, rest, joined, err = c.parse(data); err != nil {
			// What follows a piece of a write that the kernel cut, or of a line
			// that is too long, is no command up to its newline, though a
			// program may write it again.
			cut := len(data) >= piece && data[len(data)-1] != '\n'
			more := bytes.IndexByte(data, '\n') < 0
			c.refused = cut || more && (c.refused || len(c.line)+len(data) > maxLine)
			c.give(cap(c.line))
			c.setLine(nil, joined)
			joined = nil
			return 0, toErrno(err)
		}
	}
	if c.unread()+len(commands) > maxAnswers {
		return 0, syscall.ENOBUFS
	}
	n := cap(rest) - cap(c.line)
	for _, command := range commands {
		n += command.size()
	}
	if !c.take(n) {
		return 0, syscall.ENOBUFS
	}
	if c.binary {
		commands[0].data = bytes.Clone(data)
	}
	if c.append {
		c.out.move(off + int64(len(data)))
	} else {
		c.out.wrote(off, len(data))
	}
	taken = true
	c.setLine(rest, joined)
	c.written = c.now()
	for i := range commands {
		commands[i].at = c.written
	}
	if c.submit(commands...) {
		c.later(c)
	}
	return uint32(len(data)), 0
}

// wipe is for commands that are done with: one may be a PIN.
func wipe(commands []command) {
	for _, c := range commands {
		clear(c.data)
	}
}

// setLine makes rest the line that is still coming, and leaves nothing of what came so far
// where it is not: neither in the line of before nor in the array where parse joined it to
// what came. c.mu is held.
func (c *channel) setLine(rest, joined []byte) {
	for _, b := range [][]byte{c.line, joined} {
		if b = b[:cap(b)]; len(b) > 0 && (cap(rest) == 0 || &b[0] != &rest[:1][0]) {
			clear(b)
		}
	}
	c.line = rest
	clear(rest[len(rest):cap(rest)])
}

// parse cuts what came so far into commands and the start of another line. It
// changes nothing but what lies behind c.line in its array; joined is c.line and what came
// of that line, there or elsewhere. With an error, commands are those before it.
func (c *channel) parse(data []byte) (commands []command, rest, joined []byte, err error) {
	first := c.line
	if c.refused {
		return nil, nil, nil, reader.ErrInvalid
	}
	for {
		line, after, whole := bytes.Cut(data, []byte{'\n'})
		if !whole {
			if len(first)+len(line) > maxLine {
				return commands, nil, joined, reader.ErrInvalid
			}
			rest = append(first, line...)
			if first != nil {
				joined = rest
			}
			// What can be no hex is refused now, not when the line is complete.
			if bytes.IndexByte(first, '#') < 0 {
				data, err := parseHex(make([]byte, 0, len(line)/2), line)
				clear(data)
				if err != nil && !errors.Is(err, errOdd) && c.word(rest, false) == "" {
					return commands, nil, rest, err
				}
			}
			return commands, rest, joined, nil
		}
		if first != nil {
			joined, first = append(first, line...), nil
			line = joined
		}
		command, err := c.parseLine(line)
		if err != nil {
			return commands, nil, joined, err
		}
		if !command.none() {
			if len(commands) > maxAnswers { // too many already; the rest is only checked
				clear(command.data)
				command.data = nil
				wipe(commands[maxAnswers:])
				commands = commands[:maxAnswers]
			}
			commands = append(commands, command)
		}
		data = after
	}
}

func (c *channel) parseLine(line []byte) (command, error) {
	if w := c.word(line, true); w != "" {
		return command{word: w, room: len(wordOK)}, nil
	}
	data, err := parseHex(make([]byte, 0, (len(line)+1)/2), line)
	if err != nil || len(data) == 0 {
		clear(data)
		return command{}, err
	}
	data = fitted(data, 64) // blanks and comments take no memory
	room, err := c.to.check(data)
	if t, ok := c.to.(textChecker); ok && err == nil {
		err = t.checkText(data)
	}
	if err != nil {
		clear(data)
		return command{}, err
	}
	return command{data: data, room: room}, nil
}

// fitted is b in an array that is not much longer than it needs to be.
func fitted(b []byte, spare int) []byte {
	if cap(b) <= 2*len(b)+spare {
		return b
	}
	fit := bytes.Clone(b)
	clear(b)
	return fit
}

// submit queues commands and tells whether nobody is there to send them: then the caller
// has to call send, which may take as long as the card does. c.mu is held.
func (c *channel) submit(commands ...command) (send bool) {
	c.queue = append(c.queue, commands...)
	send = !c.busy && len(c.queue) > 0
	c.busy = c.busy || send
	return send
}

// exchange carries a command out. A panic is an error of this exchange alone.
func (c *channel) exchange(ctx context.Context, command command, dst []byte) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked(p)
			answer, err = nil, errPanic
		}
	}()
	switch command.word {
	case wordErrors:
		c.mu.Lock()
		c.errors = true
		c.mu.Unlock()
	case wordLock:
		err = c.waitLock()
	case wordUnlock:
		c.to.(locker).unlock()
	default:
		return c.to.exchange(ctx, command.data, command.at, dst)
	}
	return []byte(wordOK), err
}

// waitLock waits for the lock until the open is closed.
func (c *channel) waitLock() error {
	ctx, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	c.mu.Lock()
	if c.closed {
		giveUp()
	}
	c.giveUp = giveUp
	c.mu.Unlock()
	return c.to.(locker).lock(ctx, false, true)
}

var errPanic = errors.New("internal error; the log has more")

// send sends what is queued, a command after the other. It goes on after the
// open was closed: what was written is not lost.
func (c *channel) send() {
	defer func() {
		if p := recover(); p != nil { // in onIdle
			c.panicked(p)
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		next := c.queue[0]
		c.queue[0] = command{}
		c.queue = c.queue[1:]
		if c.beyond && next.word == "" && !c.closed {
			clear(next.data)
			c.give(next.size())
			c.answers = append(c.answers, answer{err: errNoRoom})
			c.touch()
			continue
		}
		c.sending = true
		c.mu.Unlock()
		// In one piece, so that no part of it is left elsewhere.
		data, err := c.exchange(context.Background(), next, make([]byte, 0, next.room))
		clear(next.data)
		data = fitted(data, 512)
		c.mu.Lock()
		c.sending = false
		if c.closed {
			clear(data)
			c.give(next.size())
			continue
		}
		if err != nil {
			data = nil
		}
		a := answer{data: data, text: next.word != "", err: err, size: len(data)}
		a.beyond = c.swap(next.size(), a.size)
		c.answers = append(c.answers, a)
		c.touch()
	}
	c.queue = nil
	c.finish()
}

// finish ends being busy. c.mu is held.
func (c *channel) finish() {
	c.busy = false
	c.touch()
	if c.closed {
		c.share.give(leftBehind)
		c.end()
	}
}

// end is the last thing of a channel that was closed: nothing is under way. c.mu is held.
func (c *channel) end() {
	c.give(c.held)
	c.share.close()
	if c.onIdle != nil {
		c.onIdle()
	}
}

func (c *channel) setNonblock(on bool) {
	c.mu.Lock()
	c.nonblock = on
	c.mu.Unlock()
}

// ready: "readable when an answer or an error is there, or the reader left (POLLHUP); not
// for the end of file that a read with nothing outstanding gives. Writable when a command
// would be taken, also while another holds the transaction."
func (c *channel) ready() (bits uint32) {
	if c.left() {
		return hungUp
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readable && (c.out.ready() > 0 || len(c.answers) > 0) {
		bits |= readable
	}
	if c.writable && c.hasRoom() {
		bits |= writable
	}
	return bits
}

// hasRoom reports whether a short command would be taken, as far as this channel goes: of
// the room that the slot has for its user nobody tells when it is there again. c.mu is held.
func (c *channel) hasRoom() bool {
	return c.unread() < maxAnswers && c.held+4+shortAnswer <= channelRoom
}

func (c *channel) watch(wake func()) (stop func()) {
	stopLeaving := c.leaving(wake)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake = wake
	return func() {
		stopLeaving()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wake = nil
	}
}

// Read gives the answers in order; it waits for the first that is outstanding,
// and is the end of file when none is.
func (c *channel) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(dest) == 0 || !c.out.seek(off) {
		return fuse.ReadResultData(nil), 0
	}
	nonblock := c.nonblock // as it stands now: another READ may bring another
	if !c.hasRoom() {
		defer c.touch() // there is now
	}
	for c.out.ready() == 0 {
		switch {
		case len(c.answers) > 0:
			if err := c.answers[0].err; err != nil && c.errors && !c.binary {
				if c.answers[0].line(); c.failed != nil {
					c.failed(toErrno(err))
				}
			} else if err != nil {
				c.drop()
				return nil, toErrno(err)
			}
			c.fill(len(dest))
		case c.busy && nonblock:
			return nil, syscall.EAGAIN
		case c.busy:
			if err := c.wait(ctx); err != nil && len(c.answers) == 0 && c.out.ready() == 0 {
				return nil, waitErrno(ctx, err)
			}
		case len(c.line) > 0:
			// The line that no newline ended counts now.
			command, err := c.parseLine(c.line)
			if err == nil && !c.take(command.size()-cap(c.line)) {
				clear(command.data)
				return nil, syscall.ENOBUFS // it stays
			} else if err != nil {
				c.give(cap(c.line))
			}
			c.setLine(nil, nil)
			command.at = c.written
			if err != nil {
				c.answers = append(c.answers, answer{err: err})
			} else if !command.none() && c.submit(command) {
				go c.send()
			}
		case c.left():
			return nil, syscall.ENODEV
		default:
			return fuse.ReadResultData(nil), 0
		}
	}
	if c.out.ready() < len(dest) && c.begun() {
		c.fill(len(dest))
	}
	data := c.out.read(dest)
	c.keep()
	return fuse.ReadResultData(data), 0
}

// smallStream is how much of its last read each open may keep.
const smallStream = 4096

// keep has what the stream keeps of a long read counted, or the stream forget it: a step
// back into it then gives nothing again. It takes no room that others need for commands.
// c.mu is held.
func (c *channel) keep() {
	n := cap(c.out.buf)
	if n <= smallStream {
		n = 0
	}
	if n > c.kept && !c.share.takeSpare(n-c.kept) {
		c.out.forget()
		n = 0
	}
	if n < c.kept {
		c.share.give(c.kept - n)
	}
	c.kept = n
}

// fill moves answers to the stream: in text as many as fit a read, in binary
// one, as each read gives one. Of a long one it moves what fits.
func (c *channel) fill(size int) {
	c.out.grow()
	for len(c.answers) > 0 && c.answers[0].err == nil && c.out.ready() < size {
		a := &c.answers[0]
		n := size - c.out.ready()
		hex := !c.binary && !a.text
		if hex {
			n = (n + 2) / 3 // digits, digits, blank
		}
		n = min(n, len(a.data))
		whole := n == len(a.data)
		c.out.room(3 * n)
		if !hex {
			c.out.buf = append(c.out.buf, a.data[:n]...)
		} else {
			c.out.buf = appendHex(c.out.buf, a.data[:n])
			if !whole {
				c.out.buf[len(c.out.buf)-1] = ' '
			}
		}
		clear(a.data[:n])
		a.data = a.data[n:]
		if whole {
			c.drop()
		}
		if c.binary {
			break
		}
	}
}

// begun reports whether a part of the first answer is in the stream, or was. c.mu is held.
func (c *channel) begun() bool {
	return len(c.answers) > 0 && c.answers[0].err == nil && len(c.answers[0].data) < c.answers[0].size
}

// drop forgets the first answer. c.mu is held.
func (c *channel) drop() {
	clear(c.answers[0].data)
	c.give(c.answers[0].size)
	if c.answers[0].beyond {
		c.beyond = false
	}
	c.answers[0] = answer{}
	if c.answers = c.answers[1:]; len(c.answers) == 0 {
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
	sent := command{data: input[exchangeHeader : exchangeHeader+int(n)], at: c.now()}
	room, err := c.to.check(sent.data)
	if err != nil {
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
	// This answer, too, may not fit and have to wait.
	if c.unread() >= maxAnswers || c.beyond || room > len(output)-exchangeHeader && c.held+room > channelRoom {
		c.mu.Unlock()
		return 0, syscall.ENOBUFS
	}
	c.busy = true
	c.mu.Unlock()

	// The answer goes straight to where the kernel takes it from.
	dst := output[exchangeHeader:exchangeHeader:len(output)]
	data, err := c.exchange(ctx, sent, dst)

	c.mu.Lock()
	defer c.mu.Unlock()
	fits := len(data) <= cap(dst)
	if err == nil && !fits && !c.closed { // closed: who asked was killed
		// The command is done: its answer waits for read(2).
		c.answers = append(c.answers, answer{data: data, size: len(data), beyond: c.swap(0, len(data))})
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
	if c.giveUp != nil {
		c.giveUp()
	}
	for len(c.answers) > 0 {
		c.drop()
	}
	c.give(cap(c.line))
	c.setLine(nil, nil)
	clear(c.out.buf)
	c.out = stream{}
	c.keep()
	if c.busy {
		c.share.force(leftBehind)
		c.pass.Leave(c.share.left)
	} else {
		c.end()
	}
	return 0
}
