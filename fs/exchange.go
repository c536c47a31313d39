package fs

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"syscall"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// maxAnswers is how many answers, received or outstanding, a channel holds unread.
const maxAnswers = 64

// piece is the size of the WRITEs into which the kernel cuts a longer write(2).
const piece = fused.MaxWrite

// shortAnswer is the room that the longest short answer needs: 256 bytes and SW1 SW2.
const shortAnswer = 256 + 2

// leftBehind is the cost of an open that was closed with commands under way: its handle and a
// goroutine. The commands are counted separately.
const leftBehind = 4096

// exchanger is what stands behind an exchange file.
type exchanger interface {
	// check reports whether command can be sent, and how long its answer may be. It
	// sends nothing.
	check(command []byte) (answer int, err error)
	// exchange sends command and appends the answer to dst. ctx ends it, with
	// reader.ErrInterrupted, only until the command is sent. at is when the command was
	// written: it is meant for the card that was there then.
	exchange(ctx context.Context, command []byte, at core.Moment, dst []byte) ([]byte, error)
}

// besides is an exchanger whose lines may be meant for other files of its slot.
type besides interface {
	// known returns reader.ErrInvalid for a word that the file does not take.
	known(file, word string) error
	// set is a write of word to the file, which returns when the card has obeyed.
	set(ctx context.Context, file, word string) error
	// control is exchange for the file control.
	control(ctx context.Context, command []byte, at core.Moment, dst []byte) ([]byte, error)
}

// textChecker is an exchanger that checks a line of text more strictly than bytes: lines are
// often typed, and typing errors are likely.
type textChecker interface {
	checkText(command []byte) error
}

// channel is one open of an exchange file: commands in, answers out, in order, private to the
// open. A write queues its commands and returns; the goroutine that served the WRITE sends
// them afterwards.
type channel struct {
	to        exchanger
	later     func(fused.Sender)  // calls Send once the write under way has returned
	panicked  func(any)           // logs a panic
	failed    func(syscall.Errno) // counts an error that a call did not return as its errno; may be nil
	now       func() core.Moment
	gone      <-chan struct{}            // closed when the reader left
	leaving   func(func()) (stop func()) // registers a function to call when the reader leaves
	nonblock  bool
	append    bool // O_APPEND: the offset of a write means nothing
	readable  bool
	writable  bool
	lockLines bool   // all words are lines, not errors alone
	share     *share // of the slot's room
	pass      *core.Pass
	onIdle    func() // called after Release, once nothing is under way

	mu      sync.Mutex
	binary  bool
	line    []byte      // a line whose newline has not come yet
	written core.Moment // when its last piece came
	refused bool        // a piece of a line was refused; the rest of that line is still to come
	queue   []command   // commands not begun
	busy    bool        // send or an ioctl has the exchanger
	sending bool        // send has taken a command off the queue
	answers []answer    // received, and not yet wholly in out
	errors  bool        // an error is a line of text (wordErrors)
	giveUp  func()      // ends the waiting of wordLock
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
	word string // one of these, whose data follow it
	room int    // for the answer
	at   core.Moment
}

func (c command) none() bool { return len(c.data) == 0 && c.word == "" }

func (c command) size() int { return len(c.data) + c.room }

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

func newChannel(to exchanger, f *file, o *opening, flags uint32, onIdle func()) *channel {
	mode := flags & syscall.O_ACCMODE
	return &channel{
		to: to, later: f.mount.server.Later, panicked: f.mount.server.Panicked, failed: func(e syscall.Errno) { f.Failed("read", e) }, now: f.slot.Now, gone: f.slot.Done(), leaving: f.slot.AfterLeft,
		share: f.mount.rooms.of(f.slot).share(o.uid), pass: o.by.Pass, onIdle: onIdle,
		nonblock: flags&syscall.O_NONBLOCK != 0,
		append:   flags&syscall.O_APPEND != 0,
		readable: mode != syscall.O_WRONLY,
		writable: mode != syscall.O_RDONLY,
	}
}

// left reports whether the reader is gone.
func (c *channel) left() bool { return closed(c.gone) }

// unread is the number of answers received or outstanding. c.mu is held.
func (c *channel) unread() int {
	n := len(c.queue) + len(c.answers)
	if c.sending {
		n++
	}
	return n
}

// touch wakes all waiters. c.mu is held.
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
			return nil // the caller looks at the change before it gives up
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
			// The refused data may be one piece of a write that the kernel cut, or of
			// a line that is too long. Everything up to the next newline is then the
			// rest of that line, not a command, even if the program writes it again.
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
		// With EPOLLET nobody asks again before there is something to tell.
		if c.wake != nil && !c.share.fits(shortCommand) && c.share.await(c, c.wake) {
			c.wake()
		}
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

// submit queues commands. It reports whether the caller has to call Send, because nobody
// else is sending; Send takes as long as the card does. c.mu is held.
func (c *channel) submit(commands ...command) (send bool) {
	c.queue = append(c.queue, commands...)
	send = !c.busy && len(c.queue) > 0
	c.busy = c.busy || send
	return send
}

// exchange carries out a command. A panic fails this exchange alone.
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
	case wordTry:
		err = c.to.(locker).lock(ctx, false, false)
	case wordUnlock:
		c.to.(locker).unlock()
	case wordPower, wordProtocol:
		err = c.to.(besides).set(ctx, command.word, string(command.data))
	case wordControl:
		return c.to.(besides).control(ctx, command.data, command.at, dst)
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

// Send sends the queued commands one after the other. It goes on after the open was closed:
// a command that was written is never lost.
func (c *channel) Send() {
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
		if c.beyond && (next.word == "" || next.word == wordControl) && !c.closed {
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
		a := answer{data: data, text: next.word != "" && next.word != wordControl, err: err, size: len(data)}
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

func (c *channel) SetNonblock(on bool) {
	c.mu.Lock()
	c.nonblock = on
	c.mu.Unlock()
}

// Ready: "readable when an answer or an error is there, or the reader left (POLLHUP); not
// for the end of file that a read with nothing outstanding gives. Writable when a command
// would be taken, also while another holds the transaction."
func (c *channel) Ready() (bits uint32) {
	if c.left() {
		return fused.HungUp
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readable && (c.out.ready() > 0 || len(c.answers) > 0) {
		bits |= fused.Readable
	}
	if c.writable && c.hasRoom() && c.share.await(c, c.wake) {
		bits |= fused.Writable
	}
	return bits
}

// hasRoom reports whether a short command would be taken, as far as this channel goes; the
// room that the slot has for its user is share.await's. c.mu is held.
func (c *channel) hasRoom() bool {
	return c.unread() < maxAnswers && c.held+shortCommand <= channelRoom
}

func (c *channel) Watch(wake func()) (stop func()) {
	stopLeaving := c.leaving(wake)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake = wake
	return func() {
		stopLeaving()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wake = nil
		c.share.room.forgo(c)
	}
}

// Release ends the open. Commands that were written still reach the card.
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
