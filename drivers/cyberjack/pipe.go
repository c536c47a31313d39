package cyberjack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader"
)

// pipe carries blocks in bulk transfers, one each. What the reader says beside T=1 it answers
// by itself. The notices on the interrupt endpoint say nothing that the blocks do not, and
// OpenCT does without them.
type pipe struct {
	usb.Conn
	out    uint8
	frames usb.Message
	tx     [headSize + mostBlock]byte

	pause time.Duration // before the next answer is read
	rest  time.Time     // until which nothing is sent
	stuck bool          // the reader takes nothing, until it is reset
	moved bool          // the reader told of a card that came or went
	nad   byte          // of the last S(WTX request)
	bare  bool          // it did not say how much
}

var _ ctbcs.Carrier = (*pipe)(nil)

// sendWait is OpenCT's.
const sendWait = 10 * time.Second

func openPipe(ctx context.Context, dev reader.Device) (*pipe, error) {
	conn, err := usb.Open(ctx, dev, 0)
	if err != nil {
		return nil, err
	}
	p := &pipe{Conn: conn, frames: usb.Message{Longest: headSize + mostBlock, Length: frameLength}}
	iface, err := usb.Find(conn.Descriptors(), 0)
	for _, e := range iface.Endpoints {
		switch bulk := e.Attributes&3 == 2; {
		case bulk && e.Address&0x80 != 0 && p.frames.Endpoint == 0:
			p.frames.Endpoint, p.frames.Packet = e.Address, max(1, e.MaxPacket)
		case bulk && e.Address&0x80 == 0 && p.out == 0:
			p.out = e.Address
		}
	}
	if err == nil && (p.frames.Endpoint == 0 || p.out == 0) {
		err = fmt.Errorf("interface 0 lacks a bulk endpoint of either direction: %w", reader.ErrProtocol)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	p.frames.Least = headSize
	return p, nil
}

// Exchange is ctbcs.Carrier. To S(RESYNCH) nothing but its answer counts: what comes before is
// of a command that was given up.
func (p *pipe) Exchange(ctx context.Context, send []byte, _ int, wait time.Duration) ([]byte, error) {
	if !p.rest.IsZero() {
		d := time.Until(p.rest)
		p.rest = time.Time{}
		if err := sleep(ctx, p, d); err != nil {
			return nil, err
		}
	}
	if err := p.send(ctx, send); err != nil {
		return nil, err
	}
	if p.pause > 0 {
		d := p.pause
		p.pause = 0
		if err := sleep(ctx, p, d); err != nil {
			return nil, err
		}
	}
	sent := send[atPCB]
	for end := time.Now().Add(wait); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil, usb.ErrTimeout
		}
		frame, err := p.frames.Read(ctx, p, left)
		if err != nil {
			return nil, p.failed(ctx, p.frames.Endpoint, err)
		}
		block := frame[headSize:]
		if !whole(block) {
			return block, nil // T=1 asks for it again
		}
		answer, ours := reply(block[atPCB])
		switch pcb := block[atPCB]; {
		case ours:
			p.moved = p.moved || answer == cardNoted
			if answer != 0 {
				if err := p.say(ctx, answer); err != nil {
					return nil, err
				}
			}
		case (sent == resync) != (pcb == resynced):
		case pcb == timeRequest:
			return p.timeAsked(block, send[atNAD]), nil
		default:
			return block, nil
		}
	}
}

// timeAsked makes S(WTX request) one that T=1 has: from the node that is asked, and for one
// unit where it does not say how much. The maker's library takes it for that.
func (p *pipe) timeAsked(block []byte, nad byte) []byte {
	p.nad, p.bare = swap(block[atNAD]), block[atLEN] == 0
	if p.bare {
		return appendBlock(block[:0], swap(nad), timeRequest, 1)
	}
	sum := len(block) - 1
	block[sum] ^= block[atNAD] ^ swap(nad)
	block[atNAD] = swap(nad)
	return block
}

func swap(nad byte) byte { return nad<<4 | nad>>4 }

// say sends the reader an S-block of its own kind.
func (p *pipe) say(ctx context.Context, pcb byte) error {
	var b [prologue + 1]byte
	return p.write(ctx, appendFrame(p.tx[:0], appendBlock(b[:0], control, pcb)))
}

// send sends a block of T=1. S(WTX response) goes to the node that asked, with as much as it
// asked for.
func (p *pipe) send(ctx context.Context, block []byte) error {
	frame := p.tx[:0]
	switch {
	case len(block) > mostBlock:
		return fmt.Errorf("send: %d bytes; %d are the most: %w", len(block), mostBlock, reader.ErrInvalid)
	case block[atPCB] == timeGiven && p.bare:
		var b [prologue + 1]byte
		frame = appendFrame(frame, appendBlock(b[:0], p.nad, timeGiven))
	case block[atPCB] == timeGiven:
		frame = appendFrame(frame, block)
		frame[headSize+atNAD] = p.nad
		frame[len(frame)-1] ^= block[atNAD] ^ p.nad
	default:
		frame = appendFrame(frame, block)
	}
	return p.write(ctx, frame)
}

func (p *pipe) write(ctx context.Context, frame []byte) error {
	n, err := p.Out(ctx, p.out, frame, false, sendWait)
	if err == nil && n != len(frame) {
		err = fmt.Errorf("the reader took only a part: %w", reader.ErrProtocol)
	}
	if errors.Is(err, usb.ErrTimeout) { // nothing else will be taken
		p.stuck = true
		err = fmt.Errorf("%w: %w", ctbcs.ErrBroken, err)
	}
	if err != nil {
		return fmt.Errorf("send: %w", p.failed(ctx, p.out, err))
	}
	return nil
}

// failed makes the endpoint of a failed transfer work again. After an error of the bus nothing
// is repeated: the reader may have been reset, or have answered already.
func (p *pipe) failed(ctx context.Context, ep uint8, err error) error {
	if errors.Is(err, usb.ErrStall) {
		if halt := p.ClearHalt(ctx, ep); errors.Is(halt, reader.ErrGone) {
			return halt
		}
	}
	if errors.Is(err, reader.ErrTransfer) {
		return fmt.Errorf("%w: %w", ctbcs.ErrBroken, err)
	}
	return err
}

// Flush is ctbcs.Carrier. Nothing has to be dropped: see Exchange.
func (*pipe) Flush() error { return nil }

// Wipe forgets what was sent and received.
func (p *pipe) Wipe() {
	clear(p.tx[:])
	p.frames.Wipe()
}

// sleep waits, unless ctx ends or the reader leaves.
func sleep(ctx context.Context, p *pipe, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.Gone():
		return reader.ErrGone
	}
}
