package ccid

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

var _ reader.Attacher = Driver{}

// Attach takes readers on a serial port, and readers with a device file: their address is the
// name of the file. The parameter model says which: see serialModels and nodeModels.
func (d Driver) Attach(dev reader.Device) (reader.Device, error) {
	if !filepath.IsAbs(dev.Address) {
		return dev, nil
	}
	if err := dev.OnlyParams("model"); err != nil {
		return dev, err
	}
	if m, ok := nodeModelOf(dev); ok {
		return d.attachNode(dev, m)
	}
	m, err := serialModelOf(dev.Params)
	if err != nil {
		return dev, err
	}
	dev.ID, dev.Slots = reader.ID{Model: m.maker + " " + m.name}, int(m.slots)
	return serial.Attach(dev, d.Log)
}

// asUSB has a device on a serial port, or with a device file, look like one on USB to the
// driver, whose messages are the same.
func (d Driver) asUSB(dev reader.Device) (reader.Device, error) {
	line := dev
	switch dev.Link.(type) {
	case serial.Opener:
		m, err := serialModelOf(dev.Params)
		if err != nil {
			return dev, err
		}
		dev.Link = serialLink{dev.Link, line, m}
	case chardev.Opener:
		m, _ := nodeModelOf(dev)
		if d.Log != nil {
			d.Log.Warn("this reader is unproven: "+unproven, "reader", dev.Name())
		}
		dev.Link = nodeLink{dev.Link, line, m}
	}
	return dev, nil
}

// serialLink is the usb.Opener of a reader on a serial port.
type serialLink struct {
	reader.Link
	dev   reader.Device
	model serialModel
}

var _ usb.Opener = serialLink{}

// Descriptors is usb.Opener.
func (l serialLink) Descriptors() []byte { return l.model.descriptors() }

// serialMode is how libccid 1.5.2 opens the port.
var serialMode = serial.Mode{Baud: 115200, Frame: serial.Frame8N2}

// OpenUSB is usb.Opener. It waits for the port.
func (l serialLink) OpenUSB(ctx context.Context, _ uint8) (usb.Conn, error) {
	mode := serialMode
	if l.model.slow {
		mode.Baud = 9600
	}
	port, err := serial.Open(ctx, l.dev, mode)
	if err != nil {
		return nil, err
	}
	c := &serialConn{
		port: port, noUSB: noUSB{l.model}, over: make(chan struct{}),
		events: make(chan event, maxEvents), free: make(chan []byte, 4), notices: make(chan byte, 1),
		turn: make(chan struct{}, 1), framer: framer{most: serialMost},
	}
	c.turn <- struct{}{}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if l.model.slow {
		// Before the listener begins: nobody may read a port while its mode changes.
		err = c.speedUp(ctx)
	}
	reader.Go(l.dev.Host, c.listen)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: from 9600 to %d bit/s: %w", l.dev.Name(), serialMode.Baud, err)
	}
	return c, nil
}

// speedUp has a reader that answers at 9600 bit/s go on at the rate of the others. One that
// does not answer does so already.
func (c *serialConn) speedUp(ctx context.Context) error {
	const patience, settling = time.Second, 250 * time.Millisecond // libccid's
	var answer [serialMost]byte
	ask := func(p ...byte) error {
		if _, err := c.Out(ctx, serialOut, p, false, patience); err != nil {
			return err
		}
		_, err := c.In(ctx, serialIn, answer[:], patience)
		return err
	}
	err := ask(cmdSlotStatus, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	if err == nil {
		err = ask(cmdEscape, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0x01, 0x10, 0x20)
		if err == nil {
			select {
			case <-time.After(settling):
			case <-ctx.Done():
			}
		}
	}
	if ctx.Err() != nil || errors.Is(err, reader.ErrGone) {
		return errors.Join(err, ctx.Err())
	}
	return c.port.SetMode(ctx, serialMode)
}

// askFirmware asks for the name of the firmware.
func (s *slot) askFirmware(ctx context.Context, c *serialConn) error {
	b, err := s.Escape(ctx, []byte{c.model.firmware})
	c.firmware = "unknown"
	if failed := (*Error)(nil); errors.As(err, &failed) {
		return nil
	}
	if text := strings.TrimSpace(string(b)); err == nil && text != "" && strings.IndexFunc(text, notPrintable) < 0 {
		c.firmware = text
	}
	return err
}

func notPrintable(r rune) bool { return r < ' ' || r > '~' }
