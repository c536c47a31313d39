package core

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// asked is how often the slot was asked for its card.
func (s *fakeSlot) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, w := range s.wire {
		if w == "status" {
			n++
		}
	}
	return n
}

// A card is idle as soon as it was not used for IdleOff, and not only at the next poll.
func TestIdleOffIsDue(t *testing.T) {
	bubble(t, Options{IdleOff: 8 * time.Second}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		mustOpen(t, b, someone())
		time.Sleep(8*time.Second - 1)
		synctest.Wait()
		if i := b.Info(); i.State != StatePowered {
			t.Errorf("state %s before it is due", i.State)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if i := b.Info(); i.State != StatePresent {
			t.Errorf("state %s when it is due", i.State)
		}
	})
}

// A reader that ends its notifications sends no more. This says nothing of the card, and an
// idle card still loses its power.
func TestNotificationsEnd(t *testing.T) {
	bubble(t, Options{IdleOff: time.Minute}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		mustOpen(t, b, someone())
		before := slot.asked()
		close(slot.changes)
		synctest.Wait()
		if n := slot.asked() - before; n != 0 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if i := b.Info(); i.State != StatePresent {
			t.Errorf("state %s of an idle card", i.State)
		}
		if n := slot.asked() - before; n != 0 {
			t.Errorf("asked %d times while the card was idle", n)
		}
	})
}

// Without power there is no ATR, and there are no historical bytes.
func TestHistorical(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.atr = hexb("3B 83 01 41 42 43 C2") // T=1, "ABC"
		_, b := r.plug(reader.Device{}, slot)
		if i := b.Info(); i.Historical() != nil || i.Synchronous() {
			t.Errorf("without power: % X", i.Historical())
		}
		mustOpen(t, b, someone())
		if i := b.Info(); !bytes.Equal(i.Historical(), []byte("ABC")) || i.Synchronous() {
			t.Errorf("historical bytes % X", i.Historical())
		}
	})
}
