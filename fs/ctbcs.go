package fs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/ctapi"
)

// ctbcsFile is one open of `ctbcs`: a program's conversation with the terminal,
// which package ctapi has. The file is there for each slot and always speaks for
// the whole reader.
type ctbcsFile struct {
	flocked
	*channel
	opening
	terminal *ctapi.Terminal
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
	c.terminal = ctapi.New(f.bay, c.by)
	c.flocked = flocked{byOwner{&f.locks, c}}
	c.channel = newChannel(c, f, flags, c.unlock)
	return c, ready(ctx, f.bay, c.by)
}

func (c *ctbcsFile) check(command []byte) error { return ctapi.Check(command) }

func (c *ctbcsFile) exchange(ctx context.Context, command, dst []byte) ([]byte, error) {
	return c.terminal.Exchange(ctx, command, dst)
}
