package smartboard

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

var _ reader.Prober = Driver{}

// errNoReader: what is there does not answer as a SmartBoard does.
var errNoReader = fmt.Errorf("no SmartBoard answers: %w", reader.ErrProtocol)

// Probe is reader.Prober. A break comes first: of another driver's question the reader may have taken a part for the
// begin of a frame. It asks with cmdStart, to which a reader says its name: a status has nothing by which to
// know the reader, and whether one that was not started gives it, is unknown. Nothing is known of a start but that
// other commands work then; attach starts the reader anyhow.
func (Driver) Probe(ctx context.Context, dev reader.Device) (reader.Found, error) {
	port, err := serial.Open(ctx, dev, mode)
	if err != nil {
		return reader.Found{}, err
	}
	w := &wire{Port: port}
	var f frame
	if err = w.Break(ctx, breakTime); err == nil {
		err = w.send(ctx, cmdStart, nil)
	}
	if err == nil {
		f, err = w.receive(ctx, answerWait)
	}
	switch {
	case ctx.Err() != nil || errors.Is(err, reader.ErrGone):
	case err != nil:
		err = fmt.Errorf("%w: %w", errNoReader, err)
	case f.code != ansStarted || len(f.data) < shortestText || slices.ContainsFunc(f.data, unprintable):
		err = errNoReader
	}
	if e := port.Close(); err == nil {
		err = e
	}
	if err != nil {
		return reader.Found{}, fmt.Errorf("%s: %w", dev.Name(), err)
	}
	return reader.Found{Model: model}, nil
}

// shortestText is less than any name has. Who echoes has none.
const shortestText = 4

func unprintable(b byte) bool { return b < ' ' || b > '~' }
