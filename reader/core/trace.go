package core

import (
	"fmt"
	"sync/atomic"
	"time"
)

// trace is what a link says of its exchanges, for those who follow it.
type trace struct {
	source[string]
	followers atomic.Int32
}

func (t *trace) On() bool { return t.followers.Load() > 0 }

func (t *trace) Printf(format string, args ...any) {
	if t.On() {
		t.put(time.Now().Format("15:04:05.000000 ") + fmt.Sprintf(format, args...))
	}
}

// FollowTrace subscribes to a decoded log of what crosses the slot, a line an
// entry, from now on. Reference data (PINs) never enters it, nor its length, nor
// a key.
func (s *Slot) FollowTrace() *Feed[string] {
	s.trace.followers.Add(1)
	return s.trace.add(nil)
}

// CloseTrace ends a subscription of FollowTrace.
func (s *Slot) CloseTrace(f *Feed[string]) {
	s.trace.followers.Add(-1)
	f.Close()
}
