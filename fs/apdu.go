package fs

import (
	"context"
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// apduFile is one open of `apdu`: a session with the card and a channel. flock(2) on it takes
// the slot's transaction.
type apduFile struct {
	flocked
	*channel
	opening
	file    *file
	session *core.Session // nil: the open cannot exchange; it serves flock(2) only
	// Of lines for other files:
	controls controls
}

var (
	_ = (fs.FileReader)((*apduFile)(nil))
	_ = (fs.FileWriter)((*apduFile)(nil))
	_ = (fs.FileReleaser)((*apduFile)(nil))
	_ = (fs.FileIoctler)((*apduFile)(nil))
	_ = (fs.FileSetlker)((*apduFile)(nil))
	_ = (fs.FileSetlkwer)((*apduFile)(nil))
)

// openAPDU waits for a card and its power-up, unless the open is read-only.
func openAPDU(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	a := &apduFile{file: f}
	a.opening = newOpening(ctx, f, a, flags)
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		var err error
		if a.session, err = f.slot.Open(ctx, a.by); err != nil {
			return nil, err
		}
	}
	a.flocked = flocked{a}
	a.channel = newChannel(a, f, &a.opening, flags, a.end)
	a.lockLines = true
	return a, nil
}

// check does not insist on a C-APDU. Old commands with an Lc of 00 and pseudo-APDUs are none;
// they go to the card as they are if the slot's level can carry them.
func (a *apduFile) check(command []byte) (int, error) {
	if len(command) < 4 {
		return 0, fmt.Errorf("a command has at least 4 bytes, CLA INS P1 P2; here are %d: %w", len(command), reader.ErrInvalid)
	}
	c, err := iso7816.ParseCommand(command)
	if err != nil {
		return shortAnswer, nil
	}
	return c.Ne + 2, nil
}

func (a *apduFile) checkText(command []byte) error {
	_, err := iso7816.ParseCommand(command)
	return err
}

// exchange ignores the moment: a session is bound to one card.
func (a *apduFile) exchange(ctx context.Context, command []byte, _ core.Moment, dst []byte) ([]byte, error) {
	return a.session.Transmit(ctx, command, dst)
}

func (a *apduFile) known(file, word string) error {
	if file == wordProtocol {
		return knownProtocol(word)
	}
	return knownPower(word)
}

func (a *apduFile) set(ctx context.Context, file, word string) error {
	if file == wordProtocol {
		return setProtocol(ctx, a.file, word, a.by)
	}
	return setPower(ctx, a.file, word, a.by)
}

func (a *apduFile) control(ctx context.Context, command []byte, at core.Moment, dst []byte) ([]byte, error) {
	return a.controls.exchange(ctx, a.file, &a.opening, command, at, dst)
}

// Ioctl serves CARDFS_BEGIN and CARDFS_END besides the ioctls of every exchange file: flock(2) as
// a PC/SC client needs it, in one request (cardfs.h).
func (a *apduFile) Ioctl(ctx context.Context, cmd uint32, arg uint64, input, output []byte) (int32, syscall.Errno) {
	switch {
	case cmd != fused.IoctlBegin && cmd != fused.IoctlEnd:
		return a.channel.Ioctl(ctx, cmd, arg, input, output)
	case !a.readable || !a.writable:
		return 0, syscall.EBADF
	case cmd == fused.IoctlEnd:
		return 0, toErrno(a.file.slot.End(a, uint32(arg)))
	}
	return 0, toErrno(a.file.slot.Begin(a.by, uint32(arg), a.holder().admits))
}

// lock takes the transaction.
func (a *apduFile) lock(ctx context.Context, shared, wait bool) error {
	if !a.writable && a.unknown != nil {
		return a.file.unsupported("lock", "flock on a read-only open of apdu, which is for the process that opened it", a.unknown)
	}
	if !wait {
		return a.file.slot.TryLock(ctx, a.by, releaseLag, a.holder().admits)
	}
	return a.file.slot.Lock(ctx, a.by, a.holder().admits)
}

// holder is for a lock by this open.
func (a *apduFile) holder() *holder {
	mode := uint64(syscall.O_RDWR)
	switch {
	case !a.writable:
		mode = syscall.O_RDONLY
	case !a.readable:
		mode = syscall.O_WRONLY
	}
	return newHolder(&a.opening, a.file, !a.writable, mode)
}

// lockRefused logs that a lock was refused to a caller that would not wait.
func (a *apduFile) lockRefused() { a.file.refused("lock", syscall.EBUSY) }

// end is the last thing of an open: nothing of it is under way any more.
func (a *apduFile) end() {
	a.file.slot.Abandon(a)
	if a.session != nil {
		a.session.Close()
	}
}

func (a *apduFile) unlock() { a.file.slot.Unlock(a) }
