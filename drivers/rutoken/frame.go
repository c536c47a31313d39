package rutoken

import "github.com/cardfs/cardfs/drivers/bus/usb"

// Vendor requests, recipient interface, wValue 0, wIndex the interface's number. Numbers
// and status values are those of ICCD version A (USB Device Class: Smart Card, ICCD,
// revision 1.0, 2005), which has them as class requests.
const (
	typeOut = 0x41
	typeIn  = 0xC1

	reqPowerOn  = 0x62 // IN: the ATR
	reqPowerOff = 0x63 // OUT
	reqSend     = 0x65 // OUT: a T=0 header, or the data of a command
	reqReceive  = 0x6F // IN: the data of an answer, or SW1 SW2
	reqStatus   = 0xA0 // IN: one byte
)

// The status byte. All of it counts, but for the low nibble of a busy card.
const (
	statusData = 0x10 // data are due, in whichever direction; or an ATR
	statusSW   = 0x20 // SW1 SW2 can be fetched
	statusMute = 0x80 // the card does not answer
)

const (
	headerLen  = 5
	mostData   = 255  // of a command
	mostAnswer = 256  // bytes of data in one answer
	atrAsked   = 0x13 // all known ATRs have 19 bytes
)

var (
	setupPowerOff = usb.Setup{RequestType: typeOut, Request: reqPowerOff}
	setupPowerOn  = usb.Setup{RequestType: typeIn, Request: reqPowerOn}
	setupSend     = usb.Setup{RequestType: typeOut, Request: reqSend}
	setupReceive  = usb.Setup{RequestType: typeIn, Request: reqReceive}
	setupStatus   = usb.Setup{RequestType: typeIn, Request: reqStatus}
)

// busy reports whether the status says that the card is at work.
func busy(status byte) bool { return status&0xF0 == 0x40 }

// advances reports whether a busy card worked on between two reads of its status: the low
// nibble counts, modulo 16.
func advances(before, after byte) bool { return (after-before)&0x0F == 1 }

// isTPDU reports whether b is a T=0 TPDU: a header, and no data or as many as P3 says.
func isTPDU(b []byte) bool {
	return len(b) == headerLen || len(b) > headerLen && len(b)-headerLen == int(b[4])
}

// expected is how many bytes of an answer the header of a TPDU asks for.
func expected(header []byte) int {
	if header[4] == 0 {
		return mostAnswer
	}
	return int(header[4])
}
