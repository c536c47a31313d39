package smartboard

import (
	"fmt"

	"github.com/cardfs/cardfs/reader"
)

// A frame is 00, the length of what follows, a code and data. There is no checksum and no number. An answer is
// told from another only by its code.
const (
	frameHead = 2
	// mostData is how much data one frame carries, either way.
	mostData     = 254
	longestFrame = frameHead + 1 + mostData
)

// code is the code of a frame.
type code byte

// Codes from the host.
const (
	cmdStart    code = 0x60 // answered by ansStarted and a text
	cmdProtocol code = 0x61 // five bytes, see protocols; answered by ansProtocol
	cmdReset    code = 0x62 // answered by ansData with the ATR
	cmdStatus   code = 0x65 // answered by ansStatus, ansIn or ansOut
	cmdData     code = 0x67 // a TPDU; answered by ansData, perhaps after some ansWait
	cmdStop     code = 0x6A // answered by whatever
)

// Codes from the reader.
const (
	ansStarted  code = 0x60
	ansStatus   code = 0x61 // four bytes, see parseStatus
	ansProtocol code = 0x62
	ansWait     code = 0x63 // the answer is still to come
	ansData     code = 0x64
	ansIn       code = 0x65 // a card was put in
	ansOut      code = 0x66 // a card was taken out
	ansAgain    code = 0x67 // the command has to be sent again
)

// protocols are the data of cmdProtocol for T=0 and T=1, as they were observed. What they mean is unknown. The
// reader gets the same ones whatever the ATR says.
var protocols = [2][]byte{
	{0x00, 0x00, 0x0A, 0x00, 0x10},
	{0x10, 0x00, 0x00, 0x75, 0x10},
}

// appendFrame appends a frame to dst.
func appendFrame(dst []byte, c code, data []byte) []byte {
	dst = append(dst, 0, byte(1+len(data)), byte(c))
	return append(dst, data...)
}

// frameSize is how long the frame is that p begins with, as far as p tells.
func frameSize(p []byte) (int, error) {
	switch {
	case len(p) > 0 && p[0] != 0:
		return 0, fmt.Errorf("a frame begins with %02X: %w", p[0], reader.ErrProtocol)
	case len(p) < frameHead:
		return frameHead + 1, nil
	case p[1] == 0:
		return 0, fmt.Errorf("a frame without a code: %w", reader.ErrProtocol)
	}
	return frameHead + int(p[1]), nil
}

// frame is a frame from the reader.
type frame struct {
	code code
	data []byte
}

// splitFrame takes a whole frame apart.
func splitFrame(p []byte) frame { return frame{code(p[frameHead]), p[frameHead+1:]} }

// Bits of the first byte of ansStatus, and values of the fourth. Seen were 00 00 00 01 without a card, 08 00 00 02
// with one that was not reset, and 19 01 00 04 after a reset.
const (
	statusLength = 4
	cardIn       = 0x08
	cardWaits    = 0x02
)

// parseStatus reads the data of ansStatus: whether there is a card, and whether the reader says that it was not
// reset.
func parseStatus(data []byte) (in, waits bool, err error) {
	if len(data) < statusLength {
		return false, false, fmt.Errorf("a status of %d bytes, %d are the least: %w", len(data), statusLength, reader.ErrProtocol)
	}
	in = data[0]&cardIn != 0
	return in, in && data[3] == cardWaits, nil
}
