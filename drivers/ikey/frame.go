package ikey

import (
	"fmt"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/token"
	"github.com/cardfs/cardfs/reader"
)

// Vendor requests, recipient interface; observed in OpenCT 0.6.20.
const (
	typeOut = 0x41
	typeIn  = 0xC1

	reqIdentify = 0x00 // IN: who the token is; the first byte is the length
	reqFetch    = 0x01 // IN: the answer to the latest control or block
	reqControl  = 0x16 // OUT: wValue has the command (low byte) and the length wanted (high byte)
	reqBlock    = 0x17 // OUT: one T=1 block
)

const (
	identifyAsked = 0x40
	blockAsked    = 0xFF // an answer of this length has an INF of 251 bytes

	longestBlock = 3 + 254 + 1
)

// blocks is how T=1 blocks pass. Three surplus bytes were observed behind the answer to an
// S(IFS request).
var blocks = token.Blocks{Longest: longestBlock, Pack: packBlock, Fetch: setupFetch, Wait: longWait}

var (
	setupIdentify = usb.Setup{RequestType: typeIn, Request: reqIdentify}
	setupFetch    = usb.Setup{RequestType: typeIn, Request: reqFetch}
)

func setupControl(cmd uint16) usb.Setup {
	return usb.Setup{RequestType: typeOut, Request: reqControl, Value: cmd}
}

// packBlock returns the transfer that sends a block. wValue and wIndex carry its first
// four bytes, low byte first; the rest is the data stage. The shortest T=1 block has four
// bytes.
func packBlock(block []byte) (usb.Setup, []byte) {
	return usb.Setup{
		RequestType: typeOut,
		Request:     reqBlock,
		Value:       uint16(block[0]) | uint16(block[1])<<8,
		Index:       uint16(block[2]) | uint16(block[3])<<8,
	}, block[4:]
}

// resetAnswer checks the answer to a reset of the card interface: one byte 00, however
// many are asked for.
func resetAnswer(p []byte) ([]byte, error) {
	switch {
	case len(p) != 1:
		return nil, token.LengthError(p, 1)
	case p[0] != 0:
		return nil, fmt.Errorf("not 00: %w", reader.ErrProtocol)
	}
	return nil, nil
}

// ppsAnswer accepts any PPS response that agrees on T=1 (ISO/IEC 7816-3:2006 §9.2). The
// token is known to answer FF 11 11 FF. A card with another rate would answer with another
// PPS1, or none.
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
