package towitoko

import (
	"math/bits"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/memcard"
)

// Commands, without their checksums. There is no length in a command, nor in an answer: who
// sends the one knows how long the other is.
var (
	cmdIdentify   = []byte{0x00} // answer: type, version
	cmdStatus     = []byte{0x03} // answer: see cardIn
	cmdActivate   = []byte{0x60, 0x0F}
	cmdDeactivate = []byte{0x61, 0x0F}
	cmdResetHigh  = []byte{0x80, 0x6F, 0x00, 0x05} // no answer but the ATR
	cmdResetLow   = []byte{0xA0, 0x6F, 0x00, 0x05} // RST is active low, as in all cards of today
	cmdResetSync  = []byte{0x70, 0x80, 0x62, 0x0F}
)

// Codes in the second byte of a command 6F … 6A 0F.
const (
	ledOff     = 0x00
	ledRed     = 0x01
	evenParity = 0x40
	oddParity  = 0x80
)

func cmdSet(code byte) []byte { return []byte{0x6F, code, 0x6A, 0x0F} }

// Bits of the status.
const (
	cardIn      = 0x40
	cardChanged = 0x80 // since the status before
	// notAcknowledged: an I2C chip did not hear its address (libtowitoko).
	notAcknowledged = 0x10
)

// Checksums of commands and of answers begin with these. The checksum of an empty answer is
// the acknowledge.
const (
	commandStart = 0x00
	answerStart  = 0x01
)

// checksum goes on with c over p.
func checksum(c byte, p []byte) byte {
	for _, b := range p {
		c = bits.RotateLeft8(c^b, 1) ^ 0x01
	}
	return c
}

// countedBaud is the speed from which on a command begins with its length, the checksum not
// counted in, but the length in the checksum (libtowitoko 2.0.7).
const countedBaud = 115200

// appendCommand appends cmd as it is sent at that speed.
func appendCommand(dst []byte, baud int, cmd ...byte) []byte {
	start := len(dst)
	if baud >= countedBaud {
		dst = append(dst, byte(len(cmd)))
	}
	dst = append(dst, cmd...)
	return append(dst, checksum(commandStart, dst[start:]))
}

// checked returns the data of an answer; ok is false if its checksum is wrong.
func checked(answer []byte) (data []byte, ok bool) {
	n := len(answer) - 1
	return answer[:n], checksum(answerStart, answer[:n]) == answer[n]
}

const (
	// mostSent is how many characters for the card one header announces.
	mostSent = 255
	// turnByte turns the line around, above slowBaud, when all has been sent to the card; it
	// also follows the header, after another one (libtowitoko 2.0.7).
	turnByte = 0xF8
	slowBaud = 9600
)

// appendSend appends characters for the card, mostSent or fewer, in the convention of the card.
func appendSend(dst []byte, baud int, characters []byte, inverse bool) []byte {
	dst = appendCommand(dst, baud, 0x6F, byte(len(characters)), 0x05)
	if baud > slowBaud {
		dst = append(dst, 0xFE, turnByte)
	}
	dst = append(dst, characters...)
	if inverse {
		convert(dst[len(dst)-len(characters):])
	}
	return dst
}

// sendOverhead is the most that is sent with characters.
const sendOverhead = 1 + 3 + 1 + 2 + 1

// convert changes characters between the two conventions. In the inverse one the first bit is
// the most significant, and low is 1 (ISO/IEC 7816-3:2006 §8.1).
func convert(p []byte) {
	for i, b := range p {
		p[i] = ^bits.Reverse8(b)
	}
}

// speeds of the line, which are those of the card too, with their codes.
var speeds = []struct {
	baud   int
	s1, s2 byte
}{
	{1200, 0x60, 0x07}, {2400, 0x2E, 0x03}, {4800, 0x17, 0x05}, {6975, 0x0F, 0x01}, {slowBaud, 0x0B, 0x02}, {14400, 0x07, 0x01},
	{19200, 0x05, 0x02}, {28800, 0x03, 0x00}, {38400, 0x02, 0x00}, {57600, 0x01, 0x00}, {countedBaud, 0x80, 0x00},
}

// cmdSpeed changes the speed. The third byte is libtowitoko's, which uses the command; OpenCT
// has 00 in its place, and never sends it.
func cmdSpeed(baud int) []byte {
	for _, s := range speeds {
		if s.baud == baud {
			return []byte{0x6E, s.s1, s.s1 ^ 0x5D, s.s2, 0x08}
		}
	}
	return nil
}

// clockHz is the card's clock, as libtowitoko has it: 372 clocks an etu at 9600 bit/s.
const clockHz = 372 * slowBaud

// baudOf returns the speed for the F and D of ta1. It reports false if no speed of the reader
// is it to within 2 %: a character's last bit, the tenth, is then off by the 0.2 etu that
// ISO/IEC 7816-3:2006 §7.2 allows. libtowitoko takes the next faster one.
func baudOf(ta1 byte) (int, bool) {
	f, d, _, ok := iso7816.Params{TA1: ta1}.FD()
	rate := clockHz * d / f
	for _, s := range speeds {
		if off := s.baud - rate; ok && max(off, -off)*50 <= rate {
			return s.baud, true
		}
	}
	return 0, false
}

// Memory cards. The sequences drive the contacts; what their bytes mean was never published.
// Where a chip's own command stands in them shows from comparing them.

// mostRead and mostWritten are what one command reads and writes. It could write 15 bytes, but
// OpenCT ends that as others are ended, and libtowitoko does not.
const (
	mostRead    = 15
	mostWritten = 14
)

// appendReadAddress appends the command after which cmdRead reads what the chip answers to c.
func appendReadAddress(dst []byte, c memcard.Command) []byte {
	var chip [3]byte
	x := c.Append(chip[:0])
	switch {
	case c.Bus == reader.TwoWire:
		return append(dst, 0x70, 0x64, 0x42, x[0], x[1], 0x00, 0x65, 0x0F)
	case c.Bus == reader.ThreeWire:
		return append(dst, 0x70, 0xA0, 0x42, x[0], x[1], 0x00, 0x80, 0x50, 0x0F)
	case c.Long:
		return append(dst, 0x7C, 0x64, 0x42, x[0], x[1], x[2], 0x64, 0x40, x[0]|1, 0x0F)
	}
	return append(dst, 0x7C, 0x64, 0x41, x[0], x[1], 0x64, 0x40, x[0]|1, 0x0F)
}

// cmdStop comes before an I2C chip's write address, after a read address 0. Its answer is one
// byte, of which nothing is known.
var cmdStop = []byte{0x7E, 0x10}

// appendWriteAddress appends the command after which appendWrite's write.
func appendWriteAddress(dst []byte, c memcard.Command) []byte {
	var chip [3]byte
	x := c.Append(chip[:0])
	switch {
	case c.Bus == reader.TwoWire:
		return append(dst, 0x72, 0x6E, x[1], x[0], 0x03, 0x0F)
	case c.Bus == reader.ThreeWire:
		return append(dst, 0x73, 0x67, 0x6E, x[1], x[0], 0x02, 0x0F)
	case c.Long:
		return append(dst, 0x7F, 0x66, 0x6E, x[2], x[1], x[0], 0x0F)
	}
	return append(dst, 0x7E, 0x66, 0x6E, x[1], x[0], 0x00, 0x0F) // 00: no pages
}

func cmdRead(n int) byte { return 0x10 | byte(n-1) }

func appendWrite(dst, p []byte) []byte {
	dst = append(dst, 0x40|byte(len(p)-1))
	return append(append(dst, p...), 0x0F)
}
