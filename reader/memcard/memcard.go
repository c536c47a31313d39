// Package memcard knows the chips of synchronous (memory) cards: how they are read, written
// and unlocked. It does so once, for readers of different kinds. A driver has a few lines to
// write:
//
//   - Clocked makes a reader.Memory of a Clock, a reader that clocks single commands of a
//     chip: control, address, data. The order of a PSC's verification is then this package's.
//   - Commands makes a reader.Memory of a reader that knows the chips by itself and has
//     commands for them, which a Dialect describes: READ and UPDATE BINARY to the card's
//     unit of a terminal, pseudo-APDUs of a CCID reader, the memory commands of an ACS reader.
//
// Above both stands Card, which is what the rest of the program uses: it cuts what is
// written into pages, reads it back, knows why a chip refused it, and answers the C-APDUs
// that programs send to a card.
//
//	fs, ctapi ─▶ core ─▶ link ─▶ Card ─▶ reader.Memory ─┬─ Clocked ─▶ Clock    (driver)
//	                                                    └─ Commands ─▶ Send  (driver)
//
// Nothing here writes to find out what a card is, and nothing but VerifyPSC touches a
// counter of tries.
//
// The chips are those of Infineon's data sheets (SLE 4432/4442, SLE 4418/4428) and Atmel's (AT24C01
// to AT24C512). What was taken from existing drivers instead is marked as such.
package memcard

import (
	"context"

	"github.com/cardfs/cardfs/reader"
)

// Clock is a reader that clocks single commands of a chip. The card has power. The errors are those of
// reader.Slot.Exchange.
type Clock interface {
	// Receive gives the chip c and appends the n bytes that it then sends. An I2C chip is
	// addressed for writing, then for reading after a repeated start.
	Receive(ctx context.Context, c Command, n int, dst []byte) ([]byte, error)
	// Send gives a 2-wire or 3-wire chip one command for each byte of p: c with p[0], then
	// c with p[1] at the next address, and so on. To an I2C chip it is one write of a page.
	// It returns when the chip has done it.
	Send(ctx context.Context, c Command, p []byte) error
}

// Command is one command of a chip.
type Command struct {
	Bus     reader.MemoryBus
	Control byte // 2-wire: the control byte; 3-wire: its lower six bits; else unused
	At      int  // address
	Long    bool // I2C: the address has two bytes
}

// Append appends what is clocked before the data, as it goes over the wire:
//
//	2-wire     control, address
//	3-wire     address bits 9 and 8 above the control, address
//	I2C short  device select code with address bits 10 to 8, for writing; address
//	I2C long   device select code for writing; address, high byte first
//
// A counter card has neither commands nor addresses.
func (c Command) Append(dst []byte) []byte {
	low, high := byte(c.At), byte(c.At>>8)
	switch {
	case c.Bus == reader.TwoWire:
		return append(dst, c.Control, low)
	case c.Bus == reader.ThreeWire:
		return append(dst, high<<6|c.Control, low)
	case c.Bus == reader.I2C && c.Long:
		return append(dst, deviceSelect, high, low)
	case c.Bus == reader.I2C:
		return append(dst, deviceSelect|high<<1, low)
	}
	return dst
}

// deviceSelect is the device select code of an I2C memory; bit 1 of it means reading.
const deviceSelect = 0xA0

// Commands of the SLE 4432 and SLE 4442 (data sheet, table "Commands").
const (
	readMain       = 0x30
	readSecurity   = 0x31 // the counter, then the PSC
	compareByte    = 0x33 // one byte of the PSC; addresses 1 to 3
	readProtection = 0x34
	updateMain     = 0x38
	updateSecurity = 0x39 // address 0: the counter, 1 to 3: the PSC
)

// Commands of the SLE 4418 and SLE 4428 (data sheet, table "Commands").
const (
	readWithBits   = 0x0C // here: the protect bits alone, 8 in a byte, lowest first
	compareByte3   = 0x0D
	readByte       = 0x0E
	writeCounter   = 0x32
	writeByte      = 0x33 // and erase; without the protect bit
	counterAddress = 1021 // of the SLE 4428: the counter, then two bytes of PSC
)
