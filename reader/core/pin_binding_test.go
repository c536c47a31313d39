package core

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

// "A card changed in between": a PIN command runs only on the card that was there when the
// command was given, whatever it waited for. Otherwise it fails, and nobody is asked for a
// PIN.
func TestPINIsForOneCard(t *testing.T) {
	bg := context.Background()
	const template = "00 20 00 01 04 FF FF FF FF"
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, b *Slot, pad *padSlot)
		want   error
	}{
		{"nothing", func(*testing.T, *Slot, *padSlot) {}, nil},
		{"another card", func(t *testing.T, b *Slot, pad *padSlot) {
			b.setSeen(reader.Absent)
			b.setSeen(reader.Present)
		}, reader.ErrStale},
		{"no card", func(t *testing.T, b *Slot, pad *padSlot) { b.setSeen(reader.Absent) }, reader.ErrNoCard},
		{"power off and on", func(t *testing.T, b *Slot, pad *padSlot) {
			b.mu.Lock()
			b.setUnpowered()
			b.mu.Unlock()
		}, reader.ErrStale},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				script := ""
				if tt.want == nil {
					script = "pin 00 00 00 | " + template + "\n<= 90 00"
				}
				pad := newPadSlot(t, script)
				pad.traits.Level = reader.ExtendedAPDU
				b := r.plugPad(pad, true)
				at := b.Now()
				b.turn <- struct{}{} // another's command is under way
				o := async(func() ([]byte, error) {
					return b.Control(bg, codeVerify, pinVerifyBytes(template), someone())
				})
				synctest.Wait()
				tt.change(t, b, pad)
				<-b.turn
				_, err := o.get()
				if tt.want == nil {
					if err != nil {
						t.Errorf("verify: %v", err)
					}
					return
				}
				wantErr(t, "verify", err, tt.want)
				if n := pad.count("verify"); n != 0 {
					t.Errorf("a PIN was asked for: %q", pad.calls())
				}
				// The command was handed over before and is sent now. It must go to no other
				// card, whether the new one has power or not.
				if b.Info().State == "present" {
					mustOpen(t, b, someone())
					tt.want = reader.ErrStale
				}
				by := someone()
				by.At = at
				_, err = b.Control(bg, codeVerify, pinVerifyBytes(template), by)
				wantErr(t, "verify, handed over before", err, tt.want)
				if n := pad.count("verify"); n != 0 {
					t.Errorf("a PIN was asked for: %q", pad.calls())
				}
			})
		})
	}
}

// setSeen has the effect of a notification from the reader.
func (b *Slot) setSeen(now reader.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.setCard(now)
}

// If the reader leaves while the core waits for the card's answer to a PIN, the loop ends.
func TestPINReaderLeaves(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, "> 00 C1 01 FE\n< 00 E1 01 FE\npin 00 00 04 | 00 20 00 01\n< 00 C3 01 03\n")
		b := r.plugPad(pad, true)
		exchange := pad.fakeSlot.exchange
		calls := 0
		pad.set(func(s *fakeSlot) {
			s.exchange = func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
				if calls++; calls > 1 {
					t.Error("the exchange goes on")
					return exchange(ctx, x, dst)
				}
				<-ctx.Done()
				return dst, ctx.Err()
			}
		})
		o := async(func() ([]byte, error) {
			return b.Control(context.Background(), codeVerify, pinVerifyBytes("00 20 00 01"), someone())
		})
		synctest.Wait()
		r.Detach(b.Number())
		_, err := o.get()
		wantErr(t, "verify", err, reader.ErrGone)
	})
}
