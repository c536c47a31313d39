package usb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Message reads messages that say at their beginning how long they are, from a bulk or
// interrupt IN endpoint. It reads the first packet, and then the rest in one transfer. So it never waits
// for a packet that does not come, whether or not the device ends a message that fills its
// last packet with an empty one; such an empty packet is skipped before the next message.
type Message struct {
	Endpoint uint8
	Packet   int // wMaxPacketSize
	// Least is how much of a message Length needs, if that may be more than a packet: every
	// message is at least so long, and as many packets are read first.
	Least int
	// Length returns how long the message is that begins with head.
	Length func(head []byte) (int, error)
	// Longest is the most that Length may return.
	Longest int
	// Padded: the device may fill up the last packet. What is behind the message is cut off.
	Padded bool

	buf []byte
}

// restWait is how long the rest of a message may take once it has begun.
const restWait = 5 * time.Second

// Read reads one message, which is valid until the next call. It may take wait to begin.
func (m *Message) Read(ctx context.Context, conn Conn, wait time.Duration) ([]byte, error) {
	if m.buf == nil {
		m.buf = make([]byte, m.packets(m.Longest))
	}
	n, first := 0, m.packets(max(1, m.Least))
	for tries := 0; n == 0; tries++ {
		if tries == 2 {
			return nil, fmt.Errorf("an empty answer: %w", reader.ErrProtocol)
		}
		var err error
		if n, err = conn.In(ctx, m.Endpoint, m.buf[:first], wait); err != nil {
			return nil, err
		}
	}
	length, err := m.Length(m.buf[:n])
	switch {
	case err != nil:
		return nil, err
	case length > m.Longest:
		return nil, fmt.Errorf("%d bytes announced, %d are the most: %w", length, m.Longest, reader.ErrProtocol)
	}
	if n == first && n < length {
		more, err := conn.In(ctx, m.Endpoint, m.buf[n:n+m.packets(length-n)], restWait)
		if err != nil {
			return nil, err
		}
		n += more
	}
	if n < length || n > length && !m.Padded {
		return nil, fmt.Errorf("%d bytes announced, %d came: %w", length, n, reader.ErrProtocol)
	}
	return m.buf[:length], nil
}

// packets is n, rounded up to whole packets.
func (m *Message) packets(n int) int { return (n + m.Packet - 1) / m.Packet * m.Packet }

// mostLost is the most messages that may be left over from earlier commands.
const mostLost = 8

// Await reads messages until is accepts one: those before it answer commands whose sender no
// longer waits.
func (m *Message) Await(ctx context.Context, conn Conn, wait time.Duration, is func(p []byte) bool) ([]byte, error) {
	for range mostLost {
		p, err := m.Read(ctx, conn, wait)
		if err != nil || is(p) {
			return p, err
		}
	}
	return nil, fmt.Errorf("other answers than the one to the last command: %w", reader.ErrProtocol)
}

// quietWait is how long nothing comes before that counts as silence.
const quietWait = 20 * time.Millisecond

// Drain reads until nothing comes.
func (m *Message) Drain(ctx context.Context, conn Conn) error {
	buf := make([]byte, m.Packet)
	for range mostLost * (m.Longest/m.Packet + 1) {
		_, err := conn.In(ctx, m.Endpoint, buf, quietWait)
		clear(buf)
		if errors.Is(err, reader.ErrTimeout) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("the device sends unasked: %w", reader.ErrProtocol)
}

// Wipe forgets the last message.
func (m *Message) Wipe() { clear(m.buf) }
