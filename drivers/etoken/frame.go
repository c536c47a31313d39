package etoken

import (
	"fmt"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/token"
	"github.com/cardfs/cardfs/reader"
)

// Vendor requests, recipient device, wValue and wIndex 0000; observed in OpenCT 0.6.20.
const (
	typeOut = 0x40
	typeIn  = 0xC0

	reqReset      = 0x01 // the answer is the length of the ATR and the ATR
	reqParameters = 0x02
	reqQuery      = 0x03
	reqBlock      = 0x06 // one T=1 block
	reqQuery64    = 0x08

	answerTo = 0x80 // added to a request: the one that fetches its answer
)

const (
	// ifs is the longest information field of a block, either way.
	ifs          = 32
	longestBlock = 3 + ifs + 1

	atrAsked = 0x23
	// blockAsked is one byte more than the longest block. With a fetch of 36 bytes the LRC
	// was lost, in 2003, and with a longer one the token was upset.
	blockAsked = longestBlock + 1
)

// blocks is how T=1 blocks pass.
var blocks = token.Blocks{Longest: longestBlock, Pack: packBlock, Fetch: setupFetch(reqBlock), Wait: blockWait}

func setupSend(request uint8) usb.Setup {
	return usb.Setup{RequestType: typeOut, Request: request}
}

func setupFetch(request uint8) usb.Setup {
	return usb.Setup{RequestType: typeIn, Request: request + answerTo}
}

func packBlock(block []byte) (usb.Setup, []byte) { return setupSend(reqBlock), block }

// check looks at the answer of a step.
func (s *step) check(p []byte) error {
	switch {
	case len(p) != s.asked:
		return token.LengthError(p, s.asked)
	case s.zero && p[0] != 0:
		return fmt.Errorf("not 00: %w", reader.ErrProtocol)
	}
	return nil
}
