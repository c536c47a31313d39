package fs

import (
	"context"
	"syscall"

	"github.com/cardfs/cardfs/fs/internal/fused"
)

// Ioctl serves CARDFS_EXCHANGE and CARDFS_BINARY (cardfs.h).
func (c *channel) Ioctl(ctx context.Context, cmd uint32, arg uint64, input, output []byte) (int32, syscall.Errno) {
	switch {
	case fused.IsExchange(cmd):
	case cmd == fused.IoctlBinary:
	default:
		return 0, syscall.ENOTTY
	}
	if !c.readable || !c.writable {
		return 0, syscall.EBADF
	}
	if cmd == fused.IoctlBinary {
		c.mu.Lock()
		c.binary = true
		c.mu.Unlock()
		return 0, 0
	}
	return c.exchangeIoctl(ctx, input, output)
}

func (c *channel) exchangeIoctl(ctx context.Context, input, output []byte) (int32, syscall.Errno) {
	data, dst, ok := fused.ExchangeIn(input, output)
	if !ok {
		return 0, syscall.EINVAL
	}
	sent := command{data: data, at: c.now()}
	room, err := c.to.check(sent.data)
	if err != nil {
		return 0, toErrno(err)
	}

	// Commands that were written before go first.
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
	if c.unread() >= maxAnswers || c.beyond || room > cap(dst) && c.held+room > channelRoom {
		c.mu.Unlock()
		return 0, syscall.ENOBUFS
	}
	c.busy = true
	c.mu.Unlock()

	// The answer goes straight into the buffer that the kernel copies from.
	data, err = c.exchange(ctx, sent, dst)

	c.mu.Lock()
	defer c.mu.Unlock()
	fits := len(data) <= cap(dst)
	if err == nil && !fits && !c.closed { // closed: who asked was killed
		// The command is done: its answer waits for read(2).
		c.answers = append(c.answers, answer{data: data, size: len(data), beyond: c.swap(0, len(data))})
		c.touch()
	}
	if len(c.queue) > 0 {
		go c.Send()
	} else {
		c.finish()
	}
	if err != nil {
		return 0, toErrno(err)
	}
	fused.ExchangeOut(output, len(data))
	return int32(len(data)), 0
}
