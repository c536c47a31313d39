package reader

import (
	"errors"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// The errors that the rest of the program tells apart with errors.Is. A driver
// or the core wraps them with what was tried and on what:
//
//	fmt.Errorf("ikey3k: fetch ATR: %d bytes announced, %d came: %w", k, n, reader.ErrProtocol)
var (
	// ErrGone: the device was unplugged, detached or its connection ended.
	ErrGone = errors.New("the reader is gone")
	// ErrNoCard: no card in the slot.
	ErrNoCard = errors.New("no card in the slot")
	// ErrMute: a card is there but sent no ATR, or none that can be used.
	ErrMute = errors.New("the card does not answer to reset")
	// ErrStale: the card was reset, changed or powered off since the session began.
	// A Slot says so of an exchange that found the card without power: the card saw
	// nothing of it, and the core takes it for unpowered.
	ErrStale = errors.New("the card was reset, changed or powered off since this open")
	// ErrLocked: another open holds the transaction.
	ErrLocked = errors.New("another open holds the transaction")
	// ErrTimeout: no answer within the time that the protocol allows.
	ErrTimeout = iso7816.ErrTimeout
	// ErrProtocol: the answer breaks the protocol.
	ErrProtocol = iso7816.ErrProtocol
	// ErrTransfer: a transfer between host and device failed: the device stalled, was reset,
	// or only noise came. Its card is not the reason. Package usb's errors are such errors,
	// except for time-outs, which may be the card's.
	ErrTransfer = errors.New("the transfer failed")
	// ErrUnsupported: this reader or card cannot do that.
	ErrUnsupported = iso7816.ErrUnsupported
	// ErrInvalid: the caller's command is malformed; nothing was sent.
	ErrInvalid = iso7816.ErrInvalid
	// ErrNotReady: the driver is still initialising the reader.
	ErrNotReady = errors.New("the reader is still starting")
	// ErrFailed: the driver could not initialise the reader, or gave it up.
	ErrFailed = errors.New("the reader failed")
	// ErrAborted: the owner ended the exchange, with `abort` in ctl.
	ErrAborted = errors.New("ended by abort")
	// ErrInterrupted: the caller gave up before anything was sent.
	ErrInterrupted = errors.New("interrupted before anything was sent")
	// ErrCancelled: the card holder pressed cancel.
	ErrCancelled = errors.New("cancelled at the reader")
	// ErrNoPermission: the device is there but may not be opened, or the caller may
	// not do what it asks for.
	ErrNoPermission = errors.New("no permission")
	// ErrReadOnly: the card never lets these bytes be written.
	ErrReadOnly = errors.New("these bytes cannot be written")
	// ErrNoSpace: the address is behind the end of the card.
	ErrNoSpace = errors.New("behind the end of the card")
	// ErrAway: the way to the reader is interrupted. Its driver waits in Open until it is back.
	ErrAway = errors.New("the way to the reader is interrupted")
	// ErrInDoubt: the command was handed on, and then the way to the reader was lost. It
	// may have been carried out or not, and is not sent again.
	ErrInDoubt = errors.New("in doubt: the command was sent, and its answer is lost")
	// ErrClaimed: another program has the device.
	ErrClaimed = errors.New("the device is in use by another program")
)
