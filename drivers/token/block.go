package token

import (
	"context"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// ShortestBlock is the length of a T=1 block without an information field: NAD, PCB, LEN
// and an LRC (ISO/IEC 7816-3:2006 §11.3).
const ShortestBlock = 3 + 0 + 1

// sendWait bounds the transfer of a block to a token. The value is OpenCT's, for all tokens.
const sendWait = 10 * time.Second

// Blocks is how T=1 blocks pass between the host and a token that takes each by one control
// transfer, and gives its answer by another, which ends when the card has answered.
type Blocks struct {
	Longest int // block to the token
	// Pack returns the transfer that sends a block.
	Pack  func(block []byte) (usb.Setup, []byte)
	Fetch usb.Setup
	// Wait is for the answer where the protocol sets no time.
	Wait time.Duration
}

// Block exchanges the T=1 block x.Out for the card's, which it appends to dst. The answer is
// fetched into buf, where nothing of it stays.
func (w *Wire) Block(ctx context.Context, b *Blocks, x reader.Transfer, buf, dst []byte) ([]byte, error) {
	if len(x.Out) < ShortestBlock || len(x.Out) > b.Longest {
		return dst, w.Fail("send block", fmt.Errorf("a T=1 block for this token has %d to %d bytes: %w",
			ShortestBlock, b.Longest, reader.ErrInvalid))
	}
	setup, data := b.Pack(x.Out)
	if err := w.Send(ctx, "send block", setup, data, sendWait); err != nil {
		return dst, err
	}
	wait := x.Wait
	if wait <= 0 {
		wait = b.Wait
	}
	defer clear(buf)
	p, err := w.Fetch(ctx, "fetch block", b.Fetch, buf, wait)
	if err != nil {
		return dst, err
	}
	block, err := CutBlock(p)
	if err != nil {
		return dst, w.Fail("fetch block", err)
	}
	return append(dst, block...), nil
}

// CutBlock returns the T=1 block at the beginning of an answer, without what follows it.
// The EDC is an LRC.
func CutBlock(p []byte) ([]byte, error) {
	if len(p) < ShortestBlock {
		return nil, fmt.Errorf("%d bytes are no T=1 block: %w", len(p), reader.ErrProtocol)
	}
	n := 3 + int(p[2]) + 1
	if n > len(p) {
		return nil, fmt.Errorf("LEN announces a block of %d bytes, %d came: %w", n, len(p), reader.ErrProtocol)
	}
	return p[:n], nil
}

// CutATR returns the ATR from an answer: a length byte, the ATR, and what follows it.
func CutATR(p []byte) ([]byte, error) {
	if len(p) == 0 {
		return nil, fmt.Errorf("empty: %w", reader.ErrProtocol)
	}
	k := int(p[0])
	switch {
	case k == 0:
		return nil, fmt.Errorf("its length byte announces none: %w: %w", reader.ErrProtocol, reader.ErrMute)
	case k+1 > len(p):
		return nil, fmt.Errorf("%d bytes announced, %d came: %w", k, len(p)-1, reader.ErrProtocol)
	}
	return p[1 : 1+k], nil
}

// LengthError is the error of an answer p that should have another length.
func LengthError(p []byte, want int) error {
	return fmt.Errorf("%d bytes, not %d: %w", len(p), want, reader.ErrProtocol)
}
