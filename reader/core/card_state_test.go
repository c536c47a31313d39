package core

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// If an exchange finds no card, the card was removed, whatever the reader then reports of its
// contacts. The session is over, and a card that is there is a new one.
func TestExchangeFindsNoCard(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		name   string
		state  func(context.Context) (reader.Status, error)
		events string
		want   State
		err    error // of the old session
	}{
		{"the reader still says powered", func(context.Context) (reader.Status, error) { return reader.Powered, nil }, "removed inserted", StatePresent, reader.ErrStale},
		{"another is in", func(context.Context) (reader.Status, error) { return reader.Present, nil }, "removed inserted", StatePresent, reader.ErrStale},
		{"none is in", func(context.Context) (reader.Status, error) { return reader.Absent, nil }, "removed", StateEmpty, reader.ErrNoCard},
		{"the reader cannot tell", func(context.Context) (reader.Status, error) { return reader.Absent, errors.New("broken") }, "removed", StateEmpty, reader.ErrNoCard},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				_, b := r.plug(reader.Device{}, slot)
				s := mustOpen(t, b, someone())
				was, then := b.Info(), b.Now()
				f := r.Follow()
				whats(f)
				slot.set(func(f *fakeSlot) {
					f.state = tt.state
					f.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) { return dst, reader.ErrNoCard }
				})
				wantErr(t, "transmit", transmit(s, "00 01 00 00"), reader.ErrNoCard)
				if got := whats(f); got != tt.events {
					t.Errorf("events %q, want %q", got, tt.events)
				}
				if i := b.Info(); i.State != tt.want || i.ATR != nil || was.ATR == nil {
					t.Errorf("state %s, ATR % X", i.State, i.ATR)
				}
				slot.set(func(f *fakeSlot) { f.exchange = nil })
				wantErr(t, "the old session", transmit(s, "00 02 00 00"), tt.err)
				if n := slot.count("exchange 00 02 00 00"); n != 0 {
					t.Error("another card got the old session's command")
				}
				if tt.want == StatePresent {
					by := hasty()
					by.At = then
					_, err := b.Open(bg, by)
					wantErr(t, "an open for the card that was there", err, reader.ErrStale)
				}
			})
		})
	}
}

// A power-up that finds no card reports this before the reader's notification does.
func TestPowerUpFindsNoCard(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.power = func(context.Context, reader.Reset) ([]byte, error) { return nil, reader.ErrNoCard }
		_, b := r.plug(reader.Device{}, slot)
		f := r.Follow()
		whats(f)
		_, err := b.Open(context.Background(), hasty())
		wantErr(t, "open", err, reader.ErrNoCard)
		if i := b.Info(); i.State != StateEmpty || i.Err != nil {
			t.Errorf("state %s, error %v", i.State, i.Err)
		}
		if got := whats(f); got != "removed" {
			t.Errorf("events %q", got)
		}
	})
}

// A failed command has used the card, too: the idle time starts after it, not at the open.
func TestIdleOffCountsFromWhatFailed(t *testing.T) {
	bubble(t, Options{IdleOff: 10 * time.Second}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
			time.Sleep(time.Minute)
			return dst, errors.New("noise")
		}
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		if transmit(s, "00 01 00 00") == nil {
			t.Error("no error")
		}
		synctest.Wait()
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if i := b.Info(); i.State != StatePowered || s.Err() != nil {
			t.Errorf("state %s, %v after %q", i.State, s.Err(), slot.calls())
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if i := b.Info(); i.State != StatePresent {
			t.Errorf("state %s of an idle card", i.State)
		}
	})
}

// chipSlot is a slot for memory cards and others.
type chipSlot struct {
	*fakeSlot
	reader.Memory // none of its methods but Chip
	asked         int
}

func (s *chipSlot) Chip() reader.Chip {
	s.asked++
	return reader.Chip{Bus: reader.TwoWire, Size: 256}
}

// Only a powered memory card is asked for its chip. `status` shows no chip for the next card in
// the slot.
func TestChipOfWhatIsNone(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := &chipSlot{fakeSlot: newFakeSlot(t)}
		b := r.plugSlot(slot, slot.fakeSlot)
		if err := b.WaitReady(bg, true); err != nil {
			t.Fatal(err)
		}
		mustOpen(t, b, someone())
		if i := b.Info(); i.Chip != (reader.Chip{}) || slot.asked != 0 {
			t.Errorf("a card with a processor has the chip %v, asked %d times", i.Chip, slot.asked)
		}
		// A memory card, and one that does not answer.
		slot.set(func(f *fakeSlot) { f.traits.Level, f.atr = reader.Synchronous, hexb("A2 13 10 91") })
		if err := b.Power(bg, ResetCold, someone()); err != nil {
			t.Fatal(err)
		}
		if i := b.Info(); i.Chip.Size != 256 || slot.asked != 1 {
			t.Errorf("chip %v, asked %d times", i.Chip, slot.asked)
		}
		slot.set(func(f *fakeSlot) {
			f.power = func(context.Context, reader.Reset) ([]byte, error) { return nil, reader.ErrMute }
		})
		wantErr(t, "reset", b.Power(bg, ResetCold, someone()), reader.ErrMute)
		if slot.asked != 1 || b.Info().State != StatePresent {
			t.Errorf("a mute card was asked for its chip; state %s", b.Info().State)
		}
		slot.set(func(f *fakeSlot) {
			f.power, f.traits.Level, f.atr = nil, reader.ExtendedAPDU, atrT1
		})
		mustOpen(t, b, someone())
		if i := b.Info(); i.Chip != (reader.Chip{}) {
			t.Errorf("the next card has the chip %v", i.Chip)
		}
	})
}

// Traits.Shared: "Status says ErrStale once if somebody there has reset the card (Powered) or
// powered it off (Present)", whether a command or the reader's notification comes first.
func TestCardLostElsewhere(t *testing.T) {
	for _, told := range []bool{true, false} {
		for _, tt := range []struct {
			now    reader.Status
			fails  error // the power-up
			events string
			want   State
		}{
			{reader.Powered, nil, "reset", StatePowered},
			{reader.Powered, reader.ErrNoCard, "removed", StateEmpty},
			{reader.Present, nil, "powered", StatePresent},
		} {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				slot.traits.Shared = true
				_, b := r.plug(reader.Device{}, slot)
				s := mustOpen(t, b, someone())
				f := r.Follow()
				whats(f)
				lost := true
				slot.set(func(f *fakeSlot) {
					f.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) { return dst, reader.ErrStale }
					f.power = func(context.Context, reader.Reset) ([]byte, error) { return f.atr, tt.fails }
					f.state = func(context.Context) (reader.Status, error) {
						if lost {
							lost = false
							return tt.now, reader.ErrStale
						}
						if tt.fails != nil {
							return reader.Absent, nil
						}
						return tt.now, nil
					}
				})
				if told {
					slot.changes <- struct{}{}
					synctest.Wait()
				}
				err := transmit(s, "00 01 00 00")
				if tt.fails == nil || !told {
					wantErr(t, "transmit", err, reader.ErrStale)
				} else {
					wantErr(t, "transmit", err, tt.fails)
				}
				synctest.Wait()
				if got := whats(f); got != tt.events {
					t.Errorf("told first %v, %v, %v: events %q, want %q", told, tt.now, tt.fails, got, tt.events)
				}
				if got := b.Info().State; got != tt.want {
					t.Errorf("told first %v, %v, %v: %s, want %s", told, tt.now, tt.fails, got, tt.want)
				}
			})
		}
	}
}
