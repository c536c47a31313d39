// Package starkey is a lead, and not yet a driver: no G&D StarKey 100 is known to have
// answered a command. The maker published nothing, and OpenCT 0.6.20, where the wire format
// was observed, had an ATR from the token and no more.
//
// The ATR comes as a message of the interrupt endpoint, with neither a length nor a request
// before it. Whether it is an ATR at all, only OpenCT says. What makes the token send it is
// unknown: that it is plugged in, that its interface is claimed, or nothing, as it sends it
// again and again. No request resets the card. So the driver waits for a message, and before
// it waits for another it resets the token's port, which is as close as a host comes to
// plugging it in. It never takes an earlier ATR for the answer to a later reset: a card that
// was not reset keeps what the program before had it unlocked for. OpenCT left a second read
// pending after the ATR; it would take the message that the next power-up waits for.
//
// T=1 blocks go by two vendor requests that OpenCT took over from its eToken driver.
package starkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/drivers/token"
	"github.com/cardfs/cardfs/reader"
)

const (
	// atrWait is how long the token has for its message. OpenCT waited 100 s, and a program
	// as long with it; nobody knows how long the token needs. The core tries three times.
	atrWait = 10 * time.Second
	// pause follows an empty message.
	pause = 10 * time.Millisecond
	// blockWait is for the card's answer where the protocol sets no time, as in OpenCT.
	blockWait = 20 * time.Second
	// slack is added to the block waiting time for the way through the token.
	slack = time.Second
)

const model = "G&D StarKey 100"

// unproven is what `status`, the log and errors say.
const unproven = "no StarKey 100 is known to have answered a command"

// Driver is the driver. The zero value is ready.
type Driver struct {
	Log *slog.Logger // nil: none
}

// Name is "starkey".
func (Driver) Name() string { return "starkey" }

// IDs returns the token's vendor and product ID. The vendor is Feitian.
func (Driver) IDs() []reader.ID { return []reader.ID{{Vendor: 0x096E, Product: 0x0005, Model: model}} }

// Open claims interface 0, the token's only one, and tells the log what to expect.
func (d Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r, err := token.Open(ctx, dev, model, 0, func(w *token.Wire) token.Dialect { return &dialect{Wire: w} })
	if err == nil && d.Log != nil {
		d.Log.Warn("this driver is unproven: "+unproven, "reader", dev.Name())
	}
	return r, err
}

// dialect is the token.Dialect.
type dialect struct {
	*token.Wire
	waited   bool             // for a message since Open
	answered bool             // a block came since Open
	in       [blockAsked]byte // the last answer fetched
}

var (
	_ reader.Describer      = (*dialect)(nil)
	_ reader.ProtocolLister = (*dialect)(nil)
)

// Traits makes the core speak T=1 without a PPS, in blocks whose information fields have at
// most 32 bytes either way, whatever the ATR says, as OpenCT did. That is the IFSD of
// ISO/IEC 7816-3:2006 §11.4.2, which need not be announced.
func (d *dialect) Traits() reader.Traits {
	return reader.Traits{Level: reader.TPDU, AutoPPS: true, IFSC: ifs, IFSD: ifs, Slack: slack}
}

// Protocols has T=1 alone: the card is a STARCOS SPK 2.3.
func (d *dialect) Protocols() []int { return []int{1} }

// Describe says that the driver is unproven.
func (d *dialect) Describe() map[string]string { return map[string]string{"unproven": unproven} }

// PowerOn waits for the message that is the ATR.
func (d *dialect) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	if d.waited {
		if err := d.Reset(ctx, "reset the port"); err != nil {
			return nil, err
		}
	}
	d.waited = true
	for until := time.Now().Add(atrWait); ; {
		left := time.Until(until)
		if left <= 0 {
			return nil, d.Fail("power up", mute(reader.ErrTimeout))
		}
		p, err := d.In(ctx, "power up", atrEndpoint, d.in[:atrAsked], left)
		switch {
		case errors.Is(err, reader.ErrTimeout):
			return nil, mute(err)
		case err != nil:
			return nil, err
		case len(p) > 0:
			return bytes.Clone(p), nil
		}
		if err := d.Pause(ctx, "power up", min(pause, left)); err != nil {
			return nil, err
		}
	}
}

// mute is the error of a token that sent nothing.
func mute(err error) error {
	return fmt.Errorf("%w: %w: what makes this token send its ATR is unknown; plugging it in again may", err, reader.ErrMute)
}

// Exchange sends one T=1 block and fetches the answer.
func (d *dialect) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	dst, err := d.Block(ctx, &blocks, x, d.in[:], dst)
	switch {
	case err == nil:
		d.answered = true
	case !d.answered && (errors.Is(err, reader.ErrTimeout) || errors.Is(err, reader.ErrProtocol)):
		err = fmt.Errorf("%w (%s)", err, unproven)
	}
	return dst, err
}
