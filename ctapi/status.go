package ctapi

import (
	"context"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// status is GET STATUS. Answers are data objects (CT-BCS 1.0); the older form
// without tag and length is not used any more.
func (t *Terminal) status(ctx context.Context, c command) ([]byte, sw, error) {
	if c.p1 != 0 && (c.p2 != 0x80 || t.slot(c.p1) == nil) {
		return nil, swP1P2, nil
	}
	if len(c.data) > 0 || c.le != 0 {
		return nil, swLength, nil
	}
	switch c.p2 {
	case 0x46: // manufacturer: country and maker, type, software version
		return append([]byte{0x46, 15}, "EUCFS"+"CRDFS"+"01.00"...), swOK, nil
	case 0x80:
		object := []byte{0x80, 0}
		for i, slot := range t.home.Siblings() {
			if c.p1 == 0 || int(c.p1) == i+1 {
				object = append(object, slotState(slot))
			}
		}
		object[1] = byte(len(object) - 2)
		return object, swOK, nil
	case 0x81:
		object := []byte{0x81, 0}
		for i := range t.home.Siblings() {
			object = append(object, byte(i+1))
		}
		if t.home.Features().Display != nil {
			object = append(object, unitDisplay)
		}
		if s := t.home.PINSupport(); s.Verify || s.Modify {
			object = append(object, unitKeypad)
		}
		object[1] = byte(len(object) - 2)
		return object, swOK, nil
	}
	return nil, swP1P2, nil
}

// Functional units (CT-BCS 1.0, values of P1 and of data object 81).
const (
	unitDisplay = 0x40
	unitKeypad  = 0x50
)

// slotState is the byte of data object 80: b1 card present; b3 b2: 10
// connected, 01 not.
func slotState(s *core.Slot) byte {
	switch s.Info().State {
	case core.StatePresent:
		return 0x03
	case core.StatePowered:
		return 0x05
	}
	return 0x00
}

// protocolByte is the value of data object 22: the protocol that a card speaks (CT-BCS
// 1.0, SET INTERFACE PARAMETER), or how a memory card is clocked.
func protocolByte(i core.Info) byte {
	if !i.Synchronous() {
		return byte(i.Params.T + 1)
	}
	switch i.Chip.Bus {
	case reader.ThreeWire:
		return 0x81
	case reader.TwoWire:
		return 0x82
	case reader.CounterCard:
		return 0x90
	}
	return 0x80
}
