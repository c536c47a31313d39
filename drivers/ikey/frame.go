package ikey

import (
	"fmt"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Vendor requests, recipient interface; observed in OpenCT 0.6.20.
const (
	typeOut = 0x41
	typeIn  = 0xC1

	reqIdentify = 0x00 // IN: who the token is; the first byte is the length
	reqFetch    = 0x01 // IN: the answer to the latest control or block
	reqControl  = 0x16 // OUT: wValue is a command, low byte, and the length wanted, high byte
	reqBlock    = 0x17 // OUT: one T=1 block
)

const (
	identifyAsked = 0x40
	blockAsked    = 0xFF // an answer of this length has an INF of 251 bytes

	shortestBlock = 3 + 0 + 1
	longestBlock  = 3 + 254 + 1
)

var (
	setupIdentify = usb.Setup{RequestType: typeIn, Request: reqIdentify}
	setupFetch    = usb.Setup{RequestType: typeIn, Request: reqFetch}
)

func setupControl(cmd uint16) usb.Setup {
	return usb.Setup{RequestType: typeOut, Request: reqControl, Value: cmd}
}

// packBlock makes the transfer that sends a block: its first four bytes travel
// in wValue low and high and wIndex low and high, the rest is the data stage.
// The block must have four bytes, which is the shortest T=1 block.
func packBlock(block []byte) (usb.Setup, []byte) {
	return usb.Setup{
		RequestType: typeOut,
		Request:     reqBlock,
		Value:       uint16(block[0]) | uint16(block[1])<<8,
		Index:       uint16(block[2]) | uint16(block[3])<<8,
	}, block[4:]
}

// resetAnswer takes the answer to a reset of the card interface: one byte 00, however
// many are asked for.
func resetAnswer(p []byte) ([]byte, error) {
	switch {
	case len(p) != 1:
		return nil, lengthError(p, 1)
	case p[0] != 0:
		return nil, fmt.Errorf("not 00: %w", reader.ErrProtocol)
	}
	return nil, nil
}

// cutATR takes the ATR out of its answer: a length byte, the ATR, padding.
func cutATR(p []byte) ([]byte, error) {
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

// ppsAnswer takes any PPS response that agrees on T=1 (ISO/IEC 7816-3:2006
// §9.2). The token is known to answer FF 11 11 FF; a card of another speed
// would answer with another PPS1, or none.
func ppsAnswer(p []byte) ([]byte, error) {
	bad := func(what string) ([]byte, error) {
		return nil, fmt.Errorf("%d bytes: %s: %w", len(p), what, reader.ErrProtocol)
	}
	if len(p) < 3 || p[0] != 0xFF {
		return bad("not a PPS response")
	}
	if p[1]&0x0F != 1 {
		return bad(fmt.Sprintf("the token chose T=%d, its blocks are T=1", p[1]&0x0F))
	}
	n := 3
	for b := byte(0x10); b <= 0x40; b <<= 1 {
		if p[1]&b != 0 {
			n++
		}
	}
	if len(p) != n || p[1]&0x80 != 0 {
		return bad(fmt.Sprintf("PPS0 announces %d bytes", n))
	}
	var pck byte
	for _, b := range p {
		pck ^= b
	}
	if pck != 0 {
		return bad("wrong PCK")
	}
	return p, nil
}

// cutBlock cuts an answer to its block: three surplus bytes were seen behind
// the answer to an S(IFS request). The EDC is an LRC.
func cutBlock(p []byte) ([]byte, error) {
	if len(p) < 4 {
		return nil, fmt.Errorf("%d bytes are no T=1 block: %w", len(p), reader.ErrProtocol)
	}
	n := 3 + int(p[2]) + 1
	if n > len(p) {
		return nil, fmt.Errorf("LEN announces a block of %d bytes, %d came: %w", n, len(p), reader.ErrProtocol)
	}
	return p[:n], nil
}
