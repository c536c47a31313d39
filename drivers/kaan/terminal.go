package kaan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader"
)

// terminal is a Reader. Its slots share one connection.
type terminal struct {
	name  string
	model string
	conn  *ctbcs.Connection
	files bool // a slot's status is in its file (B1)
	units []byte
	ins   byte // that resets
	slots []reader.Slot

	lock chan struct{} // full while a command is under way
}

var (
	_ reader.Reader     = (*terminal)(nil)
	_ reader.Identifier = (*terminal)(nil)
)

func (t *terminal) Slots() []reader.Slot  { return t.slots }
func (t *terminal) Gone() <-chan struct{} { return t.conn.Gone() }
func (t *terminal) Close() error          { return t.conn.Close() }

// Identify returns the model, and the functional units that the terminal lists.
func (t *terminal) Identify() (string, map[string]string) {
	if len(t.units) == 0 {
		return t.model, nil
	}
	return t.model, map[string]string{"units": fmt.Sprintf("% X", t.units)}
}

// fail wraps err with the reader and what was tried.
func (t *terminal) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", t.name, what, err)
}

// has reports whether the terminal lists a functional unit.
func (t *terminal) has(unit byte) bool { return slices.Contains(t.units, unit) }

// start makes the connection, and resets the terminal. B1s are not known to take S(RESYNCH)
// here; their power-up does the same.
func (t *terminal) start(ctx context.Context) error {
	if t.files {
		if err := t.conn.Restart(); err != nil {
			return t.fail("open", err)
		}
	} else if err := t.conn.Resync(ctx); err != nil {
		return t.fail("no terminal answers at this speed", err)
	}
	// Old terminals know the other instruction for it.
	t.ins = insReset
	_, sw, err := t.ask(ctx, reset(t.ins, unitTerminal))
	if err == nil && unknown(sw) {
		t.ins = insResetOlder
		_, sw, err = t.ask(ctx, reset(t.ins, unitTerminal))
	}
	if err == nil && sw != ctbcs.Done {
		err = ctbcs.Error(sw)
	}
	if err != nil {
		return t.fail("reset of the terminal", err)
	}
	data, sw, err := t.ask(ctx, listUnits())
	if err != nil {
		return t.fail("list of units", err)
	}
	if units, ok := ctbcs.Find(data, tagUnits); ok && sw == ctbcs.Done {
		t.units = slices.Clone(units)
	}
	return nil
}

// unknown reports whether the terminal does not know the command.
func unknown(sw uint16) bool { return sw == swNoOffset || sw == swNoSuchINS || sw == swNoSuchCLA }

// do sends a command to a node and appends the answer to dst.
func (t *terminal) do(ctx context.Context, nad byte, command []byte, x ctbcs.Times, dst []byte) ([]byte, error) {
	select {
	case t.lock <- struct{}{}:
	case <-ctx.Done():
		return dst, ctx.Err()
	case <-t.Gone():
		return dst, reader.ErrGone
	}
	defer func() { <-t.lock }()
	return t.conn.Do(ctx, nad, command, x, dst)
}

// ask sends the terminal a command that waits for nobody.
func (t *terminal) ask(ctx context.Context, command []byte) (data []byte, sw uint16, err error) {
	answer, err := t.do(ctx, ctbcs.Terminal, command, ctbcs.Times{Wait: ctbcs.AnswerWait, Until: time.Now().Add(ctbcs.TerminalLimit)}, nil)
	if err != nil {
		return nil, 0, err
	}
	return ctbcs.Split(answer)
}

// readFile reads the file that describes a slot.
func (t *terminal) readFile(ctx context.Context, slot int) ([]byte, error) {
	for _, id := range slotFile(slot) {
		_, sw, err := t.ask(ctx, selectFile(id))
		if err == nil && sw != ctbcs.Done {
			err = ctbcs.Error(sw)
		}
		if err != nil {
			return nil, fmt.Errorf("select file %04X: %w", id, err)
		}
	}
	var file []byte
	for len(file) < 256 {
		data, sw, err := t.ask(ctx, []byte{0x00, 0xB0, 0, byte(len(file)), 0})
		if err == nil && sw != ctbcs.Done && sw != swEnd && sw != swNoOffset {
			err = ctbcs.Error(sw)
		}
		if err != nil {
			return nil, fmt.Errorf("read the slot's file at %d: %w", len(file), err)
		}
		file = append(file, data...)
		if sw != ctbcs.Done || len(data) == 0 {
			break
		}
	}
	return file, nil
}

// status is that of a slot: bits ctbcs.CardIn, cardOff, cardOn.
func (t *terminal) status(ctx context.Context, slot int) (byte, error) {
	if t.files {
		file, err := t.readFile(ctx, slot)
		if err != nil {
			return 0, err
		}
		value, ok := ctbcs.Find(file, tagFileStatus)
		if !ok || len(value) != 1 {
			return 0, fmt.Errorf("the slot's file says nothing of a card: %w", reader.ErrProtocol)
		}
		if value[0] == 0 {
			return 0, nil
		}
		return ctbcs.CardIn, nil
	}
	data, sw, err := t.ask(ctx, cardStatus(slot))
	if err != nil {
		return 0, err
	}
	return ctbcs.StatusOf(data, sw)
}

// absent is for an error of a card's activation: it is ErrNoCard if there is none.
func (t *terminal) absent(ctx context.Context, slot int, err error) error {
	value, failed := t.status(ctx, slot)
	switch {
	case failed != nil && (ctx.Err() != nil || errors.Is(failed, reader.ErrGone)):
		return failed
	case failed == nil && value&ctbcs.CardIn == 0:
		return reader.ErrNoCard
	}
	return fmt.Errorf("%w: %w", err, reader.ErrMute)
}
