package acs

import (
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Instructions (ACS: ACR38 Reference Manual, 6.02; ACR30 Reference Manual, 3.3).
const (
	insStatus   = 0x01 // 16 bytes, see state
	insCardType = 0x02
	insNotify   = 0x06 // ACR30: whether to tell of cards that come and go
	insOption   = 0x07
	insCardPPS  = 0x0A // ACR38: a PPS request, which the reader sends to the card
	insOwnPPS   = 0x0B // ACR38: the same, by which the reader sets its own rate
	insReset    = 0x80
	insPowerOff = 0x81
	insT0       = 0xA0 // a T=0 TPDU
	insT1       = 0xA1 // a T=1 block
)

// instructions are those of one card position.
type instructions struct{ reset, powerOff, pps, t0, t1 byte }

var (
	mainSlot = instructions{insReset, insPowerOff, insCardPPS, insT0, insT1}
	// As Debian's libacsccid1 1.1.8 has them, for a security module (SAM).
	samSlot = instructions{0x90, 0x91, 0x0C, 0xB0, 0xB1}
)

const (
	typeAutomatic = 0x00 // T=0 or T=1, by the card
	typeT0        = 0x0C // and T=1 behind it
	voltageAuto   = 0x00 // ACR38
	notifyOff     = 0x02
	optionNone    = 0x00 // neither EMV nor memory cards
	option9600    = 0x01 // ACR30: no faster rate for the card
)

// The answer to insStatus: ten bytes of the reader's own, the longest command and answer,
// the types of cards, the type that was selected, and the state of the card.
const (
	statusLength = 16
	nameLength   = 10
	stateAt      = 15

	stateEmpty   = 0
	statePowered = 3 // 1: a card without power
)

// statusError is the error of a status byte other than 00.
func statusError(status byte) error {
	e, ok := map[byte]struct {
		words string
		is    error
	}{
		0xF4: {"procedure byte conflict", reader.ErrProtocol},
		0xF6: {"bad length", reader.ErrProtocol},
		0xF7: {"bad Fi or Di", reader.ErrProtocol},
		0xF8: {"the ATR begins with an invalid TS", reader.ErrMute},
		0xF9: {"the card has no power", reader.ErrStale},
		0xFA: {"status FA", reader.ErrNoCard},
		0xFB: {"hardware error", reader.ErrProtocol},
		0xFC: {"overrun on the line to the card", reader.ErrProtocol},
		0xFD: {"parity error on the line to the card", reader.ErrProtocol},
		0xFE: {"the card is silent", reader.ErrTimeout},
		0xFF: {"the reader aborted the command", reader.ErrProtocol},
	}[status]
	if !ok {
		return fmt.Errorf("status %02X: %w", status, reader.ErrProtocol)
	}
	return fmt.Errorf("%s: %w", e.words, e.is)
}

// shortWait is for commands that do not wait for the card, and for a card's reset.
const (
	shortWait = 5 * time.Second
	resetWait = 10 * time.Second
	// exchangeWait is OpenCT's, where the core gives no time.
	exchangeWait = 30 * time.Second
)
