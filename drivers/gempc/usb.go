package gempc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// usbLine is the framing of the USB models: a length byte before the content, one bulk
// transfer each way. There are no sequence numbers.
type usbLine struct {
	usb.Conn
	out    uint8 // endpoint
	frames usb.Message
	frame  [1 + 255]byte
	// cut: the reader may be waiting for the rest of a command, for which it would take the next.
	cut bool
}

// sendWait is libgempc430's.
const sendWait = 5 * time.Second

// openUSB claims the interface. libgempc430 takes the first two endpoints, whatever their
// addresses: the first is to read from.
func openUSB(ctx context.Context, dev reader.Device) (*usbLine, error) {
	conn, err := usb.Open(ctx, dev, 0)
	if err != nil {
		return nil, err
	}
	l := &usbLine{Conn: conn, frames: usb.Message{Longest: 1 + 255, Length: func(head []byte) (int, error) { return 1 + int(head[0]), nil }}}
	iface, err := usb.Find(conn.Descriptors(), 0)
	for _, e := range iface.Endpoints {
		switch bulk := e.Attributes&3 == 2; {
		case bulk && e.Address&0x80 != 0 && l.frames.Endpoint == 0:
			l.frames.Endpoint, l.frames.Packet = e.Address, max(1, e.MaxPacket)
		case bulk && e.Address&0x80 == 0 && l.out == 0:
			l.out = e.Address
		}
	}
	if err == nil && (l.frames.Endpoint == 0 || l.out == 0) {
		err = fmt.Errorf("interface 0 lacks a bulk endpoint of either direction: %w", reader.ErrProtocol)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

func (l *usbLine) command(ctx context.Context, cmd []byte, wait time.Duration) ([]byte, error) {
	if err := l.send(ctx, cmd); err != nil {
		return nil, err
	}
	frame, err := l.frames.Read(ctx, l.Conn, wait)
	if err == nil && len(frame) < 2 {
		err = fmt.Errorf("no status byte: %w", reader.ErrProtocol)
	}
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	return frame[1:], nil
}

func (l *usbLine) send(ctx context.Context, cmd []byte) error {
	if len(cmd) > 255 {
		return fmt.Errorf("send: a command of %d bytes; 255 are the most: %w", len(cmd), reader.ErrInvalid)
	}
	frame := append(append(l.frame[:0], byte(len(cmd))), cmd...)
	n, err := l.Out(ctx, l.out, frame, false, sendWait)
	clear(frame)
	if err == nil && n != len(frame) {
		err = fmt.Errorf("the reader took only a part: %w", reader.ErrProtocol)
	}
	if err != nil {
		l.cut = true
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// resync asks for the version, whose answer looks like no other, and skips the answers before
// it: those to commands whose sender no longer waited. If it does not come, or if a command
// was not sent as a whole, the reader is reset.
func (l *usbLine) resync(ctx context.Context) ([]byte, error) {
	if !l.cut {
		version, err := l.settle(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, reader.ErrGone) {
			return version, err
		}
	}
	if err := l.Reset(ctx); err != nil {
		return nil, fmt.Errorf("reset: %w", err)
	}
	l.cut = false
	if err := l.frames.Drain(ctx, l.Conn); err != nil {
		return nil, fmt.Errorf("after a reset: %w", err)
	}
	return l.settle(ctx)
}

// settle asks for the version until the answer is one.
func (l *usbLine) settle(ctx context.Context) ([]byte, error) {
	if err := l.send(ctx, cmdVersion); err != nil {
		return nil, err
	}
	frame, err := l.frames.Await(ctx, l.Conn, shortWait, func(p []byte) bool { return isVersion(p[1:]) })
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	return frame[1:], nil
}
