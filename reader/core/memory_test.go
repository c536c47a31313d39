package core

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// memorySlot is a slot with a synchronous card in it.
type memorySlot struct {
	*fakeSlot
}

func (s *memorySlot) Traits() reader.Traits { return reader.Traits{Level: reader.Synchronous} }

// "A synchronous card has no protocol": `status` shows its four bytes, whatever the first
// is. A reader that does not read it refuses commands and protocols with an explanation, and
// nothing of them reaches the slot.
func TestSynchronousCard(t *testing.T) {
	for _, tt := range []struct {
		atr string
		ok  bool
	}{
		{"A2 13 10 91", true},
		{"3B 13 10 91", true}, // no TS: any byte may be the first
		{"A2 13 10", false},
		{"A2 13 10 91 00", false},
		{"", false},
	} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newFakeSlot(t)
			slot.power = func(context.Context, reader.Reset) ([]byte, error) { return hexb(tt.atr), nil }
			slot.set(func(f *fakeSlot) {
				f.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) {
					t.Error("something went to the card")
					return nil, reader.ErrProtocol
				}
			})
			fake := newFakeReader(slot)
			fake.slots = []reader.Slot{&memorySlot{slot}}
			b := r.plugReader(reader.Device{}, fake)
			s, err := b.Open(context.Background(), someone())
			if !tt.ok {
				if !errors.Is(err, reader.ErrProtocol) || b.Info().State != "present" {
					t.Errorf("%q: %v, %s", tt.atr, err, b.Info().State)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			i := b.Info()
			if i.State != "powered" || !i.Synchronous() || i.Protocol() != "memory" || i.Params.T != iso7816.NoProtocol || len(i.Offered) != 0 || !slices.Equal(i.ATR, hexb(tt.atr)) {
				t.Errorf("%+v", i)
			}
			if i.Err != nil || len(i.Answer.Defects()) != 0 || i.Chip.Size != 0 {
				t.Errorf("error %v, defects %v, chip %v", i.Err, i.Answer.Defects(), i.Chip)
			}
			if err := transmit(s, "00B0 0000 04"); !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "memory card") {
				t.Errorf("a command: %v", err)
			}
			for _, protocol := range []int{0, 1} {
				if err := b.SelectProtocol(context.Background(), protocol, someone()); !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "memory card") {
					t.Errorf("T=%d: %v", protocol, err)
				}
			}
			if s.Err() != nil || b.Info().State != "powered" {
				t.Errorf("after what was refused: %v, %s", s.Err(), b.Info().State)
			}
		})
	}
}

// A reset of a memory card is a cold one: less does not end the verification of its PSC.
func TestSynchronousReset(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		var resets []reader.Reset
		slot.power = func(_ context.Context, how reader.Reset) ([]byte, error) {
			resets = append(resets, how)
			return hexb("A2 13 10 91"), nil
		}
		fake := newFakeReader(slot)
		fake.slots = []reader.Slot{&memorySlot{slot}}
		b := r.plugReader(reader.Device{}, fake)
		mustOpen(t, b, someone())
		if err := b.Power(context.Background(), ResetWarm, someone()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(resets, []reader.Reset{reader.Cold, reader.Cold}) {
			t.Errorf("%v", resets)
		}
	})
}
