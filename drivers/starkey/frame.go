package starkey

import (
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/token"
)

const (
	atrEndpoint = 0x81 // interrupt IN
	atrAsked    = 32   // OpenCT's buffer; the size of a packet is unknown

	// ifs is the longest information field of a block, either way.
	ifs          = 32
	longestBlock = 3 + ifs + 1
	// blockAsked is one byte more than the longest block.
	blockAsked = longestBlock + 1
)

// Vendor requests, recipient device, wValue and wIndex 0000. OpenCT's, and the eToken's.
var (
	setupSend  = usb.Setup{RequestType: 0x40, Request: 0x06}
	setupFetch = usb.Setup{RequestType: 0xC0, Request: 0x86}
)

// blocks is how T=1 blocks may pass.
var blocks = token.Blocks{Longest: longestBlock, Pack: packBlock, Fetch: setupFetch, Wait: blockWait}

func packBlock(block []byte) (usb.Setup, []byte) { return setupSend, block }
