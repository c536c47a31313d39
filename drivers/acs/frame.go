package acs

import (
	"fmt"

	"github.com/cardfs/cardfs/reader"
)

// A frame of the ACR30 is STX, a header of 01, the instruction or SW1 SW2 of the reader, the
// length of the data, the data, the XOR of all before, and ETX. What is between STX and ETX is
// written as two hexadecimal digits a byte (ACR30 Reference Manual, 3.3, section 5). A length of
// FF is followed by the real one in two bytes, the high one first.
const (
	stx = 0x02
	etx = 0x03

	longLength = 0xFF
	// longest30 is the most data: a T=0 TPDU with 255 bytes of data, Lc and Le.
	longest30 = 5 + 255 + 1
	// leastAnswer and mostAnswer are lengths of an answer. The length of every answer is within
	// the first leastLength characters, and every answer has as many or fewer than a packet less.
	leastAnswer = 2 + 2*5
	mostAnswer  = 2 + 2*(7+longest30)
	mostCommand = 2 + 2*(6+longest30)
	lengthAt    = 1 + 2*3 // in an answer

	// messageSW1 marks a message that is no answer: a card was put in or taken out.
	messageSW1 = 0xFF
)

const digits = "0123456789ABCDEF"

// appendFrame appends the frame of an instruction.
func appendFrame(dst []byte, ins byte, data []byte) []byte {
	var xor byte
	put := func(b byte) {
		xor ^= b
		dst = append(dst, digits[b>>4], digits[b&0x0F])
	}
	dst = append(dst, stx)
	put(frameHeader)
	put(ins)
	if n := len(data); n < longLength {
		put(byte(n))
	} else {
		put(longLength)
		put(byte(n >> 8))
		put(byte(n))
	}
	for _, b := range data {
		put(b)
	}
	put(xor)
	return append(dst, etx)
}

// digit is the value of a hexadecimal digit, and -1 for another character.
func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// decode writes the bytes that the digits of src are, an even number, to dst, which may be src.
func decode(dst, src []byte) ([]byte, error) {
	dst = dst[:0]
	for i := 0; i < len(src); i += 2 {
		hi, lo := digit(src[i]), digit(src[i+1])
		if hi < 0 || lo < 0 {
			return nil, fmt.Errorf("a character that is no hexadecimal digit: %w", reader.ErrProtocol)
		}
		dst = append(dst, byte(hi<<4|lo))
	}
	return dst, nil
}

// answerLength is the length of the answer that begins with head, STX and ETX included.
func answerLength(head []byte) (int, error) {
	if len(head) < leastAnswer {
		return 0, fmt.Errorf("an answer of %d characters; %d are the least: %w", len(head), leastAnswer, reader.ErrProtocol)
	}
	if head[0] != stx {
		return 0, fmt.Errorf("an answer that does not begin with STX: %w", reader.ErrProtocol)
	}
	var number [3]byte
	n, err := decode(number[:], head[lengthAt:lengthAt+2])
	switch {
	case err != nil:
		return 0, fmt.Errorf("length: %w", err)
	case n[0] < longLength:
		return leastAnswer + 2*int(n[0]), nil
	case len(head) < lengthAt+6:
		return 0, fmt.Errorf("an answer that ends within its length: %w", reader.ErrProtocol)
	}
	if n, err = decode(number[:], head[lengthAt+2:lengthAt+6]); err != nil {
		return 0, fmt.Errorf("length: %w", err)
	}
	return leastAnswer + 4 + 2*(int(n[0])<<8+int(n[1])), nil
}

// parseAnswer takes an answer apart. The data are in the place of p.
func parseAnswer(p []byte) (sw1, sw2 byte, data []byte, err error) {
	length, err := answerLength(p)
	switch {
	case err != nil:
		return 0, 0, nil, err
	case length != len(p):
		return 0, 0, nil, fmt.Errorf("%d characters announced, %d came: %w", length, len(p), reader.ErrProtocol)
	case p[length-1] != etx:
		return 0, 0, nil, fmt.Errorf("an answer that does not end with ETX: %w", reader.ErrProtocol)
	}
	b, err := decode(p, p[1:length-1])
	if err != nil {
		return 0, 0, nil, err
	}
	var xor byte
	for _, x := range b {
		xor ^= x
	}
	switch {
	case xor != 0:
		return 0, 0, nil, fmt.Errorf("wrong check byte: %w", reader.ErrProtocol)
	case b[0] != frameHeader:
		return 0, 0, nil, fmt.Errorf("an answer that does not begin with 01: %w", reader.ErrProtocol)
	}
	data = b[4 : len(b)-1]
	if b[3] == longLength {
		data = data[2:]
	}
	return b[1], b[2], data, nil
}

// swError is the error of the reader's SW1 SW2; nil: the instruction was done (ACR30 Reference
// Manual, 3.3, status codes). After a reset, SW2 says the protocol; 10 is a synchronous card.
func swError(sw1, sw2 byte) error {
	if sw1 == 0x90 && sw2 != 0x10 {
		return nil
	}
	sw := uint16(sw1)<<8 | uint16(sw2)
	e, ok := map[uint16]struct {
		words string
		is    error
	}{
		0x9010: {"a memory card, for which this driver has no commands", reader.ErrMute},
		0x6001: {"no type of card is selected", reader.ErrStale}, // the reader was restarted
		0x6002: {"status 6002", reader.ErrNoCard},
		0x6003: {"wrong type of card", reader.ErrProtocol},
		0x6004: {"the card has no power", reader.ErrStale},
		0x6005: {"invalid instruction", reader.ErrProtocol},
		0x6020: {"the card failed", reader.ErrTimeout}, // is silent, mostly
		0x6022: {"short circuit at the card", reader.ErrProtocol},
		0x6701: {"the command does not fit the type of card", reader.ErrProtocol},
		0x6702: {"bad address", reader.ErrProtocol},
		0x6703: {"bad length", reader.ErrProtocol},
		0x6704: {"the card's answer has another length", reader.ErrProtocol},
		0x6712: {"the reader aborted the command", reader.ErrProtocol},
	}[sw]
	if !ok {
		return fmt.Errorf("status %04X: %w", sw, reader.ErrProtocol)
	}
	return fmt.Errorf("%s: %w", e.words, e.is)
}
