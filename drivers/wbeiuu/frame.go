package wbeiuu

import (
	"math/bits"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Commands, as the kernel's iuu_phoenix.h names them. They follow each other without any
// framing.
const (
	cmdState     = 0x03 // answer: one byte, see cardIn
	cmdLED       = 0x04 // red, green and blue of 16 bits each, low byte first; frequency
	cmdWait      = 0x06 // milliseconds
	cmdUARTOn    = 0x49 // bit rate in two bytes, format
	cmdUARTOff   = 0x4A
	cmdI2C       = 0x4C // chip, register, value
	cmdResetOn   = 0x52 // the card's RST is low
	cmdResetOff  = 0x53
	cmdReceive   = 0x56 // answer: how many characters there are, and then these
	cmdEscape    = 0x5E
	escapeLine   = 0x02 // timer, reload value, format
	escapeSend   = 0x04 // length, characters
	sendOverhead = 3
)

// mostSent is how many characters one command sends. The kernel's buffers have 256 bytes.
const mostSent = 255 - sendOverhead

// The state register: a card in the full-size slot, and one in the slot for SIMs. Both slots
// are on the same contacts.
const (
	cardFull = 0x01
	cardSIM  = 0x04
	cardIn   = cardFull | cardSIM
)

// setupWakeUp makes the device take commands.
var setupWakeUp = usb.Setup{RequestType: 0x03, Request: 0x02, Value: 0x0002}

// The commands of the attachment, in the kernel's order. 9600 bit/s, even parity and one stop
// bit are all that the device was seen to be switched on with.
var (
	ledOn  = []byte{cmdLED, 0x00, 0xF0, 0x00, 0xF0, 0x00, 0x00, 0xFF}
	ledOff = []byte{cmdLED, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xFF}
	uartOn = []byte{cmdUARTOn, 0x02, 0x98, 0x21}
	// clock makes the clock chip give the card clockHz.
	clock = []byte{
		cmdI2C, 0xD2, 0x09, 0x20, cmdI2C, 0xD2, 0x0C, 0x64, cmdI2C, 0xD2, 0x12, 0x00, cmdI2C, 0xD2, 0x13, 0x6B,
		cmdI2C, 0xD2, 0x40, 0xD2, cmdI2C, 0xD2, 0x41, 0x50, cmdI2C, 0xD2, 0x42, 0xA6, cmdI2C, 0xD2, 0x44, 0xFF,
		cmdI2C, 0xD2, 0x45, 0xFE, cmdI2C, 0xD2, 0x46, 0x7F, cmdI2C, 0xD2, 0x47, 0x84,
	}
	uartOff = []byte{cmdUARTOff}
	resetOn = []byte{cmdResetOn}
	reset   = []byte{cmdResetOn, cmdWait, 12, cmdResetOff}
)

// clockHz is the card's clock.
const clockHz = 3_579_000

// line is how the UART sends and receives.
type line struct{ timer, reload, format byte }

// Formats with two stop bits, which are the guard time of 12 etu (ISO/IEC 7816-3:2006 §7.2).
// A card of the inverse convention has odd parity as the UART sees it: all bits are inverted,
// nine of them.
const (
	evenParity = 0x01
	oddParity  = 0x02
)

// timers are the clocks that a bit rate may be divided from, each for rates above its least.
var timers = [...]struct{ hz, above int64 }{{24_000_000, 46_875}, {6_000_000, 11_718}, {2_000_000, 3_906}, {500_000, 977}}

// lineAt returns the line for the F and D of ta1. It reports false if the UART cannot have
// their bit rate to within 2 %: a character's last bit, the tenth, is then off by the 0.2 etu
// that ISO/IEC 7816-3:2006 §7.2 allows. The kernel sets rates from 1200 to 230400 bit/s.
func lineAt(ta1, format byte) (line, bool) {
	f, d, _, ok := iso7816.Params{TA1: ta1}.FD()
	rate := clockHz * int64(d) / int64(f)
	if !ok || rate < 1200 || rate > 230_400 {
		return line{}, false
	}
	for i, t := range timers {
		if rate <= t.above {
			continue
		}
		n := (t.hz + rate) / (2 * rate) // rounded
		off := t.hz - 2*n*rate
		if n < 1 || n > 255 || max(off, -off)*50 > t.hz {
			return line{}, false
		}
		return line{byte(i), byte(256 - n), format}, true
	}
	return line{}, false
}

// defaultLine is that of the ATR.
func defaultLine(format byte) line { return line{2, 0x98, format} }

// command returns the command that sets the line.
func (l line) command() []byte { return []byte{cmdEscape, escapeLine, l.timer, l.reload, l.format} }

// appendSend appends the command that sends characters.
func appendSend(frame, characters []byte, inverse bool) []byte {
	frame = append(frame, cmdEscape, escapeSend, byte(len(characters)))
	frame = append(frame, characters...)
	if inverse {
		convert(frame[len(frame)-len(characters):])
	}
	return frame
}

// convert changes characters between the two conventions. In the inverse one the first bit is
// the most significant, and low is 1 (ISO/IEC 7816-3:2006 §8.1).
func convert(p []byte) {
	for i, b := range p {
		p[i] = ^bits.Reverse8(b)
	}
}
