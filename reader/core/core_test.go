package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

// "A waiting open ends at once with ENODEV when the reader leaves, EINTR on a caught
// signal": where both have happened, the reader left. select has no order, so this is
// tried often.
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

// The same where both have happened before it is waited.
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
	// What the caller waits for comes before the interruption.
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

// A caller that is interrupted while it waits hears just that.
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

// "The owner ends it with ctl: abort N": the caller hears so at once, the card is
// powered off, its sessions are stale, and the slot works on.
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
					t.Errorf("status\n%s", i.Lines())
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

// A power-up can be ended, too.
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
		r := newRig(t, Options{})
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
		close(let)
	})
}

// A reader's slots have a cap, which `status` tells; numbers are the lowest free ones.
func TestSlotsCapped(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		var slots []*fakeSlot
		for range maxSlots + 3 {
			slots = append(slots, newFakeSlot(t))
		}
		r.driver.open = func(ctx context.Context, _ reader.Device) (reader.Reader, error) { <-ctx.Done(); return nil, ctx.Err() }
		big := r.announce(reader.Device{Address: "big", Slots: 197120})
		if n := len(r.Slots()); n != maxSlots {
			t.Errorf("%d slots", n)
		}
		if s := string(big.Info().Lines()); !strings.Contains(s, fmt.Sprintf("\nslots 197120, of which %d are served\n", maxSlots)) {
			t.Errorf("status\n%s", s)
		}
		r.Detach(0)
		synctest.Wait()
		fake := newFakeReader(slots...)
		b := r.plugReader(reader.Device{Address: "other"}, fake)
		synctest.Wait()
		if n := len(b.Info().Siblings); n != maxSlots || !strings.Contains(string(b.Info().Lines()), fmt.Sprintf("\nslots %d, of which", maxSlots+3)) {
			t.Errorf("%d slots; status\n%s", n, b.Info().Lines())
		}
		_, next := r.plug(reader.Device{Address: "next"}, newFakeSlot(t))
		if next.Number() != maxSlots {
			t.Errorf("the next reader is number %d", next.Number())
		}
	})
}

// Ten thousand slots: what they cost is linear, none of it under a lock for long.
func TestManySlots(t *testing.T) {
	hold := make(chan struct{})
	d := &fakeDriver{name: "fake"}
	m := NewManager(Options{Drivers: []reader.Driver{d}})
	defer m.Close(context.Background())
	defer close(hold)
	open := func(ctx context.Context, _ reader.Device) (reader.Reader, error) {
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil, reader.ErrGone
	}
	announce := func(from, to int) time.Duration {
		began := time.Now()
		for i := from; i < to; i++ {
			if err := m.Announce(reader.Device{Driver: "fake", Address: fmt.Sprint("r", i), Slots: maxSlots, Link: opener(open)}); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(began)
	}
	announce(0, 40)
	if n := len(m.Slots()); n != 40*maxSlots {
		t.Fatalf("%d slots", n)
	}
	for i, b := range m.Slots() {
		if b.Number() != i {
			t.Fatalf("slot %d has number %d", i, b.Number())
		}
	}
	if n := strings.Count(string(m.Describe()), "\nreader "); n != 40*maxSlots {
		t.Errorf("ctl lists %d slots", n)
	}
	m.Detach(maxSlots)
	announce(40, 41)
	if n := m.Slots()[maxSlots].Number(); n != maxSlots {
		t.Errorf("the lowest free number was not taken: %d", n)
	}
}

// What is remembered of readers that left is bounded; those that are there stay.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		defer r.Close(context.Background())
		stay := newFakeReader(newFakeSlot(t))
		r.plugReader(reader.Device{Serial: "stays"}, stay)
		synctest.Wait()
		for i := range memoryMost + 50 {
			fake := newFakeReader(newFakeSlot(t))
			b := r.plugReader(reader.Device{Serial: fmt.Sprint(i), Address: fmt.Sprint(i)}, fake)
			r.Detach(b.Number())
			synctest.Wait()
		}
		r.mu.Lock()
		homes, last := len(r.homes), len(r.last)
		_, first := r.homes[identity(reader.Device{Driver: "fake", Serial: "0"})]
		_, newest := r.homes[identity(reader.Device{Driver: "fake", Serial: fmt.Sprint(memoryMost + 49)})]
		_, present := r.homes[identity(reader.Device{Driver: "fake", Serial: "stays"})]
		r.mu.Unlock()
		if homes > memoryMost+2 || last > memoryMost+2 {
			t.Errorf("%d homes, %d devices are remembered", homes, last)
		}
		if first || !newest || !present {
			t.Errorf("the first is remembered: %v, the newest: %v, the one that is there: %v", first, newest, present)
		}
		// Whoever is forgotten gets the lowest free number.
		b := r.plugReader(reader.Device{Serial: "0"}, newFakeReader(newFakeSlot(t)))
		if b.Number() != 1 {
			t.Errorf("number %d", b.Number())
		}
	})
}

// The same for numbers: the devices of those that are free, the oldest first.
func TestLastDevicesAreBounded(t *testing.T) {
	m := NewManager(Options{Drivers: []reader.Driver{&commandDriver{}}})
	defer m.Close(context.Background())
	for i := range 8 {
		if err := m.Announce(reader.Device{Driver: "box", Address: fmt.Sprint(i), Slots: maxSlots}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 7; i > 0; i-- {
		m.Detach(i * maxSlots)
	}
	for i := range 2000 {
		m.last[8*maxSlots+i] = lastDevice{used: 1}
	}
	m.mu.Lock()
	before := len(m.last)
	m.forgetLast()
	_, there := m.last[0]
	after := len(m.last)
	m.mu.Unlock()
	if after != before-1 || !there {
		t.Errorf("%d devices remembered, %d before", after, before)
	}
}

// A reader that comes makes room for what is remembered of its number.
func TestNewNumbersMakeRoom(t *testing.T) {
	m := NewManager(Options{Drivers: []reader.Driver{&commandDriver{}}})
	defer m.Close(context.Background())
	for i := range 2 * memoryMost {
		m.last[1000+i] = lastDevice{used: 1}
	}
	for i := range 3 {
		if err := m.Announce(reader.Device{Driver: "box", Address: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		n := len(m.last)
		m.mu.Unlock()
		if n != 2*memoryMost {
			t.Errorf("%d devices remembered after %d came", n, i+1)
		}
	}
}

// By-id names have 200 bytes at most, the same each time, and differ where the
// devices do.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("x", 5000)
	seen := make(map[string]bool)
	for _, dev := range []reader.Device{
		{Bus: "usb", ID: reader.ID{Model: long}, Serial: long},
		{Bus: "usb", ID: reader.ID{Model: long}, Serial: long + "1"},
		{Bus: "usb", ID: reader.ID{Model: long + "x"}, Serial: long[1:]},
		{Bus: "usb", ID: reader.ID{Model: "m"}, Serial: long},
		{Bus: "usb", ID: reader.ID{Model: "m"}, Serial: strings.Repeat("x", words.MaxName)},
		{Bus: "usb", ID: reader.ID{Model: "m"}, Serial: strings.Repeat("x", words.MaxName-len("usb-m_-slot0"))},
		{Driver: "d", Address: long},
	} {
		for _, index := range []int{0, 1, 12} {
			name := lastingName(dev, index)
			if len(name) > words.MaxName || seen[name] || name != lastingName(dev, index) || !strings.HasSuffix(name, fmt.Sprintf("-slot%d", index)) {
				t.Errorf("%d bytes, seen %v: %s", len(name), seen[name], name)
			}
			seen[name] = true
		}
	}
	if got := lastingName(reader.Device{Bus: "usb", ID: reader.ID{Model: "m"}, Serial: strings.Repeat("x", words.MaxName-len("usb-m_-slot0"))}, 0); len(got) != words.MaxName || strings.Count(got, "x") != words.MaxName-12 {
		t.Errorf("a name that just fits was cut: %s", got)
	}
}

// "Bidi, zero-width and format characters (Cf, Zl, Zp, Co, Cs)" are in no name, status
// value, event or log line; what devices say has an end.
func TestWhatDevicesSay(t *testing.T) {
	evil := "a\u202eb\u200bc\u2066d\ufefee\u2028f\u2029g\ue000h\U000f0000i\u00adj\x1b[2J\xed\xa0\x80\U000e0041k\u0600l\u0085m\u00a0n"
	const most = words.MaxWords * 2
	bad := func(s string) bool {
		return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && r != ' ' && words.OneLine(r) != r })
	}
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, Options{Log: newTextLog(&log)})
		defer r.Close(context.Background())
		events := r.Follow()
		slot := newFakeSlot(t)
		slot.power = func(context.Context, reader.Reset) ([]byte, error) {
			return nil, errors.New(evil + strings.Repeat("e", 5000))
		}
		fake := newFakeReader(slot)
		more := map[string]string{evil: evil, "long": strings.Repeat("ä", 5000)}
		for i := range 1000 {
			more[fmt.Sprint("key", i)] = "value"
		}
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) {
			return saysMore{fake, evil + strings.Repeat("m", 5000), more}, nil
		}
		b := r.announce(reader.Device{Address: evil + strings.Repeat("a", 5000), Serial: evil, Port: evil, Bus: evil, ID: reader.ID{Model: evil},
			Params: map[string]string{evil: evil}})
		synctest.Wait()
		b.Open(context.Background(), someone())
		status := string(b.Info().Lines())
		for what, text := range map[string]string{
			"status": status, "ctl": string(r.Describe()), "name": b.Info().ByID,
			"model": b.Info().Model, "events": lines(events), "log": log.String(),
		} {
			if bad(text) {
				t.Errorf("%s: %q", what, text)
			}
			for line := range strings.Lines(text) {
				if utf8.RuneCountInString(line) > 2*most {
					t.Errorf("%s: a line of %d characters", what, utf8.RuneCountInString(line))
				}
			}
		}
		if n := strings.Count(status, "\n"); n > words.MaxPairs+20 {
			t.Errorf("status has %d lines", n)
		}
		if !strings.Contains(status, "…") {
			t.Error("nothing says that something was cut")
		}
	})
	for _, tt := range []struct {
		in   string
		most int
		want string
	}{
		{"", 3, ""}, {"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"äöü", 3, "äöü"}, {"äöüß", 3, "äö…"}, {"a\tb", 9, "a b"},
		{"a\u200bb", 9, "a\ufffdb"}, {"日本", 9, "日本"},
	} {
		if got := words.Printable(tt.in, tt.most); got != tt.want {
			t.Errorf("printable(%q, %d) = %q, want %q", tt.in, tt.most, got, tt.want)
		}
	}
}

// saysMore is a reader that has a lot to say of itself.
type saysMore struct {
	*fakeReader
	model string
	more  map[string]string
}

func (s saysMore) Identify() (string, map[string]string) { return s.model, s.more }

// "A card changed in between": a PIN command runs on the card that was there when it
// was given, whatever it waited for; else it says so, and nobody is asked for a PIN.
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
				// Handed over before, and sent now: to no card but that of then, whatever
				// power the new one has.
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

// setSeen is what the reader's own news of its contacts does.
func (b *Slot) setSeen(now reader.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.setCard(now)
}

// The reader leaves while the card's answer to a PIN is waited for: the loop ends.
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

// ctl's table is all there is: what is listed is done, and what is refused lists it.
func TestCtlTable(t *testing.T) {
	m := NewManager(Options{Drivers: []reader.Driver{&commandDriver{}}})
	defer m.Close(context.Background())
	text := string(m.Describe())
	err := m.Command("dance")
	var words []string
	for _, c := range CtlUsage() {
		word, _, _ := strings.Cut(c[0], " ")
		words = append(words, word)
		if !strings.Contains(text, "# "+c[0]+"\n") || !strings.Contains(err.Error(), word) || c[1] == "" {
			t.Errorf("%s is not listed: %q, %v", c[0], text, err)
		}
		if err := m.Command(word); err != nil && !strings.HasPrefix(err.Error(), c[0]+": ") {
			t.Errorf("%s: %v", word, err)
		}
	}
	if want := []string{"attach", "detach", "abort", "rescan"}; !slices.Equal(words, want) {
		t.Errorf("commands %q", words)
	}
}
