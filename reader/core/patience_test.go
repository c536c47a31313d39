package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// unready makes the next n power-ups of a slot fail with err.
func (s *fakeSlot) unready(n int, err error) {
	s.set(func(s *fakeSlot) {
		s.power = func(context.Context, reader.Reset) ([]byte, error) {
			if n--; n >= 0 {
				return nil, fmt.Errorf("read ATR: %w", err)
			}
			return s.atr, nil
		}
	})
}

func newToken(t testing.TB) *fakeSlot {
	s := newFakeSlot(t)
	s.traits.Fixed = true
	return s
}

// passing are errors of a device that may only need time.
var passing = []error{reader.ErrMute, reader.ErrTimeout, reader.ErrProtocol, reader.ErrTransfer, fmt.Errorf("%w: %w", reader.ErrTimeout, reader.ErrMute)}

// "Opens block until the device is ready": those of a token that needs some seconds succeed,
// and those of a reader with which no transfer succeeds yet.
func TestPatience(t *testing.T) {
	for i, err := range append(passing, reader.ErrTransfer) {
		for _, tt := range []struct {
			fails int
			after time.Duration
		}{
			{1, 100 * time.Millisecond}, {2, 300 * time.Millisecond}, {3, 700 * time.Millisecond},
			{5, 2500 * time.Millisecond}, {7, 4500 * time.Millisecond},
		} {
			fails := tt.fails
			if !errors.Is(err, reader.ErrTransfer) {
				fails *= attempts // that many belong to one power-up
			}
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newToken(t)
				slot.traits.Fixed = i < len(passing)
				slot.unready(fails, err)
				_, b := r.plug(reader.Device{}, slot)
				events := b.Follow()
				whats(events)
				begin := time.Now()
				open := asyncOpen(b, context.Background(), someone())
				hurried := asyncOpen(b, context.Background(), hasty())
				synctest.Wait()
				if i := b.Info(); !errors.Is(i.Err, err) || i.State != "present" {
					t.Errorf("meanwhile: state %s, error %v", i.State, i.Err)
				}
				s, e := open.get()
				if e != nil {
					t.Fatalf("%v, %d times: %v", err, fails, e)
				}
				if _, e := hurried.get(); e != nil {
					t.Errorf("%v, without waiting for a card: %v", err, e)
				}
				if d := time.Since(begin); d != tt.after {
					t.Errorf("%v, %d times: opened after %v, want %v", err, fails, d, tt.after)
				}
				if n := slot.count("power on cold"); n != fails+1 {
					t.Errorf("%d power-ups, want %d", n, fails+1)
				}
				if got := whats(events); got != "powered" {
					t.Errorf("events %q", got)
				}
				if i := b.Info(); i.Err != nil {
					t.Errorf("afterwards: error %v", i.Err)
				}
				wantAnswer(t, s, "00 01 00 00", "00 01 00 00 90 00")
			})
		}
	}
}

// "Bounded": a token that never answers fails after five seconds. Who opens it then is told
// at once, until a minute has passed or it has answered.
func TestPatienceEnds(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newToken(t)
		slot.unready(1000, reader.ErrProtocol)
		_, b := r.plug(reader.Device{}, slot)
		events := b.Follow()
		whats(events)
		try := func(what string, calls int, after time.Duration) {
			t.Helper()
			before, begin := slot.count("power on cold"), time.Now()
			_, err := b.Open(context.Background(), someone())
			wantErr(t, what, err, reader.ErrProtocol)
			if n, d := slot.count("power on cold")-before, time.Since(begin); n != calls || d != after {
				t.Errorf("%s: %d power-ups in %v, want %d in %v", what, n, d, calls, after)
			}
			if got := whats(events); got != "failed" {
				t.Errorf("%s: events %q", what, got)
			}
			if off := slot.calls()[len(slot.calls())-1]; off != "power off" {
				t.Errorf("%s: the last call is %s", what, off)
			}
		}
		const most = 8 * attempts
		try("the first open", most, 4500*time.Millisecond)
		try("the next", attempts, 0)
		time.Sleep(patienceAgain - time.Millisecond)
		try("before a minute has passed", attempts, 0)
		time.Sleep(time.Millisecond)
		try("after a minute", most, 4500*time.Millisecond)
		slot.unready(0, nil)
		mustOpen(t, b, someone()).Close()
		slot.unready(1000, reader.ErrProtocol)
		if err := b.Power(context.Background(), PowerDown, someone()); err != nil {
			t.Fatal(err)
		}
		whats(events)
		try("after an answer", most, 4500*time.Millisecond)
	})
}

// Time that the tries themselves take counts.
func TestPatienceOfASlowToken(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newToken(t)
		slot.power = func(context.Context, reader.Reset) ([]byte, error) {
			time.Sleep(time.Second)
			return nil, reader.ErrMute
		}
		_, b := r.plug(reader.Device{}, slot)
		_, err := b.Open(context.Background(), someone())
		wantErr(t, "open", err, reader.ErrMute)
		if n := slot.count("power on cold"); n != 2*attempts {
			t.Errorf("%d power-ups", n)
		}
	})
}

// A card that can be taken out may be mute: its reader must not get slower for it. Nor does
// time help with other errors, or a protocol that was asked for.
func TestNoPatience(t *testing.T) {
	open := func(b *Slot) error {
		_, err := b.Open(context.Background(), hasty())
		return err
	}
	type row struct {
		fixed bool
		err   error
		do    func(b *Slot) error
	}
	var rows []row
	selected := func(b *Slot) error { return b.SelectProtocol(context.Background(), 0, someone()) }
	for _, err := range passing {
		rows = append(rows, row{true, err, selected})
		if !errors.Is(err, reader.ErrTransfer) {
			rows = append(rows, row{false, err, open})
		}
	}
	rows = append(rows, row{false, fmt.Errorf("%w: %w", reader.ErrMute, reader.ErrTransfer), open}) // that is how some say so
	for _, err := range []error{reader.ErrUnsupported, reader.ErrInvalid, reader.ErrNoPermission, reader.ErrClaimed, errors.New("other"),
		fmt.Errorf("%w: %w", reader.ErrProtocol, reader.ErrUnsupported)} {
		rows = append(rows, row{true, err, open})
	}
	rows = append(rows, row{true, reader.ErrNoCard, func(b *Slot) error {
		if err := open(b); !errors.Is(err, reader.ErrNoCard) {
			return err
		}
		return b.Power(context.Background(), PowerUp, hasty())
	}})
	for _, tt := range rows {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newFakeSlot(t)
			slot.traits.Fixed = tt.fixed
			slot.unready(1000, tt.err)
			_, b := r.plug(reader.Device{}, slot)
			begin := time.Now()
			err := tt.do(b)
			wantErr(t, fmt.Sprintf("%v, fixed %v", tt.err, tt.fixed), err, tt.err)
			if d := time.Since(begin); d != 0 {
				t.Errorf("%v, fixed %v: after %v", tt.err, tt.fixed, d)
			}
			if n := slot.count("power on cold") + slot.count("power on warm"); n > attempts {
				t.Errorf("%v, fixed %v: %d power-ups", tt.err, tt.fixed, n)
			}
		})
	}
}

// "Ended by departure, by abort": a pause ends at once with what ends everything.
func TestPatienceIsEnded(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		name string
		end  func(r *rig, fake *fakeReader, b *Slot)
		want error
	}{
		{"abort", func(_ *rig, _ *fakeReader, b *Slot) {
			if err := b.Abort(); err != nil {
				t.Error(err)
			}
		}, reader.ErrAborted},
		{"the reader leaves", func(_ *rig, fake *fakeReader, _ *Slot) { fake.unplug() }, reader.ErrGone},
		{"detached", func(r *rig, _ *fakeReader, b *Slot) { r.Detach(b.Number()) }, reader.ErrGone},
		{"the end", func(r *rig, _ *fakeReader, _ *Slot) { go r.Close(bg) }, reader.ErrGone},
		{"a panic", func(_ *rig, _ *fakeReader, b *Slot) { b.ifd.Go(func() { panic("the driver's") }) }, reader.ErrFailed},
	} {
		for _, how := range []string{"open", "power"} {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				bubble(t, Options{}, func(t *testing.T, r *rig) {
					slot := newToken(t)
					slot.unready(1000, reader.ErrTimeout)
					fake, b := r.plug(reader.Device{}, slot)
					o := async(func() (err error, _ error) {
						if how == "open" {
							_, err = b.Open(bg, someone())
						} else {
							err = b.Power(bg, PowerUp, someone())
						}
						return nil, err
					})
					time.Sleep(1100 * time.Millisecond) // in the pause of 800 ms
					synctest.Wait()
					calls := slot.count("power on cold")
					begin := time.Now()
					tt.end(r, fake, b)
					_, err := o.get()
					wantErr(t, tt.name, err, tt.want)
					if d := time.Since(begin); d != 0 {
						t.Errorf("after %v", d)
					}
					if n := slot.count("power on cold"); n != calls {
						t.Errorf("%d more power-ups", n-calls)
					}
				})
			})
		}
	}
	// A writer of `power` that gives up gets the error of the last try.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newToken(t)
		slot.unready(1000, reader.ErrTimeout)
		_, b := r.plug(reader.Device{}, slot)
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		begin := time.Now()
		wantErr(t, "power", b.Power(ctx, ResetCold, someone()), reader.ErrTimeout)
		if d := time.Since(begin); d != time.Second {
			t.Errorf("after %v", d)
		}
	})
	// One who opens and gives up does not end the wait of others.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newToken(t)
		slot.unready(3*attempts, reader.ErrTimeout)
		_, b := r.plug(reader.Device{}, slot)
		ctx, cancel := context.WithTimeout(bg, time.Millisecond)
		defer cancel()
		first := asyncOpen(b, ctx, someone())
		second := asyncOpen(b, bg, someone())
		_, err := first.get()
		wantErr(t, "the first", err, reader.ErrInterrupted)
		if _, err := second.get(); err != nil {
			t.Error(err)
		}
	})
}

// "A reset that the holder asks for leaves the holder's own opens valid", also if it needs
// more than one try; others' are stale.
func TestPatienceKeepsTheHoldersSession(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newToken(t)
		_, b := r.plug(reader.Device{}, slot)
		holder, other := someone(), someone()
		s, stale := mustOpen(t, b, holder), mustOpen(t, b, other)
		if err := b.Lock(bg, holder, nil); err != nil {
			t.Fatal(err)
		}
		slot.unready(2*attempts, reader.ErrProtocol)
		if err := b.Power(bg, ResetWarm, holder); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, s, "00 01 00 00", "00 01 00 00 90 00")
		b.Unlock(holder)
		_, err := stale.Transmit(bg, hexb("00 01 00 00"), nil)
		wantErr(t, "another's session", err, reader.ErrStale)
		calls := strings.Join(slot.calls(), ", ")
		if strings.Count(calls, "power on warm") != 1 || strings.Count(calls, "power on cold") != 2*attempts+1 || strings.Count(calls, "power off") != 0 {
			t.Errorf("calls %s", calls)
		}
	})
}

// A token that has forgotten everything while the system slept says nothing of it: it stalls,
// or answers something else. "A command is never sent twice"; the session is stale, and the
// next open waits until the token is ready.
func TestTokenForgets(t *testing.T) {
	bg := context.Background()
	for _, err := range []error{reader.ErrTimeout, reader.ErrProtocol, reader.ErrTransfer, reader.ErrStale} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newToken(t)
			slot.atr, slot.traits.Level = atrT0, reader.TPDU
			slot.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
				return append(dst, 0x90, 0), nil
			}
			_, b := r.plug(reader.Device{}, slot)
			s := mustOpen(t, b, someone())
			wantAnswer(t, s, "00 20 00 01 02 31 32", "90 00")
			slot.unready(2*attempts, reader.ErrProtocol)
			slot.set(func(f *fakeSlot) {
				f.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
					return dst, fmt.Errorf("send TPDU: %w", err)
				}
			})
			sent := len(slot.sent)
			if _, e := s.Transmit(bg, hexb("00 20 00 01 02 31 32"), nil); e == nil {
				t.Error("no error")
			}
			if n := len(slot.sent) - sent; n != 1 {
				t.Errorf("%v: sent %d times", err, n)
			}
			_, e := s.Transmit(bg, hexb("00 20 00 01 02 31 32"), nil)
			wantErr(t, fmt.Sprintf("the session after %v", err), e, reader.ErrStale)
			slot.set(func(f *fakeSlot) {
				f.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
					return append(dst, 0x90, 0), nil
				}
			})
			wantAnswer(t, mustOpen(t, b, someone()), "00 B0 00 00 02", "90 00")
			if n := len(slot.sent) - sent; n != 2 {
				t.Errorf("%v: %d commands", err, n)
			}
		})
	}
}

// A reader that answers its first contact late is opened when it does.
func TestPatienceWithOpen(t *testing.T) {
	for _, err := range append(passing, reader.ErrClaimed, reader.ErrNoPermission, errors.New("other")) {
		for _, fails := range []int{1, 4, 7, 8, 1000} {
			patient := fails < 8 && unsettled(err)
			bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
				_, opens := revivals(t, r, func(n int) (*fakeReader, error) {
					if n <= fails {
						return nil, fmt.Errorf("first contact: %w", err)
					}
					return newFakeReader(newFakeSlot(t)), nil
				})
				b, begin := r.Slot(0), time.Now()
				if i := b.Info(); !errors.Is(i.Err, err) {
					t.Errorf("meanwhile: error %v", i.Err)
				}
				_, e := b.Open(context.Background(), someone())
				want := 1
				switch {
				case patient:
					want = fails + 1
					if e != nil {
						t.Errorf("%v, %d times: %v", err, fails, e)
					}
				case !errors.Is(e, reader.ErrFailed) || !errors.Is(e, err):
					t.Errorf("%v: open: %v", err, e)
				case unsettled(err):
					want = 8
				}
				if *opens != want || time.Since(begin) > patienceLimit || want == 1 && time.Since(begin) != 0 {
					t.Errorf("%v, %d times: opened %d times in %v, want %d", err, fails, *opens, time.Since(begin), want)
				}
				if patient {
					return
				}
				// A rescan begins anew.
				fails = *opens + 2
				r.Rescan()
				synctest.Wait()
				if b = r.Slot(0); b == nil {
					t.Fatal("after a rescan: no such slot")
				}
				if _, e := b.Open(context.Background(), someone()); (e == nil) != unsettled(err) {
					t.Errorf("%v: after a rescan: %v", err, e)
				}
			})
		}
	}
	// It may leave meanwhile.
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		l, opens := revivals(t, r, func(int) (*fakeReader, error) { return nil, reader.ErrTimeout })
		open := asyncOpen(r.Slot(0), context.Background(), someone())
		time.Sleep(time.Second)
		synctest.Wait()
		before, begin := *opens, time.Now()
		close(l.gone)
		_, err := open.get()
		wantErr(t, "open", err, reader.ErrGone)
		synctest.Wait()
		if *opens != before || time.Since(begin) != 0 || r.numbers() != "" {
			t.Errorf("opened %d times more, left after %v, numbers %q", *opens-before, time.Since(begin), r.numbers())
		}
	})
}

// A reader that cannot say at first whether there is a card is asked again, even if it is
// otherwise not polled.
func TestStatusFailsAtFirst(t *testing.T) {
	for _, tt := range []struct {
		name          string
		fixed, silent bool
	}{{"fixed", true, true}, {"fixed, with notifications", true, false}, {"with notifications", false, false}, {"polled", false, true}} {
		for _, failure := range []error{reader.ErrTimeout, nil} {
			if failure == nil && !tt.fixed {
				continue // without a card it is right to say so
			}
			t.Run(fmt.Sprintf("%s, %v", tt.name, failure), func(t *testing.T) {
				bubble(t, Options{}, func(t *testing.T, r *rig) {
					slot := newFakeSlot(t)
					var asked atomic.Int32
					slot.traits.Fixed = tt.fixed
					slot.state = func(context.Context) (reader.Status, error) {
						if asked.Add(1) <= 3 {
							return reader.Absent, failure
						}
						return reader.Present, nil
					}
					var s reader.Slot = slot
					if tt.silent {
						s = struct{ reader.Slot }{slot}
					}
					fake := newFakeReader(slot)
					fake.slots[0] = s
					b := r.plugReader(reader.Device{}, fake)
					open := asyncOpen(b, context.Background(), someone())
					time.Sleep(time.Minute)
					synctest.Wait()
					if tt.fixed && !tt.silent && failure == nil {
						if !open.pending() {
							t.Error("without a notification")
						}
						slot.changes <- struct{}{}
						asked.Store(3)
						slot.changes <- struct{}{}
					}
					if _, err := open.get(); err != nil {
						t.Fatal(err)
					}
					before := asked.Load()
					time.Sleep(time.Minute)
					if n := asked.Load() - before; n > 0 && (tt.fixed || !tt.silent) {
						t.Errorf("asked %d times more", n)
					}
				})
			})
		}
	}
}

// A fixed card that was there and is said not to be is looked for.
func TestFixedCardComesBack(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newToken(t)
		fake := newFakeReader(slot)
		fake.slots[0] = struct{ reader.Slot }{slot} // no notifications
		b := r.plugReader(reader.Device{}, fake)
		mustOpen(t, b, someone())
		slot.set(func(s *fakeSlot) { s.status = reader.Absent })
		wantErr(t, "reset", b.Power(context.Background(), ResetCold, someone()), reader.ErrNoCard)
		open := asyncOpen(b, context.Background(), someone())
		time.Sleep(time.Minute)
		slot.set(func(s *fakeSlot) { s.status = reader.Present })
		if _, err := open.get(); err != nil {
			t.Fatal(err)
		}
	})
}
