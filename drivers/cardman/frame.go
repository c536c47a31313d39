package cardman

import (
	"fmt"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const (
	// answers is the interrupt endpoint. An answer is a stream of its packets, without a length, a number or a sum.
	answers = 0x81
	packet  = 8
)

// Vendor requests to the reader, with the endpoint as their recipient, as OpenCT sends them.
var (
	setupLine   = usb.Setup{RequestType: 0x42, Request: 0x30, Value: line9600 << 8, Index: 0x0002} // no answer
	setupStatus = usb.Setup{RequestType: 0x42, Request: 0x20}                                      // one byte
	setupReset  = usb.Setup{RequestType: 0x42, Request: 0x10, Value: 0x0001}                       // the ATR
	setupOff    = usb.Setup{RequestType: 0x42, Request: 0x11}                                      // no answer
	setupPPS    = usb.Setup{RequestType: 0x42, Request: 0x01}                                      // two bytes
	setupChars  = usb.Setup{RequestType: 0x42, Request: 0x02}                                      // unproven
)

const (
	// line9600 is 9600 bit/s with a clock of 3.72 MHz, and even parity. The 2 in wIndex perhaps stands for two stop
	// bits.
	line9600 = 0x01
	clockHz  = 3_720_000
	// defaultTA1 is the one rate that the driver uses, and asks the card for.
	defaultTA1 = iso7816.DefaultTA1
	// ppsReady, as the first of two bytes, says that the reader has the card's answer to a PPS. OpenCT does not fetch it.
	ppsReady  = 0x04
	ppsAnswer = 2
)

// ppsT0 asks the card for T=0 and the rate that it has anyway (ISO/IEC 7816-3:2006 §9.2).
var ppsT0 = []byte{0xFF, 0x10, defaultTA1, 0xFF ^ 0x10 ^ defaultTA1}

// The status. OpenCT takes a card for present if one of the two bits of cardIn is set. By its header file, which it
// does not follow, statePower would say the whole: 00 no card, 40 a card without power, C0 one with power.
const (
	cardIn       = 0x42
	statePower   = 0xC0
	stateNoPower = 0x40
)

// parseStatus reads a status: whether there is a card, and whether the reader says that it has no power.
func parseStatus(b byte) (in, off bool) { return b&cardIn != 0, b&statePower == stateNoPower }

// atrLength is how long the ATR is that begins with p, as far as p tells. Nobody knows what the reader makes of an
// inverse convention.
func atrLength(p []byte) (int, error) {
	if len(p) > 0 && p[0] == 0x03 {
		return 0, fmt.Errorf("a card of the inverse convention; no CardMan is known to have taken one: %w", reader.ErrUnsupported)
	}
	if len(p) > 0 && p[0] != 0x3B && p[0] != 0x3F {
		return 0, fmt.Errorf("an ATR that begins with %02X: %w", p[0], reader.ErrProtocol)
	}
	n := iso7816.ATRLength(p)
	if n > iso7816.MaxATR {
		return 0, fmt.Errorf("an ATR that announces %d bytes or more, %d are the most: %w", n, iso7816.MaxATR, reader.ErrProtocol)
	}
	return n, nil
}

// negotiates reports whether a card takes a PPS for T=0: it has T=0, and is not in specific mode.
func negotiates(atr []byte) bool {
	a, err := iso7816.ParseATR(atr)
	if err != nil {
		return false
	}
	if _, _, specific := a.Specific(); specific {
		return false
	}
	for _, t := range a.Protocols() {
		if t == 0 {
			return true
		}
	}
	return false
}
