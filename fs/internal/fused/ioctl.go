package fused

import "encoding/binary"

// The requests of cardfs.h. The size field of EXCHANGE is the caller's choice.
const (
	iocMagic      = 0xCF
	IoctlExchange = 3<<30 | iocMagic<<8 | 1 // _IOC_READ|_IOC_WRITE
	IoctlBinary   = iocMagic<<8 | 2         // _IOC_NONE
	IoctlCTAPI    = iocMagic<<8 | 3         // _IOC_NONE
	IoctlConnect  = 3<<30 | connectionSize<<16 | iocMagic<<8 | 4
	IoctlBegin    = iocMagic<<8 | 5 // _IOC_NONE
	IoctlEnd      = iocMagic<<8 | 6 // _IOC_NONE
	iocSizeMask   = 0x3FFF << 16
)

// IsExchange reports whether cmd is CARDFS_EXCHANGE, of whatever size.
func IsExchange(cmd uint32) bool { return cmd&^iocSizeMask == IoctlExchange }

const exchangeHeader = 4 // struct cardfs_exchange: uint32_t length

// exchangeSize is how much of a CARDFS_EXCHANGE's room is to be copied back: the answer
// of n bytes, or only its length where it does not fit.
func exchangeSize(n, room int) int {
	if exchangeHeader+n > room {
		return min(exchangeHeader, room)
	}
	return exchangeHeader + n
}

// copiedBack is how much of the room that comes with an ioctl is to be copied back.
func copiedBack(cmd uint32, result, room int) int {
	if !IsExchange(cmd) {
		return room
	}
	return exchangeSize(result, room)
}

// ExchangeIn finds the command in the input of a CARDFS_EXCHANGE, and the room for its answer
// in output, as an empty slice. ok is false if either is too short for its header.
func ExchangeIn(input, output []byte) (command, room []byte, ok bool) {
	if len(input) < exchangeHeader || len(output) < exchangeHeader {
		return nil, nil, false
	}
	n := binary.NativeEndian.Uint32(input)
	if int64(n) > int64(len(input)-exchangeHeader) {
		return nil, nil, false
	}
	return input[exchangeHeader : exchangeHeader+int(n)], output[exchangeHeader:exchangeHeader:len(output)], true
}

// ExchangeOut completes an answer of n bytes, which is in output if it fits. It clears the
// rest of the buffer, which was used for other clients before: when go-fuse answers (with
// -vv) the buffer is copied back whole.
func ExchangeOut(output []byte, n int) {
	binary.NativeEndian.PutUint32(output, uint32(n))
	clear(output[exchangeSize(n, len(output)):])
}

// Connection is struct cardfs_connection.
type Connection struct {
	Share, Card, Active, Offered, Changes, Epoch, Connections uint32

	Locked bool
	Prefix []byte // of ATR
	ATR    []byte
	Reader string
}

const (
	atrAt          = 9 * 4      // behind the numbers, natr the last
	readerAt       = atrAt + 36 // MAX_ATR_SIZE is 33
	connectionSize = readerAt + 128
)

// ConnectIn finds the share mode in the input of a CARDFS_CONNECT. ok is false if that or the
// room for the answer is too short.
func ConnectIn(input, output []byte) (share uint32, ok bool) {
	if len(input) < connectionSize || len(output) < connectionSize {
		return 0, false
	}
	return binary.NativeEndian.Uint32(input), true
}

// ConnectOut puts c into output, all of which it sets.
func ConnectOut(output []byte, c *Connection) {
	clear(output)
	atr := output[atrAt:readerAt]
	n := copy(atr, c.Prefix)
	n += copy(atr[n:], c.ATR)
	var locked uint32
	if c.Locked {
		locked = 1
	}
	for i, v := range [...]uint32{c.Share, c.Card, c.Active, c.Offered, c.Changes, c.Epoch, c.Connections, locked, uint32(n)} {
		binary.NativeEndian.PutUint32(output[4*i:], v)
	}
	copy(output[readerAt:connectionSize-1], c.Reader) // a NUL ends it
}
