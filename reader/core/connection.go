package core

import (
	"context"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Share is how a PC/SC client shares a slot, with the numbers of winscard.h.
type Share uint32

const (
	ShareNone      Share = iota // there is no connection
	ShareExclusive              // SCARD_SHARE_EXCLUSIVE
	ShareShared                 // SCARD_SHARE_SHARED
	ShareDirect                 // SCARD_SHARE_DIRECT; to others it is as ShareShared
)

// Protocols with the numbers of winscard.h.
const (
	ProtocolT0  = 1 << iota // SCARD_PROTOCOL_T0
	ProtocolT1              // SCARD_PROTOCOL_T1
	ProtocolRaw             // SCARD_PROTOCOL_RAW
)

// Connection is a PC/SC client's connection to a slot, which an open of `control` has or may
// have. It needs no card. An exclusive one is a transaction beside that of flock(2):
//
//	        Share(ShareShared), Share(ShareDirect)
//	none ──────────────────────────────────────────▶ shared
//	 │ ▲                                             │ ▲ │
//	 │ └──── Share(ShareNone), from any; Close ──────┼─┼─┘
//	 │                                               │ │
//	 └─ Share(ShareExclusive), nobody else there ──▶ exclusive
type Connection struct {
	slot  *Slot
	by    Caller
	share Share // under slot.mu, as closed
	// closed: the open has ended. A call may still be under way if its caller was killed.
	closed bool
}

// NewConnection returns what may become a connection of the open that made by.
func (s *Slot) NewConnection(by Caller) *Connection { return &Connection{slot: s, by: by} }

// Connected is what a PC/SC client is told of its slot.
type Connected struct {
	Card    reader.Status
	Active  uint32 // the protocol in force: one of ProtocolT0 …, or 0
	Offered uint32 // the protocols that card and reader both have
	Changes uint32 // how often a card was put in or taken out since the reader arrived
	// Epoch is another number after each reset, loss of power and exchange of the card.
	Epoch       uint32
	Connections uint32 // how many there are
	Locked      bool   // somebody holds the transaction

	ATR    []byte // nil unless powered; of a memory card: its four bytes
	Memory bool   // it is a memory card
	Reader string // the reader's name for PC/SC
}

// Share changes how the client shares the slot, and returns what is in the slot. With the
// mode that is in force it only asks. A connection that cannot be granted is refused with
// ErrLocked, after lag; what was before stays. admit reports who besides by may use the
// slot of an exclusive connection; as for Lock.
func (c *Connection) Share(ctx context.Context, share Share, lag time.Duration, admit func(Caller) bool) (Connected, error) {
	if share > ShareDirect {
		return Connected{}, reader.ErrInvalid
	}
	s := c.slot
	var soon context.Context
	for {
		s.mu.Lock()
		err := s.readyErr()
		if c.closed {
			err = reader.ErrGone
		}
		if err != nil {
			if share == ShareNone { // also of a reader that failed
				c.set(share, nil)
			}
			s.mu.Unlock()
			return Connected{}, err
		}
		refused, undecided := c.refused(share)
		if !refused && undecided == nil {
			c.set(share, admit)
			now := s.connected()
			s.mu.Unlock()
			return now, nil
		}
		changed := s.changed
		s.mu.Unlock()
		if undecided != nil {
			undecided.judge(c.by)
			continue
		}
		if soon == nil {
			var cancel context.CancelFunc
			soon, cancel = context.WithTimeout(ctx, lag)
			defer cancel()
		}
		if err := s.wait(soon, changed); err != nil {
			if err == reader.ErrInterrupted && ctx.Err() == nil {
				err = reader.ErrLocked
			}
			return Connected{}, err
		}
	}
}

// refused reports whether others hinder the connection from changing to share. undecided is a
// transaction of which it is not known whether it admits the client. s.mu is held.
//
// "A connection EXCLUSIVE is refused while another PC/SC connection exists or another holds
// the lock; SHARED and DIRECT are refused while another has EXCLUSIVE; mere opens of files do
// not count."
func (c *Connection) refused(share Share) (refused bool, undecided *transaction) {
	s := c.slot
	others := len(s.connections)
	if c.share != ShareNone {
		others--
	}
	switch {
	case share == ShareNone, share == c.share, c.share == ShareExclusive:
		return false, nil
	case share != ShareExclusive:
		return s.exclusive.Load() != nil, nil
	case others > 0:
		return true, nil
	case s.lock == nil || s.lock.ending: // who held it is gone
		return false, nil
	}
	admitted, known := s.lock.admits(c.by)
	if !known {
		return false, s.lock
	}
	return !admitted, nil
}

// set makes share the connection's mode. s.mu is held.
func (c *Connection) set(share Share, admit func(Caller) bool) {
	s, was := c.slot, c.share
	if share == was {
		return
	}
	if c.share = share; share == ShareNone {
		delete(s.connections, c)
	} else if was == ShareNone {
		if s.connections == nil {
			s.connections = make(map[*Connection]struct{})
		}
		s.connections[c] = struct{}{}
	}
	switch {
	case share == ShareExclusive:
		s.exclusive.Store(&transaction{slot: s, owner: c.by.Owner, process: c.by.Process, admit: admit, connection: true})
	case was == ShareExclusive:
		s.exclusive.Store(nil)
	}
	s.followHeld()
	s.changes.Add(1)
	if share == ShareExclusive || was != ShareNone {
		s.touch()
	} else {
		s.tell() // nobody waits for one more that shares
	}
}

// Close ends the connection because its open has ended. If the client's process has the
// transaction then, and ends that by a close too, it died: see Abandon. The two closes of a
// process that dies come in any order.
func (c *Connection) Close() {
	s := c.slot
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.share != ShareNone && s.lock != nil && s.lock.process == c.by.Process && c.by.Process != nil {
		s.lock.widowed = true
	}
	c.closed = true
	c.set(ShareNone, nil)
}

// connects reports whether a process has a connection. s.mu is held.
func (s *Slot) connects(process any) bool {
	for c := range s.connections {
		if c.by.Process == process && process != nil {
			return true
		}
	}
	return false
}

// disconnectAll ends all connections because the reader left. s.mu is held.
func (s *Slot) disconnectAll() {
	for c := range s.connections {
		c.share = ShareNone
	}
	s.connections = nil
	s.exclusive.Store(nil)
}

// connected is what a client is told. s.mu is held.
func (s *Slot) connected() Connected {
	now := Connected{
		Card: s.card, Changes: uint32(s.swaps), Epoch: uint32(s.epoch),
		Connections: uint32(len(s.connections)), Locked: s.lock != nil, Reader: s.pcsc,
	}
	if s.card == reader.Powered {
		now.ATR, now.Offered, now.Active = s.atr, s.offered, protocolBit(s.params.T)
		now.Memory = s.answer.Synchronous()
	}
	return now
}

// protocolBit is the number of winscard.h for a protocol. A memory card, which has none, is
// spoken to as if it had T=0.
func protocolBit(t int) uint32 {
	switch t {
	case 0, iso7816.NoProtocol:
		return ProtocolT0
	case 1:
		return ProtocolT1
	}
	return ProtocolRaw
}
