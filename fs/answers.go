package fs

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

type answer struct {
	data []byte // what is not in out yet
	text bool   // data is the line itself
	err  error
	size int // of all data
	// beyond: the answer took more room than there was.
	beyond bool
}

// line turns an error into a line of text.
func (a *answer) line() {
	words := strings.Join(strings.Fields(a.err.Error()), " ")
	*a = answer{data: fmt.Appendf(nil, "error %s %s\n", errnoName(toErrno(a.err)), words), text: true, size: a.size}
}

// swap gives back a command's room and takes that of its answer. An answer may be longer
// than its command announced, and exceed the room. It must not be lost, so it is kept, and
// swap reports that it is beyond. Nothing more is sent until it has been read: there is at
// most one such answer. c.mu is held.
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

// Read returns the answers in order. It waits for the first outstanding one, and reports end
// of file when none is outstanding.
func (c *channel) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(dest) == 0 || !c.out.seek(off) {
		return fuse.ReadResultData(nil), 0
	}
	nonblock := c.nonblock // as it stands now: the next READ may change it
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
				go c.Send()
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

// keep counts the bytes of a long read that the stream keeps. Without room to spare the stream
// forgets them, and a read that seeks back does not get them again. c.mu is held.
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

// fill moves answers to the stream. In text mode it moves as many as fit a read; in binary
// mode one, because a read returns one answer. A long answer is moved in parts.
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
