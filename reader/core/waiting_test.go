package core

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// slowCard keeps asking for more time until its command is done.
type slowCard struct {
	*fakeSlot
	takes time.Duration // for each command
	every time.Duration // the interval between its requests for time
}

// answer is Exchange of a card that speaks T=1 in blocks or T=0 in characters.
func (c *slowCard) answer(t1 bool) func(context.Context, reader.Transfer, []byte) ([]byte, error) {
	var until time.Time
	return func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
		switch {
		case t1 && len(x.Out) > 1 && x.Out[1] == 0xC0: // S(RESYNCH request)
			return append(dst, hexb("00 E0 00 E0")...), nil
		case len(x.Out) > 0 && (!t1 || x.Out[1]&0x80 == 0):
			until = time.Now().Add(c.takes)
		}
		pause := min(time.Until(until), c.every)
		if pause > x.Wait {
			time.Sleep(x.Wait)
			return dst, reader.ErrTimeout
		}
		time.Sleep(pause)
		more := time.Now().Before(until)
		switch {
		case t1 && more:
			return append(dst, hexb("00 C3 01 02 C0")...), nil
		case t1:
			return append(dst, hexb("00 00 02 90 00 92")...), nil
		case more:
			return append(dst, 0x60), nil
		}
		return append(dst, 0x90), nil // sw2 adds the rest
	}
}

// "Waiting is bounded by the clock, not by what was granted. As long as the card
// (S(WTX), NULL) … asks for time, it has it, for an hour of real time by default:
// keys are made on tokens for 16 minutes. status says `waiting SECONDS`."
func TestWaiting(t *testing.T) {
	for _, tt := range []struct {
		name  string
		atr   string
		level reader.Level
		limit time.Duration // Options.ExchangeLimit
		takes time.Duration
		want  error
	}{
		{"T=1: a key of 16 minutes", "3B 80 01 81", reader.TPDU, 0, 16 * time.Minute, nil},
		{"T=1: 59 minutes", "3B 80 01 81", reader.TPDU, 0, 59 * time.Minute, nil},
		{"T=1: for ever", "3B 80 01 81", reader.TPDU, 0, 1000 * time.Hour, reader.ErrTimeout},
		{"T=1: longer than the limit", "3B 80 01 81", reader.TPDU, time.Minute, 2 * time.Minute, reader.ErrTimeout},
		{"T=1: the limit is in the middle of what was granted", "3B 80 01 81", reader.TPDU, 1500 * time.Millisecond, 2 * time.Minute, reader.ErrTimeout},
		{"T=0: a key of 16 minutes", "3B 00", reader.Character, 0, 16 * time.Minute, nil},
		{"T=0: for ever", "3B 00", reader.Character, 0, 1000 * time.Hour, reader.ErrTimeout},
		{"T=0: longer than the limit", "3B 00", reader.Character, time.Minute, 2 * time.Minute, reader.ErrTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{ExchangeLimit: tt.limit}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				slot.atr, slot.traits = hexb(tt.atr), reader.Traits{Level: tt.level, AutoIFSD: true}
				card := &slowCard{fakeSlot: slot, takes: tt.takes, every: 900 * time.Millisecond}
				t1 := tt.level == reader.TPDU
				exchange := card.answer(t1)
				if !t1 {
					exchange = sw2(exchange)
				}
				slot.exchange = exchange
				_, b := r.plug(reader.Device{}, slot)
				s := mustOpen(t, b, someone())
				start := time.Now()
				o := asyncTransmit(s, context.Background(), "00 46 00 00")
				time.Sleep(min(tt.takes, cmp.Or(tt.limit, time.Hour)) - 300*time.Millisecond)
				synctest.Wait()
				if i := b.Info(); i.Waiting <= 0 || i.Waiting > time.Since(start) {
					t.Errorf("waiting %v after %v", i.Waiting, time.Since(start))
				}
				_, err := o.get()
				took := time.Since(start)
				if !errors.Is(err, tt.want) {
					t.Errorf("%v after %v, want %v", err, took, tt.want)
				}
				limit := cmp.Or(tt.limit, time.Hour)
				if tt.want != nil && (took < limit || took > limit+3*time.Second) {
					t.Errorf("ended after %v, the limit is %v", took, limit)
				}
				if tt.want == nil && (took < tt.takes || took > tt.takes+time.Second) {
					t.Errorf("took %v instead of %v", took, tt.takes)
				}
				if i := b.Info(); i.Waiting != 0 {
					t.Errorf("afterwards: waiting %v", i.Waiting)
				}
				if tt.want != nil && t1 {
					// The card answered S(RESYNCH request): it is not given up.
					card.takes = 0
					wantAnswer(t, s, "00 46 00 00", "90 00")
				}
			})
		})
	}
}

// sw2 makes the second character of 90 00.
func sw2(f func(context.Context, reader.Transfer, []byte) ([]byte, error)) func(context.Context, reader.Transfer, []byte) ([]byte, error) {
	sw1 := false
	return func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
		if sw1 {
			sw1 = false
			return append(dst, 0), nil
		}
		got, err := f(ctx, x, dst)
		sw1 = err == nil && got[len(got)-1] == 0x90
		return got, err
	}
}

// For a reader that itself asks for time, the driver gets the end of the limit and a function
// to call. At every level it gets the waiting time with the reader's slack.
func TestWaitingOfTheReader(t *testing.T) {
	const slack = 3 * time.Second
	for _, tt := range []struct {
		name, atr string
		level     reader.Level
		wait      time.Duration // Transfer.Wait
	}{
		{"APDU", "3B 80 01 81", reader.ExtendedAPDU, 0},
		{"T=1", "3B 80 01 81", reader.TPDU, iso7816.DefaultParams(1).BWT(0) + slack},
		{"T=0", "3B 00", reader.TPDU, 260*iso7816.DefaultParams(0).WWT(0) + slack},
		{"T=0 in characters", "3B 00", reader.Character, iso7816.DefaultParams(0).WWT(0) + slack},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{ExchangeLimit: time.Minute}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				slot.atr, slot.traits = hexb(tt.atr), reader.Traits{Level: tt.level, AutoIFSD: true, AutoPPS: true, Slack: slack}
				_, b := r.plug(reader.Device{}, slot)
				s := mustOpen(t, b, someone())
				var seen []reader.Transfer
				slot.set(func(f *fakeSlot) {
					f.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
						seen = append(seen, x)
						if len(seen) == 1 {
							x.Extended()
							time.Sleep(time.Until(x.Until))
						}
						return dst, reader.ErrTimeout
					}
				})
				start := time.Now()
				o := asyncTransmit(s, context.Background(), "00 46 00 00")
				time.Sleep(30 * time.Second)
				synctest.Wait()
				if w := b.Info().Waiting; w != 30*time.Second {
					t.Errorf("waiting %v", w)
				}
				_, err := o.get()
				wantErr(t, "transmit", err, reader.ErrTimeout)
				if u := seen[0].Until.Sub(start); u != time.Minute {
					t.Errorf("until %v", u)
				}
				if seen[0].Wait != tt.wait {
					t.Errorf("wait %v, want %v", seen[0].Wait, tt.wait)
				}
				// Nothing of the command is sent again; T=1 asks for S(RESYNCH).
				for _, x := range seen[1:] {
					if tt.atr != "3B 80 01 81" || x.Out[1] != 0xC0 || x.Until.IsZero() {
						t.Errorf("% X after the limit", x.Out)
					}
				}
			})
		})
	}
}

// "status and stats wake with POLLPRI|POLLERR after a change": when the waiting
// begins, and when it is over, but not each time the card asks.
func TestWaitingWakes(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		changed := func() <-chan struct{} {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.changed
		}
		woken := func(c <-chan struct{}) bool {
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		slot.set(func(f *fakeSlot) {
			f.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
				c := changed()
				x.Extended()
				if !woken(c) {
					t.Error("nobody is told that the card asks for time")
				}
				c = changed()
				x.Extended()
				if woken(c) {
					t.Error("and again")
				}
				return append(dst, 0x90, 0x00), nil
			}
		})
		wantAnswer(t, s, "00 01 00 00", "90 00")
		if b.Info().Waiting != 0 {
			t.Error("waiting")
		}
		var c <-chan struct{}
		slot.set(func(f *fakeSlot) {
			f.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
				x.Extended()
				c = changed()
				return append(dst, 0x90, 0x00), nil
			}
		})
		wantAnswer(t, s, "00 01 00 00", "90 00")
		if !woken(c) {
			t.Error("nobody is told that it answered")
		}
	})
}

// The power is switched off only once.
func TestPowerOffOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		mustOpen(t, b, someone())
		if err := b.Power(context.Background(), PowerDown, someone()); err != nil {
			t.Fatal(err)
		}
		r.Close(context.Background())
		if n := slot.count("power off"); n != 1 {
			t.Errorf("%d times: %q", n, slot.calls())
		}
	})
}
