package ikey

import (
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/token"
	"github.com/cardfs/cardfs/reader"
)

// model is what distinguishes one iKey from the others.
type model struct {
	driver string // its name in `ctl`, `status` and the log
	id     reader.ID
	// identified checks the answer to the identify request and returns the steps of the
	// power-up.
	identified func(identity []byte) ([]step, error)
}

// step is one card-control command of a power-up, and the fetch of its answer.
type step struct {
	what    string
	command uint16
	asked   int           // length of the fetch
	wait    time.Duration // for either transfer
	// answer checks the answer and returns its content.
	answer func(p []byte) ([]byte, error)
	// givesATR means that the content is the ATR; the last one counts.
	givesATR bool
}

// IKey3000 drives the iKey 3000, which has a STARCOS SPK 2.3 card inside.
var IKey3000 = Driver{&model{
	driver: "ikey3k",
	id:     reader.ID{Vendor: 0x04B9, Product: 0x1300, Model: "Rainbow iKey 3000"},
	// Only the length is checked: tokens of the family differ in byte 3, which may be a
	// firmware number.
	identified: func(p []byte) ([]step, error) {
		if len(p) != 10 {
			return nil, token.LengthError(p, 10)
		}
		return []step{
			{what: "reset the card interface", command: 0x0000, asked: 2, wait: longWait, answer: resetAnswer},
			{what: "power up", command: 0x2005, asked: 32, wait: shortWait, answer: token.CutATR, givesATR: true},
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

// ikey2032 returns the steps of OpenCT's driver. They power the card up twice, which looks
// like a recording of another program. Whether once would do is unknown.
//
// The last byte of the identity is assumed to be the length of the ATR. 25 was observed.
// One person reported tokens with 9, which accept the command with 9 in its place. Byte 1
// was 60 in 2003 and 63 later, and byte 3 differs.
func ikey2032(p []byte) ([]step, error) {
	switch {
	case len(p) != 13:
		return nil, token.LengthError(p, 13)
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
				return nil, token.LengthError(p, n)
			}
			return p, nil
		}}
	return []step{first, powerUp, reset, again, powerUp}, nil
}
