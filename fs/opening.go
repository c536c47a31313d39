package fs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// opening remembers the process that made an open, for as long as the open lasts. The process
// may end; whoever inherited the descriptor keeps the right that went with it.
type opening struct {
	by  core.Caller
	uid uint32
	// who made the open; unknown says why who is not known.
	who     process
	unknown error
}

// newOpening is for an open whose handle is owner.
func newOpening(ctx context.Context, f *file, owner any, flags uint32) opening {
	o := opening{by: core.Caller{
		Owner: owner,
		Wait:  flags&syscall.O_NONBLOCK == 0,
		Pass:  new(core.Pass),
	}}
	c, ok := fuse.FromContext(ctx)
	if !ok {
		o.unknown = errUnknownProcess
		return o
	}
	o.uid = c.Uid
	o.by.Escape = f.mount.mayEscape(c.Uid)
	if o.who, o.unknown = f.mount.openers.processOf(c.Pid); o.unknown == nil {
		o.by.Process = o.who
	}
	return o
}

// ready does the waiting that is common to all opens that use a reader.
func ready(ctx context.Context, s *core.Slot, by core.Caller) error {
	if err := s.WaitReady(ctx, by.Wait); err != nil {
		return err
	}
	s.Introduce(by)
	return nil
}

func (o *opening) opened() *opening { return o }

// opened is a handle that has an opening.
type opened interface{ opened() *opening }

// holder decides which other opens pass the transaction of an open of `apdu`, or the exclusive
// connection of an open of `control`.
//
// "flock(1) opens read-only, an open that cannot exchange; so a lock on a read-only open
// lets the opening process and its descendants pass, through whatever opens they make. A
// lock on a read-write open lets that open pass, and the same process's and its
// descendants' opens of control, ctbcs, power and protocol." An exclusive connection lets the
// same processes pass, also their opens of `apdu`, through which the client's commands go.
type holder struct {
	*opening
	table processTable
	apdus bool   // opens of `apdu` pass, too
	file  inode  // this `apdu` or `control`
	mode  uint64 // of the open that locks or connects: O_RDONLY, O_WRONLY or O_RDWR

	mu sync.Mutex // not held while /proc is looked at
	// passed holds the processes that passed, and all processes between them and the
	// opener: their descendants still pass when one of these has ended.
	passed map[process]struct{}
	many   int // size of passed above which ended processes are forgotten: a script may start many
}

// newHolder is for an open of f with mode, which locks or connects.
func newHolder(o *opening, f *file, apdus bool, mode uint64) *holder {
	h := &holder{opening: o, table: statOf, apdus: apdus, file: f.mount.self, mode: mode}
	h.file.number = f.StableAttr().Ino
	return h
}

// unsupported refuses, and logs, what needs to know the process that made an open.
func (f *file) unsupported(call, what string, unknown error) error {
	err := fmt.Errorf("%s: %w: %w", what, unknown, reader.ErrUnsupported)
	f.slot.Log().Warn(call+" refused", "error", err)
	return err
}

// admits reports whether the process that made an open passes.
func (h *holder) admits(by core.Caller) bool {
	handle, ok := by.Owner.(opened)
	if _, isAPDU := by.Owner.(*apduFile); !ok || isAPDU && !h.apdus {
		return false
	}
	o := handle.opened()
	if h.unknown != nil || o.unknown != nil {
		return false
	}
	line, ok := h.table.ancestors(o.who, func(p process) bool { return p == h.who || h.remembers(p) })
	if !ok {
		line, ok = h.inherits(o, line)
	}
	if ok {
		h.remember(line)
	}
	return ok
}

// inherits decides when the opener has ended and its lock has not: "a process of the
// opener's user passes if it or an ancestor holds a descriptor of this apdu", or of this control. Of line, its
// ancestors, those pass with it that come before the one that holds it.
func (h *holder) inherits(o *opening, line []process) ([]process, bool) {
	if o.uid != h.uid || h.table.alive(h.who) {
		return nil, false
	}
	for i, p := range line {
		// If p is alive after the look, the look was not at another process of the same id.
		if h.file.heldBy(p.pid, h.mode) && h.table.alive(p) {
			return line[:i+1], true
		}
	}
	return nil, false
}

func (h *holder) remembers(p process) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.passed[p]
	return ok
}

func (h *holder) remember(line []process) {
	h.mu.Lock()
	if h.passed == nil {
		h.passed, h.many = make(map[process]struct{}), 1024
	}
	for _, p := range line {
		h.passed[p] = struct{}{}
	}
	var all []process
	if len(h.passed) > h.many {
		all = slices.Collect(maps.Keys(h.passed))
	}
	h.mu.Unlock()
	if all == nil {
		return
	}
	ended := slices.DeleteFunc(all, h.table.alive)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range ended {
		delete(h.passed, p)
	}
	h.many = max(1024, 2*len(h.passed))
}
