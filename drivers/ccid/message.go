package ccid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

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

// answerOf is the message that answers a command when it succeeds.
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

// command is what a bulk-OUT message says beside its slot, number and data.
type command struct {
	kind  byte
	param [3]byte // bytes 7 to 9
}

// withLevel is an XfrBlock or Secure: bBWI and wLevelParameter.
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
	err    error // the message's length is wrong
}

// appendTo appends the data to dst, in which an answer begins at base, and leaves nothing of
// them where they are.
func (a *answer) appendTo(dst []byte, base int) []byte {
	dst = iso7816.AppendResponse(dst, base, a.data...)
	clear(a.data)
	return dst
}

func (a *answer) icc() byte       { return a.status & iccMask }
func (a *answer) failed() bool    { return a.status&statusMask == statusFailed }
func (a *answer) extension() bool { return a.status&statusMask == statusExtension }

// errRunt is a transfer too short to say whose answer it is.
var errRunt = errors.New("shorter than a message header")

// parseAnswer reads one bulk-IN transfer. Bytes behind what dwLength announces
// are dropped; where fewer came, the answer's err says so and the header fields
// are valid all the same.
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

// messageLen is how long the message that begins with b says it is.
func messageLen(b []byte) int {
	return headerLen + int(binary.LittleEndian.Uint32(b[1:]))
}

// Error is a command that the reader answered with a failure (CCID 1.1 table
// 6.2-2). Its Unwrap is the error of package reader that says the same.
type Error struct {
	Command byte // bMessageType of the command
	Status  byte // bStatus of the answer
	Code    byte // bError
	// Hardware is the last bHardwareErrorCode that the slot reported (CCID 1.1
	// §6.3.2), 0 if none.
	Hardware byte

	took   time.Duration // until the answer
	waited bool          // the reader may have waited for the card meanwhile
}

func (e *Error) Error() string {
	s := fmt.Sprintf("ccid: %s failed: %s (bStatus %02X, bError %02X)", commandName(e.Command), describe(e.Code), e.Status, e.Code)
	switch e.Hardware {
	case 0:
	case 1:
		s += ", the reader reports overcurrent"
	default:
		s += fmt.Sprintf(", the reader reports hardware error %02X", e.Hardware)
	}
	return s
}

// Errors that a reader gives in bError.
const (
	codeAborted      = 0xFF
	codeMute         = 0xFE
	codeParity       = 0xFD
	codeOverrun      = 0xFC
	codeHardware     = 0xFB
	codeBadTS        = 0xF8
	codeBadTCK       = 0xF7
	codeProtocol     = 0xF6
	codeClass        = 0xF5
	codeProcedure    = 0xF4
	codeDeactivated  = 0xF3
	codeBusyAuto     = 0xF2
	codePINTimeout   = 0xF0
	codePINCancelled = 0xEF
	codePINsDiffer   = 0xEE // REINER SCT
	codeSlotBusy     = 0xE0
	codeUnsupported  = 0x00
	codeBadSlot      = 0x05
	codeProtocolNum  = 0x07 // of SetParameters: the offset of bProtocolNum
	codeRate         = 0x0A // and that of bmFindexDindex

	codeShortCircuit = 0xA2 // the rest: seen of several makers
	codeLongATR      = 0xA3
	codeEMV          = 0xBB
)

func describe(code byte) string {
	switch code {
	case codeAborted:
		return "aborted by the host"
	case codeMute:
		return "the card is absent or mute"
	case codeParity:
		return "parity error on the way to the card"
	case codeOverrun:
		return "overrun on the way from the card"
	case codeHardware:
		return "hardware error"
	case codeBadTS:
		return "bad TS in the ATR"
	case codeBadTCK:
		return "bad TCK in the ATR"
	case codeProtocol:
		return "protocol not supported"
	case codeClass:
		return "class not supported"
	case codeProcedure:
		return "procedure byte conflict"
	case codeDeactivated:
		return "deactivated protocol"
	case codeBusyAuto:
		return "busy with an automatic sequence"
	case codePINTimeout:
		return "no PIN was entered in time"
	case codePINCancelled:
		return "PIN entry was cancelled"
	case codeSlotBusy:
		return "the slot is busy"
	case codeUnsupported:
		return "command not supported"
	case 0x01:
		return "wrong length"
	case codeBadSlot:
		return "the slot does not exist"
	case codeShortCircuit:
		return "short circuit at the card"
	case codeLongATR:
		return "the ATR is longer than 33 characters"
	case 0xAB:
		return "nothing was exchanged with the card"
	case 0xB0:
		return "T=1 message too long for EMV mode"
	case codeEMV:
		return "EMV rules violated"
	case 0xBD:
		return "the card's T=1 failed"
	case 0xBE:
		return "wrong length of the C-APDU"
	case codePINsDiffer:
		return "the new PINs differ"
	}
	switch {
	case code < 0x80:
		return fmt.Sprintf("the parameter at offset %d of the message is wrong", code)
	case code >= 0x81 && code <= 0xC0:
		return "a maker's own error"
	}
	return "an undefined error"
}

// Unwrap says which of package reader's errors this is.
func (e *Error) Unwrap() error {
	powering := e.Command == cmdPowerOn
	switch {
	case e.Status&iccMask == iccInactive && !e.waited && needsPower(e.Command) && e.untouched():
		return reader.ErrStale
	case e.Code == codeUnsupported, e.Code == codeBadSlot:
		return reader.ErrUnsupported
	case e.Status&iccMask == iccAbsent:
		return reader.ErrNoCard
	}
	switch e.Code {
	case codeMute:
		if powering {
			return reader.ErrMute
		}
		return reader.ErrTimeout
	case codeBadTS, codeBadTCK, codeLongATR:
		return reader.ErrMute
	case codeProtocol, codeClass:
		return reader.ErrUnsupported
	case codePINTimeout:
		return reader.ErrTimeout
	case codeParity, codeOverrun, codeHardware, codeShortCircuit:
		if powering { // another voltage or another attempt may do
			return reader.ErrMute
		}
	}
	if e.Code != 0 && e.Code < 0x80 {
		return reader.ErrUnsupported
	}
	return reader.ErrProtocol
}

// untouched tells whether the card saw nothing of a command that failed, where it has no
// power: that it answers nothing, or what the reader has against the message. Errors on
// the way to and from the card are no such thing.
func (e *Error) untouched() bool {
	switch e.Code {
	case codeMute, codeProtocol, codeClass, codeDeactivated, codeBusyAuto, codeSlotBusy:
		return true
	case codeUnsupported, codeBadSlot:
		return e.Command == cmdXfrBlock // which every reader has
	}
	return e.Code < 0x80
}

// needsPower tells whether a command is one to an active card.
func needsPower(command byte) bool {
	switch command {
	case cmdXfrBlock, cmdSecure, cmdSetParameters, cmdGetParameters, cmdSetRate:
		return true
	}
	return false
}

// slotChange calls f for each slot that a NotifySlotChange message says
// something of: two bits a slot, the lower one "present", the upper one "changed
// since the last message" (CCID 1.1 §6.3.1).
func slotChange(b []byte, slots int, f func(slot int, present, changed bool)) {
	if len(b) < 2 || b[0] != intrSlotChange {
		return
	}
	for n := 0; n < slots && 1+n/4 < len(b); n++ {
		bits := b[1+n/4] >> (2 * (n % 4))
		f(n, bits&1 != 0, bits&2 != 0)
	}
}
