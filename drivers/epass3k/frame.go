package epass3k

import (
	"encoding/binary"
	"fmt"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// A message is the header and a value, both ways; observed in OpenCT 0.6.20.
//
//	0..1  "R6"; nobody checked it in an answer
//	2..3  command; in an answer a status, of which nobody knows the values
//	4..5  length of the value
//	6..   value
//
// All numbers are big-endian.
const (
	headerLen = 6

	cmdATR  = 0x0001 // resets the card
	cmdTPDU = 0x0002

	// The value that answers cmdATR has two bytes before the ATR and three behind it.
	// Their meaning is unknown.
	beforeATR = 2
	afterATR  = 3
	longATR   = 64 // OpenCT took no longer one

	longestTPDU   = 5 + 255
	longestAnswer = 256 + 2 // data, SW1 SW2
)

// endpoints of the token. Their packet size is not known.
const (
	out = 0x02
	in  = 0x81
)

// findInterface returns the interface that has the endpoints, and the packet size of the IN
// endpoint. OpenCT claimed none, so that its number is not known.
func findInterface(desc []byte) (number uint8, packet int, err error) {
	for _, i := range usb.Interfaces(desc) {
		var sends bool
		packet = 0
		for _, e := range i.Endpoints {
			switch e.Address {
			case out:
				sends = true
			case in:
				packet = e.MaxPacket
			}
		}
		if sends && packet > 0 {
			return i.Number, packet, nil
		}
	}
	return 0, 0, fmt.Errorf("no interface has the endpoints %02X and %02X: %w", out, in, reader.ErrUnsupported)
}

// pack appends a message to dst.
func pack(dst []byte, command uint16, value []byte) []byte {
	dst = append(dst, 'R', '6')
	dst = binary.BigEndian.AppendUint16(dst, command)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(value)))
	return append(dst, value...)
}

// cutHeader returns the length of the message that p begins with. The value may have up to
// longest bytes. The status is in errors alone: it may tell why the value is not one.
func cutHeader(p []byte, longest int) (int, error) {
	if len(p) < headerLen {
		return 0, fmt.Errorf("%d bytes came, a header has %d: %w", len(p), headerLen, reader.ErrProtocol)
	}
	status, n := binary.BigEndian.Uint16(p[2:]), int(binary.BigEndian.Uint16(p[4:]))
	if n == 0 || n > longest {
		return 0, fmt.Errorf("%d bytes announced, 1 to %d are possible (status %04X): %w", n, longest, status, reader.ErrProtocol)
	}
	return headerLen + n, nil
}

// cutATR returns the ATR in the value that answers cmdATR.
func cutATR(value []byte) ([]byte, error) {
	n := len(value) - beforeATR - afterATR
	switch {
	case n == 0:
		return nil, fmt.Errorf("it has none: %w: %w", reader.ErrProtocol, reader.ErrMute)
	case n < 0:
		return nil, fmt.Errorf("a value of %d bytes has no ATR in it: %w", len(value), reader.ErrProtocol)
	}
	return value[beforeATR : beforeATR+n], nil
}

// checkTPDU returns an error if p is no T=0 TPDU (ISO/IEC 7816-3:2006 §10.3.2). The length
// of a command is a secret.
func checkTPDU(p []byte) error {
	switch {
	case len(p) < 5:
		return fmt.Errorf("shorter than a T=0 header: %w", reader.ErrInvalid)
	case len(p) > 5 && len(p) != 5+int(p[4]):
		return fmt.Errorf("P3 is not the length of the data: %w", reader.ErrInvalid)
	}
	return nil
}
