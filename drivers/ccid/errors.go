package ccid

import (
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Error is a command to which the reader answered with a failure (CCID 1.1 table 6.2-2).
// Unwrap returns the corresponding error of package reader.
type Error struct {
	Command byte // bMessageType of the command
	Status  byte // bStatus of the answer
	Code    byte // bError
	// Hardware is the last bHardwareErrorCode that the slot reported (CCID 1.1 §6.3.2); 0
	// if there was none.
	Hardware byte

	took   time.Duration // time until the answer
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

// Values of bError.
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
	codeRate         = 0x0A // of SetParameters: the offset of bmFindexDindex

	codeShortCircuit = 0xA2 // this and the following ones are observed in readers of several makers
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

// Unwrap returns the corresponding error of package reader.
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
		if powering { // another voltage or another attempt may work
			return reader.ErrMute
		}
	}
	if e.Code != 0 && e.Code < 0x80 {
		return reader.ErrUnsupported
	}
	return reader.ErrProtocol
}

// untouched reports whether the card saw nothing of a failed command because it has no
// power: the card is mute, or the reader objects to the message itself. Errors during the
// transfer to or from the card do not count.
func (e *Error) untouched() bool {
	switch e.Code {
	case codeMute, codeProtocol, codeClass, codeDeactivated, codeBusyAuto, codeSlotBusy:
		return true
	case codeUnsupported, codeBadSlot:
		return e.Command == cmdXfrBlock // which every reader supports
	}
	return e.Code < 0x80
}

// needsPower reports whether a command requires an active card.
func needsPower(command byte) bool {
	switch command {
	case cmdXfrBlock, cmdSecure, cmdSetParameters, cmdGetParameters, cmdSetRate:
		return true
	}
	return false
}
