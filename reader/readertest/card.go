package readertest

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// Card is a card for a driver's tests, of which the string is the ATR in hexadecimal: see Hex.
// It has no state. A card with more to it embeds this one, as Scripted does.
//
//	00 A4 00 00 02 3F 00   SELECT by the MF: 90 00
//	00 84 00 00 08         GET CHALLENGE: Response, always the same
//	.. B0 .. .. Le         READ BINARY: Le bytes of Pattern
//	.. E0 .. .. Lc data    takes the data: 90 00
//	.. E2 P1 P2 Le         P1 P2 bytes of Pattern, whatever Le is
//	.. EA P1 P2 Lc data    P1 P2 bytes that count up from a sum of the data, and 90 Lc
//	.. EE .. .. Lc data    gives the data back
//	less than a header     67 00
//	all else               6D 00
type Card string

// The first two commands, and the answer of the second.
var (
	SelectMF  = Hex("00 A4 00 00 02 3F 00")
	Challenge = Hex("00 84 00 00 08")
	Response  = Hex("11 12 13 14 15 16 17 18 90 00")
)

// ATR returns the ATR.
func (c Card) ATR() []byte { return Hex(string(c)) }

// Reset does nothing.
func (Card) Reset(bool) {}

// Incoming says which commands have data, for T=0.
func (Card) Incoming(_, ins byte) bool {
	return ins == 0xA4 || ins == 0xE0 || ins == 0xEA || ins == 0xEE
}

// Process answers a command. T=0 does not tell whether there is Le behind data.
func (Card) Process(command []byte) []byte {
	ok := []byte{0x90, 0x00}
	if len(command) < 4 {
		return []byte{0x67, 0x00}
	}
	ins, p5 := command[1], 0
	if len(command) > 4 {
		p5 = int(command[4])
	}
	switch {
	case bytes.HasPrefix(command, SelectMF):
		return ok
	case bytes.Equal(command, Challenge):
		return slices.Clone(Response)
	case ins == 0xB0 && len(command) > 4:
		if p5 == 0 {
			p5 = 256
		}
		return append(Pattern(p5), ok...)
	case ins == 0xE2:
		return append(Pattern(int(command[2])<<8|int(command[3])), ok...)
	case ins == 0xE0:
		return ok
	case ins == 0xEA && len(command) >= 5+p5:
		return mirrored(command[5:5+p5], int(command[2])<<8|int(command[3]))
	case ins == 0xEE && len(command) >= 5+p5:
		return append(slices.Clone(command[5:5+p5]), ok...)
	}
	return []byte{0x6D, 0x00}
}

// Scripted is a Card that has answers of its own to some commands, and may take its time.
type Scripted struct {
	Card
	// Answers has R-APDUs by C-APDUs, both in the notation of Hex with a space between bytes.
	// Over T=0 there is a byte behind the data of a command, Le.
	Answers map[string]string
	// Takes is how long each command takes.
	Takes time.Duration
}

// Busy says how long the card computes.
func (c *Scripted) Busy([]byte) time.Duration { return c.Takes }

// Process answers a command.
func (c *Scripted) Process(command []byte) []byte {
	if answer, ok := c.Answers[fmt.Sprintf("% X", command)]; ok {
		return Hex(answer)
	}
	return c.Card.Process(command)
}
