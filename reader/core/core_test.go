package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "A waiting open ends at once with ENODEV when the reader leaves, EINTR on a caught
// signal": if both happened, ENODEV wins. select chooses at random, so the test tries this
// many times.
func TestGoneBeforeInterrupted(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		name string
		wait func(ctx context.Context, b *Slot) error
	}{
		{"open", func(ctx context.Context, b *Slot) error { _, err := b.Open(ctx, someone()); return err }},
		{"lock", func(ctx context.Context, b *Slot) error { return b.Lock(ctx, someone(), nil) }},
		{"power", func(ctx context.Context, b *Slot) error { return b.Power(ctx, PowerUp, someone()) }},
		{"protocol", func(ctx context.Context, b *Slot) error { return b.SelectProtocol(ctx, 0, someone()) }},
		{"escape", func(ctx context.Context, b *Slot) error {
			_, err := b.Control(ctx, CtlEscape, nil, someone())
			return err
		}},
		{"events", func(ctx context.Context, b *Slot) error {
			f := b.Follow()
			for {
				if _, _, err := f.Next(ctx); err != nil {
					return err
				}
			}
		}},
		{"ready", func(ctx context.Context, b *Slot) error { return b.WaitReady(ctx, true) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 50 {
				bubble(t, Options{}, func(t *testing.T, r *rig) {
					slot := newFakeSlot(t)
					slot.status = reader.Absent
					slot.state = func(ctx context.Context) (reader.Status, error) { return reader.Absent, nil }
					fake := newFakeReader(slot)
					var b *Slot
					if tt.name == "ready" {
						r.driver.open = func(ctx context.Context, _ reader.Device) (reader.Reader, error) { <-ctx.Done(); return nil, ctx.Err() }
						b = r.announce(reader.Device{})
					} else {
						b = r.plugReader(reader.Device{}, fake)
						b.WaitReady(bg, true)
						synctest.Wait()
						b.turn <- struct{}{} // somebody is in the slot
						defer func() { <-b.turn }()
						if tt.name == "lock" {
							b.Lock(bg, someone(), nil)
						}
					}
					ctx, cancel := context.WithCancel(bg)
					o := async(func() (int, error) { return 0, tt.wait(ctx, b) })
					synctest.Wait()
					if err := r.Detach(b.Number()); err != nil {
						t.Fatal(err)
					}
					cancel()
					_, err := o.get()
					wantErr(t, tt.name, err, reader.ErrGone)
				})
			}
		})
	}
}

// The same if both happened before the wait begins.
func TestGoneBeforeInterruptedAtOnce(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		b.turn <- struct{}{}
		defer b.release()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for range 100 {
			wantErr(t, "acquire", b.acquire(ctx), reader.ErrInterrupted)
			wantErr(t, "wait", b.wait(ctx, make(chan struct{})), reader.ErrInterrupted)
		}
		r.Detach(0)
		for range 100 {
			wantErr(t, "acquire", b.acquire(ctx), reader.ErrGone)
			wantErr(t, "wait", b.wait(ctx, make(chan struct{})), reader.ErrGone)
		}
	})
	// The event that the caller waits for takes precedence over the interruption.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		changed := make(chan struct{})
		close(changed)
		for range 100 {
			if err := b.wait(ctx, changed); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A caller that is interrupted while it waits gets ErrInterrupted.
func TestInterrupted(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.status = reader.Absent
		_, b := r.plug(reader.Device{}, slot)
		ctx, cancel := context.WithCancel(context.Background())
		o := asyncOpen(b, ctx, someone())
		synctest.Wait()
		cancel()
		_, err := o.get()
		wantErr(t, "open", err, reader.ErrInterrupted)
	})
}

// "The owner ends it with ctl: abort N": the caller gets an error at once, the card is
// powered off, its sessions become stale, and the slot goes on working.
func TestAbort(t *testing.T) {
	bg := context.Background()
	for _, level := range []reader.Level{reader.ExtendedAPDU, reader.TPDU} {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				slot.traits.Level, slot.traits.AutoIFSD = level, true
				_, b := r.plug(reader.Device{}, slot)
				s, other := mustOpen(t, b, someone()), mustOpen(t, b, someone())
				err := r.Abort(0)
				if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), "nothing is under way in slot 0") {
					t.Errorf("abort of nothing: %v", err)
				}
				hang := func(ctx context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
					<-ctx.Done()
					return dst, fmt.Errorf("transfer: %w", ctx.Err())
				}
				slot.set(func(s *fakeSlot) { s.exchange = hang })
				o, queued := asyncTransmit(s, bg, "00 01 00 00"), asyncTransmit(other, bg, "00 02 00 00")
				synctest.Wait()
				began := time.Now()
				if err := r.Abort(0); err != nil {
					t.Fatal(err)
				}
				_, err = o.get()
				if _, second := queued.get(); errors.Is(err, reader.ErrStale) {
					err = second // the other one had the turn
				} else {
					wantErr(t, "the command that waited", second, reader.ErrStale)
				}
				if wantErr(t, "transmit", err, reader.ErrAborted); errors.Is(err, reader.ErrGone) || time.Since(began) != 0 {
					t.Errorf("%v after %v", err, time.Since(began))
				}
				if n := slot.count("power off"); n != 1 {
					t.Errorf("powered off %d times: %q", n, slot.calls())
				}
				if i := b.Info(); i.State != "present" || i.Err == nil || !strings.Contains(i.Err.Error(), "ended by abort") {
					t.Errorf("state %s, error %v", i.State, i.Err)
				}
				_, err = s.Transmit(bg, hexb("00 01 00 00"), nil)
				wantErr(t, "an old session", err, reader.ErrStale)
				slot.set(func(s *fakeSlot) {
					s.power = func(ctx context.Context, _ reader.Reset) ([]byte, error) { return atrT1, ctx.Err() }
					s.exchange = func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
						return append(dst, hexb("90 00")...), ctx.Err()
					}
				})
				next := mustOpen(t, b, someone())
				if level == reader.ExtendedAPDU {
					wantAnswer(t, next, "00 01 00 00", "90 00")
				}
				wantErr(t, "abort after it", r.Abort(0), reader.ErrInvalid)
				wantErr(t, "abort nowhere", r.Abort(9), reader.ErrInvalid)
			})
		})
	}
}

// A power-up can be aborted, too.
func TestAbortPowerUp(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.power = func(ctx context.Context, _ reader.Reset) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
		_, b := r.plug(reader.Device{}, slot)
		o := asyncOpen(b, context.Background(), someone())
		synctest.Wait()
		if err := b.Abort(); err != nil {
			t.Fatal(err)
		}
		_, err := o.get()
		wantErr(t, "open", err, reader.ErrAborted)
		slot.set(func(s *fakeSlot) { s.power = nil })
		mustOpen(t, b, someone())
	})
}
