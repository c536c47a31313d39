package fs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// mayHaveMemory: `memory` is there unless it is known to make no sense: for a reader that
// does not read memory cards, for another card that has power, and for a memory card
// whose size is not known. Before the driver is ready nothing is known, and an open waits.
func mayHaveMemory(s *core.Slot) bool {
	switch i := s.Brief(); i.State {
	case core.StateStarting:
		return true
	case core.StatePowered:
		return i.Chip.Size > 0
	case core.StatePresent, core.StateEmpty:
		return s.Features().Memory != nil && !core.Sizeless(i.Err)
	}
	return false
}

func memorySize(s *core.Slot) int { return s.Brief().Chip.Size }

// readOnlyMemory: "counter cards: read only".
func readOnlyMemory(s *core.Slot) bool {
	chip := s.Brief().Chip
	return chip.Size > 0 && chip.Bus == reader.CounterCard
}

// memoryFile is one open of `memory`: a session with the card.
type memoryFile struct {
	flocked
	opening
	file    *file
	session *core.Session
}

var (
	_ = (fs.FileReader)((*memoryFile)(nil))
	_ = (fs.FileWriter)((*memoryFile)(nil))
	_ = (fs.FileReleaser)((*memoryFile)(nil))
	_ = (fs.FileSetlker)((*memoryFile)(nil))
	_ = (fs.FileSetlkwer)((*memoryFile)(nil))
)

// openMemory waits for a card and its power-up.
func openMemory(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	m := &memoryFile{file: f}
	m.opening = newOpening(ctx, f, m, flags)
	m.flocked = f.flock(m)
	if err := f.slot.WaitReady(ctx, m.by.Wait); err != nil {
		return nil, err
	}
	if f.slot.Features().Memory == nil {
		return nil, core.ErrNoMemory
	}
	var err error
	if m.session, err = f.slot.Open(ctx, m.by); err != nil {
		return nil, err
	}
	if f.slot.Brief().Chip.Size == 0 {
		m.session.Close()
		return nil, core.ErrNoMemory
	}
	return m, nil
}

func (m *memoryFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if m.file.slot.Gone() {
		return nil, syscall.ENODEV
	}
	size := int64(memorySize(m.file.slot))
	if err := m.session.Err(); err != nil {
		return nil, toErrno(err)
	}
	if off >= size {
		return fuse.ReadResultData(nil), 0
	}
	got, err := m.session.ReadMemory(ctx, int(off), int(min(int64(len(dest)), size-off)), dest[:0])
	if err != nil {
		return nil, toErrno(err)
	}
	return fuse.ReadResultData(got), 0
}

// Write says EBUSY at once where another holds the transaction: the kernel holds the inode's
// lock during a write, and the holder's own writes would wait for it.
func (m *memoryFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if m.file.slot.Gone() {
		return 0, syscall.ENODEV
	}
	if off > int64(memorySize(m.file.slot)) {
		off = int64(memorySize(m.file.slot)) // no int is too small for it
	}
	n, err := m.session.WriteMemory(ctx, int(off), data)
	return uint32(n), toErrno(err)
}

// Ready: a card's bytes are always there.
func (m *memoryFile) Ready() uint32 {
	if m.file.slot.Gone() {
		return fused.HungUp
	}
	return fused.Readable | fused.Writable
}

func (m *memoryFile) Watch(wake func()) (stop func()) { return m.file.slot.AfterLeft(wake) }

func (m *memoryFile) Release(ctx context.Context) syscall.Errno {
	m.unlock()
	m.session.Close()
	return 0
}
