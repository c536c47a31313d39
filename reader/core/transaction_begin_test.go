package core

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "Both fail with ESTALE if it is not [what it was], and CARDFS_BEGIN with EBUSY, at once, while
// another holds the lock or has an exclusive connection: nothing has changed then."
func TestBeginAndEnd(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		mine, other := of("mine", someone()), of("other", someone())
		ms, os := mustOpen(t, b, mine), mustOpen(t, b, other)
		asks := newClient(b, "mine")
		epoch := func() uint32 {
			t.Helper()
			now, err := asks.Share(bg, ShareNone, lag, nil)
			if err != nil {
				t.Fatal(err)
			}
			return now.Epoch
		}
		first := epoch()
		nobody := func(Caller) bool { return false }
		held := func(want bool, what string) {
			t.Helper()
			if b.Info().Locked != want {
				t.Errorf("%s: held is %v", what, !want)
			}
		}

		wantErr(t, "begin, another epoch", b.Begin(mine, first+1, nobody), reader.ErrStale)
		held(false, "after a begin that failed")
		began := time.Now()
		for _, what := range []string{"begin", "begin again"} {
			if err := b.Begin(mine, first, nobody); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		held(true, "begun")
		wantErr(t, "another's begin", b.Begin(other, first, nobody), reader.ErrLocked)
		if err := b.End(other.Owner, first); err != nil {
			t.Errorf("the end of what another began: %v", err)
		}
		held(true, "after another's end")
		wantAnswer(t, ms, "00 01 00 00", "00 01 00 00 90 00")
		waits := asyncTransmit(os, bg, "00 02 00 00")
		synctest.Wait()
		if !waits.pending() {
			t.Error("another's command did not wait")
		}
		if err := b.End(mine.Owner, first); err != nil {
			t.Error(err)
		}
		held(false, "ended")
		if _, err := waits.get(); err != nil {
			t.Error(err)
		}

		// The card was reset: nothing begins, and what was begun does not end.
		if err := b.Begin(mine, first, nobody); err != nil {
			t.Fatal(err)
		}
		if err := b.Power(bg, ResetWarm, mine); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "end after a reset", b.End(mine.Owner, first), reader.ErrStale)
		held(true, "after an end that failed")
		second := epoch()
		if err := b.End(mine.Owner, second); err != nil {
			t.Error(err)
		}
		wantErr(t, "begin after a reset", b.Begin(mine, first, nobody), reader.ErrStale)
		held(false, "after a begin that failed")

		// An exclusive connection keeps out whom it does not admit, and nobody else.
		c := newClient(b, "other")
		if err := c.share(ShareExclusive); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "begin against an exclusive connection", b.Begin(mine, second, nobody), reader.ErrLocked)
		held(false, "after a begin that failed")
		if err := b.Begin(other, second, nobody); err != nil {
			t.Errorf("begin by the exclusive client: %v", err)
		}
		if err := b.End(other.Owner, second); err != nil {
			t.Error(err)
		}
		c.Close()
		if time.Since(began) != 0 {
			t.Error("something waited")
		}

		b.ifd.leave()
		synctest.Wait()
		wantErr(t, "begin without a reader", b.Begin(mine, second, nobody), reader.ErrGone)
		wantErr(t, "end without a reader", b.End(mine.Owner, second), reader.ErrGone)
	})
}
