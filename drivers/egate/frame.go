package egate

import (
	"fmt"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Vendor requests, recipient device, wValue and wIndex 0; observed in OpenCT 0.6.20.
const (
	typeOut = 0x40
	typeIn  = 0xC0

	reqHeader = 0x80 // OUT: CLA INS P1 P2 P3
	reqRead   = 0x81 // IN: data of the answer, or SW1 SW2
	reqWrite  = 0x82 // OUT: the command's data
	reqATR    = 0x83 // IN: the ATR as it is
	reqReset  = 0x90 // OUT, without data: resets the card
	reqStatus = 0xA0 // IN: one byte
)

// The status, of which only the high nibble counts.
const (
	statusReady = 0x00 // for a command
	statusData  = 0x10 // the command's data are due, or data of the answer can be read
	statusSW    = 0x20 // SW1 SW2 can be read
	statusBusy  = 0x40 // ask again

	statusMask = 0xF0
)

const (
	headerLen = 5
	atrAsked  = 0x23
)

var (
	setupHeader = usb.Setup{RequestType: typeOut, Request: reqHeader}
	setupRead   = usb.Setup{RequestType: typeIn, Request: reqRead}
	setupWrite  = usb.Setup{RequestType: typeOut, Request: reqWrite}
	setupATR    = usb.Setup{RequestType: typeIn, Request: reqATR}
	setupReset  = usb.Setup{RequestType: typeOut, Request: reqReset}
	setupStatus = usb.Setup{RequestType: typeIn, Request: reqStatus}
)

// cutTPDU divides a T=0 TPDU (ISO/IEC 7816-3:2006 §10.3.2). want is the number of bytes
// that P3 asks for if there are no data. P3 is 00 in case 1, too, where no byte comes.
func cutTPDU(p []byte) (header, data []byte, want int, err error) {
	if len(p) < headerLen {
		return nil, nil, 0, fmt.Errorf("shorter than a T=0 header: %w", reader.ErrInvalid)
	}
	header, data = p[:headerLen], p[headerLen:]
	n := int(p[4])
	if n == 0 {
		n = 256
	}
	switch {
	case len(data) == 0:
		return header, nil, n, nil
	case len(data) != n:
		return nil, nil, 0, fmt.Errorf("P3 is not the length of the data: %w", reader.ErrInvalid)
	}
	return header, data, 0, nil
}

// cutStatus returns the part of the status that counts.
func cutStatus(p []byte) (byte, error) {
	if len(p) != 1 {
		return 0, lengthError(p, 1)
	}
	return p[0] & statusMask, nil
}

// cutATR checks the answer to the request for the ATR.
func cutATR(p []byte) ([]byte, error) {
	if len(p) == 0 {
		return nil, fmt.Errorf("empty: %w: %w", reader.ErrProtocol, reader.ErrMute)
	}
	return p, nil
}

// cutSW checks the answer to the request for SW1 SW2.
func cutSW(p []byte) ([]byte, error) {
	if len(p) != 2 {
		return nil, lengthError(p, 2)
	}
	return p, nil
}

func lengthError(p []byte, want int) error {
	return fmt.Errorf("%d bytes, not %d: %w", len(p), want, reader.ErrProtocol)
}
