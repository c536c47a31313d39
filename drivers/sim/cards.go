package sim

import (
	"slices"
	"strings"

	"github.com/cardfs/cardfs/reader/icc"
)

// cardKind is one line of the table of cards.
type cardKind struct {
	name string
	make func(serial string) icc.Card
}

var cardKinds = []cardKind{
	{"token", func(serial string) icc.Card { return newCard(atrToken, false, serial) }},
	{"t0", func(serial string) icc.Card { return newCard(atrT0, true, serial) }},
	{"dual", func(serial string) icc.Card { return newCard(atrDual, false, serial) }},
	{"crc", func(serial string) icc.Card { return newCard(atrCRC, false, serial) }},
	{"datakey", func(serial string) icc.Card { return newCard(atrDatakey, false, serial) }},
	{"echo", func(string) icc.Card { return new(echo) }},
}

// noCard is the word for an empty slot.
const noCard = "none"

var (
	// The ATR of a STARCOS SPK 2.3, which the iKey 3000 holds: F and D 94, T=1,
	// IFSC 254, BWI 6, CWI 5.
	atrToken = withTCK(0x3B, 0xB7, 0x94, 0x00, 0x81, 0x31, 0xFE, 0x65, 'S', 'P', 'K', '2', '3', 0x90, 0x00)
	// The ATR of a Datakey 330, which the iKey 2032 holds: T=1, IFSC 254, BWI 4, CWI 13.
	atrDatakey = withTCK(0x3B, 0xFF, 0x11, 0x00, 0x00, 0x81, 0x31, 0xFE, 0x4D, 0x80, 0x25, 0xA0, 0x00, 0x00, 0x00,
		'V', 'W', 'D', 'K', '3', '3', '0', 0x06, 0x00)
	// T=0 without TD1.
	atrT0 = []byte{0x3B, 0x77, 0x94, 0x00, 0x00, 'S', 'I', 'M', 'T', '0', 0x90, 0x00}
	// T=0 first, then T=1 with IFSC 254, BWI 4, CWI 5.
	atrDual = withTCK(0x3B, 0x97, 0x94, 0x80, 0x31, 0xFE, 0x45, 'S', 'I', 'M', 'D', 'U', 0x90, 0x00)
	// T=1 with a CRC.
	atrCRC = withTCK(0x3B, 0x97, 0x94, 0x81, 0x71, 0xFE, 0x45, 0x01, 'S', 'I', 'M', 'C', 'R', 0x90, 0x00)
	// T=1, IFSC 254.
	atrEcho = withTCK(0x3B, 0x84, 0x81, 0x31, 0xFE, 0x45, 'E', 'C', 'H', 'O')
)

// withTCK adds the check character (ISO/IEC 7816-3:2006 §8.2.5).
func withTCK(atr ...byte) []byte {
	var tck byte
	for _, b := range atr[1:] {
		tck ^= b
	}
	return append(atr, tck)
}

// Cards lists the words that stand for cards.
func Cards() []string {
	var names []string
	for _, k := range cardKinds {
		names = append(names, k.name)
	}
	return names
}

func cardNames() string { return strings.Join(append(Cards(), noCard), ", ") }

// NewCard makes a card of that name. It returns false if there is none.
func NewCard(name, serial string) (icc.Card, bool) {
	k, ok := findCard(name)
	if !ok {
		return nil, false
	}
	return k.make(serial), true
}

func findCard(name string) (cardKind, bool) {
	i := slices.IndexFunc(cardKinds, func(k cardKind) bool { return k.name == name })
	if i < 0 {
		return cardKind{}, false
	}
	return cardKinds[i], true
}

// echo answers each command with its data.
type echo struct{ out []byte }

func (*echo) ATR() []byte { return atrEcho }
func (*echo) Reset(bool)  {}

func (e *echo) Process(capdu []byte) []byte {
	k, ok := parse(capdu)
	if !ok {
		return append(e.out[:0], swLength>>8, swLength&0xFF)
	}
	e.out = append(append(e.out[:0], k.data...), 0x90, 0x00)
	return e.out
}
