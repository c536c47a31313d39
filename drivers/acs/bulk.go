package acs

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// A frame of the ACR38 is 01, the instruction or the status, the length of the data with its
// high byte first, and the data (ACR38 Reference Manual, 6.02, section 6). Answers carry no
// number: see device.resync.
const (
	frameHeader = 0x01
	headLength  = 4
	// longestData is a T=0 TPDU with 255 bytes of data.
	longestData = 5 + 255
)

// bulkLine is the framing on bulk endpoints.
type bulkLine struct {
	usb.Conn
	out   uint8
	intr  uint8 // 0: there is none
	in    usb.Message
	frame [headLength + longestData]byte
}

var _ line = (*bulkLine)(nil)

const sendWait = 5 * time.Second

// openBulk claims interface 0 and finds its endpoints.
func openBulk(ctx context.Context, dev reader.Device) (*bulkLine, error) {
	conn, err := usb.Open(ctx, dev, 0)
	if err != nil {
		return nil, err
	}
	l := &bulkLine{Conn: conn, in: usb.Message{Longest: headLength + longestData, Length: length, Padded: true}}
	iface, err := usb.Find(conn.Descriptors(), 0)
	for _, e := range iface.Endpoints {
		switch kind, in := e.Attributes&3, e.Address&0x80 != 0; {
		case kind == 2 && in && l.in.Endpoint == 0:
			l.in.Endpoint, l.in.Packet = e.Address, max(headLength, e.MaxPacket)
		case kind == 2 && !in && l.out == 0:
			l.out = e.Address
		case kind == 3 && in && l.intr == 0:
			l.intr = e.Address
		}
	}
	if err == nil && (l.in.Endpoint == 0 || l.out == 0) {
		err = fmt.Errorf("interface 0 lacks a bulk endpoint of either direction: %w", reader.ErrProtocol)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

// length is that of the answer that begins with head.
func length(head []byte) (int, error) {
	switch {
	case len(head) < headLength:
		return 0, fmt.Errorf("an answer of %d bytes; %d are the least: %w", len(head), headLength, reader.ErrProtocol)
	case head[0] != frameHeader:
		return 0, fmt.Errorf("an answer that does not begin with 01: %w", reader.ErrProtocol)
	case head[1] != 0: // then length and data mean nothing
		return headLength, nil
	}
	return headLength + int(binary.BigEndian.Uint16(head[2:])), nil
}

// receive is line.
func (l *bulkLine) receive(ctx context.Context, wait time.Duration) ([]byte, error) {
	p, err := l.in.Read(ctx, l.Conn, wait)
	if err != nil {
		return nil, inDoubt{fmt.Errorf("answer: %w", err)}
	}
	if p[1] != 0 {
		return nil, statusError(p[1])
	}
	return p[headLength:], nil
}

func (l *bulkLine) send(ctx context.Context, ins byte, data []byte) error {
	if len(data) > longestData {
		return fmt.Errorf("send: %d bytes; %d are the most: %w", len(data), longestData, reader.ErrInvalid)
	}
	frame := append(l.frame[:0], frameHeader, ins, byte(len(data)>>8), byte(len(data)))
	frame = append(frame, data...)
	n, err := l.Out(ctx, l.out, frame, false, sendWait)
	clear(frame)
	if err == nil && n != len(frame) {
		err = fmt.Errorf("the reader took only a part: %w", reader.ErrProtocol)
	}
	if err != nil {
		return inDoubt{fmt.Errorf("send: %w", err)}
	}
	return nil
}

func (l *bulkLine) drain(ctx context.Context) error { return l.in.Drain(ctx, l.Conn) }
func (l *bulkLine) reset(ctx context.Context) error { return l.Conn.Reset(ctx) }
func (l *bulkLine) wipe()                           { l.in.Wipe() }
