package cm4000

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/cardfs/cardfs/reader"
)

// The ioctls of Linux's cm4000_cs (include/linux/cm4000_cs.h). The size in the number is that
// of a pointer, by mistake, although larger structures are copied.
const (
	pointer = strconv.IntSize / 8
	read    = 2 << 30

	ioStatus  = read | pointer<<16 | 'c'<<8
	ioATR     = (read | 1<<30) | pointer<<16 | 'c'<<8 | 1
	ioCardOff = 'c'<<8 | 4
)

// The bits of a status.
const (
	cardIn      = 0x01
	cardPowered = 0x02
	atrPresent  = 0x04
	atrValid    = 0x08
	noReader    = 0x10
	badCard     = 0x20
)

// The answer to ioATR is struct atreq: the length as an int, 64 bytes of ATR, and three fields
// that the kernel does not fill.
const (
	statusSize = 8 // more than the int that is copied
	atreqSize  = 76
	mostATR    = 33
)

// parseATR takes an answer to ioATR apart.
func parseATR(p []byte) ([]byte, error) {
	switch n := int32(binary.NativeEndian.Uint32(p)); {
	case n == -1:
		return nil, fmt.Errorf("the card's ATR is not valid: %w", reader.ErrMute)
	case n < 1 || n > mostATR:
		return nil, fmt.Errorf("an ATR of %d bytes; 1 to %d are possible: %w", n, mostATR, reader.ErrProtocol)
	default:
		return append([]byte(nil), p[4:4+n]...), nil
	}
}
