package core

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

// "So that nobody ... locks others out by commands left behind": all that one user left
// behind is one among those who wait for the turn.
func TestLeftBehindTakesTurns(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		step := make(chan struct{})
		slot.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			<-step
			return append(dst, 0x90, 0), nil
		}
		_, b := r.plug(reader.Device{}, slot)
		q, other := NewQueue(), NewQueue()
		var all []*outcome[[]byte]
		leave := func(q Queue, capdu string) {
			by := someone()
			s := mustOpen(t, b, by)
			by.Pass.Leave(q)
			all = append(all, asyncTransmit(s, bg, capdu))
			synctest.Wait()
		}
		for range 20 {
			leave(q, "00 01 00 00")
		}
		for range 5 {
			leave(other, "00 02 00 00")
		}
		for range 3 {
			s := mustOpen(t, b, someone())
			all = append(all, asyncTransmit(s, bg, "00 03 00 00"))
			synctest.Wait()
		}
		for range all {
			step <- struct{}{}
			synctest.Wait()
		}
		for _, o := range all {
			if _, err := o.get(); err != nil {
				t.Error(err)
			}
		}
		last := 0
		for i, c := range slot.sent {
			if c[1] == 3 {
				last = i
			}
		}
		// The one under way, one of each user's that waits, and these three.
		if last > 5 {
			t.Errorf("the last command of an open came after %d others", last)
		}
	})
}

// What one open left behind may wait for the transaction; what another of the same user
// left behind, that the transaction admits, does not wait for it.
func TestLeftBehindAndLocked(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		holder, child, other := someone(), someone(), someone()
		hs, cs, os := mustOpen(t, b, holder), mustOpen(t, b, child), mustOpen(t, b, other)
		if err := b.Lock(bg, holder, func(by Caller) bool { return by.Owner == child.Owner }); err != nil {
			t.Fatal(err)
		}
		q := NewQueue()
		for _, by := range []Caller{holder, child, other} {
			by.Pass.Leave(q)
		}
		waits := asyncTransmit(os, bg, "00 01 00 00")
		synctest.Wait()
		wantAnswer(t, hs, "00 02 00 00", "00 02 00 00 90 00")
		wantAnswer(t, cs, "00 02 00 00", "00 02 00 00 90 00")
		if !waits.pending() {
			t.Error("it did not wait for the transaction")
		}
		b.Unlock(holder.Owner)
		if _, err := waits.get(); err != nil {
			t.Error(err)
		}
	})
}

// What was left behind and waits ends with the reader.
func TestLeftBehindAndGone(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		out := make(chan struct{})
		slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
			<-out
			return dst, reader.ErrGone
		}
		fake, b := r.plug(reader.Device{}, slot)
		q := NewQueue()
		var all []*outcome[[]byte]
		for range 10 {
			by := someone()
			s := mustOpen(t, b, by)
			by.Pass.Leave(q)
			all = append(all, asyncTransmit(s, bg, "00 01 00 00"))
			synctest.Wait()
		}
		fake.unplug()
		synctest.Wait()
		pending := 0
		for _, o := range all {
			if o.pending() {
				pending++
			}
		}
		if pending > 1 {
			t.Errorf("%d wait for a reader that left", pending)
		}
		close(out)
		for _, o := range all {
			_, err := o.get()
			wantErr(t, "transmit", err, reader.ErrGone)
		}
	})
}
