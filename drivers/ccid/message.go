package ccid

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Bulk-OUT messages (CCID 1.1 §6.1).
const (
	cmdSetParameters = 0x61
	cmdPowerOn       = 0x62
	cmdPowerOff      = 0x63
	cmdSlotStatus    = 0x65
	cmdSecure        = 0x69
	cmdEscape        = 0x6B
	cmdGetParameters = 0x6C
	cmdXfrBlock      = 0x6F
	cmdMechanical    = 0x71
	cmdAbort         = 0x72
	cmdSetRate       = 0x73
)

// Bulk-IN messages (CCID 1.1 §6.2).
const (
	ansDataBlock  = 0x80
	ansSlotStatus = 0x81
	ansParameters = 0x82
	ansEscape     = 0x83
	ansRate       = 0x84
)

// Interrupt-IN messages (CCID 1.1 §6.3).
const (
	intrSlotChange = 0x50
	intrHardware   = 0x51
)

// Control requests (CCID 1.1 §5.3).
const (
	reqAbort        = 0x01
	reqGetDataRates = 0x03

	toInterface   = 0x21 // class request, host to device
	fromInterface = 0xA1
)

// answerOf returns the message type of a successful answer to a command.
func answerOf(command byte) byte {
	switch command {
	case cmdPowerOn, cmdXfrBlock, cmdSecure:
		return ansDataBlock
	case cmdSetParameters, cmdGetParameters:
		return ansParameters
	case cmdEscape:
		return ansEscape
	case cmdSetRate:
		return ansRate
	}
	return ansSlotStatus
}

func commandName(c byte) string {
	switch c {
	case cmdSetParameters:
		return "SetParameters"
	case cmdPowerOn:
		return "IccPowerOn"
	case cmdPowerOff:
		return "IccPowerOff"
	case cmdSlotStatus:
		return "GetSlotStatus"
	case cmdSecure:
		return "Secure"
	case cmdEscape:
		return "Escape"
	case cmdGetParameters:
		return "GetParameters"
	case cmdXfrBlock:
		return "XfrBlock"
	case cmdMechanical:
		return "Mechanical"
	case cmdAbort:
		return "Abort"
	case cmdSetRate:
		return "SetDataRateAndClockFrequency"
	}
	return fmt.Sprintf("command %02X", c)
}

// command is a bulk-OUT message without slot, number and data.
type command struct {
	kind  byte
	param [3]byte // bytes 7 to 9
}

// withLevel returns an XfrBlock or Secure command with bBWI and wLevelParameter.
func withLevel(kind byte, bwi int, level uint16) command {
	return command{kind, [3]byte{byte(min(bwi, 255)), byte(level), byte(level >> 8)}}
}

// appendCommand appends the message that carries c and data.
func appendCommand(dst []byte, c command, slot, seq byte, data []byte) []byte {
	dst = append(dst, c.kind)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
	dst = append(dst, slot, seq)
	dst = append(dst, c.param[:]...)
	return append(dst, data...)
}

// Fields of bStatus (CCID 1.1 table 6.2-3).
const (
	iccMask     = 0x03
	iccActive   = 0
	iccInactive = 1
	iccAbsent   = 2

	statusMask      = 0xC0
	statusOK        = 0x00
	statusFailed    = 0x40
	statusExtension = 0x80
)

// answer is a bulk-IN message.
type answer struct {
	kind   byte
	slot   byte
	seq    byte
	status byte // bStatus
	code   byte // bError
	param  byte // byte 9: bChainParameter, bClockStatus, bProtocolNum
	data   []byte
	err    error // set if the length of the message is wrong
}

// appendTo appends the data to dst, where the answer begins at base, and wipes them at
// their old place.
func (a *answer) appendTo(dst []byte, base int) []byte {
	dst = iso7816.AppendResponse(dst, base, a.data...)
	clear(a.data)
	return dst
}

func (a *answer) icc() byte       { return a.status & iccMask }
func (a *answer) failed() bool    { return a.status&statusMask == statusFailed }
func (a *answer) extension() bool { return a.status&statusMask == statusExtension }

// errRunt is a transfer too short to identify the command that it answers.
var errRunt = errors.New("shorter than a message header")

// parseAnswer reads one bulk-IN transfer. Bytes beyond dwLength are dropped. If there are
// fewer, the answer's err is set; its header fields are valid.
func parseAnswer(b []byte) (answer, error) {
	if len(b) < headerLen {
		return answer{}, errRunt
	}
	a := answer{kind: b[0], slot: b[5], seq: b[6], status: b[7], code: b[8], param: b[9], data: b[headerLen:]}
	n := binary.LittleEndian.Uint32(b[1:])
	if uint64(n) > uint64(len(a.data)) {
		a.err = fmt.Errorf("message %02X announces %d bytes, %d came: %w", a.kind, n, len(a.data), reader.ErrProtocol)
		return a, nil
	}
	a.data = a.data[:n]
	return a, nil
}

// messageLen returns the length that the header of message b announces.
func messageLen(b []byte) int {
	return headerLen + int(binary.LittleEndian.Uint32(b[1:]))
}

// slotChange calls f for each slot in a NotifySlotChange message. A slot has two bits:
// the lower one means "present", the upper one "changed since the last message" (CCID 1.1
// §6.3.1).
func slotChange(b []byte, slots int, f func(slot int, present, changed bool)) {
	if len(b) < 2 || b[0] != intrSlotChange {
		return
	}
	for n := 0; n < slots && 1+n/4 < len(b); n++ {
		bits := b[1+n/4] >> (2 * (n % 4))
		f(n, bits&1 != 0, bits&2 != 0)
	}
}
