package cyberjack

import (
	"fmt"

	"github.com/cardfs/cardfs/reader"
)

// A frame on the bulk pipes is 00, the length of a T=1 block, low byte first, and the block:
// NAD PCB LEN, LEN bytes, their sum. OpenCT and the kernel's module cyberjack agree about it.
const (
	headSize = 3
	// mostBlock has 255 bytes: the maker's old CT-API library sends and takes blocks that long,
	// without a word of it to the reader.
	mostBlock = 4 + 255
)

// PCB and LEN of a block.
const (
	atNAD = iota
	atPCB
	atLEN
	prologue
)

// control is the node that is the reader's own end of the connection, beside the terminal and
// its card.
const control = 0xE2

// PCB of S-blocks. Those of a reader that T=1 does not have are for keys and for the card, and
// were observed in OpenCT 0.6.20 and in the maker's library, who do not agree on which key is
// which.
const (
	ifsRequest  = 0xC1
	resync      = 0xC0
	resynced    = 0xE0
	announced   = 0xE1
	timeRequest = 0xC3
	timeGiven   = 0xE3

	keyDigit  = 0xC4
	keyOK     = 0xF4
	keyNoted  = 0xE4
	cardMoved = 0xE5
	cardLeft  = 0xF5
	cardNoted = 0xD5
	nothing   = 0xE6
	nothing2  = 0xF6
)

// frameLength is how long the frame is that begins with head.
func frameLength(head []byte) (int, error) {
	if len(head) < headSize {
		return 0, fmt.Errorf("a frame of %d bytes: %w", len(head), reader.ErrProtocol)
	}
	n := int(head[1]) | int(head[2])<<8
	if head[0] != 0 || n < prologue+1 || n > mostBlock {
		return 0, fmt.Errorf("no frame: %d bytes announced: %w", n, reader.ErrProtocol)
	}
	return headSize + n, nil
}

// appendFrame makes a frame of a block.
func appendFrame(b, block []byte) []byte {
	return append(append(b, 0, byte(len(block)), byte(len(block)>>8)), block...)
}

// appendBlock makes an S-block.
func appendBlock(b []byte, nad, pcb byte, inf ...byte) []byte {
	sum := nad ^ pcb ^ byte(len(inf))
	for _, c := range inf {
		sum ^= c
	}
	return append(append(append(b, nad, pcb, byte(len(inf))), inf...), sum)
}

// whole reports whether a block is as long as it says, with the right sum.
func whole(block []byte) bool {
	if len(block) <= prologue || len(block) != prologue+int(block[atLEN])+1 {
		return false
	}
	sum := byte(0)
	for _, c := range block {
		sum ^= c
	}
	return sum == 0
}

// reply is the PCB with which the host answers an S-block beside T=1; 0: with nothing. ok is
// false for a block of T=1.
func reply(pcb byte) (answer byte, ok bool) {
	switch pcb {
	case keyDigit, keyOK:
		return keyNoted, true
	case cardMoved, cardLeft:
		return cardNoted, true
	case nothing, nothing2, announced:
		return 0, true
	}
	return 0, false
}
