package sim

import (
	"fmt"
	"io"
	"slices"
	"strings"

	rutokenemu "github.com/cardfs/cardfs/drivers/rutoken/emu"
	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/drivers/sim/openpgp"
	"github.com/cardfs/cardfs/drivers/sim/piv"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// cardKind is one line of the table of cards.
type cardKind struct {
	name string
	make func(serial string) icc.Card
}

// applicationKind is a card with an application that other programs know. It takes
// parameters, and has state that can outlive the daemon.
type applicationKind struct {
	name string
	make func(applet.Settings) (*applet.Card, error)
}

var applicationKinds = []applicationKind{
	{"piv", piv.New},
	{"openpgp", openpgp.New},
}

var cardKinds = append([]cardKind{
	{"token", func(serial string) icc.Card { return newCard(atrToken, false, serial) }},
	{"t0", func(serial string) icc.Card { return newCard(atrT0, true, serial) }},
	{"dual", func(serial string) icc.Card { return newCard(atrDual, false, serial) }},
	{"crc", func(serial string) icc.Card { return newCard(atrCRC, false, serial) }},
	{"datakey", func(serial string) icc.Card { return newCard(atrDatakey, false, serial) }},
	{"cardos", func(serial string) icc.Card { return newCard(atrCardOS, false, serial) }},
	{"cryptoflex", func(serial string) icc.Card { return newCard(atrCryptoflex, true, serial) }},
	{"epass", func(serial string) icc.Card { return newCard(atrEPass, true, serial) }},
	{"rutoken", func(serial string) icc.Card { return rutokenemu.NewCard(serial) }},
	{"echo", func(string) icc.Card { return new(echo) }},
}, memoryCards()...)

func memoryCards() (all []cardKind) {
	for _, name := range icc.MemoryNames() {
		all = append(all, cardKind{name, func(string) icc.Card { return icc.NewMemory(name) }})
	}
	return all
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
	// The ATR of a CardOS card, of the family that the eTokens hold: F and D 98, T=1,
	// IFSC 254, BWI 5, CWI 5.
	atrCardOS = withTCK(0x3B, 0xF2, 0x98, 0x00, 0xFF, 0xC1, 0x10, 0x31, 0xFE, 0x55, 0xC8, 0x03)
	// The ATR of a Cryptoflex 32K e-gate: T=0, F and D 18, WI 255.
	atrCryptoflex = []byte{0x3B, 0x95, 0x18, 0x40, 0xFF, 0x62, 0x01, 0x02, 0x01, 0x04}
	// The ATR of an ePass3000: T=0, without any parameters.
	atrEPass = []byte{0x3B, 0x0F, 0x00, 0x65, 0x46, 0x53, 0x05, 0x16, 0x05, 0x71, 0xDF, 0x00, 0x00, 0x00, 0x80, 0x6A, 0x82}
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
	return append(names, applicationCards()...)
}

func applicationCards() []string {
	var names []string
	for _, k := range applicationKinds {
		names = append(names, k.name)
	}
	return names
}

// HasApplication reports whether the words of attach, DEVICE first, ask for a card with an application.
func HasApplication(words []string) bool {
	return slices.ContainsFunc(words, func(word string) bool {
		return slices.Contains(applicationCards(), strings.TrimPrefix(word, "card="))
	})
}

func cardNames() string { return strings.Join(append(Cards(), noCard), ", ") }

// NewCard makes a card of that name, as it is when the user says nothing else of it. It
// returns false if there is none.
func NewCard(name, serial string) (icc.Card, bool) {
	c, err := newCardOf(name, applet.Settings{Serial: serial})
	return c, err == nil
}

// newCardOf makes a card of that name. Settings are for cards with an application.
func newCardOf(name string, s applet.Settings) (icc.Card, error) {
	for _, k := range cardKinds {
		if k.name == name {
			return k.make(s.Serial), nil
		}
	}
	for _, k := range applicationKinds {
		if k.name == name {
			c, err := k.make(s)
			if err != nil {
				return nil, fmt.Errorf("card %s: %w", name, err)
			}
			return c, nil
		}
	}
	return nil, fmt.Errorf("no card %q; there are %s: %w", name, cardNames(), reader.ErrInvalid)
}

// closeCard gives the state file of a card free if it has one.
func closeCard(c icc.Card) {
	if c, ok := c.(io.Closer); ok {
		c.Close()
	}
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
