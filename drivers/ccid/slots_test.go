package ccid

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// bMaxCCIDBusySlots (CCID 1.1 §5.1) slots work at the same time; others wait in the host.
func TestSlotsAtOnce(t *testing.T) {
	for _, c := range []struct{ slots, busy int }{{2, 2}, {2, 1}, {5, 5}, {5, 2}} {
		synctest.Test(t, func(t *testing.T) {
			cfg := emu.TPDUReader()
			cfg.Slots, cfg.BusySlots = c.slots, c.busy
			e := newDevice(cfg)
			for n := range c.slots {
				e.Contact(n).Insert(&testCard{atr: atrT1IFSC})
			}
			r := open(t, e)
			for _, s := range r.slots {
				if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
					t.Fatal(err)
				}
			}
			const work = 500 * time.Millisecond
			block := unhex("00 00 04 80 E8 00 05 69") // a T=1 block that keeps the card busy for that long
			start := time.Now()
			var wg sync.WaitGroup
			for n, s := range r.slots {
				wg.Go(func() {
					rx, err := s.Exchange(ctx, reader.Transfer{Out: block}, nil)
					if err != nil || len(rx) != 6 {
						t.Errorf("slot %d: % X, %v", n, rx, err)
					}
				})
			}
			wg.Wait()
			rounds := (c.slots + c.busy - 1) / c.busy
			if took := time.Since(start); took < time.Duration(rounds)*work || took > time.Duration(rounds)*work+100*time.Millisecond {
				t.Errorf("%d slots, %d at once: %v", c.slots, c.busy, took)
			}
		})
	}
}

// Slots are independent: a slot gets its answers in time while another one is silent, is
// being aborted, or asks for time.
func TestSlotsApart(t *testing.T) {
	for name, f := range map[string]emu.Fault{
		"silence":  {Kind: emu.Silence, On: 0x6F},
		"endless":  {Kind: emu.Endless, On: 0x6F},
		"truncate": {Kind: emu.Truncated, On: 0x6F},
		"runt":     {Kind: emu.Runt, On: 0x6F},
		"babble":   {Kind: emu.Babble, On: 0x6F},
		"stale":    {Kind: emu.WrongSeq, On: 0x6F},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				one, two := &testCard{atr: atrT1IFSC}, &testCard{atr: atrT0}
				cfg := emu.TwoSlotReader()
				b := plug(t, cfg, one, two)
				first, second := b.session(0), b.session(1)
				b.e.Inject(f)
				done := make(chan error, 1)
				go func() {
					_, err := first.Transmit(context.Background(), unhex("00 84 00 00 04"), nil)
					done <- err
				}()
				synctest.Wait()
				for range 20 {
					start := time.Now()
					transmit(t, second, unhex("00 84 00 00 04"), unhex("00 01 02 03 90 00"))
					if took := time.Since(start); took > 100*time.Millisecond {
						t.Errorf("the other slot waited %v", took)
					}
					time.Sleep(time.Second)
				}
				if err := <-done; err != nil && !errors.Is(err, reader.ErrTimeout) && !errors.Is(err, reader.ErrProtocol) {
					t.Error(err)
				}
				transmit(t, b.session(0), unhex("00 84 00 00 04"), unhex("00 01 02 03 90 00"))
				transmit(t, second, unhex("00 84 00 00 04"), unhex("00 01 02 03 90 00"))
				if two.count() != 21 {
					t.Errorf("the second card saw %d commands", two.count())
				}
			})
		})
	}
}

// Many slots and many commands: every answer reaches its command.
func TestSlotsMixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := emu.ExtendedAPDUReader()
		cfg.Slots = 5
		e := newDevice(cfg)
		for n := range 5 {
			e.Contact(n).Insert(&testCard{atr: atrT1})
		}
		r := open(t, e)
		var wg sync.WaitGroup
		for n, s := range r.slots {
			wg.Go(func() {
				if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
					t.Error(err)
					return
				}
				for k := range 200 {
					data := append([]byte{0x80, 0xEE, 0, 0, 3, byte(n), byte(k), 7}, 0)
					rx, err := s.Exchange(ctx, reader.Transfer{Out: data}, nil)
					check(t, rx, err, []byte{byte(n), byte(k), 7, 0x90, 0}, nil)
				}
			})
		}
		wg.Wait()
	})
}

// NotifySlotChange names the slots; only those are notified (CCID 1.1 §6.3.1).
func TestNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := emu.TPDUReader()
		cfg.Slots = 5
		e := newDevice(cfg)
		r := open(t, e)
		told := func(n int) bool {
			synctest.Wait()
			select {
			case <-r.slots[n].(reader.Notifier).Changes():
				if _, err := r.slots[n].Status(ctx); err != nil {
					t.Error(err)
				}
				return true
			default:
				return false
			}
		}
		for n := range 5 {
			e.Contact(n).Insert(&testCard{atr: atrT0})
			for other := range 5 {
				if told(other) != (other == n) {
					t.Errorf("card into slot %d: slot %d told: %v", n, other, other != n)
				}
			}
		}
		e.Contact(4).Remove()
		if !told(4) || told(0) {
			t.Error("card out of slot 4")
		}
		e.HardwareError(2, 1)
		if !told(2) {
			t.Error("hardware error of slot 2")
		}
		e.Inject(emu.Fault{Kind: emu.Fail, On: 0x62, Code: 0xFB})
		_, err := r.slots[2].PowerOn(ctx, reader.Cold)
		var failed *Error
		if !errors.As(err, &failed) || failed.Hardware != 1 {
			t.Error(err)
		}
		// Messages of makers' own, and those that are too short, notify nobody.
		for _, junk := range []string{"40 01", "50", "51 00", "51 09 00 01", "99 01 02", "50 00 00 00 00 00"} {
			e.Interrupt(unhex(junk))
		}
		synctest.Wait()
	})
}

// An interrupt endpoint that fails for good is replaced by polling every second. For a
// reader without one, the core polls.
func TestInterruptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(emu.TPDUReader())
		r := open(t, e)
		changes := r.slots[0].(reader.Notifier).Changes()
		e.Interrupt(nil) // a single stall is tolerated
		time.Sleep(time.Second)
		e.Contact(0).Insert(&testCard{atr: atrT0})
		<-changes
		for range usb.InterruptTries {
			e.Interrupt(nil)
			time.Sleep(time.Second)
		}
		start := time.Now()
		for range 3 {
			<-changes
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Error(took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		cfg := emu.TPDUReader()
		cfg.NoInterrupt = true
		r := open(t, newDevice(cfg))
		if r.slots[0].(reader.Notifier).Changes() != nil {
			t.Error("a channel that nobody sends to")
		}
	})
}

// faulty is an emulator whose interrupt endpoint fails as the hook says.
type faulty struct {
	*device
	in func(ctx context.Context) error
}

func (f *faulty) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	c, err := f.device.OpenUSB(ctx, iface)
	return &faultyConn{c, f}, err
}

type faultyConn struct {
	usb.Conn
	f *faulty
}

func (c *faultyConn) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	if ep == 0x83 {
		return 0, c.f.in(ctx)
	}
	return c.Conn.In(ctx, ep, p, timeout)
}

// The slots are polled every second if the interrupt endpoint is unusable: at once if the
// kernel does not know it (usb.ErrNoEndpoint: "trying again is in vain"), after a few
// consecutive times if it ends with resets. There is a pause between attempts. Occasional
// resets, as of a system that sleeps, change nothing.
func TestInterruptEndpointThatCannotBeHad(t *testing.T) {
	for _, tt := range []struct {
		name  string
		err   error
		pends time.Duration // time until it fails
		tries int           // attempts in the first hour; 0: it is never given up
	}{
		{"unknown to the kernel", usb.ErrNoEndpoint, 0, 1},
		{"unknown to the kernel after a while", usb.ErrNoEndpoint, time.Minute, 1},
		{"reset again and again", usb.ErrReset, 0, usb.InterruptTries},
		{"reset every second", usb.ErrReset, time.Second, usb.InterruptTries},
		{"reset now and then", usb.ErrReset, usb.InterruptHealthy, 0},
		{"noise", usb.ErrBus, 0, usb.InterruptTries},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				f := &faulty{device: newDevice(emu.TwoSlotReader())}
				f.in = func(ctx context.Context) error {
					tries++
					if err := sleep(ctx, tt.pends); err != nil {
						return err
					}
					return tt.err
				}
				r, err := Driver{}.Open(ctx, reader.Device{Link: f})
				if err != nil {
					t.Fatal(err)
				}
				defer f.Unplug()
				defer r.Close()
				time.Sleep(time.Hour)
				synctest.Wait()
				want := tt.tries
				if want == 0 {
					// 100 ms later than it failed.
					want = int(time.Hour/(tt.pends+100*time.Millisecond)) + 1
				}
				if tries != want {
					t.Fatalf("tried %d times in an hour, want %d", tries, want)
				}
				start := time.Now()
				for n := range 3 {
					for _, s := range r.Slots() {
						<-s.(reader.Notifier).Changes()
					}
					if took := time.Since(start); tt.tries > 0 && took > time.Duration(n)*usb.FallbackPoll {
						t.Errorf("look %d after %v", n, took)
					}
				}
			})
		})
	}
}

// An idle reader causes no transfers except the pending one on its interrupt endpoint.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := plug(t, emu.TPDUReader(), &testCard{atr: atrT1})
		transmit(t, b.session(0), unhex("00 84 00 00 01"), unhex("00 90 00"))
		time.Sleep(time.Second)
		n := 0
		b.e.Observe(func(usbtest.Line) { n++ })
		time.Sleep(time.Hour)
		if n > 0 {
			t.Errorf("%d transfers in an idle hour", n)
		}
	})
}

// Unplugging ends all pending calls.
func TestUnplug(t *testing.T) {
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := plug(t, emu.ShortAPDUReader(), &testCard{atr: atrT1})
			s := b.session(0)
			slot := b.m.Slot(0)
			done := make(chan error, 1)
			go func() {
				if busy {
					_, err := s.Transmit(context.Background(), unhex("80 E8 00 64"), nil)
					done <- err
					return
				}
				<-slot.Done()
				done <- reader.ErrGone
			}()
			time.Sleep(time.Second)
			start := time.Now()
			b.e.Unplug()
			if err := <-done; !errors.Is(err, reader.ErrGone) {
				t.Error(err)
			}
			if took := time.Since(start); took > 10*time.Millisecond {
				t.Error(took)
			}
			synctest.Wait()
			if b.m.Slot(0) != nil {
				t.Error("still there")
			}
		})
	}
}
