package acs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// hexLine is the framing of the ACR30.
type hexLine struct {
	carrier
	frame [mostCommand]byte
}

// carrier carries frames: USB or a serial port.
type carrier interface {
	write(ctx context.Context, frame []byte) error
	// read returns the next frame to the host. Of one that is longer than it should be, or
	// has another form, it may return an error.
	read(ctx context.Context, wait time.Duration) ([]byte, error)
	drain(ctx context.Context) error
	reset(ctx context.Context) error
	wipe()
	Gone() <-chan struct{}
	Close() error
}

var _ line = (*hexLine)(nil)

func (l *hexLine) send(ctx context.Context, ins byte, data []byte) error {
	if len(data) > longest30 {
		return fmt.Errorf("send: %d bytes; %d are the most: %w", len(data), longest30, reader.ErrInvalid)
	}
	frame := appendFrame(l.frame[:0], ins, data)
	err := l.write(ctx, frame)
	clear(frame)
	if err != nil {
		return inDoubt{fmt.Errorf("send: %w", err)}
	}
	return nil
}

// receive is line. Messages are passed over: a reader that was restarted tells of cards until
// it is told not to.
func (l *hexLine) receive(ctx context.Context, wait time.Duration) ([]byte, error) {
	for until := time.Now().Add(wait); ; {
		left := time.Until(until)
		if left <= 0 {
			return nil, inDoubt{fmt.Errorf("answer: nothing but messages: %w", reader.ErrTimeout)}
		}
		p, err := l.read(ctx, left)
		if err != nil {
			return nil, inDoubt{fmt.Errorf("answer: %w", err)}
		}
		sw1, sw2, data, err := parseAnswer(p)
		switch {
		case err != nil:
			return nil, inDoubt{fmt.Errorf("answer: %w", err)}
		case sw1 == messageSW1:
			continue
		}
		return data, swError(sw1, sw2)
	}
}

// usbCarrier has commands in control transfers, and answers on an interrupt endpoint, in
// packets of 8 of which the last is filled up or not.
type usbCarrier struct {
	usb.Conn
	in usb.Message
}

// openCarrier claims interface 0 and finds its endpoint.
func openCarrier(ctx context.Context, dev reader.Device) (*usbCarrier, error) {
	conn, err := usb.Open(ctx, dev, 0)
	if err != nil {
		return nil, err
	}
	c := &usbCarrier{Conn: conn, in: usb.Message{Least: leastAnswer, Longest: mostAnswer, Length: answerLength, Padded: true}}
	iface, err := usb.Find(conn.Descriptors(), 0)
	for _, e := range iface.Endpoints {
		if e.Attributes&3 == 3 && e.Address&0x80 != 0 && c.in.Endpoint == 0 {
			c.in.Endpoint, c.in.Packet = e.Address, max(1, e.MaxPacket)
		}
	}
	if err == nil && c.in.Endpoint == 0 {
		err = fmt.Errorf("interface 0 lacks an interrupt endpoint: %w", reader.ErrProtocol)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *usbCarrier) write(ctx context.Context, frame []byte) error {
	n, err := c.Control(ctx, usb.Setup{RequestType: 0x40}, frame, sendWait)
	if err == nil && n != len(frame) {
		err = fmt.Errorf("the reader took only a part: %w", reader.ErrProtocol)
	}
	return err
}

func (c *usbCarrier) read(ctx context.Context, wait time.Duration) ([]byte, error) {
	return c.in.Read(ctx, c.Conn, wait)
}

func (c *usbCarrier) drain(ctx context.Context) error { return c.in.Drain(ctx, c.Conn) }
func (c *usbCarrier) reset(ctx context.Context) error { return c.Conn.Reset(ctx) }
func (c *usbCarrier) wipe()                           { c.in.Wipe() }

// mode30 is that of the serial ACR30 when it has got power.
var mode30 = serial.Mode{Baud: 9600, Frame: serial.Frame8N1}

const (
	// charWait is how long the reader may pause within a frame; an adapter for USB may be in the
	// line.
	charWait = 500 * time.Millisecond
	// hushWait is how long nothing comes before the line is quiet.
	hushWait = 250 * time.Millisecond
	// noiseTime is how long it may take to become so.
	noiseTime = 3 * time.Second
	// wakeTime is what OpenCT gives the reader after the port was opened, which switches DTR
	// and RTS on.
	wakeTime = time.Second
	// serialWait is for an answer that does not wait for the card.
	serialWait = 2 * time.Second
)

// serialCarrier has the frames as they are.
type serialCarrier struct {
	serial.Port
	buf      [mostAnswer]byte
	next     [64]byte // what came behind the last frame
	from, to int      // in next
}

func openSerialCarrier(ctx context.Context, dev reader.Device) (*serialCarrier, error) {
	port, err := serial.Open(ctx, dev, mode30)
	if err != nil {
		return nil, err
	}
	c := &serialCarrier{Port: port}
	if err := c.wake(ctx); err != nil {
		_ = port.Close()
		return nil, err
	}
	return c, nil
}

// wake lets wakeTime pass, unless the port leaves.
func (c *serialCarrier) wake(ctx context.Context) error {
	t := time.NewTimer(wakeTime)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.Gone():
		return reader.ErrGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write sends a frame. What has come before is no answer to it.
func (c *serialCarrier) write(ctx context.Context, frame []byte) error {
	c.from, c.to = 0, 0
	if err := c.Flush(); err != nil {
		return err
	}
	return c.Port.Write(ctx, frame)
}

// read reads a frame, from the last STX on: what is before it is noise. The time for the
// longest command to leave is on top of wait.
func (c *serialCarrier) read(ctx context.Context, wait time.Duration) ([]byte, error) {
	until := time.Now().Add(wait + c.Mode().Time(mostCommand))
	for n := 0; ; {
		left := charWait
		if n == 0 {
			left = max(time.Until(until), 1)
		}
		char, err := c.char(ctx, left)
		switch {
		case err != nil && n > 0 && errors.Is(err, serial.ErrTimeout):
			return nil, fmt.Errorf("it ends after %d characters: %w", n, err)
		case err != nil:
			return nil, err
		case char == stx:
			n = 0
		case n == 0:
			continue
		case n == len(c.buf):
			return nil, fmt.Errorf("it has more than %d characters: %w", n, reader.ErrProtocol)
		}
		c.buf[n] = char
		n++
		if char == etx {
			return c.buf[:n], nil
		}
	}
}

func (c *serialCarrier) char(ctx context.Context, wait time.Duration) (byte, error) {
	if c.from == c.to {
		n, err := c.Port.Read(ctx, c.next[:], wait)
		if c.from, c.to = 0, n; err != nil {
			c.to = 0
			return 0, err
		}
	}
	c.from++
	return c.next[c.from-1], nil
}

// drain reads until the line is quiet.
func (c *serialCarrier) drain(ctx context.Context) error {
	c.from, c.to = 0, 0
	for until := time.Now().Add(noiseTime); time.Now().Before(until); {
		_, err := c.Port.Read(ctx, c.next[:], hushWait)
		if errors.Is(err, serial.ErrTimeout) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("the line is never quiet: %w", reader.ErrProtocol)
}

// reset does nothing: no line restarts the reader.
func (c *serialCarrier) reset(context.Context) error { return nil }

func (c *serialCarrier) wipe() {
	clear(c.buf[:])
	clear(c.next[:])
}
