package gempc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

var _ reader.Prober = Driver{}

// probeWait is for the answer to a RESYNCH, of 4 characters.
const probeWait = time.Second

// Probe is reader.Prober. It asks at both speeds with a RESYNCH, which sets the numbers of
// blocks to 0 and does nothing else, and a reader that answers for its version.
func (Driver) Probe(ctx context.Context, dev reader.Device) (reader.Found, error) {
	for _, m := range []serial.Mode{slow, fast} {
		port, err := serial.Open(ctx, dev, m)
		if err != nil {
			return reader.Found{}, err
		}
		l := &gbpLine{Port: port}
		found, err := l.probe(ctx)
		if e := port.Close(); err == nil {
			err = e
		}
		if err == nil || ctx.Err() != nil || !errors.Is(err, errNoReader) {
			return found, err
		}
	}
	return reader.Found{}, fmt.Errorf("%s: %w", dev.Name(), errNoReader)
}

// probe asks once at one speed.
func (l *gbpLine) probe(ctx context.Context) (reader.Found, error) {
	if err := l.write(ctx, appendBlock(l.out[:0], askResync, nil)); err != nil {
		return reader.Found{}, err
	}
	b, err := l.read(ctx, probeWait)
	switch {
	case err == nil && b.pcb != resynced || errors.Is(err, reader.ErrProtocol) || errors.Is(err, reader.ErrTimeout):
		return reader.Found{}, errNoReader
	case err != nil:
		return reader.Found{}, err
	}
	answer, err := l.command(ctx, cmdVersion, shortWait)
	if err == nil && isVersion(answer) {
		version := strings.TrimSpace(string(answer[1:]))
		return reader.Found{Model: cmp.Or(versions[version], "Gemplus GemCore reader "+version)}, nil
	}
	if ctx.Err() != nil || errors.Is(err, reader.ErrGone) {
		return reader.Found{}, err
	}
	return reader.Found{Model: "Gemplus GemCore reader"}, nil
}
