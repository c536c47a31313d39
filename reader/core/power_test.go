package core

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "release: take the power off unless another open has a session or a
// transaction; else EBUSY at once, nothing done."
func TestRelease(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		name string
		with func(t *testing.T, r *rig, b *Slot, slot *fakeSlot, by Caller)
		want error
		off  int
	}{
		{"nobody", func(*testing.T, *rig, *Slot, *fakeSlot, Caller) {}, nil, 1},
		{"a session", func(t *testing.T, _ *rig, b *Slot, _ *fakeSlot, _ Caller) { mustOpen(t, b, someone()) }, reader.ErrLocked, 0},
		{"a session that ended", func(t *testing.T, _ *rig, b *Slot, _ *fakeSlot, _ Caller) {
			s := mustOpen(t, b, someone())
			s.Close()
			s.Close() // counts once
		}, nil, 1},
		{"one of two sessions ended", func(t *testing.T, _ *rig, b *Slot, _ *fakeSlot, _ Caller) {
			s := mustOpen(t, b, someone())
			mustOpen(t, b, someone())
			s.Close()
			s.Close()
		}, reader.ErrLocked, 0},
		{"a stale session", func(t *testing.T, _ *rig, b *Slot, _ *fakeSlot, _ Caller) {
			mustOpen(t, b, someone())
			if err := b.Power(bg, ResetCold, someone()); err != nil {
				t.Fatal(err)
			}
		}, nil, 1},
		{"a session, and a stale one that ends", func(t *testing.T, _ *rig, b *Slot, _ *fakeSlot, _ Caller) {
			stale := mustOpen(t, b, someone())
			if err := b.Power(bg, ResetCold, someone()); err != nil {
				t.Fatal(err)
			}
			mustOpen(t, b, someone())
			stale.Close()
		}, reader.ErrLocked, 0},
		{"a transaction", func(t *testing.T, _ *rig, b *Slot, _ *fakeSlot, _ Caller) {
			if err := b.Lock(bg, someone(), nil); err != nil {
				t.Fatal(err)
			}
		}, reader.ErrLocked, 0},
		{"a transaction, while the slot is busy", func(t *testing.T, _ *rig, b *Slot, slot *fakeSlot, _ Caller) {
			if err := b.Lock(bg, someone(), nil); err != nil {
				t.Fatal(err)
			}
			b.turn <- struct{}{}
			time.AfterFunc(time.Hour, b.release)
		}, reader.ErrLocked, 0},
		{"its own transaction", func(t *testing.T, _ *rig, b *Slot, _ *fakeSlot, by Caller) {
			if err := b.Lock(bg, by, nil); err != nil {
				t.Fatal(err)
			}
		}, nil, 1},
		{"an exchange that takes an hour", func(t *testing.T, _ *rig, b *Slot, slot *fakeSlot, _ Caller) {
			slot.set(func(s *fakeSlot) {
				s.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
					time.Sleep(time.Hour)
					return append(dst, 0x90, 0), nil
				}
			})
			s := mustOpen(t, b, someone())
			asyncTransmit(s, bg, "00 01 00 00")
			synctest.Wait()
		}, reader.ErrLocked, 0},
		{"an open that powers the card up", func(t *testing.T, _ *rig, b *Slot, slot *fakeSlot, by Caller) {
			if err := b.Power(bg, Release, by); err != nil {
				t.Fatal(err)
			}
			slot.set(func(s *fakeSlot) {
				s.power = func(context.Context, reader.Reset) ([]byte, error) {
					time.Sleep(time.Minute)
					return atrT1, nil
				}
			})
			asyncOpen(b, bg, someone())
			synctest.Wait()
		}, reader.ErrLocked, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				_, b := r.plug(reader.Device{}, slot)
				mustOpen(t, b, someone()).Close()
				by := someone()
				tt.with(t, r, b, slot, by)
				begin := time.Now()
				err := b.Power(bg, Release, by)
				if tt.want == nil && err != nil {
					t.Errorf("release: %v", err)
				} else {
					wantErr(t, "release", err, tt.want)
				}
				if d := time.Since(begin); d != 0 {
					t.Errorf("release took %v", d)
				}
				if n := slot.count("power off"); n != tt.off {
					t.Errorf("%d times powered off, want %d: %q", n, tt.off, slot.calls())
				}
				time.Sleep(2 * time.Hour) // longer than anything under way
			})
		})
	}
}

// An open that comes during a power-off of any origin waits for its end and powers the card up
// again. Its session is not stale from the start.
func TestOpenDuringPowerOff(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		name string
		do   func(b *Slot)
	}{
		{"off", func(b *Slot) { b.Power(bg, PowerDown, someone()) }},
		{"release", func(b *Slot) { b.Power(bg, Release, someone()) }},
		{"idle", func(*Slot) { time.Sleep(time.Hour + time.Minute) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{IdleOff: time.Hour}, func(t *testing.T, r *rig) {
				slot, let := newFakeSlot(t), make(chan struct{})
				slot.off = func(context.Context) error { <-let; return nil }
				_, b := r.plug(reader.Device{}, slot)
				mustOpen(t, b, someone()).Close()
				go tt.do(b)
				time.Sleep(2 * time.Hour)
				if slot.count("power off") != 1 {
					t.Fatalf("calls %q", slot.calls())
				}
				open := asyncOpen(b, bg, someone())
				synctest.Wait()
				if !open.pending() {
					t.Fatal("an open got the card that is being powered off")
				}
				slot.set(func(s *fakeSlot) { s.off = nil })
				close(let)
				s, err := open.get()
				if err != nil {
					t.Fatal(err)
				}
				wantAnswer(t, s, "00 01 00 00", "00 01 00 00 90 00")
			})
		})
	}
}

// An open counts for the idle time, too: a card that was just opened is in use.
func TestIdleOffCountsFromTheOpen(t *testing.T) {
	bubble(t, Options{IdleOff: time.Hour}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.traits.Fixed = true // a token's power goes off as any card's
		_, b := r.plug(reader.Device{}, slot)
		mustOpen(t, b, someone()).Close()
		time.Sleep(50 * time.Minute)
		mustOpen(t, b, someone()) // powered: nothing but the open says that it is used
		time.Sleep(50 * time.Minute)
		if slot.count("power off") != 0 {
			t.Errorf("a card opened 50 minutes ago was powered off after an hour: %q", slot.calls())
		}
		time.Sleep(30 * time.Minute)
		if slot.count("power off") != 1 {
			t.Errorf("an idle card kept its power: %q", slot.calls())
		}
	})
}

// "A protocol is used only where card and reader both have it: else EOPNOTSUPP, the card
// untouched."
func TestProtocolThatNobodyHas(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		name    string
		atr     []byte
		autoPPS bool
		want    int
		err     error
		calls   int // beyond the first power-up
	}{
		{"the card has T=1 only", atrT1, false, 0, reader.ErrUnsupported, 0},
		{"the card has T=0 only", atrT0, false, 1, reader.ErrUnsupported, 0},
		{"the reader chooses", atrBoth, true, 1, reader.ErrUnsupported, 0},
		{"the one in force", atrT0, false, 0, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				slot.atr, slot.traits = tt.atr, reader.Traits{Level: reader.TPDU, AutoPPS: tt.autoPPS, AutoIFSD: true}
				_, b := r.plug(reader.Device{}, slot)
				mustOpen(t, b, someone())
				before := len(slot.calls())
				err := b.SelectProtocol(bg, tt.want, someone())
				if tt.err == nil && err != nil {
					t.Error(err)
				} else {
					wantErr(t, "protocol", err, tt.err)
				}
				if n := len(slot.calls()) - before; n != tt.calls {
					t.Errorf("the card was touched: %q", slot.calls()[before:])
				}
			})
		})
	}
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.status = reader.Absent
		_, b := r.plug(reader.Device{}, slot)
		wantErr(t, "protocol without a card", b.SelectProtocol(bg, 0, someone()), reader.ErrNoCard)
		// The reader has not told of the card yet: it is looked for.
		slot.set(func(s *fakeSlot) { s.status = reader.Present })
		if err := b.Power(bg, PowerUp, someone()); err != nil {
			t.Fatal(err)
		}
		if i := b.Info(); i.State != "powered" {
			t.Errorf("a card that has power is said to be %s", i.State)
		}
		holder := someone()
		if err := b.Lock(bg, holder, nil); err != nil {
			t.Fatal(err)
		}
		for _, a := range []Action{PowerDown, ResetWarm, ResetCold, Eject, Release} {
			wantErr(t, "power by another", b.Power(bg, a, someone()), reader.ErrLocked)
		}
		wantErr(t, "protocol by another", b.SelectProtocol(bg, 0, someone()), reader.ErrLocked)
		if err := b.Power(bg, PowerDown, holder); err != nil {
			t.Error(err)
		}
	})
}

// "Off if nobody uses it" is looked at where it is done: whoever opens the card while the
// release waits for its turn keeps the power.
func TestReleaseLooksAgain(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		bg := context.Background()
		hold := make(chan struct{})
		slot := newFakeSlot(t)
		slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
			<-hold
			return append(dst, 0x90, 0), nil
		}
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		command := asyncTransmit(s, bg, "00 01 00 00")
		synctest.Wait()
		s.Close() // its command goes on, as one that was left behind
		release := async(func() (int, error) { return 0, b.Power(bg, Release, someone()) })
		synctest.Wait()
		later := mustOpen(t, b, someone())
		close(hold)
		command.get()
		_, err := release.get()
		wantErr(t, "release", err, reader.ErrLocked)
		if n := slot.count("power off"); n != 0 {
			t.Errorf("power off %d times", n)
		}
		wantAnswer(t, later, "00 01 00 00", "90 00")
	})
}
