package ccid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// recover brings the reader into a state in which it accepts the slot's next command. It
// begins with the abort pair (CCID 1.1 §5.3.1) if a command may still be under way, and
// otherwise with a GetSlotStatus: everything read before its answer is left over. Next it
// clears the halt of both endpoints, then it resets the port. If nothing helps, the
// reader is dead.
//
//	command given up --Abort--> answered ............ idle
//	                     | no answer
//	                     v
//	           ClearHalt, GetSlotStatus --> answered . idle
//	                     | no answer
//	                     v
//	             Reset, GetSlotStatus ----> answered . idle (all cards off)
//	                     | no answer
//	                     v
//	                    dead
//
// The command's ctx may have ended, so recovery runs with the reader's.
func (l *lane) recover(ctx context.Context, abort bool, cause error) error {
	p := l.pipe
	given := ctx.Err() != nil
	ctx = p.ctx
	try := func(c command, limit time.Duration) bool {
		_, err := l.roundTrip(ctx, c, nil, limit, true)
		var failed *Error
		return err == nil || errors.As(err, &failed)
	}
	status := command{kind: cmdSlotStatus}
	first := status
	if abort {
		first.kind = cmdAbort
	}
	l.dirty = !try(first, syncLimit)
	if !l.dirty {
		return nil
	}
	if given {
		return nil // the caller gave up and must not wait; the next command continues here
	}
	p.log.Warn("reader does not answer", "bSlot", l.slot, "after", cause)
	if p.isGone() {
		return p.die(cause)
	}
	p.conn.ClearHalt(ctx, p.in)
	p.conn.ClearHalt(ctx, p.out)
	if try(status, syncLimit) {
		l.dirty = false
		return nil
	}
	err := p.conn.Reset(ctx)
	if err == nil && try(status, statusLimit) {
		p.log.Warn("reader was reset", "bSlot", l.slot, "after", cause)
		l.dirty = false
		return nil
	}
	if errors.Is(err, errNoReset) {
		return p.die(fmt.Errorf("%w; the reader does not answer any more", cause))
	}
	return p.die(fmt.Errorf("%w; the reader does not answer after a USB reset either", cause))
}

// reason returns why the reader is beyond help, and nil while it is not.
func (p *pipe) reason() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

func (p *pipe) isGone() bool {
	select {
	case <-p.conn.Gone():
		return true
	case <-p.gone:
		return true
	case <-p.ctx.Done():
		return true
	default:
		return false
	}
}

// die marks the reader as gone. The core opens it again if it is still plugged in.
func (p *pipe) die(why error) error {
	p.mu.Lock()
	if p.why == nil {
		p.why = why
	}
	p.mu.Unlock()
	p.leave()
	return p.left()
}

// left returns the error of commands after the reader is gone.
func (p *pipe) left() error {
	if why := p.reason(); why != nil {
		return fmt.Errorf("%w: %w", why, reader.ErrGone)
	}
	return fmt.Errorf("ccid: %w", reader.ErrGone)
}
