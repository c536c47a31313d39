package core

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "A card is powered on demand by the first open that needs it, and stays powered."
func TestPowerOnDemandIsShared(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		powered := make(chan struct{})
		slot.power = func(context.Context, reader.Reset) ([]byte, error) { <-powered; return atrT1, nil }
		_, b := r.plug(reader.Device{}, slot)
		var opens []*outcome[*Session]
		for range 1000 {
			opens = append(opens, asyncOpen(b, context.Background(), someone()))
		}
		synctest.Wait()
		for _, o := range opens {
			if !o.pending() {
				t.Fatal("an open ended before the card had its power")
			}
		}
		close(powered)
		for _, o := range opens {
			if s, err := o.get(); err != nil || string(s.ATR()) != string(atrT1) {
				t.Fatalf("open: % X, %v", s.ATR(), err)
			}
		}
		if n := slot.count("power on cold"); n != 1 {
			t.Errorf("the card was powered %d times", n)
		}
		mustOpen(t, b, hasty())
		if n := slot.count("power on cold"); n != 1 {
			t.Errorf("a later open powered the card again")
		}
	})
}

// All opens that wait for one power-up share its failure. The next open tries again.
func TestFailedPowerUpIsSharedThenRetried(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		start := make(chan struct{})
		slot.power = func(context.Context, reader.Reset) ([]byte, error) { <-start; return nil, reader.ErrMute }
		_, b := r.plug(reader.Device{}, slot)
		var opens []*outcome[*Session]
		for range 10 {
			opens = append(opens, asyncOpen(b, context.Background(), someone()))
		}
		synctest.Wait()
		close(start)
		for _, o := range opens {
			_, err := o.get()
			wantErr(t, "open", err, reader.ErrMute)
		}
		// ISO/IEC 7816-3:2006 §6.2.3: three attempts before the card is rejected.
		if want := []string{"power on cold", "power on cold", "power on cold", "power off"}; !slices.Equal(slot.calls(), want) {
			t.Errorf("calls: %q, want %q", slot.calls(), want)
		}
		if i := b.Info(); i.State != "present" || !errors.Is(i.Err, reader.ErrMute) {
			t.Errorf("state %s, error %v", i.State, i.Err)
		}
		slot.set(func(s *fakeSlot) { s.power = nil })
		mustOpen(t, b, someone())
		if i := b.Info(); i.State != "powered" || i.Err != nil {
			t.Errorf("state %s, error %v after a power-up that went well", i.State, i.Err)
		}
	})
}

// A waiter that gives up does not end the power-up for the others.
func TestWaiterGivesUp(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		powered := make(chan struct{})
		slot.power = func(ctx context.Context, _ reader.Reset) ([]byte, error) {
			select {
			case <-powered:
				return atrT1, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		_, b := r.plug(reader.Device{}, slot)
		ctx, cancel := context.WithCancel(context.Background())
		first := asyncOpen(b, ctx, someone())
		synctest.Wait()
		second := asyncOpen(b, context.Background(), someone())
		synctest.Wait()
		cancel()
		_, err := first.get()
		wantErr(t, "the one who gave up", err, reader.ErrInterrupted)
		synctest.Wait()
		if !second.pending() {
			t.Fatal("the other ended too")
		}
		close(powered)
		if _, err := second.get(); err != nil {
			t.Errorf("the other: %v", err)
		}
	})
}

// O_NONBLOCK: "EAGAIN while starting, ENOMEDIUM with no card".
func TestNonblockingOpens(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.status = reader.Absent
		fake := newFakeReader(slot)
		opened := make(chan struct{})
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) { <-opened; return fake, nil }
		b := r.announce(reader.Device{})
		_, err := b.Open(context.Background(), hasty())
		wantErr(t, "open while starting", err, reader.ErrNotReady)
		wantErr(t, "ready while starting", b.WaitReady(context.Background(), false), reader.ErrNotReady)
		wantErr(t, "power while starting", b.Power(context.Background(), PowerUp, hasty()), reader.ErrNotReady)
		close(opened)
		synctest.Wait()
		_, err = b.Open(context.Background(), hasty())
		wantErr(t, "open without a card", err, reader.ErrNoCard)
		wantErr(t, "power without a card", b.Power(context.Background(), PowerUp, hasty()), reader.ErrNoCard)
		slot.card(reader.Present)
		synctest.Wait()
		mustOpen(t, b, hasty())
	})
}

// A waiting open goes on waiting through the states starting, empty and present.
func TestOpenWaitsThroughAllOfIt(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.status = reader.Absent
		fake := newFakeReader(slot)
		opened, powered := make(chan struct{}), make(chan struct{})
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) { <-opened; return fake, nil }
		slot.power = func(context.Context, reader.Reset) ([]byte, error) { <-powered; return atrT1, nil }
		b := r.announce(reader.Device{})
		o := asyncOpen(b, context.Background(), someone())
		for _, step := range []struct {
			state State
			next  func()
		}{
			{"starting", func() { close(opened) }},
			{"empty", func() { slot.card(reader.Present) }},
			{"present", func() { close(powered) }},
		} {
			synctest.Wait()
			if s := b.Info().State; s != step.state || !o.pending() {
				t.Fatalf("state %s, want %s; open pending: %v", s, step.state, o.pending())
			}
			step.next()
		}
		if _, err := o.get(); err != nil {
			t.Fatal(err)
		}
	})
}

// If the card is removed during its power-up, the open waits for a card again.
func TestRemovalWhilePowering(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		out := make(chan struct{})
		slot.power = func(context.Context, reader.Reset) ([]byte, error) { <-out; return nil, reader.ErrNoCard }
		_, b := r.plug(reader.Device{}, slot)
		waits, hurries := asyncOpen(b, context.Background(), someone()), asyncOpen(b, context.Background(), hasty())
		synctest.Wait()
		slot.set(func(s *fakeSlot) { s.status = reader.Absent })
		close(out)
		_, err := hurries.get()
		wantErr(t, "open with O_NONBLOCK", err, reader.ErrNoCard)
		synctest.Wait()
		if !waits.pending() || b.Info().State != "empty" {
			t.Fatalf("state %s, pending %v", b.Info().State, waits.pending())
		}
		slot.set(func(s *fakeSlot) { s.power = nil })
		slot.card(reader.Present)
		s, err := waits.get()
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, s, "00 A4 00 00", "00 A4 00 00 90 00")
	})
}

// A slot without a Notifier is polled.
type polledSlot struct{ *fakeSlot }

func (polledSlot) Changes() {} // hides the Notifier

func TestPolledSlot(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.status = reader.Absent
		fake := newFakeReader(slot)
		fake.slots[0] = polledSlot{slot}
		b := r.plugReader(reader.Device{}, fake)
		o := asyncOpen(b, context.Background(), someone())
		synctest.Wait()
		slot.set(func(s *fakeSlot) { s.status = reader.Present })
		before := time.Now()
		if _, err := o.get(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(before); d > 400*time.Millisecond {
			t.Errorf("a card was noticed after %v; polled every 400 ms", d)
		}
	})
}

// A reader that can no longer report its state is still polled. The log has the failure once.
func TestPolledSlotFails(t *testing.T) {
	var log bytes.Buffer
	bubble(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		broken := errors.New("broken")
		slot.state = func(context.Context) (reader.Status, error) { return reader.Absent, broken }
		fake := newFakeReader(slot)
		fake.slots[0] = polledSlot{slot}
		b := r.plugReader(reader.Device{}, fake)
		time.Sleep(time.Minute)
		if err := b.Info().Err; !errors.Is(err, broken) {
			t.Errorf("status has %v", err)
		}
		if n := strings.Count(log.String(), "broken"); n > 2 { // the first look, and all others
			t.Errorf("logged %d times", n)
		}
		slot.set(func(s *fakeSlot) { s.state = nil })
		mustOpen(t, b, someone())
	})
}

// A token cannot be removed, so its state is not polled.
func TestFixedIsNotPolled(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.traits.Fixed = true
		fake := newFakeReader(slot)
		fake.slots[0] = polledSlot{slot}
		b := r.plugReader(reader.Device{}, fake)
		mustOpen(t, b, someone())
		looks := func() (n int) {
			slot.set(func(s *fakeSlot) {
				for _, w := range s.wire {
					if w == "status" {
						n++
					}
				}
			})
			return n
		}
		before := looks()
		time.Sleep(time.Hour)
		if n := looks(); n != before {
			t.Errorf("asked %d times for its state in an idle hour", n-before)
		}
	})
}

// "--idle-off DURATION": an idle card loses its power, a used one does not, nor
// one in a transaction.
func TestIdleOff(t *testing.T) {
	bubble(t, Options{IdleOff: time.Minute}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		by := someone()
		s := mustOpen(t, b, by)
		for range 10 {
			time.Sleep(50 * time.Second)
			wantAnswer(t, s, "00 01 00 00", "00 01 00 00 90 00")
		}
		if err := b.Lock(context.Background(), by, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		wantAnswer(t, s, "00 02 00 00", "00 02 00 00 90 00")
		b.Unlock(by.Owner)
		time.Sleep(2 * time.Minute)
		if b.Info().State != "present" || slot.count("power off") != 1 {
			t.Errorf("state %s, powered off %d times", b.Info().State, slot.count("power off"))
		}
		_, err := s.Transmit(context.Background(), hexb("00 03 00 00"), nil)
		wantErr(t, "transmit after idle-off", err, reader.ErrStale)
		wantAnswer(t, mustOpen(t, b, by), "00 04 00 00", "00 04 00 00 90 00")
	})
}

// A card is not idle during an exchange that takes longer than the idle time.
func TestIdleOffDuringExchange(t *testing.T) {
	bubble(t, Options{IdleOff: time.Second}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			time.Sleep(time.Minute)
			return append(dst, 0x90, 0x00), nil
		}
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		wantAnswer(t, s, "00 01 00 00", "90 00")
		wantAnswer(t, s, "00 01 00 00", "90 00")
	})
}

// A power-up takes a bounded time, whatever the card does.
func TestPowerUpTimesOut(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.power = func(ctx context.Context, _ reader.Reset) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
		_, b := r.plug(reader.Device{}, slot)
		_, err := b.Open(context.Background(), someone())
		wantErr(t, "open", err, reader.ErrTimeout)
		slot.set(func(s *fakeSlot) { s.power = nil })
		mustOpen(t, b, someone())
	})
}
