// Package kaan drives card terminals with the basic command set CT-BCS: the Kobil KAAN and
// others of its kind, and the DTAG/T-TeleSec B1, on a serial line. The host speaks T=1 with
// the terminal, by one connection for it and its cards; the terminal speaks T=0 or T=1 with a
// card by itself.
//
// Nothing of this was tried with a terminal. It is what OpenCT 0.6.20 was observed to send
// and to accept; ctbcs.go names the other sources. Debian's libctapimkt1 1.0.5 agrees on the
// link.
//
//	ctbcs.go     commands and answers beside those of package ctbcs
//	link.go      blocks as characters on a line
//	terminal.go  the reader
//	slot.go      its slots; memory.go, pin.go: what some cards and terminals have
//
// Lock order: terminal.lock alone.
package kaan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/memcard"
)

// Driver drives the terminals of one family.
type Driver struct {
	b1  bool
	Log *slog.Logger
}

// KAAN is for the Kobil KAAN, and for any terminal that takes CT-BCS on a serial line.
func KAAN(log *slog.Logger) Driver { return Driver{Log: log} }

// B1 is for the DTAG/T-TeleSec B1, which DTR switches on.
func B1(log *slog.Logger) Driver { return Driver{b1: true, Log: log} }

var _ reader.Attacher = Driver{}

// Name is "kaan" or "b1".
func (d Driver) Name() string {
	if d.b1 {
		return "b1"
	}
	return "kaan"
}

func (d Driver) model() string {
	if d.b1 {
		return "DTAG/T-TeleSec B1"
	}
	return "Kobil KAAN"
}

// IDs returns nil: nothing announces a terminal on a serial line.
func (Driver) IDs() []reader.ID { return nil }

// paramSpeed is the key of `attach` for the speed of the line.
const paramSpeed = "speed"

// speeds are those that Debian's libctapimkt 1.0.5 has for such terminals.
var speeds = map[string]int{"": 9600, "9600": 9600, "115200": 115200}

// Attach checks the parameters.
func (d Driver) Attach(dev reader.Device) (reader.Device, error) {
	if err := dev.OnlyParams(paramSpeed, memcard.Param); err != nil {
		return dev, err
	}
	if _, _, err := d.params(dev); err != nil {
		return dev, err
	}
	dev.ID.Model = d.model()
	return serial.Attach(dev, d.Log)
}

func (d Driver) params(dev reader.Device) (baud int, told reader.Chip, err error) {
	baud, ok := speeds[dev.Params[paramSpeed]]
	if !ok {
		return 0, told, fmt.Errorf("%s: %s=%s is 9600 or 115200: %w", d.Name(), paramSpeed, dev.Params[paramSpeed], reader.ErrInvalid)
	}
	value := dev.Params[memcard.Param]
	if told, err = memcard.Told(value); err != nil {
		err = fmt.Errorf("%s: %s=%s: %w", d.Name(), memcard.Param, value, err)
	}
	return baud, told, err
}

// Open finds the terminal and resets it.
func (d Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	baud, told, err := d.params(dev)
	if err != nil {
		return nil, err
	}
	t := &terminal{name: dev.Name(), model: d.model(), files: d.b1, lock: make(chan struct{}, 1)}
	port, err := serial.Open(ctx, dev, serial.Mode{Baud: baud, Frame: serial.Frame8E1, Check: true})
	if err != nil {
		return nil, t.fail("open", err)
	}
	t.conn = newConnection(port)
	if d.b1 {
		if err = switchOn(ctx, port); err != nil {
			err = t.fail("switch on", err)
		}
	}
	if err == nil {
		err = t.start(ctx)
	}
	if err != nil {
		_ = port.Close()
		return nil, err
	}
	t.makeSlots(told)
	return t, nil
}

// Times of a B1's start, as OpenCT was observed to keep them. The terminal takes 0.8 s.
const (
	offTime   = 50 * time.Millisecond
	stillOff  = 300 * time.Millisecond
	startLook = 210 * time.Millisecond
	mostLooks = 24
)

// switchOn takes DTR away from a B1, which then switches DSR off, and gives it back. A port
// without modem lines can do neither.
func switchOn(ctx context.Context, port serial.Port) error {
	err := port.SetLines(ctx, 0, serial.DTR|serial.RTS)
	if errors.Is(err, serial.ErrNoLines) {
		return nil
	}
	if err == nil {
		err = pause(ctx, port, offTime)
	}
	if err != nil {
		return err
	}
	on, err := port.Lines(ctx)
	switch {
	case err != nil:
		return err
	case on&serial.DSR != 0:
		return fmt.Errorf("DSR is on without DTR; no B1 does so: %w", reader.ErrProtocol)
	}
	if err := pause(ctx, port, stillOff); err != nil {
		return err
	}
	if err := port.SetLines(ctx, serial.DTR, 0); err != nil {
		return err
	}
	for range mostLooks {
		if err := pause(ctx, port, startLook); err != nil {
			return err
		}
		if on, err = port.Lines(ctx); err != nil || on&serial.DSR != 0 {
			return err
		}
	}
	return fmt.Errorf("DSR stays off: %w", reader.ErrTimeout)
}

// pause waits, unless ctx ends or the port leaves.
func pause(ctx context.Context, port serial.Port, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-port.Gone():
		return reader.ErrGone
	}
}
