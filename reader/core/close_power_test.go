package core

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "After Close begins nobody powers a card up; every card that is powered gets
// PowerOff": whatever the slot does when Close begins.
func TestCloseLeavesNoPower(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		name    string
		begin   func(t *testing.T, b *Slot, slot *fakeSlot)
		most    time.Duration // that Close may take
		powered int           // how often PowerOn may have been called
	}{
		{"an idle card", func(t *testing.T, b *Slot, _ *fakeSlot) { mustOpen(t, b, someone()) }, 0, 1},
		{"a power-up that ends with its context", func(t *testing.T, b *Slot, slot *fakeSlot) {
			slot.power = func(ctx context.Context, _ reader.Reset) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
			asyncOpen(b, bg, someone())
		}, 0, 1},
		{"a power-up that does not", func(t *testing.T, b *Slot, slot *fakeSlot) {
			slot.power = func(context.Context, reader.Reset) ([]byte, error) { time.Sleep(3 * time.Second); return atrT1, nil }
			asyncOpen(b, bg, someone())
		}, 3 * time.Second, 1},
		{"a reset under way, and one that waits", func(t *testing.T, b *Slot, slot *fakeSlot) {
			mustOpen(t, b, someone())
			slot.set(func(s *fakeSlot) {
				s.power = func(ctx context.Context, _ reader.Reset) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
			})
			for range 2 {
				async(func() (int, error) { return 0, b.Power(bg, ResetCold, someone()) })
			}
		}, 0, 2},
		{"a command that outlasts the grace", func(t *testing.T, b *Slot, slot *fakeSlot) {
			slot.exchange = func(ctx context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
				<-ctx.Done()
				return dst, ctx.Err()
			}
			asyncTransmit(mustOpen(t, b, someone()), bg, "00 01 00 00")
		}, 10 * time.Second, 1},
		{"a power-off that hangs", func(t *testing.T, b *Slot, slot *fakeSlot) {
			slot.off = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			mustOpen(t, b, someone())
		}, 10*time.Second + powerOffLimit, 1},
		{"a command that nothing ends", func(t *testing.T, b *Slot, slot *fakeSlot) {
			slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
				time.Sleep(11 * time.Second)
				return append(dst, 0x90, 0), nil
			}
			asyncTransmit(mustOpen(t, b, someone()), bg, "00 01 00 00")
		}, 11 * time.Second, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Options{})
				slot := newFakeSlot(t)
				fake := newFakeReader(slot)
				var last string
				fake.close = func() error { last = slot.calls()[len(slot.calls())-1]; return nil }
				b := r.plugReader(reader.Device{}, fake)
				b.WaitReady(bg, true)
				synctest.Wait()
				tt.begin(t, b, slot)
				synctest.Wait()
				grace, cancel := context.WithTimeout(bg, 10*time.Second)
				defer cancel()
				began := time.Now()
				r.Close(grace)
				if d := time.Since(began); d > tt.most {
					t.Errorf("Close took %v", d)
				}
				synctest.Wait()
				on := slot.count("power on cold") + slot.count("power on warm")
				if last != "power off" || on > tt.powered {
					t.Errorf("calls %q", slot.calls())
				}
				if calls := slot.calls(); calls[len(calls)-1] != "power off" {
					t.Errorf("after Close: %q", calls)
				}
			})
		})
	}
}

// A driver that does not come back from PowerOff does not keep the daemon.
func TestCloseWithAHungPowerOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, Options{Log: newTextLog(&log)})
		slot, let := newFakeSlot(t), make(chan struct{})
		slot.off = func(context.Context) error { <-let; return nil }
		_, b := r.plug(reader.Device{}, slot)
		mustOpen(t, b, someone())
		grace, cancel := context.WithCancel(context.Background())
		cancel()
		began := time.Now()
		r.Close(grace)
		if d := time.Since(began); d > 3*letGoLimit {
			t.Errorf("Close took %v", d)
		}
		if want := `level=WARN msg="the driver does not end what is under way; leaving without it" reader="fake a" slot=0`; strings.Count(log.String(), want) != 1 {
			t.Errorf("no line %s in\n%s", want, log.String())
		}
		close(let)
	})
}
