package kaan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader"
)

var _ reader.Prober = Driver{}

// probeWait is for the answer to S(RESYNCH), of 4 characters.
const probeWait = time.Second

// S(RESYNCH) to the terminal, and its answer.
var (
	askResync = []byte{ctbcs.Terminal, 0xC0, 0x00, 0xD2}
	resynced  = []byte{0x21, 0xE0, 0x00, 0xC1}
)

var (
	errNoTerminal = fmt.Errorf("no terminal answers: %w", reader.ErrTimeout)
	errB1         = fmt.Errorf("the terminal is a B1: %w", reader.ErrProtocol)
)

// Probe is reader.Prober. A KAAN is asked with S(RESYNCH), which sets the numbers of blocks to
// 0 and does nothing else. A B1 is told by what DTR does to it, as its driver does.
func (d Driver) Probe(ctx context.Context, dev reader.Device) (reader.Found, error) {
	found := reader.Found{Model: d.model()}
	if d.b1 {
		return found, d.fail(dev, onPort(ctx, dev, speeds[""], probeB1))
	}
	for _, speed := range []string{"", "115200"} {
		if speed != "" {
			found.Params = map[string]string{paramSpeed: speed}
		}
		err := onPort(ctx, dev, speeds[speed], probeKAAN)
		if err == nil || ctx.Err() != nil || !errors.Is(err, errNoTerminal) {
			return found, d.fail(dev, err)
		}
	}
	return reader.Found{}, d.fail(dev, errNoTerminal)
}

func (Driver) fail(dev reader.Device, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", dev.Name(), err)
}

func onPort(ctx context.Context, dev reader.Device, baud int, do func(context.Context, serial.Port) error) error {
	port, err := serial.Open(ctx, dev, serial.Mode{Baud: baud, Frame: serial.Frame8E1, Check: true})
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, port), port.Close())
}

func probeKAAN(ctx context.Context, port serial.Port) error {
	if err := port.Write(ctx, askResync); err != nil {
		return err
	}
	var answer [4]byte
	_, err := serial.ReadFull(ctx, port, answer[:], probeWait)
	switch {
	case errors.Is(err, serial.ErrTimeout), errors.Is(err, serial.ErrParity):
		return errNoTerminal
	case err != nil:
		return err
	case !bytes.Equal(answer[:], resynced):
		return errNoTerminal
	}
	isB1, err := followsDTR(ctx, port)
	if isB1 {
		return errB1
	}
	return err
}

// followsDTR reports whether DSR goes off with DTR, and does not come back with it at once,
// which a wire between the two would do.
func followsDTR(ctx context.Context, port serial.Port) (bool, error) {
	on, err := port.Lines(ctx)
	if errors.Is(err, serial.ErrNoLines) || err == nil && on&serial.DSR == 0 {
		return false, nil
	}
	if err == nil {
		err = port.SetLines(ctx, 0, serial.DTR)
	}
	if err == nil {
		err = pause(ctx, port, stillOff)
	}
	var without, with serial.Lines
	if err == nil {
		without, err = port.Lines(ctx)
	}
	if err == nil {
		err = port.SetLines(ctx, serial.DTR, 0)
	}
	if err == nil {
		err = pause(ctx, port, startLook)
	}
	if err == nil {
		with, err = port.Lines(ctx)
	}
	return (without|with)&serial.DSR == 0, err
}

// probeB1 switches DTR off and on, and asks for the list of units.
func probeB1(ctx context.Context, port serial.Port) error {
	isB1, err := followsDTR(ctx, port)
	if err != nil {
		return err
	}
	if !isB1 {
		return errNoTerminal
	}
	if err := switchOn(ctx, port); err != nil {
		return err
	}
	t := &terminal{conn: newConnection(port), files: true, lock: make(chan struct{}, 1)}
	if err := t.conn.Restart(); err != nil {
		return err
	}
	_, _, err = t.ask(ctx, listUnits())
	return err
}
