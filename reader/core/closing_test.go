package core

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "SIGTERM: no new opens": not of a card either that has its power still, since a
// command is under way.
func TestNoSessionDuringClose(t *testing.T) {
	bg := context.Background()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		slot, finish := newFakeSlot(t), make(chan struct{})
		slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
			<-finish
			return append(dst, 0x90, 0x00), nil
		}
		_, b := r.plug(reader.Device{}, slot)
		command := asyncTransmit(mustOpen(t, b, someone()), bg, "00 01 00 00")
		synctest.Wait()
		closing := async(func() (int, error) { r.Close(bg); return 0, nil })
		synctest.Wait()
		if b.Info().State != "powered" {
			t.Fatal("the card has no power any more: the test is of no use")
		}
		for _, by := range []Caller{someone(), hasty()} {
			_, err := b.Open(bg, by)
			wantErr(t, "open", err, reader.ErrGone)
		}
		close(finish)
		if _, err := command.get(); err != nil {
			t.Error(err)
		}
		closing.get()
	})
}

// Nobody is told of a card that is powered when its power-up ends while the manager
// closes, and who asked for it hears that it came to nothing.
func TestPowerUpEndsDuringClose(t *testing.T) {
	bg := context.Background()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		slot := newFakeSlot(t)
		slot.power = func(context.Context, reader.Reset) ([]byte, error) {
			time.Sleep(3 * time.Second) // whatever becomes of its context
			return atrT1, nil
		}
		_, b := r.plug(reader.Device{}, slot)
		events := r.Follow()
		up := async(func() (int, error) { return 0, b.Power(bg, PowerUp, someone()) })
		synctest.Wait()
		r.Close(bg)
		_, err := up.get()
		wantErr(t, "power on", err, reader.ErrGone)
		for {
			e, _, err := events.Next(bg)
			if err != nil {
				break
			}
			if e.What == PowerSet || e.What == WasReset {
				t.Errorf("an event says %s", e.What)
			}
		}
	})
}

// slowSlot is a slot whose commands to the reader take until let is closed, or their
// context ends.
type slowSlot struct {
	*bomb
	let chan struct{}
}

func (s *slowSlot) wait(ctx context.Context) error {
	select {
	case <-s.let:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slowSlot) Escape(ctx context.Context, _ []byte) ([]byte, error) { return nil, s.wait(ctx) }
func (s *slowSlot) Show(ctx context.Context, _ string, _ time.Duration) error {
	return s.wait(ctx)
}
func (s *slowSlot) Input(ctx context.Context, _ reader.KeyInput) ([]byte, error) {
	return nil, s.wait(ctx)
}
func (s *slowSlot) VerifyPIN(ctx context.Context, _ *reader.PINVerify, dst []byte) ([]byte, error) {
	return append(dst, 0x90, 0x00), s.wait(ctx)
}
func (s *slowSlot) ModifyPIN(ctx context.Context, _ *reader.PINModify, dst []byte) ([]byte, error) {
	return append(dst, 0x90, 0x00), s.wait(ctx)
}

// "An ioctl says EINTR only while its command was not yet sent; from then on it returns the
// answer": of every command to the reader itself, and one that waits for its turn does end.
func TestCommandsAreNotInterruptedOnceSent(t *testing.T) {
	bg := context.Background()
	pin := reader.PINFormat{APDU: hexb("00 20 00 01 08 FF FF FF FF FF FF FF FF")}
	for name, do := range map[string]func(context.Context, *Slot) error{
		"escape": func(ctx context.Context, b *Slot) error {
			_, err := b.Control(ctx, CtlEscape, []byte{1}, someone())
			return err
		},
		"show": func(ctx context.Context, b *Slot) error { return b.Show(ctx, "hello", 0, someone()) },
		"input": func(ctx context.Context, b *Slot) error {
			_, err := b.Input(ctx, reader.KeyInput{}, someone())
			return err
		},
		"verify": func(ctx context.Context, b *Slot) error {
			_, err := b.VerifyPIN(ctx, &reader.PINVerify{PINFormat: pin}, someone())
			return err
		},
		"modify": func(ctx context.Context, b *Slot) error {
			_, err := b.ModifyPIN(ctx, &reader.PINModify{PINFormat: pin}, someone())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slow := &slowSlot{&bomb{fakeSlot: newFakeSlot(t)}, make(chan struct{})}
				fake := newFakeReader(slow.fakeSlot)
				fake.slots[0] = slow
				b := r.plugReader(reader.Device{}, fake)
				if err := b.WaitReady(bg, true); err != nil {
					t.Fatal(err)
				}
				mustOpen(t, b, someone())
				ctx, cancel := context.WithCancel(bg)
				under := async(func() (int, error) { return 0, do(ctx, b) })
				synctest.Wait()
				waits := async(func() (int, error) { return 0, do(ctx, b) })
				synctest.Wait()
				cancel()
				synctest.Wait()
				if !under.pending() {
					t.Error("the command under way was ended")
				}
				_, err := waits.get()
				wantErr(t, "the one that waits", err, reader.ErrInterrupted)
				close(slow.let)
				if _, err := under.get(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
