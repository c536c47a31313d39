package fs

import (
	"context"
	"encoding/binary"
	"syscall"
)

// The requests of cardfs.h. The size field of EXCHANGE is the caller's choice.
const (
	iocMagic    = 0xCF
	iocExchange = 3<<30 | iocMagic<<8 | 1 // _IOC_READ|_IOC_WRITE
	iocBinary   = iocMagic<<8 | 2         // _IOC_NONE
	iocSizeMask = 0x3FFF << 16
)

// Ioctl does CARDFS_EXCHANGE and CARDFS_BINARY (cardfs.h).
func (c *channel) Ioctl(ctx context.Context, cmd uint32, arg uint64, input, output []byte) (int32, syscall.Errno) {
	switch {
	case cmd&^iocSizeMask == iocExchange:
	case cmd == iocBinary:
	default:
		return 0, syscall.ENOTTY
	}
	if !c.readable || !c.writable {
		return 0, syscall.EBADF
	}
	if cmd == iocBinary {
		c.mu.Lock()
		c.binary = true
		c.mu.Unlock()
		return 0, 0
	}
	return c.exchangeIoctl(ctx, input, output)
}

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
	if cmd&^iocSizeMask != iocExchange {
		return room
	}
	return exchangeSize(result, room)
}

func (c *channel) exchangeIoctl(ctx context.Context, input, output []byte) (int32, syscall.Errno) {
	if len(input) < exchangeHeader || len(output) < exchangeHeader {
		return 0, syscall.EINVAL
	}
	n := binary.NativeEndian.Uint32(input)
	if int64(n) > int64(len(input)-exchangeHeader) {
		return 0, syscall.EINVAL
	}
	sent := command{data: input[exchangeHeader : exchangeHeader+int(n)], at: c.now()}
	room, err := c.to.check(sent.data)
	if err != nil {
		return 0, toErrno(err)
	}

	// It comes after what was written before.
	c.mu.Lock()
	for c.busy {
		if c.nonblock {
			c.mu.Unlock()
			return 0, syscall.EAGAIN
		}
		if err := c.wait(ctx); err != nil {
			c.mu.Unlock()
			return 0, toErrno(err)
		}
	}
	// This answer, too, may not fit and have to wait.
	if c.unread() >= maxAnswers || c.beyond || room > len(output)-exchangeHeader && c.held+room > channelRoom {
		c.mu.Unlock()
		return 0, syscall.ENOBUFS
	}
	c.busy = true
	c.mu.Unlock()

	// The answer goes straight to where the kernel takes it from.
	dst := output[exchangeHeader:exchangeHeader:len(output)]
	data, err := c.exchange(ctx, sent, dst)

	c.mu.Lock()
	defer c.mu.Unlock()
	fits := len(data) <= cap(dst)
	if err == nil && !fits && !c.closed { // closed: who asked was killed
		// The command is done: its answer waits for read(2).
		c.answers = append(c.answers, answer{data: data, size: len(data), beyond: c.swap(0, len(data))})
		c.touch()
	}
	if len(c.queue) > 0 {
		go c.send()
	} else {
		c.finish()
	}
	if err != nil {
		return 0, toErrno(err)
	}
	binary.NativeEndian.PutUint32(output, uint32(len(data)))
	// Where go-fuse answers (with -vv) the buffer, which others had, goes back whole: it
	// must hold nobody else's bytes.
	if fits {
		clear(output[exchangeHeader+len(data):])
	} else {
		clear(output[exchangeHeader:])
	}
	return int32(len(data)), 0
}
