package fs

import (
	"context"
	"sync"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// apduFile is one open of `apdu`: a session with the card, a channel, and what
// flock(2) makes the slot's transaction.
type apduFile struct {
	flocked
	*channel
	by      reader.Caller
	session *reader.Session

	opener    process // of an open that cannot exchange: who passes its lock
	openerErr error
}

var (
	_ = (fs.FileReader)((*apduFile)(nil))
	_ = (fs.FileWriter)((*apduFile)(nil))
	_ = (fs.FileReleaser)((*apduFile)(nil))
	_ = (fs.FileIoctler)((*apduFile)(nil))
	_ = (fs.FileSetlker)((*apduFile)(nil))
	_ = (fs.FileSetlkwer)((*apduFile)(nil))
)

// openAPDU waits for a card and its power-up.
func openAPDU(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	a := &apduFile{}
	a.by = caller(ctx, a, flags)
	a.flocked = flocked{a}
	a.channel = newChannel(a, f, flags, a.end)
	if !a.writable {
		// Now, as the thread that opens may be gone when the process locks.
		a.opener, a.openerErr = processOf(a.by.PID)
	}
	var err error
	a.session, err = f.bay.Open(ctx, a.by)
	return a, err
}

func (a *apduFile) check(command []byte) error {
	_, err := iso7816.ParseCommand(command)
	return err
}

func (a *apduFile) exchange(ctx context.Context, command, dst []byte) ([]byte, error) {
	return a.session.Transmit(ctx, command, dst)
}

// lock takes the transaction. A lock on an open that cannot exchange, as
// flock(1) makes it, lets the opening process and its descendants pass.
func (a *apduFile) lock(ctx context.Context, shared, wait bool) error {
	by := a.by
	by.Wait = wait
	var admit func(pid uint32) bool
	if !a.writable {
		if a.openerErr != nil {
			return a.openerErr
		}
		var passed sync.Map // walking /proc takes longer than an exchange
		admit = func(pid uint32) bool {
			if _, ok := passed.Load(pid); ok {
				return true
			}
			if !a.opener.begat(pid) {
				return false
			}
			passed.Store(pid, true)
			return true
		}
	}
	return a.session.Bay().Lock(ctx, by, admit)
}

// end is the last thing of an open: nothing of it is under way any more.
func (a *apduFile) end() {
	a.unlock()
	a.session.Close()
}

func (a *apduFile) unlock() { a.session.Bay().Unlock(a) }
