// Package ikey3k drives the Rainbow (later SafeNet) iKey 3000, a USB token with
// a STARCOS card inside: one slot that is never empty, control transfers only.
//
// The wire format was observed in OpenCT 0.6.20 and its predecessor; nothing
// was published. A T=1 block goes out as one request and is answered by a
// second one, which the token holds until its card has answered. The host runs
// T=1; the token does the PPS on command.
package ikey3k

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Model is the token's name.
const Model = "Rainbow iKey 3000"

// VendorID and ProductID are the token's USB ids.
const (
	VendorID  = 0x04B9
	ProductID = 0x1300
)

const (
	// longWait and shortWait are the time-outs of transfers that do not wait
	// for a command of the card, as the old driver had them.
	longWait  = 10 * time.Second
	shortWait = time.Second
	// slack is what an answer may take on top of the block waiting time for
	// its way through the token.
	slack = time.Second
	// ifsd is what the vendor's software announced; 251 would fit the fetch.
	ifsd = 180
)

// Driver is the driver; its zero value is ready.
type Driver struct{}

// Name is "ikey3k".
func (Driver) Name() string { return "ikey3k" }

// IDs is the one pair of ids that the token is known by.
func (Driver) IDs() []reader.ID {
	return []reader.ID{{Vendor: VendorID, Product: ProductID, Model: Model}}
}

// Open claims the token's interface. Nothing is sent: the token needs no
// transfer before the first reset of its card.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	conn, err := usb.Open(ctx, dev, 0)
	if err != nil {
		return nil, fmt.Errorf("ikey3k %s: claim interface 0: %w", dev.Address, err)
	}
	t := &token{conn: conn, name: "ikey3k " + dev.Address}
	t.slots[0] = t
	return t, nil
}

// token is the Reader and its only Slot.
type token struct {
	conn    usb.Conn
	name    string // for errors: "ikey3k usb:1-2"
	slots   [1]reader.Slot
	powered atomic.Bool
	in      [blockAsked]byte // Slot methods come one at a time
}

var (
	_ reader.Reader     = (*token)(nil)
	_ reader.Slot       = (*token)(nil)
	_ reader.Identifier = (*token)(nil)
)

func (t *token) Slots() []reader.Slot  { return t.slots[:] }
func (t *token) Gone() <-chan struct{} { return t.conn.Gone() }
func (t *token) Close() error          { return t.conn.Close() }

// Identify gives the model and bcdDevice.
func (t *token) Identify() (string, map[string]string) {
	d := t.conn.Descriptors()
	if len(d) < 14 {
		return Model, nil
	}
	return Model, map[string]string{"version": fmt.Sprintf("%x.%02x", d[13], d[12])}
}

func (t *token) Traits() reader.Traits {
	return reader.Traits{
		Level:   reader.TPDU,
		AutoPPS: true,
		IFSD:    ifsd,
		Slack:   slack,
		Fixed:   true,
	}
}

// Status needs no transfer: the card is always there.
func (t *token) Status(ctx context.Context) (reader.Status, error) {
	select {
	case <-t.conn.Gone():
		return reader.Absent, t.fail("status", reader.ErrGone)
	default:
	}
	if err := ctx.Err(); err != nil {
		return reader.Absent, t.fail("status", err)
	}
	if t.powered.Load() {
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// PowerOn resets the card. Cold and warm are one sequence; no request to take
// the power away is known.
func (t *token) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	t.powered.Store(false)

	p, err := t.fetch(ctx, "identify", setupIdentify, identifyAsked, longWait)
	if err == nil {
		err = t.wrap("identify", checkIdentify(p))
	}
	if err != nil {
		return nil, err
	}

	p, err = t.control(ctx, "reset the card interface", cmdReset, resetAsked, longWait)
	if err == nil {
		err = t.wrap("reset the card interface: answer", checkReset(p))
	}
	if err != nil {
		return nil, err
	}

	p, err = t.control(ctx, "power up", cmdATR, atrAsked, shortWait)
	if err != nil {
		if errors.Is(err, reader.ErrTimeout) {
			err = fmt.Errorf("%w: %w", err, reader.ErrMute)
		}
		return nil, err
	}
	cut, err := cutATR(p)
	if err != nil {
		return nil, t.fail("power up: ATR", err)
	}
	atr := append([]byte(nil), cut...)

	p, err = t.control(ctx, "PPS", cmdPPS, ppsAsked, longWait)
	if err == nil {
		err = t.wrap("PPS: answer", checkPPS(p))
	}
	if err != nil {
		return nil, err
	}
	t.powered.Store(true)
	return atr, nil
}

// PowerOff sends nothing, for nothing is known that would take the power away.
// What the card granted to a PIN ends with the next PowerOn.
func (t *token) PowerOff(ctx context.Context) error {
	t.powered.Store(false)
	return nil
}

// Exchange sends one T=1 block and fetches the answer, which the token holds
// back until its card has it.
func (t *token) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if len(x.Out) < 4 || len(x.Out) > 3+254+1 {
		return dst, t.fail("send block", fmt.Errorf("%d bytes; a T=1 block has 4 to 258: %w", len(x.Out), reader.ErrInvalid))
	}
	setup, data := packBlock(x.Out)
	if err := t.send(ctx, "send block", setup, data, longWait); err != nil {
		return dst, err
	}
	wait := x.Wait
	if wait <= 0 {
		wait = longWait
	}
	p, err := t.fetch(ctx, "fetch block", setupFetch, blockAsked, wait)
	if err != nil {
		return dst, err
	}
	defer clear(p)
	block, err := cutBlock(p)
	if err != nil {
		return dst, t.fail("fetch block", err)
	}
	return append(dst, block...), nil
}

// control sends a card-control command and fetches its answer.
func (t *token) control(ctx context.Context, what string, cmd uint16, n int, wait time.Duration) ([]byte, error) {
	if err := t.send(ctx, what, setupControl(cmd), nil, wait); err != nil {
		return nil, err
	}
	return t.fetch(ctx, what, setupFetch, n, wait)
}

func (t *token) send(ctx context.Context, what string, s usb.Setup, data []byte, wait time.Duration) error {
	n, err := t.conn.Control(ctx, s, data, wait)
	if err != nil {
		return t.transferFailed(what, s, err)
	}
	if n != len(data) {
		return t.fail(what, fmt.Errorf("the token took only a part: %w", reader.ErrProtocol))
	}
	return nil
}

// fetch reads an answer of up to n bytes; it stays valid until the next fetch.
func (t *token) fetch(ctx context.Context, what string, s usb.Setup, n int, wait time.Duration) ([]byte, error) {
	got, err := t.conn.Control(ctx, s, t.in[:n], wait)
	if err != nil {
		return nil, t.transferFailed(what, s, err)
	}
	if got < 0 || got > n {
		return nil, t.fail(what, fmt.Errorf("%d bytes came, %d were asked for: %w", got, n, reader.ErrProtocol))
	}
	return t.in[:got], nil
}

// transferFailed names the transfer by its request only: what stands in wValue and wIndex
// of a block are bytes of a command, and its length tells that of a PIN. A stall and babble are answers
// too, wrong ones: T=1 may ask again. A reset of the port took the card's power.
func (t *token) transferFailed(what string, s usb.Setup, err error) error {
	err = fmt.Errorf("request %02X: %w", s.Request, err)
	switch {
	case errors.Is(err, usb.ErrStall), errors.Is(err, usb.ErrOverflow):
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	case errors.Is(err, usb.ErrReset):
		t.powered.Store(false)
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	}
	return t.fail(what, err)
}

func (t *token) fail(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", t.name, what, err)
}

func (t *token) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return t.fail(what, err)
}
