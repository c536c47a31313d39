package core

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// lines reads the lines that a feed has at the moment.
func lines(f *Feed[Event]) string {
	var out []byte
	for {
		e, lost, ok, err := f.TryNext()
		if !ok || err != nil {
			return string(out)
		}
		if lost > 0 {
			out = fmt.Appendf(out, "lost=%d ", lost)
		}
		e.Seq = 0
		out = append(e.Append(out), '\n')
	}
}

// The life of a slot, as `event` tells it.
func TestEventsOfALife(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		all := r.Follow()
		slot := newFakeSlot(t)
		slot.status = reader.Absent
		fake, b := r.plug(reader.Device{Address: "usb:1-1", ID: reader.ID{Model: "Model 1 = best"}}, slot)
		slot.card(reader.Present)
		synctest.Wait()
		mustOpen(t, b, someone())
		b.Power(bg, ResetWarm, someone())
		b.Power(bg, PowerDown, someone())
		slot.card(reader.Absent)
		synctest.Wait()
		fake.unplug()
		synctest.Wait()
		want := `0 0 arrived driver=fake device=usb:1-1 reader=Model_1_=_best by-id=fake-Model_1_=_best_usb:1-1-slot0
0 0 ready
0 0 inserted
0 0 powered atr=3B800181 protocol=T=1
0 0 reset atr=3B800181 protocol=T=1
0 0 powered power=off
0 0 removed
0 0 left
`
		if got := lines(all); got != want {
			t.Errorf("events:\n%swant:\n%s", got, want)
		}
	})
}

// A slot's history decides which events a new follower gets first.
func TestSnapshots(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		name string
		do   func(*fakeSlot, *Slot)
		want string // the events' names
	}{
		{"present", func(*fakeSlot, *Slot) {}, "arrived ready inserted"},
		{"powered", func(s *fakeSlot, b *Slot) { b.Power(bg, PowerUp, someone()) }, "arrived ready inserted powered"},
		{"reset twice", func(s *fakeSlot, b *Slot) {
			b.Power(bg, PowerUp, someone())
			b.Power(bg, ResetWarm, someone())
			b.Power(bg, ResetWarm, someone())
		}, "arrived ready inserted powered reset"},
		{"out", func(s *fakeSlot, b *Slot) {
			b.Power(bg, PowerUp, someone())
			s.card(reader.Absent)
		}, "arrived ready removed"},
		{"out and in", func(s *fakeSlot, b *Slot) {
			s.card(reader.Absent)
			synctest.Wait()
			s.card(reader.Present)
		}, "arrived ready inserted"},
		{"mute", func(s *fakeSlot, b *Slot) {
			s.set(func(s *fakeSlot) {
				s.power = func(context.Context, reader.Reset) ([]byte, error) { return nil, reader.ErrMute }
			})
			b.Power(bg, PowerUp, someone())
			b.Power(bg, PowerUp, someone())
		}, "arrived ready inserted failed"},
		{"mute, then not", func(s *fakeSlot, b *Slot) {
			s.set(func(s *fakeSlot) {
				s.power = func(context.Context, reader.Reset) ([]byte, error) { return nil, reader.ErrMute }
			})
			b.Power(bg, PowerUp, someone())
			s.set(func(s *fakeSlot) { s.power = nil })
			b.Power(bg, PowerUp, someone())
		}, "arrived ready inserted powered"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				_, b := r.plug(reader.Device{}, slot)
				tt.do(slot, b)
				synctest.Wait()
				for _, f := range []*Feed[Event]{b.Follow(), r.Follow()} {
					var names []string
					for _, l := range strings.Split(strings.TrimSpace(lines(f)), "\n") {
						names = append(names, strings.Fields(l)[2])
					}
					if got := strings.Join(names, " "); got != tt.want {
						t.Errorf("told %q, want %q", got, tt.want)
					}
					f.Close()
				}
			})
		})
	}
}

// "A new reader of an event file first gets the present state as events, then
// everything after it: no gap, no lost wake-up." Followers come at any moment
// of a storm; what each is told leads to the state that holds in the end, and
// after its snapshot no number is missing.
func TestSnapshotThenFollow(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		// As many rounds as no follower can lose an event of: what a slow one is told
		// is TestSlowFollower's, and on a busy machine any may be slow.
		const slots, followers = 4, 40
		const rounds = feedLen / (slots * 6)
		var wg sync.WaitGroup
		for i := range slots {
			wg.Go(func() {
				dev := reader.Device{Driver: "fake", Address: fmt.Sprint(i)}
				for range rounds {
					slot := newFakeSlot(t)
					fake := newFakeReader(slot)
					dev.Link = opener(func(context.Context, reader.Device) (reader.Reader, error) { return fake, nil })
					for r.Announce(dev) != nil {
						t.Error("the last one is still there")
						return
					}
					var b *Slot
					for _, x := range r.Slots() {
						if x.ifd.dev.Address == dev.Address {
							b = x
						}
					}
					mustOpen(t, b, someone())
					b.Power(bg, ResetWarm, someone())
					fake.unplug()
					<-b.ifd.closed
				}
			})
		}
		var mu sync.Mutex
		var end uint64
		follow := func() {
			f := r.Follow()
			here := make(map[int]bool)
			var seq uint64
			for snapshot := f.limit - feedLen; ; snapshot-- {
				e, lost, err := f.Next(bg)
				if err != nil {
					break
				}
				if lost > 0 {
					t.Errorf("lost %d", lost)
				}
				if e.Seq <= seq {
					t.Errorf("event %d after %d", e.Seq, seq)
				}
				if snapshot < 0 && e.Seq != seq+1 {
					t.Errorf("event %d after %d: a gap", e.Seq, seq)
				}
				seq = e.Seq
				switch e.What {
				case Arrived:
					if here[e.Slot] {
						t.Errorf("slot %d arrived twice", e.Slot)
					}
					here[e.Slot] = true
				case Left:
					if !here[e.Slot] {
						t.Errorf("slot %d left and was not there", e.Slot)
					}
					delete(here, e.Slot)
				default:
					if !here[e.Slot] {
						t.Errorf("%s in slot %d, which is not there", e.What, e.Slot)
					}
				}
				if e.What == "left" && len(here) == 0 {
					mu.Lock()
					end = max(end, seq)
					mu.Unlock()
				}
			}
			if len(here) != 0 {
				t.Errorf("at the end %v are still there", here)
			}
		}
		var fs sync.WaitGroup
		for range followers {
			fs.Go(follow)
			r.Slots() // the storm goes on between two followers
		}
		wg.Wait()
		synctest.Wait()
		if want := uint64(slots * rounds * 6); r.events.seq != want || end != want {
			t.Errorf("%d events, the last that was followed %d; want %d", r.events.seq, end, want)
		}
		r.Close(bg)
		fs.Wait()
	})
}

// "A slow reader is told how many it lost; it never slows the daemon."
func TestSlowFollower(t *testing.T) {
	var s source[int]
	slow, quick := s.add(func() []int { return []int{-2, -1} }), s.add(nil)
	for i := range 5000 {
		s.put(i)
		if v, lost, ok, err := quick.TryNext(); v != i || lost != 0 || !ok || err != nil {
			t.Fatalf("the quick one got %d, lost %d, %v, %v", v, lost, ok, err)
		}
	}
	// The oldest are dropped; two more than the usual wait, for the snapshot.
	kept := feedLen + 2
	first := 5000 - kept
	for i := first; i < 5000; i++ {
		v, lost, ok, err := slow.TryNext()
		wantLost := uint64(0)
		if i == first {
			wantLost = uint64(first + 2)
		}
		if v != i || lost != wantLost || !ok || err != nil {
			t.Fatalf("the slow one got %d, lost %d, %v, %v; want %d, lost %d", v, lost, ok, err, i, wantLost)
		}
	}
	if _, _, ok, err := slow.TryNext(); ok || err != nil {
		t.Errorf("something is left: %v, %v", ok, err)
	}
	if n := cap(slow.queue); n > 4*feedLen {
		t.Errorf("the queue grew to %d", n)
	}
	s.put(1)
	s.end(reader.ErrGone)
	s.put(2)
	if v, _, _, err := slow.TryNext(); v != 1 || err != nil {
		t.Errorf("what was queued before the end: %d, %v", v, err)
	}
	if _, _, err := slow.Next(context.Background()); err != reader.ErrGone {
		t.Errorf("then %v", err)
	}
	if _, _, err := s.add(nil).Next(context.Background()); err != reader.ErrGone {
		t.Errorf("a follower that comes after the end: %v", err)
	}
	slow.Close()
	quick.Close()
	if len(s.feeds) != 0 {
		t.Errorf("%d followers are still listed", len(s.feeds))
	}
}

// A trace that nobody reads keeps a bounded number of long lines.
func TestSlowFollowerOfLongLines(t *testing.T) {
	s := source[string]{weigh: func(l string) int { return len(l) }}
	f := s.add(nil)
	s.put("short")
	for range 100 {
		s.put(strings.Repeat("x", feedBytes/8))
	}
	var n int
	for {
		_, lost, ok, err := f.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if n == 0 && lost != 101-8 {
			t.Errorf("lost %d", lost)
		}
		n++
	}
	if n != 8 || f.bytes != 0 {
		t.Errorf("%d lines waited, then %d bytes", n, f.bytes)
	}
	s.put(strings.Repeat("x", 2*feedBytes))
	if l, _, ok, _ := f.TryNext(); !ok || len(l) != 2*feedBytes {
		t.Error("a line above the bound must come, alone")
	}
}

// The wait of a follower ends with its context, and nothing is lost.
func TestFollowerInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s source[int]
		f := s.add(nil)
		go func() {
			for i := range 1000 {
				time.Sleep(time.Duration(i*7919%6) * time.Millisecond)
				s.put(i)
			}
		}()
		interrupted := 0
		for n := 0; n < 1000; {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n*104729%3+1)*time.Millisecond)
			v, lost, err := f.Next(ctx)
			cancel()
			switch {
			case err == reader.ErrInterrupted:
				interrupted++
			case err != nil || v != n || lost != 0:
				t.Fatalf("got %d, lost %d, %v; want %d", v, lost, err, n)
			default:
				n++
			}
		}
		if interrupted == 0 {
			t.Error("no wait was interrupted: nothing was shown")
		}
	})
}
