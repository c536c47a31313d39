// Package token is the common part of drivers for USB tokens. A token is a reader with one
// slot and a card that cannot be removed. All tokens are opened, named and watched for
// their departure in the same way, and have the same status and form of errors. They
// differ in how the card is reset and how commands reach it. That part is a token's
// [Dialect], and all that its driver must implement.
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

// Dialect is the wire protocol of one family of tokens: a Slot that embeds the [Wire] and
// adds Traits, PowerOn and Exchange. Traits need not say Fixed. Wire has the other methods,
// and a dialect may replace them: PowerOff, where the token has a request for it. It may
// also have the optional interfaces of a slot.
type Dialect interface{ reader.Slot }

// Open claims an interface of the token dev. It sends nothing: no known token needs
// anything before the first reset of its card. Open calls dialect with the wire to the
// token.
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
func (t *token) Unwrap() reader.Slot   { return t.dialect }
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

// PowerOn marks the card as without power if it fails: its state is then unknown.
func (t *token) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	t.powered.Store(false)
	atr, err := t.dialect.PowerOn(ctx, how)
	if err != nil {
		return nil, err
	}
	t.powered.Store(true)
	return atr, nil
}

func (t *token) Status(ctx context.Context) (reader.Status, error) { return t.dialect.Status(ctx) }

func (t *token) PowerOff(ctx context.Context) error {
	t.powered.Store(false)
	return t.dialect.PowerOff(ctx)
}

// Exchange marks the card as without power if the dialect says ErrStale.
func (t *token) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	rx, err := t.dialect.Exchange(ctx, x, dst)
	if errors.Is(err, reader.ErrStale) {
		t.powered.Store(false)
	}
	return rx, err
}

// Wire transfers data to and from a token. Its errors name the token, the step and the
// lengths, never the bytes: they may be part of a command.
type Wire struct {
	conn    usb.Conn
	name    string // "ikey3k usb:1-2"
	powered atomic.Bool
	pauser  reader.Pauser
}

// Status needs no transfer: the card is always present.
func (w *Wire) Status(ctx context.Context) (reader.Status, error) {
	select {
	case <-w.conn.Gone():
		return reader.Absent, w.Fail("status", reader.ErrGone)
	default:
	}
	if err := ctx.Err(); err != nil {
		return reader.Absent, w.Fail("status", err)
	}
	if w.powered.Load() {
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// PowerOff sends nothing: few tokens have a request for it. So the card keeps a verified PIN
// until the next PowerOn.
func (w *Wire) PowerOff(context.Context) error { return nil }

// Descriptors are those of usb.Conn.
func (w *Wire) Descriptors() []byte { return w.conn.Descriptors() }

// Send does a control transfer to the token, which must accept all of data.
func (w *Wire) Send(ctx context.Context, what string, s usb.Setup, data []byte, wait time.Duration) error {
	n, err := w.conn.Control(ctx, s, data, wait)
	if err != nil {
		return w.transferFailed(what, request(s), err)
	}
	if n != len(data) {
		return w.Fail(what, fmt.Errorf("the token took only a part: %w", reader.ErrProtocol))
	}
	return nil
}

// Fetch does a control transfer from the token into buf and returns the part that was
// filled.
func (w *Wire) Fetch(ctx context.Context, what string, s usb.Setup, buf []byte, wait time.Duration) ([]byte, error) {
	n, err := w.conn.Control(ctx, s, buf, wait)
	if err != nil {
		return nil, w.transferFailed(what, request(s), err)
	}
	return w.filled(what, buf, n)
}

// Out writes all of p to a bulk or interrupt OUT endpoint, as one transfer without a
// zero-length packet.
func (w *Wire) Out(ctx context.Context, what string, ep uint8, p []byte, wait time.Duration) error {
	n, err := w.conn.Out(ctx, ep, p, false, wait)
	if err != nil {
		return w.transferFailed(what, endpoint(ep), err)
	}
	if n != len(p) {
		return w.Fail(what, fmt.Errorf("the token took only a part: %w", reader.ErrProtocol))
	}
	return nil
}

// In reads one transfer from a bulk or interrupt IN endpoint into buf and returns the part
// that was filled.
func (w *Wire) In(ctx context.Context, what string, ep uint8, buf []byte, wait time.Duration) ([]byte, error) {
	n, err := w.conn.In(ctx, ep, buf, wait)
	if err != nil {
		return nil, w.transferFailed(what, endpoint(ep), err)
	}
	return w.filled(what, buf, n)
}

// Reset resets the token's port, as plugging it in does. The card has then lost its power.
func (w *Wire) Reset(ctx context.Context, what string) error {
	w.powered.Store(false)
	return w.Fail(what, w.conn.Reset(ctx))
}

// Pause waits for d, or until ctx ends or the token leaves, which is an error.
func (w *Wire) Pause(ctx context.Context, what string, d time.Duration) error {
	if err := w.pauser.Pause(ctx, w.conn.Gone(), d); err != nil {
		return w.Fail(what, err)
	}
	return nil
}

func (w *Wire) filled(what string, buf []byte, n int) ([]byte, error) {
	if n < 0 || n > len(buf) {
		return nil, w.Fail(what, fmt.Errorf("%d bytes came, %d were asked for: %w", n, len(buf), reader.ErrProtocol))
	}
	return buf[:n], nil
}

func request(s usb.Setup) string { return fmt.Sprintf("request %02X", s.Request) }
func endpoint(ep uint8) string   { return fmt.Sprintf("endpoint %02X", ep) }

// transferFailed returns the error of a failed transfer. After a reset of the port the
// card has lost its power.
func (w *Wire) transferFailed(what, where string, err error) error {
	err = fmt.Errorf("%s: %w", where, err)
	if errors.Is(err, usb.ErrReset) {
		w.powered.Store(false)
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	}
	return w.Fail(what, err)
}

// Fail wraps err with the token and what was tried. It returns nil for nil.
func (w *Wire) Fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", w.name, what, err)
}
