package eutron

import (
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// Vendor requests, recipient endpoint; observed in OpenCT 0.6.20. The first drivers used
// the recipient interface for most of them, with the same token.
const (
	typeOut = 0x42
	typeIn  = 0xC2

	reqWrite = 0x01 // OUT: characters for the card
	reqRead  = 0x02 // IN: the characters that have arrived; none is a data stage of 0 bytes
	reqReset = 0x09 // OUT: reset the card, whose ATR can then be read
	reqSpeed = 0x65 // OUT: wValue is the rate
	reqA0    = 0xA0 // OUT: the meaning of A0 to A3 is unknown
	reqA1    = 0xA1
	reqA2    = 0xA2
	reqA3    = 0xA3
)

// defaultSpeed is what OpenCT's driver sends with a card at the rate 372/1. An earlier
// driver sent 0098 after a PPS that asked for TA1 = 98.
const defaultSpeed = 0x0001

var (
	setupWrite = usb.Setup{RequestType: typeOut, Request: reqWrite}
	setupRead  = usb.Setup{RequestType: typeIn, Request: reqRead}
)

// setupCommand has no data stage.
func setupCommand(request uint8, value uint16) usb.Setup {
	return usb.Setup{RequestType: typeOut, Request: request, Value: value}
}

// The order of the requests before the reset, and after a PPS.
var (
	beforeReset = [...]usb.Setup{
		setupCommand(reqA3, 0), setupCommand(reqA1, 0), setupCommand(reqA2, 0), setupCommand(reqA0, 0)}
	afterPPS = [...]usb.Setup{
		setupCommand(reqSpeed, defaultSpeed), setupCommand(reqA1, 0), setupCommand(reqA0, 0)}
)

// reads is how one kind of answer is read.
type reads struct {
	room int           // wLength, less the bytes of the answer that came before
	wait time.Duration // time-out of a transfer; 0: what is left of the card's time
}

var (
	drainReads = reads{room: 164, wait: shortWait}
	atrReads   = reads{room: 64, wait: shortWait}
	ppsReads   = reads{room: 7, wait: shortWait}
	cardReads  = reads{room: 499}
)

// ppss begins a PPS, and no block or header (ISO/IEC 7816-3:2006 §9.1).
const ppss = 0xFF

// answerReads returns how the answer to a message is read.
func answerReads(out []byte) reads {
	if out[0] == ppss {
		return ppsReads
	}
	return cardReads
}
