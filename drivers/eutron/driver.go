// Package eutron drives the Eutron CryptoIdentity IT-SEC, sold as ITSEC-I and ITSEC-P: a
// USB token with a CardOS card inside. It uses only control transfers.
//
// The maker published nothing. The wire format was observed in OpenCT 0.6.20 and its
// predecessor. The token passes characters between the host and its card, in both
// directions. It does not know where an answer ends, and the host does not know when
// characters arrive: it reads again and again, and pauses after each read that did not
// bring enough.
package eutron

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/token"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const (
	// longWait and shortWait are the time-outs of transfers that do not wait for the
	// card, and pollPause is the time between two reads of one answer. The values are
	// OpenCT's.
	longWait  = 10 * time.Second
	shortWait = time.Second
	pollPause = 100 * time.Millisecond
	// atrWait is how long the card may take until its ATR begins, and between two
	// characters of it. OpenCT reads 20 times. A card may take 9600 etu, which is 1 s
	// (ISO/IEC 7816-3:2006 §8.1).
	atrWait = 2 * time.Second
	// slack is added to the waiting times for the way through the token, whose clock is
	// unknown. A card with the default block waiting time then has 3 s, as with OpenCT.
	slack = 1500 * time.Millisecond
	// maxDrains bounds what is thrown away: a token that always has more is broken.
	maxDrains = 32
)

// Driver drives the token.
type Driver struct{}

const model = "Eutron CryptoIdentity IT-SEC"

// Name is "eutron".
func (Driver) Name() string { return "eutron" }

// IDs returns the one pair of vendor and product ID. The maker's other products are CCID
// readers.
func (Driver) IDs() []reader.ID {
	return []reader.ID{{Vendor: 0x073D, Product: 0x0005, Model: model}}
}

// Open claims interface 0, the token's only one.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	return token.Open(ctx, dev, model, 0, func(w *token.Wire) token.Dialect {
		return &dialect{Wire: w}
	})
}

// dialect is the token.Dialect.
type dialect struct {
	*token.Wire
	reads reads     // how the answer under way is read
	in    [499]byte // in[:n] came from the card and was not fetched yet
	n     int
	// stray: the card or the token may still send what belongs to something before.
	stray bool
}

var (
	_ reader.ParamSetter = (*dialect)(nil)
	_ reader.RateLimiter = (*dialect)(nil)
)

// Traits leaves T=0, T=1 and the PPS to the core. No host was seen that used the card
// without a PPS.
func (d *dialect) Traits() reader.Traits {
	return reader.Traits{Level: reader.Character, AlwaysPPS: true, IFSD: 254, Slack: slack}
}

// Supports accepts the default rate alone, so that a PPS has no PPS1. OpenCT never asks for
// another, and says that some of the tokens do not answer PPS2 properly.
func (d *dialect) Supports(ta1 byte) bool { return ta1 == iso7816.DefaultTA1 }

// SetParams tells the token the rate. It need not know the protocol.
func (d *dialect) SetParams(ctx context.Context, p iso7816.Params) error {
	if !d.Supports(p.TA1) {
		return d.Fail("set the rate", fmt.Errorf("TA1=%02X: the default is all that is known to work: %w", p.TA1, reader.ErrUnsupported))
	}
	return d.command(ctx, "set the rate", afterPPS[:])
}

// command sends requests that have no data.
func (d *dialect) command(ctx context.Context, what string, setups []usb.Setup) error {
	for _, s := range setups {
		if err := d.Send(ctx, what, s, nil, longWait); err != nil {
			return err
		}
	}
	return nil
}

// PowerOn resets the card. Cold and warm resets are the same sequence: no request is known
// that powers the card off.
func (d *dialect) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	if err := d.command(ctx, "prepare the reset", beforeReset[:]); err != nil {
		return nil, err
	}
	if err := d.drain(ctx); err != nil {
		return nil, err
	}
	if err := d.command(ctx, "reset", []usb.Setup{setupCommand(reqReset, 0)}); err != nil {
		return nil, err
	}
	d.reads = atrReads
	for {
		whole := iso7816.ATRLength(d.in[:d.n])
		switch {
		case whole > iso7816.MaxATR:
			return nil, d.Fail("ATR", fmt.Errorf("%d bytes or more are announced, %d are the most: %w", whole, iso7816.MaxATR, reader.ErrProtocol))
		case d.n >= whole:
			// What follows was not announced. Like all that is left of an answer it is
			// dropped before the PPS.
			d.stray = false
			return d.take(whole, nil), nil
		}
		if d.n > 0 {
			if err := d.Pause(ctx, "ATR", pollPause); err != nil {
				return nil, err
			}
		}
		switch err := d.collect(ctx, "ATR", whole, atrWait, atrWait); {
		case errors.Is(err, reader.ErrTimeout) && d.n == 0:
			return nil, fmt.Errorf("%w: %w", err, reader.ErrMute)
		case errors.Is(err, reader.ErrTimeout):
			return nil, fmt.Errorf("%w: %d bytes came, %d or more are announced: %w", err, d.n, whole, reader.ErrProtocol)
		case err != nil:
			return nil, err
		}
	}
}

// Exchange sends characters to the card and receives some from it. Those that came and were
// not asked for yet are kept until something is sent: the card sends only what it was asked
// for, so that they do not belong to the next answer.
func (d *dialect) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	send := len(x.Out) > 0
	if send && (d.stray || d.n > 0) {
		if err := d.drain(ctx); err != nil {
			return dst, err
		}
	}
	d.stray = true // until all has come
	if send {
		if err := d.Send(ctx, "send", setupWrite, x.Out, shortWait); err != nil {
			return dst, err
		}
		d.reads = answerReads(x.Out)
	}
	err := d.collect(ctx, "receive", x.Want, x.Wait, x.CharWait)
	if err != nil && (d.n == 0 || !errors.Is(err, reader.ErrTimeout)) {
		d.forget()
		return dst, err
	}
	d.stray = err != nil // the card stopped
	return d.take(x.Want, dst), nil
}

// collect reads until n characters are there. The card may take wait until the first one
// comes, and gap until the next. Else the error is ErrTimeout.
func (d *dialect) collect(ctx context.Context, what string, n int, wait, gap time.Duration) error {
	if d.n >= n {
		return nil
	}
	until := time.Now().Add(wait)
	for {
		timeout := d.reads.wait
		if timeout == 0 {
			timeout = max(shortWait, time.Until(until))
		}
		p, err := d.Fetch(ctx, what, setupRead, d.in[d.n:d.reads.room], timeout)
		if err != nil {
			return err
		}
		d.n += len(p)
		switch {
		case d.n >= n:
			return nil
		case len(p) > 0:
			until = time.Now().Add(gap)
		case !time.Now().Before(until):
			return d.Fail(what, fmt.Errorf("no more came: %w", reader.ErrTimeout))
		}
		if err := d.Pause(ctx, what, pollPause); err != nil {
			return err
		}
	}
}

// take moves the first n characters, or as many as there are, to dst.
func (d *dialect) take(n int, dst []byte) []byte {
	n = min(n, d.n)
	dst = append(dst, d.in[:n]...)
	left := copy(d.in[:], d.in[n:d.n])
	clear(d.in[left:d.n])
	d.n = left
	return dst
}

// forget drops the characters that are there.
func (d *dialect) forget() {
	clear(d.in[:d.n])
	d.n = 0
}

// drain drops all that the token holds, too. A read that stalls or does not end has nothing:
// OpenCT's driver goes on after any failed read.
func (d *dialect) drain(ctx context.Context) error {
	const what = "read what is left from before"
	d.forget()
	d.stray = true
	for range maxDrains {
		p, err := d.Fetch(ctx, what, setupRead, d.in[:drainReads.room], drainReads.wait)
		switch {
		case errors.Is(err, usb.ErrStall), errors.Is(err, usb.ErrTimeout):
			return nil
		case err != nil || len(p) == 0:
			return err
		}
		clear(p)
	}
	return d.Fail(what, fmt.Errorf("no end after %d reads: %w", maxDrains, reader.ErrProtocol))
}
