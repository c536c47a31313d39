package core

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// counters parses the text that Stats renders: "counters, key value lines".
func counters(t testing.TB, b *Slot) map[string]int {
	t.Helper()
	now := make(map[string]int)
	text := string(b.Stats(func(e syscall.Errno, got bool) string {
		if !got && e != syscall.EIO {
			return ""
		}
		return fmt.Sprint(int(e))
	}))
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		key, value, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(value)
		if _, twice := now[key]; err != nil || twice {
			t.Errorf("line %q", line)
		}
		now[key] = n
	}
	return now
}

// wantCounts compares the counters with want, which leaves out those that are 0.
func wantCounts(t testing.TB, b *Slot, want map[string]int) {
	t.Helper()
	got := counters(t, b)
	for _, m := range []map[string]int{got, want} {
		maps.DeleteFunc(m, func(_ string, n int) bool { return n == 0 })
	}
	if !maps.Equal(got, want) {
		t.Errorf("counters\n%v, want\n%v", got, want)
	}
}

// "exchanges, errors by errno, bytes, resets, waiting times": each event is counted once, by
// its kind, and its time in the class to which it belongs.
func TestStats(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		want := map[string]int{"insertions": 1}
		wantCounts(t, b, want)

		s := mustOpen(t, b, someone())
		want["power-ups"], want["opens-waited"] = 1, 1
		wantCounts(t, b, want)
		mustOpen(t, b, someone()).Close() // the open finds the card powered
		wantCounts(t, b, want)

		// Exchanges of 0, 100 µs, 101 µs, 1 ms and so on to 100 s and beyond.
		class := func(took time.Duration) {
			slot.set(func(f *fakeSlot) {
				f.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) {
					time.Sleep(took)
					return hexb("01 02 03 90 00"), nil
				}
			})
			if _, err := s.Transmit(t.Context(), hexb("00 B0 00 00 03"), nil); err != nil {
				t.Fatal(err)
			}
			want["exchanges"]++
			want["bytes-to-card"] += 5
			want["bytes-from-card"] += 5
			want["exchange-us"] += int(took.Microseconds())
			for limit := 100; limit <= 100_000_000; limit *= 10 {
				if took.Microseconds() <= int64(limit) {
					want[fmt.Sprintf("exchange-us-le-%d", limit)]++
				}
			}
			wantCounts(t, b, want)
		}
		class(0)
		for limit := 100 * time.Microsecond; limit <= 100*time.Second; limit *= 10 {
			class(limit)
			class(limit + time.Microsecond)
		}
		slot.set(func(f *fakeSlot) { f.exchange = nil })

		// "EINVAL: the command is malformed; nothing was sent": no exchange.
		if _, err := s.Transmit(t.Context(), hexb("00"), nil); err == nil {
			t.Error("half a command was sent")
		}
		wantCounts(t, b, want)

		// Nor is a command that found the card without power.
		slot.set(func(f *fakeSlot) {
			f.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) { return nil, errUnpowered }
		})
		_, err := s.Transmit(t.Context(), hexb("00 B0 00 00 03"), nil)
		wantErr(t, "unpowered", err, reader.ErrNoCard)
		wantCounts(t, b, want)

		// An exchange that fails is counted; it has no answer.
		slot.set(func(f *fakeSlot) {
			f.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) { return nil, reader.ErrProtocol }
		})
		s.Transmit(t.Context(), hexb("00 B0 00 00 03"), nil)
		want["exchanges"]++
		want["bytes-to-card"] += 5
		for limit := 100; limit <= 100_000_000; limit *= 10 {
			want[fmt.Sprintf("exchange-us-le-%d", limit)]++
		}
		wantCounts(t, b, want)
		slot.set(func(f *fakeSlot) { f.exchange = nil })

		b.CountError(syscall.EIO)
		b.CountError(syscall.EIO)
		b.CountError(syscall.ESTALE)
		b.CountError(5000) // no such errno
		want["errors"], want["error-5"], want["error-116"], want[fmt.Sprint("error-", maxErrno)] = 4, 2, 1, 1
		wantCounts(t, b, want)
		b.CountOpen(2 * time.Second)
		want["opens"], want["open-us"], want["open-us-le-10000000"], want["open-us-le-100000000"] = 1, 2_000_000, 1, 1
		wantCounts(t, b, want)
	})
}

// Resets are counted by kind, and only those that somebody asked for and got.
func TestStatsOfResets(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		do := func(a Action, by Caller) { b.Power(t.Context(), a, by) }
		me, other := someone(), someone()
		do(PowerUp, me)
		do(PowerUp, me) // already powered
		want := map[string]int{"insertions": 1, "power-ups": 1}
		wantCounts(t, b, want)
		do(ResetWarm, me)
		do(ResetCold, me)
		do(ResetCold, me)
		want["resets-warm"], want["resets-cold"] = 1, 2
		wantCounts(t, b, want)
		b.Lock(t.Context(), other, nil)
		do(ResetWarm, me) // EBUSY
		b.Unlock(other.Owner)
		slot.set(func(f *fakeSlot) {
			f.power = func(context.Context, reader.Reset) ([]byte, error) { return nil, reader.ErrMute }
		})
		do(ResetCold, me) // the card is mute
		wantCounts(t, b, want)
		slot.set(func(f *fakeSlot) { f.power = nil })
		do(PowerUp, me)
		do(PowerDown, me)
		want["power-ups"] = 2
		wantCounts(t, b, want)
		slot.card(reader.Absent)
		synctest.Wait()
		want["removals"] = 1
		wantCounts(t, b, want)
		slot.card(reader.Present)
		synctest.Wait()
		want["insertions"] = 2
		wantCounts(t, b, want)
	})
}

// Waiting time is the time spent waiting for the turn or for another's transaction, even if
// the wait failed. A caller that finds the slot free has not waited.
func TestStatsOfWaiting(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		me, other := someone(), someone()
		s := mustOpen(t, b, me)
		before := counters(t, b)
		added := func(key string, want int) {
			t.Helper()
			if got := counters(t, b)[key] - before[key]; got != want {
				t.Errorf("%s: %d more, want %d", key, got, want)
			}
		}
		send := func(ctx context.Context) *outcome[[]byte] {
			return async(func() ([]byte, error) { return s.Transmit(ctx, hexb("00 B0 00 00 03"), nil) })
		}
		send(t.Context()).get()
		added("waits", 0)

		b.turn <- struct{}{}
		o := send(t.Context())
		time.Sleep(3 * time.Millisecond)
		b.release()
		o.get()
		added("waits", 1)
		added("wait-us", 3000)

		b.Lock(t.Context(), other, nil)
		o = send(t.Context())
		time.Sleep(5 * time.Millisecond)
		b.Unlock(other.Owner)
		o.get()
		added("waits", 2)
		added("wait-us", 8000)

		b.Lock(t.Context(), other, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Millisecond)
		defer cancel()
		_, err := send(ctx).get()
		wantErr(t, "interrupted", err, reader.ErrInterrupted)
		added("waits", 3)
		added("wait-us", 15000)
		added("exchange-us", 0)
	})
}

// "Escape/PIN/control commands are counted apart": none is an exchange with the card.
func TestStatsOfControl(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		by := someone()
		by.Escape = true
		want := map[string]int{"insertions": 1}
		for _, code := range []uint32{CtlGetFeatures, ctlFeature + featureTLVProperties} {
			if _, err := b.Control(t.Context(), code, nil, by); err != nil {
				t.Fatal(err)
			}
			want["control"]++
			wantCounts(t, b, want)
		}
		b.Control(t.Context(), CtlEscape, nil, by) // the reader supports no escape, but is asked
		want["control"]++
		wantCounts(t, b, want)
		by.Escape = false
		b.Control(t.Context(), CtlEscape, nil, by) // refused before
		b.Control(t.Context(), 1, nil, by)         // no such code
		wantCounts(t, b, want)
	})
}

// The length of a VERIFY reveals the PIN's, and everybody who may read sees the counters. Of
// commands that may be secret only the header and SW1 SW2 count.
func TestStatsTellNoLength(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		to, from := 0, 0
		for _, tt := range []struct {
			command, answer string
			to, from        int
		}{
			{"00 20 00 01 04 31 32 33 34", "90 00", 4, 2},
			{"00 20 00 01 08 31 32 33 34 35 36 37 38", "90 00", 4, 2},
			{"00 2A 80 86 03 00 01 02 00", "AA BB CC DD 90 00", 4, 2}, // DECIPHER
			{"00 C0 00 00 00", "AA BB CC 90 00", 4, 2},                // fetches its answer
			{"00 B0 00 00 03", "AA BB CC 90 00", 5, 5},
		} {
			slot.set(func(f *fakeSlot) {
				f.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) { return hexb(tt.answer), nil }
			})
			if _, err := s.Transmit(t.Context(), hexb(tt.command), nil); err != nil {
				t.Fatal(err)
			}
			to, from = to+tt.to, from+tt.from
			now := counters(t, b)
			if now["bytes-to-card"] != to || now["bytes-from-card"] != from {
				t.Errorf("%s: %d and %d bytes, want %d and %d", tt.command, now["bytes-to-card"], now["bytes-from-card"], to, from)
			}
		}
	})
}

// Only the answer's bytes are counted, not those that the caller's buffer held before.
func TestStatsOfAppended(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		if _, err := s.Transmit(t.Context(), hexb("00 B0 00 00 03"), make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if n := counters(t, b)["bytes-from-card"]; n != 7 {
			t.Errorf("%d bytes from the card, want 7", n)
		}
	})
}

// "stats wakes with POLLPRI|POLLERR after a change": every kind of change wakes, and none
// does after stop.
func TestStatsWake(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		by := someone()
		by.Escape = true
		s := mustOpen(t, b, by)
		woken := 0
		stop := b.WatchStats(func() { woken++ })
		for _, c := range []struct {
			what   string
			change func()
		}{
			{"exchange", func() { s.Transmit(t.Context(), hexb("00 B0 00 00 03"), nil) }},
			{"error", func() { b.CountError(syscall.EIO) }},
			{"open", func() { b.CountOpen(0) }},
			{"control", func() { b.Control(t.Context(), CtlGetFeatures, nil, by) }},
			{"extension", func() { b.extended(); b.answered() }},
			{"reset", func() { b.Power(t.Context(), ResetWarm, by); s = mustOpen(t, b, by) }},
			{"removal", func() { slot.card(reader.Absent); synctest.Wait() }},
			{"insertion", func() { slot.card(reader.Present); synctest.Wait(); s = mustOpen(t, b, by) }},
			{"waiting", func() {
				b.turn <- struct{}{}
				o := async(func() (int, error) { return 0, b.Power(t.Context(), PowerUp, by) })
				synctest.Wait()
				b.release()
				o.get()
			}},
		} {
			before, text := woken, counters(t, b)
			c.change()
			if maps.Equal(text, counters(t, b)) {
				t.Errorf("%s: not counted", c.what)
			}
			if woken == before {
				t.Errorf("%s: nobody is woken", c.what)
			}
		}
		stop()
		before := woken
		b.CountError(syscall.EIO)
		if woken != before {
			t.Error("woken after stop")
		}
		if n := b.stats.watching.Load(); n != 0 {
			t.Errorf("%d watch", n)
		}
		left := false
		defer b.WatchStats(func() { left = true })()
		r.Detach(0)
		synctest.Wait()
		if !left {
			t.Error("nobody is told that the reader left")
		}
	})
}

// The counters cost an exchange no allocation.
func TestStatsAllocate(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		if n := testing.AllocsPerRun(100, func() {
			b.stats.exchanged(time.Millisecond, 5, 2, false)
			b.CountError(syscall.EIO)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
