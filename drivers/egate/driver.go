// Package egate drives the Schlumberger (later Axalto) e-gate: a card whose chip has a USB
// interface of its own, in a passive connector or sealed as a token. The Cryptoflex and
// Cyberflex 32K were made as such. It uses only control transfers.
//
// The maker published nothing. The wire format was observed in OpenCT 0.6.20. The card does
// T=0 by itself, and the host moves a TPDU in phases. The status says which is due; while
// it is busy the host asks again:
//
//	reset, ATR --> ready
//
//	ready: header --> busy* --> data: write      --> busy* --> SW: read --> ready
//	                    |  '--> data: read, once or more --> SW: read
//	                    '-----> SW: read
//
// A TPDU is not numbered. What is left of one that was given up would be taken for the answer
// to the next. So a command begins only when the status is ready, and the card is reset
// otherwise.
package egate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/token"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Times of OpenCT, unless a reason is given.
const (
	outWait    = 10 * time.Second // header and data
	inWait     = time.Second
	powerWait  = 2 * time.Second // the reset of a power-up
	resetWait  = time.Second     // any other
	resetPause = 100 * time.Millisecond
	pollPause  = 100 * time.Microsecond
	resets     = 4 // of a card that is not ready for a command

	// OpenCT keeps polling every 100 µs. Here the pause grows with the time that the
	// card has taken, by which no command becomes noticeably slower.
	pollPart = 16
	pollMost = 10 * time.Millisecond
	// A busy card counts as one that asks for time as often as the T=0 of a card at the
	// contacts would: by a NULL in each work waiting time, which is about a second.
	busyPart = time.Second
	// readyLimit is how long a card may be busy before a command.
	readyLimit = 10 * time.Second
)

// Driver drives the e-gate.
type Driver struct{}

// Name is "egate".
func (Driver) Name() string { return "egate" }

const model = "Schlumberger e-gate"

// IDs returns the one pair of vendor and product ID. 0973:0003, the Cyberflex Access, is a
// CCID device.
func (Driver) IDs() []reader.ID {
	return []reader.ID{{Vendor: 0x0973, Product: 0x0001, Model: model}}
}

// Open claims interface 0, the token's only one.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	return token.Open(ctx, dev, model, 0, func(w *token.Wire) token.Dialect {
		return &dialect{Wire: w}
	})
}

// dialect is a token.Dialect.
type dialect struct {
	*token.Wire
	in [256]byte // the last answer; empty between two exchanges
}

var (
	_ token.Dialect         = (*dialect)(nil)
	_ reader.ProtocolLister = (*dialect)(nil)
)

// Traits makes the core write the TPDUs. No PPS can be sent.
func (d *dialect) Traits() reader.Traits {
	return reader.Traits{Level: reader.TPDU, AutoPPS: true}
}

// Protocols is T=0 alone.
func (d *dialect) Protocols() []int { return []int{0} }

// PowerOn resets the card. Cold and warm resets are the same sequence: no request is known
// that powers the card off. The three pauses came into OpenCT with the sealed token, and
// the status, whatever its value, because without it the request for the ATR stalled.
func (d *dialect) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	if err := d.Pause(ctx, "power up", resetPause); err != nil {
		return nil, err
	}
	if err := d.Send(ctx, "reset", setupReset, nil, powerWait); err != nil {
		return nil, err
	}
	if err := d.Pause(ctx, "power up", resetPause); err != nil {
		return nil, err
	}
	if _, err := d.status(ctx); err != nil {
		return nil, err
	}
	if err := d.Pause(ctx, "power up", resetPause); err != nil {
		return nil, err
	}
	p, err := d.Fetch(ctx, "read ATR", setupATR, d.in[:atrAsked], inWait)
	if err != nil {
		if errors.Is(err, reader.ErrTimeout) {
			err = fmt.Errorf("%w: %w", err, reader.ErrMute)
		}
		return nil, err
	}
	defer clear(p)
	atr, err := cutATR(p)
	if err != nil {
		return nil, d.Fail("read ATR", err)
	}
	return append([]byte(nil), atr...), nil
}

// Exchange moves one T=0 TPDU.
func (d *dialect) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	start := len(dst)
	rx, err := d.exchange(ctx, &x, dst)
	if err != nil {
		clear(d.in[:])
		clear(rx[start:]) // nobody asks for a part of an answer
		return rx[:start], err
	}
	return rx, nil
}

func (d *dialect) exchange(ctx context.Context, x *reader.Transfer, dst []byte) ([]byte, error) {
	start := len(dst)
	header, data, want, err := cutTPDU(x.Out)
	if err != nil {
		return dst, d.Fail("send header", err)
	}
	if err := d.ready(ctx); err != nil {
		return dst, err
	}
	if err := d.Send(ctx, "send header", setupHeader, header, outWait); err != nil {
		return dst, err
	}
	until := x.Until
	if until.IsZero() {
		until = time.Now().Add(max(x.Wait, outWait))
	}
	status, err := d.settled(ctx, until, x.Extended)
	if err != nil {
		return dst, err
	}
	// A card that refuses the data has SW1 SW2 at once.
	if status == statusData && len(data) > 0 {
		if err := d.Send(ctx, "send data", setupWrite, data, outWait); err != nil {
			return dst, err
		}
		if status, err = d.settled(ctx, until, x.Extended); err != nil {
			return dst, err
		}
	}
	for status == statusData && want > 0 {
		p, err := d.Fetch(ctx, "read data", setupRead, d.in[:want], inWait)
		if err != nil {
			return dst, err
		}
		if len(p) == 0 {
			return dst, d.Fail("read data", fmt.Errorf("announced, and none came: %w", reader.ErrProtocol))
		}
		dst = iso7816.AppendResponse(dst, start, p...)
		want -= len(p)
		clear(p)
		if status, err = d.settled(ctx, until, x.Extended); err != nil {
			return dst, err
		}
	}
	if status != statusSW {
		return dst, d.Fail("status", fmt.Errorf("%02X where SW1 SW2 are due: %w", status, reader.ErrProtocol))
	}
	p, err := d.Fetch(ctx, "read SW1 SW2", setupRead, d.in[:2], inWait)
	if err != nil {
		return dst, err
	}
	defer clear(p)
	if p, err = cutSW(p); err != nil {
		return dst, d.Fail("read SW1 SW2", err)
	}
	return iso7816.AppendResponse(dst, start, p...), nil
}

// ready returns nil if the card takes a command. If it does not it is reset, as OpenCT
// does, and the error is ErrStale: the card saw nothing of the command, and must be powered
// up anew.
func (d *dialect) ready(ctx context.Context) error {
	why := d.isReady(ctx)
	if why == nil || hopeless(ctx, why) {
		return why
	}
	var err error
	for range resets {
		if err = d.Send(ctx, "reset", setupReset, nil, resetWait); err != nil {
			break
		}
		if err = d.Pause(ctx, "reset", pollPause); err != nil {
			break
		}
		if err = d.isReady(ctx); err == nil || hopeless(ctx, err) {
			break
		}
	}
	switch {
	case err == nil:
		return fmt.Errorf("%w; the card was reset: %w", why, reader.ErrStale)
	case hopeless(ctx, err):
		return err
	}
	return fmt.Errorf("%w; a reset did not help (%w): %w", why, err, reader.ErrStale)
}

// hopeless reports whether nothing can be sent after err.
func hopeless(ctx context.Context, err error) bool {
	return errors.Is(err, reader.ErrGone) || ctx.Err() != nil
}

func (d *dialect) isReady(ctx context.Context) error {
	status, err := d.settled(ctx, time.Now().Add(readyLimit), nil)
	if err == nil && status != statusReady {
		err = d.Fail("status", fmt.Errorf("%02X before a command: %w", status, reader.ErrProtocol))
	}
	return err
}

// settled asks for the status until the card is no longer busy. A busy card is alive, and
// may take until the given time: generating a key takes minutes.
func (d *dialect) settled(ctx context.Context, until time.Time, extended func()) (byte, error) {
	status, err := d.status(ctx)
	if err != nil || status != statusBusy {
		return status, err
	}
	start := time.Now()
	for told, now := start, start; ; now = time.Now() {
		if !now.Before(until) {
			return status, d.Fail("status", fmt.Errorf("busy for %v: %w", now.Sub(start).Round(time.Millisecond), reader.ErrTimeout))
		}
		if extended != nil && now.Sub(told) >= busyPart {
			told = now
			extended()
		}
		pause := min(max(pollPause, now.Sub(start)/pollPart), pollMost, until.Sub(now))
		if err := d.Pause(ctx, "status", pause); err != nil {
			return status, err
		}
		if status, err = d.status(ctx); err != nil || status != statusBusy {
			return status, err
		}
	}
}

func (d *dialect) status(ctx context.Context) (byte, error) {
	p, err := d.Fetch(ctx, "status", setupStatus, d.in[:1], inWait)
	if err != nil {
		return 0, err
	}
	status, err := cutStatus(p)
	return status, d.Fail("status", err)
}
