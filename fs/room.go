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

	// shortCommand is what poll(2) wants room for: a command of four bytes and its answer.
	shortCommand = 4 + shortAnswer
)

// errNoRoom: the answer to an earlier command was longer than announced and took the room
// that this command needs.
var errNoRoom = errors.New("not sent: no room for the answer; those before it wait to be read")

// room counts the bytes that the channels of one slot hold, by user.
type room struct {
	used    atomic.Int64
	waiters atomic.Int32 // how many wait

	mu     sync.Mutex // a leaf
	shares map[uint32]*share
	wait   map[*channel]waiter // for room for a short command
}

type waiter struct {
	share *share
	wake  func()
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

// takeSpare is take for bytes that are dispensable: it leaves half of the room free.
func (s *share) takeSpare(n int) bool { return s.takeUpTo(n, userRoom/2, slotRoom/2) }

func (s *share) takeUpTo(n int, user, slot int64) bool {
	if s.used.Add(int64(n)) <= user {
		if s.room.used.Add(int64(n)) <= slot {
			return true
		}
		s.room.used.Add(-int64(n))
	}
	s.used.Add(-int64(n))
	s.room.returned() // somebody may have looked meanwhile
	return false
}

// fits reports whether take would take n bytes.
func (s *share) fits(n int64) bool {
	return s.used.Load()+n <= userRoom && s.room.used.Load()+n <= slotRoom
}

// await reports whether there is room for a short command. Where there is none, wake is
// called once there is, from any goroutine and with any lock held; nil: nobody waits.
func (s *share) await(c *channel, wake func()) bool {
	if s.fits(shortCommand) {
		return true
	}
	if wake == nil {
		return false
	}
	r := s.room
	r.mu.Lock()
	if r.wait == nil {
		r.wait = make(map[*channel]waiter)
	}
	r.wait[c] = waiter{s, wake}
	r.waiters.Store(int32(len(r.wait)))
	r.mu.Unlock()
	return s.fits(shortCommand) // once more: room that was returned before the registration woke nobody
}

// forgo ends the waiting of c.
func (r *room) forgo(c *channel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.wait, c)
	r.waiters.Store(int32(len(r.wait)))
}

// returned wakes those who wait and have room now.
func (r *room) returned() {
	if r.waiters.Load() == 0 {
		return
	}
	var woken []func()
	r.mu.Lock()
	for c, w := range r.wait {
		if w.share.fits(shortCommand) {
			woken = append(woken, w.wake)
			delete(r.wait, c)
		}
	}
	r.waiters.Store(int32(len(r.wait)))
	r.mu.Unlock()
	for _, wake := range woken {
		wake()
	}
}

// force takes n bytes that already exist, whatever the limits.
func (s *share) force(n int) {
	s.used.Add(int64(n))
	s.room.used.Add(int64(n))
}

func (s *share) give(n int) {
	s.force(-n)
	s.room.returned()
}

// rooms are the rooms of a mount's slots.
type rooms struct{ bySlot sync.Map }

func (r *rooms) of(s *core.Slot) *room {
	found, ok := r.bySlot.Load(s)
	if !ok {
		found, _ = r.bySlot.LoadOrStore(s, new(room))
		if s.Gone() { // forget may have been here before
			r.forget(s)
		}
	}
	return found.(*room)
}

func (r *rooms) forget(s *core.Slot) { r.bySlot.Delete(s) }
