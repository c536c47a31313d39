// Package epass3k drives the Feitian (EnterSafe) ePass3000, a USB token whose card speaks T=0.
// It has a pair of bulk endpoints. One message carries a T=0 TPDU to the token, and another
// one the answer. The token does T=0 with its card.
//
// The driver that was observed, OpenCT 0.6.20's, is the vendor's own. It checked little of an
// answer, so that neither the values of the status nor all bytes around the ATR are known.
//
// Messages are not numbered. The answer to a command that was given up would be taken for
// that to the next one, whenever it comes. So a token that owes an answer, or has sent a wrong
// one, gets nothing more until its port was reset.
package epass3k

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
	// outWait and longestWait are OpenCT's: it gave each answer 200 s. Here the protocol
	// says how long a card may take.
	outWait     = 10 * time.Second
	longestWait = 200 * time.Second
	// atrWait is for the answer to a reset, for which the card has some 40,000 clock cycles
	// until it begins (ISO/IEC 7816-3:2006 §6.2).
	atrWait = 10 * time.Second
	// restWait is for what is left of an answer that has begun.
	restWait = time.Second
	// slack is added to the card's waiting time for the way through the token.
	slack = time.Second
)

// Driver drives the ePass3000.
type Driver struct{}

// Name is "epass3k".
func (Driver) Name() string { return "epass3k" }

const model = "Feitian ePass3000"

// IDs returns the one pair of vendor and product ID.
func (Driver) IDs() []reader.ID {
	return []reader.ID{{Vendor: 0x096E, Product: 0x0401, Model: model}}
}

// Open claims the interface that has the token's endpoints.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	var iface uint8
	var packet int
	if link, ok := dev.Link.(usb.Opener); ok {
		var err error
		if iface, packet, err = findInterface(link.Descriptors()); err != nil {
			return nil, fmt.Errorf("%s: %w", dev.Name(), err)
		}
	}
	return token.Open(ctx, dev, model, iface, func(w *token.Wire) token.Dialect {
		return newDialect(w, packet)
	})
}

// dialect is a token.Dialect.
type dialect struct {
	*token.Wire
	packet int // of the IN endpoint
	// owes: the last command is not answered, or not as expected.
	owes bool
	tx   [headerLen + longestTPDU]byte
	rx   []byte // room for the longest answer, in whole packets
}

var (
	_ token.Dialect         = (*dialect)(nil)
	_ reader.ProtocolLister = (*dialect)(nil)
)

func newDialect(w *token.Wire, packet int) *dialect {
	return &dialect{Wire: w, packet: packet, rx: make([]byte, packets(headerLen+longestAnswer, packet))}
}

// packets rounds n up to whole packets. A device that sends more than was asked for makes a
// transfer fail, unless its packets are full.
func packets(n, packet int) int { return (n + packet - 1) / packet * packet }

// Traits makes the core write the TPDUs. No PPS can be sent.
func (d *dialect) Traits() reader.Traits {
	return reader.Traits{Level: reader.TPDU, AutoPPS: true, Slack: slack}
}

// Protocols is T=0 alone.
func (d *dialect) Protocols() []int { return []int{0} }

// PowerOn asks for the ATR, for which the token resets its card. Cold and warm resets are
// the same: no command is known that powers the card off.
func (d *dialect) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	if d.owes {
		if err := d.Reset(ctx, "end what is under way"); err != nil {
			return nil, err
		}
	}
	value, err := d.command(ctx, "get ATR", cmdATR, nil, beforeATR+longATR+afterATR, atrWait)
	if err != nil {
		if errors.Is(err, reader.ErrTimeout) {
			err = fmt.Errorf("%w: %w", err, reader.ErrMute)
		}
		return nil, err
	}
	defer clear(value)
	atr, err := cutATR(value)
	if err == nil {
		// It may be the answer to a command of whoever had the token before.
		if _, e := iso7816.ParseATR(atr); e != nil || iso7816.ATRLength(atr) < len(atr) {
			err = fmt.Errorf("%d bytes that are no ATR: %w", len(atr), reader.ErrProtocol)
		}
	}
	if err != nil {
		d.owes = true
		return nil, d.Fail("get ATR: answer", err)
	}
	return append([]byte(nil), atr...), nil
}

// Exchange sends one T=0 TPDU and reads the answer. Newer tokens answer a TPDU with data by
// the data of the card, where others say 61xx; the core takes either.
func (d *dialect) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if err := checkTPDU(x.Out); err != nil {
		return dst, d.Fail("send TPDU", err)
	}
	if d.owes {
		if _, err := d.Status(ctx); err != nil { // it may have left
			return dst, err
		}
		return dst, d.Fail("send TPDU", fmt.Errorf("the token owes an answer, and needs a reset: %w", reader.ErrStale))
	}
	wait := min(x.Wait, longestWait)
	if wait <= 0 {
		wait = longestWait
	}
	value, err := d.command(ctx, "TPDU", cmdTPDU, x.Out, longestAnswer, wait)
	if err != nil {
		return dst, err
	}
	defer clear(value)
	return iso7816.AppendResponse(dst, len(dst), value...), nil
}

// command sends a command and returns the value of the answer, which has at most longest
// bytes. The value is valid until the next command.
func (d *dialect) command(ctx context.Context, what string, command uint16, value []byte, longest int, wait time.Duration) ([]byte, error) {
	tx := pack(d.tx[:0], command, value)
	defer clear(tx)
	if err := ctx.Err(); err != nil {
		return nil, d.Fail(what, err)
	}
	d.owes = true
	if err := d.Out(ctx, what, out, tx, outWait); err != nil {
		return nil, err
	}
	n, err := d.answer(ctx, what, longest, wait)
	if err != nil {
		clear(d.rx)
		return nil, err
	}
	d.owes = false
	return d.rx[headerLen:n], nil
}

// answer reads an answer into d.rx and returns its length. It asks for one packet first. If the
// answer ends with a full packet, nobody knows whether the token sends an empty one behind it:
// a host that asks for more may wait in vain, and one that does not may find it before the
// next answer.
func (d *dialect) answer(ctx context.Context, what string, longest int, wait time.Duration) (int, error) {
	what += ": answer"
	p, err := d.In(ctx, what, in, d.rx[:d.packet], wait)
	if err == nil && len(p) == 0 {
		p, err = d.In(ctx, what, in, d.rx[:d.packet], wait)
	}
	if err != nil {
		return 0, err
	}
	n, err := cutHeader(p, longest)
	if err != nil {
		return 0, d.Fail(what, err)
	}
	came := len(p)
	if n > came && came == d.packet {
		rest, err := d.In(ctx, what, in, d.rx[came:packets(n, d.packet)], restWait)
		if err != nil {
			return 0, err
		}
		came += len(rest)
	}
	if came != n {
		return 0, d.Fail(what, fmt.Errorf("%d bytes announced, %d came: %w", n, came, reader.ErrProtocol))
	}
	return n, nil
}
