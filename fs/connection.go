package fs

import (
	"context"
	"syscall"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader/core"
)

// A PC/SC client connects to a slot by CARDFS_CONNECT (cardfs.h) on an open of `control`, which
// needs no card. What two clients may do at the same time is decided in package core.

// Ioctl serves CARDFS_CONNECT besides the ioctls of every exchange file.
func (c *controlFile) Ioctl(ctx context.Context, cmd uint32, arg uint64, input, output []byte) (int32, syscall.Errno) {
	switch {
	case cmd != fused.IoctlConnect:
		return c.channel.Ioctl(ctx, cmd, arg, input, output)
	case !c.readable || !c.writable:
		return 0, syscall.EBADF
	}
	share, ok := fused.ConnectIn(input, output)
	if !ok {
		return 0, syscall.EINVAL
	}
	return 0, toErrno(c.connect(ctx, core.Share(share), output))
}

// memoryPrefix is what stands before a memory card's four bytes in the ATR that PC/SC programs
// get: T0 announces four historical bytes and no interface byte.
var memoryPrefix = []byte{0x3B, 0x04}

// connect is CARDFS_CONNECT. A refused one waits for releaseLag: whoever had the connection or
// the lock may have closed it already.
func (c *controlFile) connect(ctx context.Context, share core.Share, output []byte) error {
	var admit func(core.Caller) bool
	if share == core.ShareExclusive {
		if c.unknown != nil {
			return c.file.unsupported("exclusive connection", "an exclusive connection, which is for the process that opened control", c.unknown)
		}
		admit = newHolder(&c.opening, c.file, true, syscall.O_RDWR).admits
	}
	now, err := c.connection.Share(ctx, share, releaseLag, admit)
	if err != nil {
		return err
	}
	out := fused.Connection{
		Share: uint32(share), Card: uint32(now.Card), Active: now.Active, Offered: now.Offered,
		Changes: now.Changes, Epoch: now.Epoch, Connections: now.Connections, Locked: now.Locked,
		ATR: now.ATR, Reader: now.Reader,
	}
	if now.Memory {
		out.Prefix = memoryPrefix
	}
	fused.ConnectOut(output, &out)
	return nil
}

// Release ends the open, and with it the connection.
func (c *controlFile) Release(ctx context.Context) syscall.Errno {
	c.connection.Close()
	return c.channel.Release(ctx)
}
