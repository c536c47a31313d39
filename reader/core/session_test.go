package core

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "ESTALE: the card was reset, changed or powered off since this open: its
// security state is lost; reopen." "ENOMEDIUM: no card."
func TestWhatMakesASessionStale(t *testing.T) {
	bg := context.Background()
	power := func(a Action) func(*testing.T, *fakeSlot, *Slot) {
		return func(t *testing.T, s *fakeSlot, b *Slot) {
			if err := b.Power(bg, a, someone()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name string
		do   func(*testing.T, *fakeSlot, *Slot)
		want error // nil: the session lives on
	}{
		{"nothing", func(*testing.T, *fakeSlot, *Slot) {}, nil},
		{"power on while on", power(PowerUp), nil},
		{"warm reset", power(ResetWarm), reader.ErrStale},
		{"cold reset", power(ResetCold), reader.ErrStale},
		{"power off", power(PowerDown), reader.ErrStale},
		{"power off and on", func(t *testing.T, s *fakeSlot, b *Slot) {
			power(PowerDown)(t, s, b)
			power(PowerUp)(t, s, b)
		}, reader.ErrStale},
		{"power off, opened by another", func(t *testing.T, s *fakeSlot, b *Slot) {
			power(PowerDown)(t, s, b)
			mustOpen(t, b, someone())
		}, reader.ErrStale},
		{"card out", func(t *testing.T, s *fakeSlot, b *Slot) {
			s.card(reader.Absent)
			synctest.Wait()
		}, reader.ErrNoCard},
		{"card out and in", func(t *testing.T, s *fakeSlot, b *Slot) {
			s.card(reader.Absent)
			synctest.Wait()
			s.card(reader.Present)
			synctest.Wait()
		}, reader.ErrStale},
		{"card out and in between two looks", func(t *testing.T, s *fakeSlot, b *Slot) {
			s.set(func(s *fakeSlot) { s.status = reader.Absent })
			s.card(reader.Present)
			synctest.Wait()
		}, reader.ErrStale},
		{"another card, opened by another", func(t *testing.T, s *fakeSlot, b *Slot) {
			s.card(reader.Absent)
			synctest.Wait()
			s.card(reader.Present)
			mustOpen(t, b, someone())
		}, reader.ErrStale},
		{"the protocol in force", func(t *testing.T, s *fakeSlot, b *Slot) {
			if err := b.SelectProtocol(bg, 1, someone()); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"a reset that failed", func(t *testing.T, s *fakeSlot, b *Slot) {
			s.set(func(s *fakeSlot) {
				s.power = func(context.Context, reader.Reset) ([]byte, error) { return nil, reader.ErrMute }
			})
			wantErr(t, "reset", b.Power(bg, ResetWarm, someone()), reader.ErrMute)
			s.set(func(s *fakeSlot) { s.power = nil })
		}, reader.ErrStale},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				_, b := r.plug(reader.Device{}, slot)
				s := mustOpen(t, b, someone())
				wantAnswer(t, s, "00 B0 00 00", "00 B0 00 00 90 00")
				tt.do(t, slot, b)
				sent := len(slot.calls())
				_, err := s.Transmit(bg, hexb("00 B0 00 01"), nil)
				if tt.want == nil {
					if err != nil {
						t.Errorf("transmit: %v", err)
					}
					return
				}
				wantErr(t, "transmit", err, tt.want)
				if len(slot.calls()) != sent {
					t.Errorf("a stale session's command reached the card: %q", slot.calls()[sent:])
				}
			})
		})
	}
}

// Only a powered card can have a warm reset.
func TestResets(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		for _, a := range []Action{ResetWarm, ResetWarm, ResetCold, PowerDown, PowerDown, ResetWarm} {
			if err := b.Power(context.Background(), a, someone()); err != nil {
				t.Fatal(err)
			}
		}
		want := "[power on cold power on warm power on cold power off power on cold]"
		if got := fmt.Sprint(slot.calls()); got != want {
			t.Errorf("calls %s, want %s", got, want)
		}
		wantErr(t, "eject", b.Power(context.Background(), Eject, someone()), reader.ErrUnsupported)
	})
}

// Removing a card ends the command that it works on.
func TestRemovalWhileExchanging(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		out := make(chan struct{})
		slot.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			<-out
			return dst, reader.ErrNoCard
		}
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		one, two := asyncTransmit(s, context.Background(), "00 01 00 00"), asyncTransmit(s, context.Background(), "00 02 00 00")
		synctest.Wait()
		slot.card(reader.Absent)
		close(out)
		for _, o := range []*outcome[[]byte]{one, two} {
			_, err := o.get()
			wantErr(t, "transmit", err, reader.ErrNoCard)
		}
		if n := len(slot.sent); n != 1 {
			t.Errorf("%d commands were sent to a card that is out", n)
		}
	})
}

// When the reader leaves in the middle of any call, the call ends with ErrGone, and so do all
// later ones.
func TestReaderLeavesInTheMiddle(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		fake, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		holder := someone()
		if err := b.Lock(bg, holder, nil); err != nil {
			t.Fatal(err)
		}
		held := mustOpen(t, b, holder)
		slot.set(func(f *fakeSlot) {
			f.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
				<-f.gone
				return dst, reader.ErrGone
			}
		})
		exchanging := asyncTransmit(held, bg, "00 01 00 00")
		synctest.Wait()
		waiting := map[string]*outcome[[]byte]{
			"exchanging":                   exchanging,
			"waiting for its turn":         asyncTransmit(held, bg, "00 02 00 00"),
			"waiting for a transaction":    asyncTransmit(s, bg, "00 03 00 00"),
			"waiting for the lock":         async(func() ([]byte, error) { return nil, b.Lock(bg, someone(), nil) }),
			"waiting to reset":             async(func() ([]byte, error) { return nil, b.Power(bg, ResetCold, holder) }),
			"waiting to select a protocol": async(func() ([]byte, error) { return nil, b.SelectProtocol(bg, 1, holder) }),
		}
		synctest.Wait()
		for what, o := range waiting {
			if !o.pending() {
				t.Errorf("%s: not waiting: %v", what, o.err)
			}
		}
		fake.unplug()
		for what, o := range waiting {
			_, err := o.get()
			wantErr(t, what, err, reader.ErrGone)
		}
		synctest.Wait()
		if n := fake.closes.Load(); n != 1 {
			t.Errorf("Close was called %d times", n)
		}
		calls := len(slot.calls())
		_, err := s.Transmit(bg, hexb("00 04 00 00"), nil)
		wantErr(t, "transmit", err, reader.ErrGone)
		_, err = b.Open(bg, someone())
		wantErr(t, "open", err, reader.ErrGone)
		wantErr(t, "lock", b.Lock(bg, someone(), nil), reader.ErrGone)
		wantErr(t, "power", b.Power(bg, PowerUp, someone()), reader.ErrGone)
		wantErr(t, "protocol", b.SelectProtocol(bg, 1, someone()), reader.ErrGone)
		wantErr(t, "ready", b.WaitReady(bg, true), reader.ErrGone)
		_, err = b.escape(bg, nil, someone())
		wantErr(t, "escape", err, reader.ErrGone)
		b.Unlock(holder.Owner)
		if len(slot.calls()) != calls {
			t.Errorf("the slot was called after it left: %q", slot.calls()[calls:])
		}
		if i := b.Info(); i.State != "gone" || r.Slot(b.Number()) != nil {
			t.Errorf("state %s, still listed: %v", i.State, r.Slot(b.Number()) != nil)
		}
	})
}

// Between the exchange that first finds the reader gone and the reader's departure, other calls
// get ErrGone, and not ErrStale.
func TestGoneIsNotStale(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.atr, slot.traits = atrT1, reader.Traits{Level: reader.TPDU, AutoIFSD: true}
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		slot.set(func(s *fakeSlot) {
			s.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) { return dst, reader.ErrGone }
		})
		for range 3 {
			_, err := s.Transmit(bg, hexb("00 01 00 00"), nil)
			wantErr(t, "transmit", err, reader.ErrGone)
		}
	})
}

// A detach ends the exchange under way. Its caller gets ErrGone even if the driver only says
// that its context ended.
func TestDetachWhileExchanging(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.exchange = func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			<-ctx.Done()
			return dst, fmt.Errorf("bulk transfer: %w", ctx.Err())
		}
		fake, b := r.plug(reader.Device{}, slot)
		o := asyncTransmit(mustOpen(t, b, someone()), context.Background(), "00 01 00 00")
		synctest.Wait()
		if err := r.Detach(b.Number()); err != nil {
			t.Fatal(err)
		}
		_, err := o.get()
		wantErr(t, "transmit", err, reader.ErrGone)
		synctest.Wait()
		if n := fake.closes.Load(); n != 1 {
			t.Errorf("Close was called %d times", n)
		}
	})
}

// A command is never sent twice and its answer never lost, whenever ctx ends:
// either ErrInterrupted and nothing sent, or the answer.
func TestInterruptAtAnyMoment(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		var mu sync.Mutex
		reached := make(map[uint32]int)
		slot.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			mu.Lock()
			reached[binary.BigEndian.Uint32(x.Out[5:])]++
			mu.Unlock()
			time.Sleep(3 * time.Millisecond)
			return append(append(dst, x.Out...), 0x90, 0x00), nil
		}
		_, b := r.plug(reader.Device{}, slot)
		const clients, each = 8, 250
		var wg sync.WaitGroup
		interrupted := 0
		for c := range clients {
			wg.Go(func() {
				s := mustOpen(t, b, someone())
				for i := range each {
					n := uint32(c*each + i)
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n*7919%40)*time.Millisecond)
					capdu := binary.BigEndian.AppendUint32([]byte{0x80, 0xEE, 0, 0, 4}, n)
					answer, err := s.Transmit(ctx, capdu, nil)
					cancel()
					mu.Lock()
					switch {
					case err == nil && reached[n] == 1 && binary.BigEndian.Uint32(answer[5:]) == n:
					case errors.Is(err, reader.ErrInterrupted) && reached[n] == 0:
						interrupted++
					default:
						t.Errorf("command %d reached the card %d times; answer % X, error %v", n, reached[n], answer, err)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		t.Logf("%d commands, %d interrupted before they were sent", clients*each, interrupted)
		if interrupted == 0 || interrupted == clients*each {
			t.Errorf("%d of %d were interrupted: nothing was shown", interrupted, clients*each)
		}
	})
}

// An exchange that hangs in the driver does not keep others from seeing the slot's state.
func TestInfoNeverWaits(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		end := make(chan struct{})
		slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
			<-end
			return append(dst, 0x90, 0x00), nil
		}
		_, b := r.plug(reader.Device{}, slot)
		o := asyncTransmit(mustOpen(t, b, someone()), context.Background(), "00 01 00 00")
		synctest.Wait()
		if s := b.Info().State; s != "powered" {
			t.Errorf("state %s", s)
		}
		b.Brief()
		mustOpen(t, b, someone())
		close(end)
		if _, err := o.get(); err != nil {
			t.Error(err)
		}
	})
}
