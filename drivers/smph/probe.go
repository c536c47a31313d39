package smph

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/reader"
)

var _ reader.Prober = Driver{}

// Probe is reader.Prober. There is no reader that could be asked: a card that answers to reset
// tells which way round RTS is, and whether CTS is its switch. Without a card nothing tells an
// interface from a loop.
func (d Driver) Probe(ctx context.Context, dev reader.Device) (reader.Found, error) {
	var err error
	for _, params := range []map[string]string{
		{paramType: "phoenix"}, {paramType: "smartmouse"},
		{paramType: "phoenix", paramDetect: "none"}, {paramType: "smartmouse", paramDetect: "none"},
	} {
		dev.Params = params
		var found reader.Found
		if found, err = d.probe(ctx, dev); err == nil || ctx.Err() != nil || errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrUnsupported) {
			return found, err
		}
	}
	return reader.Found{}, fmt.Errorf("no card answers: %w", err)
}

// probe resets the card in one kind of interface.
func (d Driver) probe(ctx context.Context, dev reader.Device) (reader.Found, error) {
	r, err := d.Open(ctx, dev)
	if err != nil {
		return reader.Found{}, err
	}
	_, err = r.Slots()[0].PowerOn(ctx, reader.Cold)
	model, _ := r.(reader.Identifier).Identify()
	if e := r.Close(); err == nil {
		err = e
	}
	return reader.Found{Model: model, Params: dev.Params}, err
}
