package ikey

import (
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// model is what sets one iKey apart from the others.
type model struct {
	driver string // its word in `ctl`, `status` and the log
	id     reader.ID
	// identified checks the answer to the identify request and returns the steps of the
	// power-up.
	identified func(identity []byte) ([]step, error)
}

// step is one card-control command of a power-up, and the fetch of its answer.
type step struct {
	what    string
	command uint16
	asked   int           // bytes that are asked for
	wait    time.Duration // for either transfer
	// answer checks what came and returns what of it counts.
	answer func(p []byte) ([]byte, error)
	// givesATR: what counts is the ATR; of two the later one.
	givesATR bool
}

// IKey3000 drives the iKey 3000, which has a STARCOS SPK 2.3 card inside.
var IKey3000 = Driver{&model{
	driver: "ikey3k",
	id:     reader.ID{Vendor: 0x04B9, Product: 0x1300, Model: "Rainbow iKey 3000"},
	// Byte 3 is perhaps a firmware number, and tokens of the family differ there. So
	// only the length is checked.
	identified: func(p []byte) ([]step, error) {
		if len(p) != 10 {
			return nil, lengthError(p, 10)
		}
		return []step{
			{what: "reset the card interface", command: 0x0000, asked: 2, wait: longWait, answer: resetAnswer},
			{what: "power up", command: 0x2005, asked: 32, wait: shortWait, answer: cutATR, givesATR: true},
			{what: "PPS", command: 0x0002, asked: 4, wait: longWait, answer: ppsAnswer},
		}, nil
	},
}}

// IKey2032 drives the iKey 2032, which has a Datakey 330 card inside (DKCCOS 6.0).
var IKey2032 = Driver{&model{
	driver:     "ikey2k",
	id:         reader.ID{Vendor: 0x04B9, Product: 0x1202, Model: "Rainbow iKey 2032"},
	identified: ikey2032,
}}

// ikey2032 gives the steps that the old driver took. They power the card up twice, which
// looks like the recording of another program. It is not known whether once would do.
//
// The last byte of the identity is taken for the length of the ATR. 25 was seen; that there
// are tokens with 9, and that they take the command with 9 in its place, is reported by
// one person. Byte 1 was 60 in 2003 and 63 later, and byte 3 differs.
func ikey2032(p []byte) ([]step, error) {
	switch {
	case len(p) != 13:
		return nil, lengthError(p, 13)
	case p[0] != 13 || p[1]&0xF0 != 0x60:
		return nil, fmt.Errorf("not an iKey 2032's: %w", reader.ErrProtocol)
	case p[12] != 25 && p[12] != 9:
		return nil, fmt.Errorf("an ATR of %d bytes, not 25 or 9: %w", p[12], reader.ErrProtocol)
	}
	reset := step{what: "reset the card interface", command: 0x0000, asked: 2, wait: shortWait, answer: resetAnswer}
	first, again := reset, reset
	first.wait, again.asked = longWait, 32
	n := int(p[12])
	powerUp := step{what: "power up", command: uint16(n)<<8 | 0x01, asked: n, wait: shortWait, givesATR: true,
		answer: func(p []byte) ([]byte, error) {
			if len(p) != n {
				return nil, lengthError(p, n)
			}
			return p, nil
		}}
	return []step{first, powerUp, reset, again, powerUp}, nil
}

func lengthError(p []byte, want int) error {
	return fmt.Errorf("%d bytes, not %d: %w", len(p), want, reader.ErrProtocol)
}
