package fs

import (
	"context"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/ctapi"
	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader/core"
)

// ctbcsFile is one open of `ctbcs`: a program's conversation with the terminal, which package
// ctapi implements. Each slot has the file, and each speaks for the whole reader.
//
// After CARDFS_CTAPI (cardfs.h) it carries what libctapi-cardfs sends: bytes, with
// two addresses before each command and answer, for the terminal and its cards.
type ctbcsFile struct {
	flocked
	*channel
	opening
	terminal  *ctapi.Terminal
	addressed atomic.Bool
}

var (
	_ = (fs.FileReader)((*ctbcsFile)(nil))
	_ = (fs.FileWriter)((*ctbcsFile)(nil))
	_ = (fs.FileReleaser)((*ctbcsFile)(nil))
	_ = (fs.FileIoctler)((*ctbcsFile)(nil))
	_ = (fs.FileSetlker)((*ctbcsFile)(nil))
	_ = (fs.FileSetlkwer)((*ctbcsFile)(nil))
)

// openCTBCS waits for the reader to be ready.
func openCTBCS(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	c := &ctbcsFile{}
	c.opening = newOpening(ctx, f, c, flags)
	if err := ready(ctx, f.slot, c.by); err != nil {
		return nil, err
	}
	c.terminal = ctapi.New(f.slot, c.by)
	c.flocked = f.flock(c)
	c.channel = newChannel(c, f, &c.opening, flags, c.end)
	return c, nil
}

// Ioctl serves CARDFS_CTAPI besides the ioctls of every exchange file.
func (c *ctbcsFile) Ioctl(ctx context.Context, cmd uint32, arg uint64, input, output []byte) (int32, syscall.Errno) {
	if cmd != fused.IoctlCTAPI {
		return c.channel.Ioctl(ctx, cmd, arg, input, output)
	}
	n, errno := c.channel.Ioctl(ctx, fused.IoctlBinary, 0, nil, nil)
	if errno == 0 {
		c.addressed.Store(true)
	}
	return n, errno
}

func (c *ctbcsFile) check(command []byte) (int, error) {
	if c.addressed.Load() {
		return shortAnswer, ctapi.CheckData(command)
	}
	return shortAnswer, ctapi.Check(command)
}

func (c *ctbcsFile) exchange(ctx context.Context, command []byte, at core.Moment, dst []byte) ([]byte, error) {
	c.terminal.WrittenAt(at)
	if c.addressed.Load() {
		return c.terminal.Data(ctx, command, dst)
	}
	return c.terminal.Exchange(ctx, command, dst)
}

// end is the last thing of an open: nothing of it is under way any more.
func (c *ctbcsFile) end() {
	c.unlock()
	c.terminal.Close()
}
