// Package token is what a USB token is: a reader with one slot and a card in it that
// nobody can take out. All tokens have in common how they are opened, named and found to
// have left, what their status is, and how their errors read. What differs is how the card
// is reset and how bytes get to it. That is a token's [Dialect], and all that its driver
// has to write.
package token

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Dialect is how one family of tokens wants to be spoken to. Its methods are called one at
// a time.
type Dialect interface {
	// Traits are those of the slot. Fixed is set for every token.
	Traits() reader.Traits
	// PowerOn is reader.Slot's.
	PowerOn(ctx context.Context, how reader.Reset) (atr []byte, err error)
	// Exchange is reader.Slot's.
	Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error)
}

// Open claims an interface of the token dev. Nothing is sent to it: no token that is known
// wants anything before the first reset of its card. dialect is given the wire to the token.
func Open(ctx context.Context, dev reader.Device, model string, iface uint8, dialect func(*Wire) Dialect) (reader.Reader, error) {
	w := &Wire{name: dev.Driver + " " + dev.Address}
	conn, err := usb.Open(ctx, dev, iface)
	if err != nil {
		return nil, w.Fail(fmt.Sprintf("claim interface %d", iface), err)
	}
	w.conn = conn
	t := &token{Wire: w, model: model, dialect: dialect(w)}
	t.slots[0] = t
	return t, nil
}

// token is a Reader and its only Slot.
type token struct {
	*Wire
	model   string
	dialect Dialect
	slots   [1]reader.Slot
}

var (
	_ reader.Reader     = (*token)(nil)
	_ reader.Slot       = (*token)(nil)
	_ reader.Identifier = (*token)(nil)
)

func (t *token) Slots() []reader.Slot  { return t.slots[:] }
func (t *token) Gone() <-chan struct{} { return t.conn.Gone() }
func (t *token) Close() error          { return t.conn.Close() }

// Identify returns the model, and bcdDevice as the version (USB 2.0 table 9-8).
func (t *token) Identify() (string, map[string]string) {
	d := t.conn.Descriptors()
	if len(d) < 14 {
		return t.model, nil
	}
	return t.model, map[string]string{"version": fmt.Sprintf("%x.%02x", d[13], d[12])}
}

func (t *token) Traits() reader.Traits {
	traits := t.dialect.Traits()
	traits.Fixed = true
	return traits
}

// Status needs no transfer, as the card is always there.
func (t *token) Status(ctx context.Context) (reader.Status, error) {
	select {
	case <-t.conn.Gone():
		return reader.Absent, t.Fail("status", reader.ErrGone)
	default:
	}
	if err := ctx.Err(); err != nil {
		return reader.Absent, t.Fail("status", err)
	}
	if t.powered.Load() {
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// PowerOn leaves the card without power when it fails, for nothing is known of it then.
func (t *token) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	t.powered.Store(false)
	atr, err := t.dialect.PowerOn(ctx, how)
	if err != nil {
		return nil, err
	}
	t.powered.Store(true)
	return atr, nil
}

// PowerOff sends nothing: of no token a transfer is known that takes the power away. What
// the card granted to a PIN ends with the next PowerOn.
func (t *token) PowerOff(ctx context.Context) error {
	t.powered.Store(false)
	return nil
}

func (t *token) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	return t.dialect.Exchange(ctx, x, dst)
}

// Wire is the way to a token. Its errors name the token, what was tried and the lengths,
// never the bytes: they may be those of a command.
type Wire struct {
	conn    usb.Conn
	name    string // "ikey3k usb:1-2"
	powered atomic.Bool
}

// Send does a control transfer to the token, which must take all of data.
func (w *Wire) Send(ctx context.Context, what string, s usb.Setup, data []byte, wait time.Duration) error {
	n, err := w.conn.Control(ctx, s, data, wait)
	if err != nil {
		return w.transferFailed(what, s, err)
	}
	if n != len(data) {
		return w.Fail(what, fmt.Errorf("the token took only a part: %w", reader.ErrProtocol))
	}
	return nil
}

// Fetch does a control transfer from the token, of at most len(buf) bytes, and returns
// those that came, in buf.
func (w *Wire) Fetch(ctx context.Context, what string, s usb.Setup, buf []byte, wait time.Duration) ([]byte, error) {
	n, err := w.conn.Control(ctx, s, buf, wait)
	if err != nil {
		return nil, w.transferFailed(what, s, err)
	}
	if n < 0 || n > len(buf) {
		return nil, w.Fail(what, fmt.Errorf("%d bytes came, %d were asked for: %w", n, len(buf), reader.ErrProtocol))
	}
	return buf[:n], nil
}

// transferFailed is the error of a transfer that did not end well. After a reset of the
// port the card has no power any more.
func (w *Wire) transferFailed(what string, s usb.Setup, err error) error {
	err = fmt.Errorf("request %02X: %w", s.Request, err)
	if errors.Is(err, usb.ErrReset) {
		w.powered.Store(false)
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	}
	return w.Fail(what, err)
}

// Fail says of err on which token it happened and what was tried. It returns nil for nil.
func (w *Wire) Fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", w.name, what, err)
}
