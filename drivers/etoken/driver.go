// Package etoken drives the Aladdin eToken PRO, PRO 64k and NG-OTP: USB tokens with a
// smart card inside. They use only control transfers.
//
// The maker published nothing. The wire format was observed in OpenCT 0.6.20 and, for the
// eToken PRO, its predecessor usbtoken. The answer to each request is fetched by a second
// one. The first request resets the card and gives the ATR; what those after it mean is
// not known, and they are sent because OpenCT sends them. From then on the host speaks T=1
// with the card: a fetch ends only when the card has answered. The models differ in the
// requests after the ATR; models.go is the table. For the later two OpenCT's authors
// called their driver untested.
package etoken

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/token"
	"github.com/cardfs/cardfs/reader"
)

const (
	// atrWait and stepWait are the time-outs of the transfers of a power-up; blockWait is
	// for the card's answer where the protocol sets no time. The values are OpenCT's.
	atrWait   = time.Second
	stepWait  = 10 * time.Second
	blockWait = 20 * time.Second
	// slack is added to the block waiting time for the way through the token.
	slack = time.Second
)

// Driver drives one family of models. Its zero value drives none: see PRO and PRO64.
type Driver struct{ model *model }

// Name is "etoken" or "etoken64".
func (d Driver) Name() string { return d.model.driver }

// IDs returns the vendor and product IDs of the models.
func (d Driver) IDs() []reader.ID { return d.model.ids }

// Open claims interface 0, the token's only one.
func (d Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	name := cmp.Or(dev.ID.Model, d.model.ids[0].Model)
	return token.Open(ctx, dev, name, 0, func(w *token.Wire) token.Dialect {
		return &dialect{Wire: w, model: d.model}
	})
}

// dialect is the token.Dialect of all models.
type dialect struct {
	*token.Wire
	model *model
	in    [blockAsked]byte // the last answer fetched
}

var _ reader.ProtocolLister = (*dialect)(nil)

// Traits makes the core speak T=1 without a PPS, in blocks whose information fields have at
// most 32 bytes either way, whatever the ATR says. That is the IFSD of ISO/IEC 7816-3:2006
// §11.4.2, which need not be announced. Longer blocks to the token are reported to crash
// it. OpenCT sent no PPS; whether the token does one is unknown.
func (d *dialect) Traits() reader.Traits {
	return reader.Traits{Level: reader.TPDU, AutoPPS: true, IFSC: ifs, IFSD: ifs, Slack: slack}
}

// Protocols has T=1 alone: no other card was seen in these tokens.
func (d *dialect) Protocols() []int { return []int{1} }

// PowerOn resets the card. Cold and warm resets are the same sequence: no request is known
// that powers the card off.
func (d *dialect) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	p, err := d.ask(ctx, &step{what: "reset", request: reqReset, asked: atrAsked, wait: atrWait})
	if errors.Is(err, reader.ErrTimeout) {
		err = fmt.Errorf("%w: %w", err, reader.ErrMute)
	}
	if err != nil {
		return nil, err
	}
	atr, err := token.CutATR(p)
	if err != nil {
		return nil, d.Fail("reset: answer", err)
	}
	atr = bytes.Clone(atr)
	for i := range d.model.steps {
		s := &d.model.steps[i]
		p, err := d.ask(ctx, s)
		if err != nil {
			return nil, err
		}
		if err := s.check(p); err != nil {
			return nil, d.Fail(s.what+": answer", err)
		}
	}
	return atr, nil
}

// ask sends a request and fetches the answer.
func (d *dialect) ask(ctx context.Context, s *step) ([]byte, error) {
	if err := d.Send(ctx, s.what, setupSend(s.request), s.data, s.wait); err != nil {
		return nil, err
	}
	return d.Fetch(ctx, s.what, setupFetch(s.request), d.in[:s.asked], s.wait)
}

// Exchange sends one T=1 block and fetches the answer.
func (d *dialect) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	return d.Block(ctx, &blocks, x, d.in[:], dst)
}
