package witness

import (
	"fmt"

	"github.com/cardfs/cardfs/reader/readertest"
)

// Exchange is a command and the card's answer, in hex with spaces.
type Exchange struct{ Command, Answer string }

func hex(p []byte) string { return fmt.Sprintf("% X", p) }

// answer is data with 90 00 behind them.
func answer(data []byte) string { return hex(data) + " 90 00" }

// first is the same for all cards.
var first = []Exchange{
	{hex(readertest.SelectMF), "90 00"},
	{hex(readertest.Challenge), hex(readertest.Response)},
}

// Character are commands for a card that the host drives character by character: the card is
// a readertest.Card.
func Character() []Exchange {
	data := readertest.Pattern(250)
	return append(first[:len(first):len(first)],
		Exchange{"00 B0 00 00 FA", answer(data)},
		Exchange{"80 EE 00 00 FA " + hex(data) + " 00", answer(data)})
}

// Reader are commands for a card in a reader that knows the protocol. T=0 has no case 4 here:
// some drivers fetch its answer themselves, and some leave 61 XX to the program.
func Reader(protocol int) []Exchange {
	list := append(first[:len(first):len(first)],
		Exchange{"80 E2 00 F0 F0", answer(readertest.Pattern(240))},
		Exchange{"80 E0 00 00 F8 " + hex(readertest.Pattern(248)), "90 00"},
		Exchange{"B0 3C 01 00 00", "6D 00"})
	if protocol == 0 {
		return append(list,
			Exchange{"80 E2 01 00 00", answer(readertest.Pattern(256))},
			Exchange{"80 EE 00 00 04 01 02 03 04", "61 04"})
	}
	return append(list, Exchange{"80 EE 00 00 04 01 02 03 04 00", "01 02 03 04 90 00"})
}
