// Package ikey drives the Rainbow (later SafeNet) iKey 3000 and iKey 2032: USB tokens
// with a smart card inside. They use only control transfers.
//
// The maker published nothing. The wire format was observed in OpenCT 0.6.20 and its
// predecessor. Card-control commands make the token reset its card and return the ATR.
// From then on the host speaks T=1 with the card: one request sends a block, and a second
// one fetches the answer. The second request ends only when the card has answered. The
// models differ in the commands of their power-up and in their answer to the identify
// request; models.go is the table.
package ikey

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/token"
	"github.com/cardfs/cardfs/reader"
)

const (
	// longWait and shortWait are the time-outs of transfers that do not wait for the
	// card. The values are OpenCT's.
	longWait  = 10 * time.Second
	shortWait = time.Second
	// slack is added to the block waiting time for the way through the token.
	slack = time.Second
	// ifsd is the value that the vendor's software announced; 251 would fit the fetch.
	ifsd = 180
)

// Driver drives one model. Its zero value drives none: see IKey3000 and IKey2032.
type Driver struct{ model *model }

// Name is "ikey3k" or "ikey2k".
func (d Driver) Name() string { return d.model.driver }

// IDs returns the model's one pair of vendor and product ID.
func (d Driver) IDs() []reader.ID { return []reader.ID{d.model.id} }

// Open claims interface 0, the token's only one.
func (d Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	return token.Open(ctx, dev, d.model.id.Model, 0, func(w *token.Wire) token.Dialect {
		return &dialect{Wire: w, model: d.model}
	})
}

// dialect is the token.Dialect of all models.
type dialect struct {
	*token.Wire
	model *model
	in    [blockAsked]byte // the last answer fetched
}

// Traits makes the core speak T=1 without a PPS. The iKey 3000 does the PPS itself; with
// the iKey 2032 none was observed.
func (d *dialect) Traits() reader.Traits {
	return reader.Traits{Level: reader.TPDU, AutoPPS: true, IFSD: ifsd, Slack: slack}
}

// PowerOn resets the card. Cold and warm resets are the same sequence: no request is known
// that powers the card off.
func (d *dialect) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	p, err := d.Fetch(ctx, "identify", setupIdentify, d.in[:identifyAsked], longWait)
	if err != nil {
		return nil, err
	}
	steps, err := d.model.identified(p)
	if err != nil {
		return nil, d.Fail("identify", err)
	}
	var atr []byte
	for _, s := range steps {
		if err := d.Send(ctx, s.what, setupControl(s.command), nil, s.wait); err != nil {
			return nil, err
		}
		p, err := d.Fetch(ctx, s.what, setupFetch, d.in[:s.asked], s.wait)
		if errors.Is(err, reader.ErrTimeout) && s.givesATR {
			err = fmt.Errorf("%w: %w", err, reader.ErrMute)
		}
		if err != nil {
			return nil, err
		}
		if p, err = s.answer(p); err != nil {
			return nil, d.Fail(s.what+": answer", err)
		}
		if s.givesATR {
			atr = append([]byte(nil), p...)
		}
	}
	return atr, nil
}

// Exchange sends one T=1 block and fetches the answer.
func (d *dialect) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	return d.Block(ctx, &blocks, x, d.in[:], dst)
}
