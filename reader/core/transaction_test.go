package core

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "While one open holds LOCK_EX, commands of other opens wait (EBUSY for opens
// with O_NONBLOCK), and resets by others fail with EBUSY."
func TestTransactionKeepsOthersOut(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
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
		wantErr(t, "a command that may not wait", err, reader.ErrLocked)
		wantErr(t, "lock with LOCK_NB", b.TryLock(bg, quick, lag, nil), reader.ErrLocked)
		for a, name := range map[Action]string{ResetWarm: "reset", ResetCold: "cold", PowerDown: "off", Eject: "eject"} {
			wantErr(t, "power "+name, b.Power(bg, a, other), reader.ErrLocked)
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

// "A reset that the holder asks for leaves the holder's own opens valid; all others say
// ESTALE." The transaction goes on. Callers that it admits count as the holder.
func TestHolderResets(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		name  string
		reset func(b *Slot, by Caller) error
		keeps bool
	}{
		{"reset", func(b *Slot, by Caller) error { return b.Power(bg, ResetWarm, by) }, true},
		{"cold", func(b *Slot, by Caller) error { return b.Power(bg, ResetCold, by) }, true},
		{"two resets", func(b *Slot, by Caller) error {
			return errors.Join(b.Power(bg, ResetWarm, by), b.Power(bg, ResetCold, by))
		}, true},
		{"T=1", func(b *Slot, by Caller) error { return b.SelectProtocol(bg, 1, by) }, true},
		{"off and on", func(b *Slot, by Caller) error {
			return errors.Join(b.Power(bg, PowerDown, by), b.Power(bg, PowerUp, by))
		}, false},
	} {
		for _, asks := range []string{"holder", "child"} {
			t.Run(tt.name+" by the "+asks, func(t *testing.T) {
				bubble(t, Options{}, func(t *testing.T, r *rig) {
					slot := newFakeSlot(t)
					slot.atr = atrBoth
					slot.traits = reader.Traits{Level: reader.ExtendedAPDU}
					slot.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
						if len(x.Out) > 2 && x.Out[0] == 0xFF { // PPS
							return append(dst, x.Out...), nil
						}
						return append(dst, 0x90, 0x00), nil
					}
					_, b := r.plug(reader.Device{}, slot)
					holder, child, other := someone(), someone(), someone()
					// Opened before the lock, and not used since.
					hs, cs, os := mustOpen(t, b, holder), mustOpen(t, b, child), mustOpen(t, b, other)
					closed := mustOpen(t, b, holder)
					closed.Close()
					err := b.Lock(bg, holder, func(by Caller) bool { return by.Owner == child.Owner })
					if err != nil {
						t.Fatal(err)
					}
					late := mustOpen(t, b, child)
					by := holder
					if asks == "child" {
						by = child
					}
					if err := tt.reset(b, by); err != nil {
						t.Fatal(err)
					}
					for name, s := range map[string]*Session{"holder": hs, "child": cs, "child's later open": late} {
						_, err := s.Transmit(bg, hexb("00 01 00 00"), nil)
						if tt.keeps && err != nil {
							t.Errorf("the %s: %v", name, err)
						} else if !tt.keeps {
							wantErr(t, "the "+name, err, reader.ErrStale)
						}
					}
					_, err = os.Transmit(bg, hexb("00 01 00 00"), nil)
					wantErr(t, "another's command", err, reader.ErrStale)
					wantErr(t, "another's lock", b.TryLock(bg, someone(), lag, nil), reader.ErrLocked)
					if n, want := b.Info().Sessions, map[bool]int{true: 3}[tt.keeps]; n != want {
						t.Errorf("%d sessions, want %d", n, want)
					}
					// Without the transaction a reset makes all sessions stale.
					b.Unlock(holder.Owner)
					if err := b.Power(bg, ResetWarm, holder); err != nil {
						t.Fatal(err)
					}
					_, err = hs.Transmit(bg, hexb("00 01 00 00"), nil)
					wantErr(t, "after the transaction", err, reader.ErrStale)
				})
			})
		}
	}
}

// A stale session of another, and one without a card, say so at once instead of
// waiting for a transaction that could not help them.
func TestStaleDoesNotWaitForTransaction(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
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
		wantErr(t, "transmit", err, reader.ErrStale)
	})
}

// A lock on a read-only open "lets the opening process and its descendants pass,
// through whatever opens they make".
func TestTransactionAdmits(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		child, stranger, unknown := hasty(), hasty(), hasty()
		unknown.Pass = nil
		if err := b.Lock(bg, someone(), func(by Caller) bool { return by.Owner == child.Owner }); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, mustOpen(t, b, child), "00 01 00 00", "00 01 00 00 90 00")
		for _, by := range []Caller{stranger, unknown} {
			_, err := mustOpen(t, b, by).Transmit(bg, hexb("00 02 00 00"), nil)
			wantErr(t, "a stranger's command", err, reader.ErrLocked)
		}
	})
}

// Lock waits, ends with ctx, and passes on; no wake-up is lost.
func TestLockWaits(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
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
		wantErr(t, "lock", err, reader.ErrInterrupted)
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
		slot.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			time.Sleep(time.Millisecond)
			return append(append(dst, x.Out...), 0x90, 0x00), nil
		}
		_, b := r.plug(reader.Device{}, slot)
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

// The admission of a caller is decided once per open, with no lock held: a slow look at the
// process table does not hold up others.
func TestJudgedOnce(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		before, holder := someone(), someone()
		bs, hs := mustOpen(t, b, before), mustOpen(t, b, holder)
		var mu sync.Mutex
		look, asked := make(chan bool), map[any]int{}
		admit := func(by Caller) bool {
			mu.Lock()
			asked[by.Owner]++
			mu.Unlock()
			return <-look
		}
		if err := b.Lock(bg, holder, admit); err != nil {
			t.Fatal(err)
		}
		for range 2 { // locking again does not ask again
			if err := b.Lock(bg, holder, admit); err != nil {
				t.Fatal(err)
			}
		}
		during := hasty()
		open, command := asyncOpen(b, bg, during), asyncTransmit(bs, bg, "00 02 00 00")
		synctest.Wait()
		if !open.pending() || !command.pending() {
			t.Error("nobody was asked")
		}
		wantAnswer(t, hs, "00 01 00 00", "00 01 00 00 90 00")
		if b.Info().State != "powered" {
			t.Error(b.Info().State)
		}
		if err := b.Power(bg, PowerUp, holder); err != nil {
			t.Error(err)
		}
		// One passes, the other does not, and the decisions are final.
		look <- true
		look <- true
		if _, err := command.get(); err != nil {
			t.Error(err)
		}
		s, err := open.get()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			wantAnswer(t, s, "00 01 00 00", "00 01 00 00 90 00")
			wantAnswer(t, bs, "00 01 00 00", "00 01 00 00 90 00")
		}
		refused := hasty()
		open = asyncOpen(b, bg, refused)
		look <- false
		if s, err = open.get(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			// Locking again changes nothing: the decisions stay.
			if err := b.Lock(bg, holder, admit); err != nil {
				t.Fatal(err)
			}
			_, err := s.Transmit(bg, hexb("00 02 00 00"), nil)
			wantErr(t, "who was refused", err, reader.ErrLocked)
			wantErr(t, "its reset", b.Power(bg, ResetWarm, refused), reader.ErrLocked)
			wantErr(t, "its protocol", b.SelectProtocol(bg, 0, refused), reader.ErrLocked)
		}
		if asked[before.Owner] != 1 || asked[during.Owner] != 1 || asked[refused.Owner] != 1 || len(asked) != 3 {
			t.Errorf("asked %v", asked)
		}
		// The next transaction asks anew.
		b.Unlock(holder.Owner)
		if err := b.Lock(bg, holder, func(by Caller) bool { return by.Owner == refused.Owner }); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, s, "00 01 00 00", "00 01 00 00 90 00")
		wantErr(t, "the reset of who passed before", b.Power(bg, ResetWarm, during), reader.ErrLocked)
	})
}

// "A waiting open ends at once with ENODEV when the reader leaves", and never with EINTR, even
// while another command has the turn for which the power-up waits.
func TestOpenWaitsForTurnAndReaderLeaves(t *testing.T) {
	bg := context.Background()
	for range 50 { // Go chooses at random among what is ready
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newFakeSlot(t)
			let := make(chan struct{})
			slot.state = func(context.Context) (reader.Status, error) { <-let; return reader.Present, nil }
			close(let)
			fake, b := r.plug(reader.Device{}, slot)
			hold := make(chan struct{})
			slot.set(func(s *fakeSlot) {
				s.state = func(ctx context.Context) (reader.Status, error) { <-hold; return reader.Present, nil }
			})
			slot.card(reader.Present) // the monitor has the turn
			synctest.Wait()
			open := asyncOpen(b, bg, someone())
			synctest.Wait()
			fake.unplug()
			_, err := open.get()
			wantErr(t, "open", err, reader.ErrGone)
			if errors.Is(err, reader.ErrInterrupted) {
				t.Errorf("open: %v", err)
			}
			close(hold)
		})
	}
}

// Admission is decided once per open. If two commands of one open are judged at the same time
// and the process table changes in between, the first verdict counts.
func TestFirstVerdictCounts(t *testing.T) {
	for _, first := range []bool{true, false} {
		bg := context.Background()
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			_, b := r.plug(reader.Device{}, newFakeSlot(t))
			by := hasty()
			s := mustOpen(t, b, by)
			look := make(chan bool)
			if err := b.Lock(bg, someone(), func(Caller) bool { return <-look }); err != nil {
				t.Fatal(err)
			}
			one := asyncTransmit(s, bg, "00 01 00 00")
			two := asyncTransmit(s, bg, "00 01 00 00")
			synctest.Wait()
			look <- first
			synctest.Wait()
			look <- !first
			for name, o := range map[string]*outcome[[]byte]{"one": one, "two": two, "later": asyncTransmit(s, bg, "00 01 00 00")} {
				if _, err := o.get(); errors.Is(err, reader.ErrLocked) == first {
					t.Errorf("first %v, %s: %v", first, name, err)
				}
			}
		})
	}
}
