package fused

import "encoding/binary"

// The requests of cardfs.h. The size field of EXCHANGE is the caller's choice.
const (
	iocMagic      = 0xCF
	IoctlExchange = 3<<30 | iocMagic<<8 | 1 // _IOC_READ|_IOC_WRITE
	IoctlBinary   = iocMagic<<8 | 2         // _IOC_NONE
	IoctlCTAPI    = iocMagic<<8 | 3         // _IOC_NONE
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
