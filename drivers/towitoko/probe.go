package towitoko

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

var _ reader.Prober = Driver{}

// Probe is reader.Prober. It asks a reader that has just got power for its type, in two
// characters, and once more for a status, as three bytes with a sum may be an accident.
func (Driver) Probe(ctx context.Context, dev reader.Device) (reader.Found, error) {
	s := &slot{name: dev.Name(), baud: slowBaud, use: make(chan struct{}, 1)}
	port, err := serial.Open(ctx, dev, slow)
	if err != nil {
		return reader.Found{}, err
	}
	s.port = port
	err = s.probe(ctx)
	if e := port.Close(); err == nil {
		err = e
	}
	return reader.Found{Model: s.model.name}, s.fail("identification", err)
}

func (s *slot) probe(ctx context.Context) error {
	id, wrong, err := s.ask(ctx, 2, cmdIdentify...)
	if err != nil {
		return err
	}
	if _, known := models[id[0]]; !known {
		return fmt.Errorf("an answer of no known reader: %w", reader.ErrProtocol)
	}
	if err := s.identified(ctx, id, wrong); err != nil {
		return err
	}
	_, err = s.command(ctx, 1, cmdStatus...)
	if errors.Is(err, serial.ErrTimeout) { // a card was put in
		err = nil
	}
	return err
}
