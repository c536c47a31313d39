package reader

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// "While one open holds LOCK_EX, commands of other opens wait (EBUSY for opens
// with O_NONBLOCK), and resets by others fail with EBUSY."
func TestTransactionKeepsOthersOut(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(Device{}, slot)
		holder, other, quick := someone(), someone(), hasty()
		hs, os, qs := mustOpen(t, b, holder), mustOpen(t, b, other), mustOpen(t, b, quick)
		if err := b.Lock(bg, holder, nil); err != nil {
			t.Fatal(err)
		}
		if err := b.Lock(bg, holder, nil); err != nil {
			t.Fatalf("locking twice is locking once: %v", err)
		}
		if !b.Info().Locked {
			t.Error("status does not tell of the transaction")
		}
		waits := asyncTransmit(os, bg, "00 02 00 00")
		synctest.Wait()
		_, err := qs.Transmit(bg, hexb("00 03 00 00"), nil)
		wantErr(t, "a command that may not wait", err, ErrLocked)
		wantErr(t, "lock with LOCK_NB", b.Lock(bg, quick, nil), ErrLocked)
		for a, name := range map[Action]string{ResetWarm: "reset", ResetCold: "cold", PowerDown: "off", Eject: "eject"} {
			wantErr(t, "power "+name, b.Power(bg, a, other), ErrLocked)
		}
		if err := b.Power(bg, PowerUp, other); err != nil {
			t.Errorf("power on, of a card that is on: %v", err)
		}
		if err := b.SelectProtocol(bg, 1, other); err != nil {
			t.Errorf("selecting the protocol in force: %v", err)
		}
		wantAnswer(t, hs, "00 01 00 00", "00 01 00 00 90 00")
		if !waits.pending() {
			t.Fatal("another's command did not wait")
		}
		b.Unlock(other.Owner) // it holds nothing
		synctest.Wait()
		if !waits.pending() {
			t.Fatal("one who does not hold the transaction ended it")
		}
		b.Unlock(holder.Owner)
		if _, err := waits.get(); err != nil {
			t.Error(err)
		}
		if got := len(slot.sent); got != 2 {
			t.Errorf("%d commands were sent, want 2", got)
		}
	})
}

// The holder may reset the card, and keeps the transaction; its session is stale.
func TestHolderResets(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(Device{}, newFakeSlot(t))
		holder := someone()
		s := mustOpen(t, b, holder)
		if err := b.Lock(bg, holder, nil); err != nil {
			t.Fatal(err)
		}
		if err := b.Power(bg, ResetWarm, holder); err != nil {
			t.Fatal(err)
		}
		_, err := s.Transmit(bg, hexb("00 01 00 00"), nil)
		wantErr(t, "transmit", err, ErrStale)
		wantErr(t, "another's lock", b.Lock(bg, hasty(), nil), ErrLocked)
	})
}

// A stale session of another, and one without a card, say so at once instead of
// waiting for a transaction that could not help them.
func TestStaleDoesNotWaitForTransaction(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(Device{}, newFakeSlot(t))
		s := mustOpen(t, b, someone())
		holder := someone()
		if err := b.Lock(bg, holder, nil); err != nil {
			t.Fatal(err)
		}
		o := asyncTransmit(s, bg, "00 01 00 00")
		synctest.Wait()
		if err := b.Power(bg, ResetWarm, holder); err != nil {
			t.Fatal(err)
		}
		_, err := o.get()
		wantErr(t, "transmit", err, ErrStale)
	})
}

// A lock on a read-only open "lets the opening process and its descendants pass,
// through whatever opens they make".
func TestTransactionAdmits(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(Device{}, newFakeSlot(t))
		if err := b.Lock(bg, someone(), func(pid uint32) bool { return pid == 42 }); err != nil {
			t.Fatal(err)
		}
		child, stranger, unknown := hasty(), hasty(), hasty()
		child.PID, stranger.PID = 42, 43
		wantAnswer(t, mustOpen(t, b, child), "00 01 00 00", "00 01 00 00 90 00")
		for _, by := range []Caller{stranger, unknown} {
			_, err := mustOpen(t, b, by).Transmit(bg, hexb("00 02 00 00"), nil)
			wantErr(t, "a stranger's command", err, ErrLocked)
		}
	})
}

// Lock waits, ends with ctx, and passes on; no wake-up is lost.
func TestLockWaits(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(Device{}, newFakeSlot(t))
		holder := someone()
		if err := b.Lock(bg, holder, nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(bg)
		quitter := async(func() (int, error) { return 0, b.Lock(ctx, someone(), nil) })
		var waiting []*outcome[int]
		for range 100 {
			waiting = append(waiting, async(func() (int, error) {
				by := someone()
				if err := b.Lock(bg, by, nil); err != nil {
					return 0, err
				}
				b.Unlock(by.Owner)
				return 0, nil
			}))
		}
		synctest.Wait()
		cancel()
		_, err := quitter.get()
		wantErr(t, "lock", err, ErrInterrupted)
		b.Unlock(holder.Owner)
		for _, o := range waiting {
			if _, err := o.get(); err != nil {
				t.Error(err)
			}
		}
	})
}

// Sequences under a transaction never interleave, with commands of others who
// lock nothing in between, and each answer is its own command's.
func TestTransactionsDoNotInterleave(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.exchange = func(_ context.Context, x Transfer, dst []byte) ([]byte, error) {
			time.Sleep(time.Millisecond)
			return append(append(dst, x.Out...), 0x90, 0x00), nil
		}
		_, b := r.plug(Device{}, slot)
		const lockers, plain, rounds, length = 4, 3, 20, 5
		var wg sync.WaitGroup
		for c := range lockers + plain {
			wg.Go(func() {
				by := someone()
				s := mustOpen(t, b, by)
				for range rounds {
					if c < lockers {
						if err := b.Lock(bg, by, nil); err != nil {
							t.Error(err)
						}
					}
					for step := range length {
						capdu := []byte{0x80, byte(c), byte(step), 0}
						answer, err := s.Transmit(bg, capdu, nil)
						if err != nil || string(answer) != string(capdu)+"\x90\x00" {
							t.Errorf("client %d step %d: % X, %v", c, step, answer, err)
						}
					}
					if c < lockers {
						b.Unlock(by.Owner)
					}
				}
			})
		}
		wg.Wait()
		if n := (lockers + plain) * rounds * length; len(slot.sent) != n {
			t.Errorf("%d commands reached the card, want %d", len(slot.sent), n)
		}
		for i := 0; i < len(slot.sent); i++ {
			c := slot.sent[i][1]
			if int(c) >= lockers {
				continue
			}
			for step := range length {
				if got := slot.sent[i+step]; got[1] != c || int(got[2]) != step {
					t.Fatalf("command %d: % X in client %d's sequence at step %d", i+step, got, c, step)
				}
			}
			i += length - 1
		}
	})
}
