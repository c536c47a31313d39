package fs

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cardfs/cardfs/reader/core"
)

// "A channel holds at most 64 unread answers and 1 MiB of commands and answers; a slot 8
// MiB for each user and 64 MiB in all, so that nobody makes the daemon grow or locks
// others out by commands left behind; past any of them write says ENOBUFS."
const (
	channelRoom = 1 << 20
	userRoom    = 8 << 20
	slotRoom    = 64 << 20
)

// errNoRoom is for a command that was written behind one whose answer was longer than it
// let expect, and found no more room.
var errNoRoom = errors.New("not sent: no room for the answer; those before it wait to be read")

// room counts the bytes that the channels of one slot hold, by user.
type room struct {
	used atomic.Int64

	mu     sync.Mutex
	shares map[uint32]*share
}

// share is one user's part of a slot's room, as long as the user has an open, or commands
// that an open left behind.
type share struct {
	room  *room
	uid   uint32
	opens int // under room.mu
	used  atomic.Int64
	left  core.Queue // of commands left behind
}

// share is the share of a user who opens; close ends the open's part in it.
func (r *room) share(uid uint32) *share {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.shares[uid]
	if s == nil {
		if r.shares == nil {
			r.shares = make(map[uint32]*share)
		}
		s = &share{room: r, uid: uid, left: core.NewQueue()}
		r.shares[uid] = s
	}
	s.opens++
	return s
}

func (s *share) close() {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if s.opens--; s.opens == 0 {
		delete(s.room.shares, s.uid)
	}
}

// take takes n bytes, or none where they exceed the user's or the slot's room.
func (s *share) take(n int) bool { return s.takeUpTo(n, userRoom, slotRoom) }

// takeSpare is take for what can be done without: it leaves half of the room alone.
func (s *share) takeSpare(n int) bool { return s.takeUpTo(n, userRoom/2, slotRoom/2) }

func (s *share) takeUpTo(n int, user, slot int64) bool {
	if s.used.Add(int64(n)) <= user {
		if s.room.used.Add(int64(n)) <= slot {
			return true
		}
		s.room.used.Add(-int64(n))
	}
	s.used.Add(-int64(n))
	return false
}

// force takes n bytes that are there already.
func (s *share) force(n int) {
	s.used.Add(int64(n))
	s.room.used.Add(int64(n))
}

func (s *share) give(n int) { s.force(-n) }

// rooms are the rooms of a mount's slots.
type rooms struct{ bays sync.Map }

func (r *rooms) of(s *core.Slot) *room {
	found, ok := r.bays.Load(s)
	if !ok {
		found, _ = r.bays.LoadOrStore(s, new(room))
		if s.Gone() { // forget may have been here before
			r.forget(s)
		}
	}
	return found.(*room)
}

func (r *rooms) forget(s *core.Slot) { r.bays.Delete(s) }
