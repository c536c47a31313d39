package acs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// line is the framing, and the way to the reader.
type line interface {
	// send sends an instruction. An error is inDoubt if the reader may have got it.
	send(ctx context.Context, ins byte, data []byte) error
	// receive returns the data of the next answer, which are valid until the next call. An
	// error is inDoubt if no whole answer came; others are the reader's status.
	receive(ctx context.Context, wait time.Duration) ([]byte, error)
	// drain reads until nothing comes.
	drain(ctx context.Context) error
	// reset restarts a reader that no longer answers, where the line can do that.
	reset(ctx context.Context) error
	// wipe forgets the last answer.
	wipe()
	Gone() <-chan struct{}
	Close() error
}

// inDoubt is the error of a command whose answer may still come.
type inDoubt struct{ error }

func (e inDoubt) Unwrap() error { return e.error }

// isInDoubt reports whether err is one.
func isInDoubt(err error) bool {
	var doubt inDoubt
	return errors.As(err, &doubt)
}

// setting is an instruction with one byte of data, which the reader needs once after it got
// power.
type setting struct {
	ins, value byte
	optional   bool // the reader may refuse it
}

// device is a Reader. Its slots share one line.
type device struct {
	name     string
	model    string
	version  string
	line     line
	settings []setting
	slots    []reader.Slot
	wait     time.Duration // for an answer that does not wait for the card

	lock chan struct{} // full while a command is under way
	lost bool          // an answer may be due that nobody waits for; with the lock
	own  []byte        // the reader's name, of its first answer to insStatus; with the lock
}

var (
	_ reader.Reader     = (*device)(nil)
	_ reader.Identifier = (*device)(nil)
)

func newDevice(dev reader.Device, settings ...setting) *device {
	return &device{name: dev.Name(), settings: settings, wait: shortWait, lock: make(chan struct{}, 1)}
}

func (r *device) Slots() []reader.Slot  { return r.slots }
func (r *device) Gone() <-chan struct{} { return r.line.Gone() }
func (r *device) Close() error          { return r.line.Close() }

// Identify returns the model and the version.
func (r *device) Identify() (string, map[string]string) {
	if r.version == "" {
		return r.model, nil
	}
	return r.model, map[string]string{"version": r.version}
}

// fail wraps err with the reader and what was tried.
func (r *device) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", r.name, what, err)
}

// start sets what a program before may have set otherwise. If an answer is not what it should
// be, it was perhaps to that program's last command; the status is then told from other
// answers.
func (r *device) start(ctx context.Context, l line) error {
	r.line = l
	unset := r.setUp(ctx)
	if errors.Is(unset, reader.ErrGone) || ctx.Err() != nil {
		return r.fail("settings", unset)
	}
	if err := r.resync(ctx); err != nil {
		return r.fail("status", err)
	}
	if unset == nil {
		return nil
	}
	return r.fail("settings", r.setUp(ctx))
}

func (r *device) setUp(ctx context.Context) error {
	for _, s := range r.settings {
		p, err := r.command(ctx, s.ins, []byte{s.value}, r.wait)
		switch {
		case err != nil && s.optional && !isInDoubt(err):
		case err != nil:
			return fmt.Errorf("instruction %02X: %w", s.ins, err)
		case len(p) > 0:
			return fmt.Errorf("instruction %02X: %d bytes of data, for which nobody asked: %w", s.ins, len(p), reader.ErrProtocol)
		}
	}
	return nil
}

// command sends an instruction and returns the data of the answer.
func (r *device) command(ctx context.Context, ins byte, data []byte, wait time.Duration) ([]byte, error) {
	if err := r.line.send(ctx, ins, data); err != nil {
		return nil, err
	}
	return r.line.receive(ctx, wait)
}

// resync asks for the status, whose answer has the reader's name, and skips the answers
// before it. If it does not come, the reader is reset.
func (r *device) resync(ctx context.Context) error {
	defer r.line.wipe()
	err := r.settle(ctx)
	if err == nil || ctx.Err() != nil || errors.Is(err, reader.ErrGone) {
		return err
	}
	if err := r.line.reset(ctx); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	if err := r.line.drain(ctx); err != nil {
		return fmt.Errorf("after a reset: %w", err)
	}
	return r.settle(ctx)
}

// mostLost is the most answers that may be left over from earlier commands.
const mostLost = 8

func (r *device) settle(ctx context.Context) error {
	if err := r.line.send(ctx, insStatus, nil); err != nil {
		return err
	}
	for range mostLost {
		p, err := r.line.receive(ctx, r.wait)
		switch {
		case err == nil && r.isStatus(p):
			r.own = append(r.own[:0], p[:nameLength]...)
			return nil
		case isInDoubt(err):
			return err
		}
	}
	return fmt.Errorf("other answers than the one to the last command: %w", reader.ErrProtocol)
}

// isStatus reports whether data are an answer to insStatus. A card's answer of the same
// length ends with SW1 SW2, and the last byte of a status is at most 3; SW2 may be, but not
// after the name.
func (r *device) isStatus(data []byte) bool {
	switch {
	case len(data) != statusLength || data[stateAt] > statePowered:
		return false
	case len(r.own) > 0:
		return string(data[:nameLength]) == string(r.own)
	}
	return true
}

// recover makes the connection again after a command that was left unanswered. The reader may
// have lost its power meanwhile.
func (r *device) recover(ctx context.Context) error {
	err := r.resync(ctx)
	if err == nil {
		err = r.setUp(ctx)
	}
	if err != nil {
		return fmt.Errorf("an earlier command was left unanswered: %w", err)
	}
	r.lost = false
	return nil
}

// do sends an instruction and passes the data of the answer to use, with the line still
// reserved.
func (r *device) do(ctx context.Context, ins byte, data []byte, wait time.Duration, use func(p []byte)) error {
	select {
	case r.lock <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-r.line.Gone():
		return reader.ErrGone
	}
	defer func() { <-r.lock }()
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.lost {
		if err := r.recover(ctx); err != nil {
			return err
		}
	}
	defer r.line.wipe()
	p, err := r.command(ctx, ins, data, wait)
	if err != nil {
		r.lost = isInDoubt(err)
		return err
	}
	if use != nil {
		use(p)
	}
	return nil
}
