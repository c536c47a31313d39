package kaan

import (
	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader"
)

// Nodes of the cards on the connection to a terminal.
var nadCard = [...]byte{ctbcs.Card, 0x32}

// maxSlots is the number of slots whose addresses are known.
const maxSlots = len(nadCard)

// Instructions of CLA 20.
const (
	insReset      = 0x10 // a terminal or a card
	insResetOlder = 0x11
	insOutput     = 0x17
)

// Functional units: P1 of a command, and what the list of units has.
const (
	unitTerminal = 0x00
	unitDisplay  = 0x40
	unitKeypad   = 0x50
)

// Tags of data objects.
const (
	tagFileStatus = 0x21 // in the file of a slot
	tagFileType   = 0x22
	tagProtocol   = 0x22 // in SET INTERFACE PARAMETER
	tagUnits      = 0x81
)

// Protocols, of SET INTERFACE PARAMETER and of the type of a memory card in a slot's file.
const (
	protocolT0        = 0x01
	protocolT1        = 0x02
	protocolI2C       = 0x80
	protocolThreeWire = 0x81
	protocolTwoWire   = 0x82
	protocolCounter   = 0x90 // to 93
	protocolEurochip  = 0x93
)

// Status words.
const (
	swTypeUnknown = 0x62A5 // an ATR, of a card whose type the terminal does not know
	swMemory      = 0x62A6
	swNoProtocol  = 0x62A7 // a memory card
	swEnd         = 0x6282 // fewer bytes than asked for
	swNotRemoved  = 0x6200
	swNotNow      = 0x6985
	swNoOffset    = 0x6B00
	swNoSuchINS   = 0x6D00
	swNoSuchCLA   = 0x6E00
	maxText       = 32
)

// unit is P1 of the slot that counts from 0.
func unit(slot int) byte { return byte(slot + 1) }

func reset(ins, unit byte) []byte {
	if unit == unitTerminal {
		return []byte{0x20, ins, unit, 0x00}
	}
	return []byte{0x20, ins, unit, 0x01, 0x00} // the whole ATR
}

func listUnits() []byte           { return []byte{0x20, ctbcs.InsStatus, unitTerminal, tagUnits, 0x00} }
func cardStatus(slot int) []byte  { return ctbcs.Status(unit(slot)) }
func selectFile(id uint16) []byte { return []byte{0x00, 0xA4, 0, 0, 2, byte(id >> 8), byte(id)} }

// eject switches the card off; F0 is without a message on the display (KOBIL's manual).
func eject(slot int) []byte { return ctbcs.Eject(unit(slot), 0xF0) }

// setProtocol is SET INTERFACE PARAMETER.
func setProtocol(slot int, protocol byte) []byte {
	return []byte{0x80, 0x60, unit(slot), 0x00, 3, tagProtocol, 1, protocol}
}

// slotFile is the path of the file in which the terminal describes a slot.
func slotFile(slot int) [3]uint16 {
	return [3]uint16{0x3F00, 0x7F70 + uint16(slot), 0x7021 + uint16(slot)<<8}
}

// output shows text, for some seconds unless they are 0.
func output(text string, seconds byte) []byte {
	var b []byte
	if seconds > 0 {
		b = ctbcs.Object(b, ctbcs.TagSeconds, seconds)
	}
	return ctbcs.Command(insOutput, unitDisplay, ctbcs.Object(b, ctbcs.TagText, []byte(text)...))
}

// busOf is the bus of a memory card by its type in the slot's file.
func busOf(kind byte) (bus reader.MemoryBus, ok bool) {
	switch {
	case kind == protocolI2C:
		return reader.I2C, true
	case kind == protocolThreeWire:
		return reader.ThreeWire, true
	case kind == protocolTwoWire:
		return reader.TwoWire, true
	case kind >= protocolCounter && kind <= protocolEurochip:
		return reader.CounterCard, true
	}
	return 0, false
}

// protocolOf is the protocol for a memory card.
func protocolOf(bus reader.MemoryBus) byte {
	switch bus {
	case reader.I2C:
		return protocolI2C
	case reader.ThreeWire:
		return protocolThreeWire
	case reader.TwoWire:
		return protocolTwoWire
	}
	return protocolEurochip
}
