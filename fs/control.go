package fs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// controlFile is one open of `control`: a command is a control code of four
// bytes, big endian, and its data; the answer is what SCardControl gives.
//
//	42 00 0D 48                  list the PC/SC part 10 features and their codes
//	42 00 00 01 data…            escape: data to the reader as they are (owner only)
//	42 33 00 06 PIN_VERIFY       have a PIN entered at the reader
type controlFile struct {
	flocked
	*channel
	opening
	file       *file
	connection *core.Connection
	controls   controls
}

var (
	_ = (fs.FileReader)((*controlFile)(nil))
	_ = (fs.FileWriter)((*controlFile)(nil))
	_ = (fs.FileReleaser)((*controlFile)(nil))
	_ = (fs.FileIoctler)((*controlFile)(nil))
	_ = (fs.FileSetlker)((*controlFile)(nil))
	_ = (fs.FileSetlkwer)((*controlFile)(nil))
)

// openControl waits for the reader to be ready.
func openControl(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	c := &controlFile{file: f}
	c.opening = newOpening(ctx, f, c, flags)
	if err := ready(ctx, f.slot, c.by); err != nil {
		return nil, err
	}
	c.flocked = f.flock(c)
	c.connection = f.slot.NewConnection(c.by)
	c.channel = newChannel(c, f, &c.opening, flags, c.unlock)
	return c, nil
}

const controlCode = 4 // bytes

func (c *controlFile) check(command []byte) (int, error) {
	return shortAnswer, checkControl(command)
}

func checkControl(command []byte) error {
	if len(command) < controlCode {
		return fmt.Errorf("control: a code of four bytes must come first, here are %d: %w", len(command), reader.ErrInvalid)
	}
	return nil
}

func (c *controlFile) exchange(ctx context.Context, command []byte, at core.Moment, dst []byte) ([]byte, error) {
	return c.controls.exchange(ctx, c.file, &c.opening, command, at, dst)
}

// controls sends the control commands of one open.
type controls struct {
	refused sync.Once // logged
}

func (c *controls) exchange(ctx context.Context, f *file, o *opening, command []byte, at core.Moment, dst []byte) ([]byte, error) {
	by := o.by
	by.At = at
	answer, err := f.slot.Control(ctx, binary.BigEndian.Uint32(command), command[controlCode:], by)
	if errors.Is(err, reader.ErrNoPermission) {
		c.refused.Do(func() {
			f.slot.Log().Warn("command refused", "uid", o.uid, "error", err)
		})
	}
	dst = append(dst, answer...)
	clear(answer)
	return dst, err
}
