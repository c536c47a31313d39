// Package ctbcs is what the drivers of card terminals have in common, whatever the line to the
// terminal: the basic command set CT-BCS, whose commands are like a card's but for the terminal
// itself, and the T=1 connection that carries them.
//
// What is here was taken from what OpenCT 0.6.20 sends and accepts (its drivers kaan, b1 and
// cyberjack), from the summary in libtowitoko's manual page, and from KOBIL's manual of the
// KAAN; OpenSC's ctbcs.c has the control byte and the positions of a PIN command.
//
//	ctbcs.go       commands and answers
//	pin.go         PERFORM VERIFICATION
//	connection.go  T=1, over a Carrier of blocks
package ctbcs

import (
	"fmt"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Nodes on the connection: the receiver above the sender. The host is 2, the terminal 1, its
// first card 0.
const (
	Terminal = 0x12
	Card     = 0x02
)

// Instructions of CLA 20.
const (
	InsStatus = 0x13
	InsEject  = 0x15
	insVerify = 0x18
)

// Tags of data objects.
const (
	TagText    = 0x50
	tagPerform = 0x52
	TagSeconds = 0x80
	TagStatus  = 0x80
)

// Status words.
const (
	Done      = 0x9000 // of a card's reset: a memory card
	Processor = 0x9001
)

// MaxObject is the most that a data object holds.
const MaxObject = 0x7F

// Status asks for the status of a functional unit.
func Status(unit byte) []byte { return []byte{0x20, InsStatus, unit, TagStatus, 0x00} }

// Eject switches a card off. What how means differs.
func Eject(unit, how byte) []byte { return []byte{0x20, InsEject, unit, how} }

// Object appends a data object.
func Object(b []byte, tag byte, value ...byte) []byte {
	return append(append(b, tag, byte(len(value))), value...)
}

// Command makes a command whose data are the objects.
func Command(ins, unit byte, objects []byte) []byte {
	return append([]byte{0x20, ins, unit, 0x00, byte(len(objects))}, objects...)
}

// Split takes an answer of the terminal apart.
func Split(answer []byte) (data []byte, sw uint16, err error) {
	if data, sw, err = iso7816.SplitResponse(answer); err != nil {
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	}
	return data, sw, err
}

// Find returns the value of the first data object with that tag. Lengths have one byte.
func Find(b []byte, tag byte) (value []byte, ok bool) {
	for len(b) >= 2 && b[1] <= MaxObject && len(b) >= 2+int(b[1]) {
		if value = b[2 : 2+int(b[1])]; b[0] == tag {
			return value, true
		}
		b = b[2+len(value):]
	}
	return nil, false
}

// StatusOf takes the status of a slot from the answer to Status. Older terminals send the value
// alone.
func StatusOf(data []byte, sw uint16) (byte, error) {
	if sw != Done {
		return 0, Error(sw)
	}
	if len(data) > 0 && data[0] == TagStatus {
		data, _ = Find(data, TagStatus)
	}
	if len(data) == 0 {
		return 0, fmt.Errorf("an empty status: %w", reader.ErrProtocol)
	}
	return data[0], nil
}

// Bits of a slot's status. Some terminals set CardIn alone.
const (
	CardIn  = 0x01
	CardOff = 0x02
	CardOn  = 0x04
)

// Error is for a status word that is none of those wanted.
func Error(sw uint16) error {
	return fmt.Errorf("the terminal says %04X: %w", sw, reader.ErrProtocol)
}

// SW1 of commands that the terminal or the card did not execute. How a terminal says that
// there is no card is not known for sure.
const (
	notExecuted = 0x64
	trouble     = 0x6F
)

// Doubtful reports whether an answer in a card's name may mean that there is no card.
func Doubtful(answer []byte) bool {
	return len(answer) == 2 && (answer[0] == notExecuted || answer[0] == trouble)
}
